content of src/a/one.go
