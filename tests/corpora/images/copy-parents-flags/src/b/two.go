content of src/b/two.go
