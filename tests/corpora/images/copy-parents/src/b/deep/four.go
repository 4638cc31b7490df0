content of src/b/deep/four.go
