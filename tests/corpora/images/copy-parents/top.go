content of top.go
