content of src/a/one_test.go
