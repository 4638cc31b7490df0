//! Harness of the tests: real API server, real cluster, real peers. No test is here.

pub mod cluster;
