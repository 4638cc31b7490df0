content of src/b/three.go
