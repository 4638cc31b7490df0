// The program that holds namespaces: of a pod sandbox, and of a whole embedded cluster.
module coopery.dev/tests/cluster/pause

go 1.26.0
