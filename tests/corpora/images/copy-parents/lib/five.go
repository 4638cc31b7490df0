content of lib/five.go
