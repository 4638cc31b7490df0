//! Harness of the tests: real API server, real cluster, real peers. No test is here.

pub mod buildkit;
pub mod certificate;
pub mod cluster;
pub mod corpus;
pub mod debian_base;
pub mod delay_proxy;
pub mod fault_proxy;
pub mod git_server;
pub mod kstatus;
pub mod measure;
pub mod operator_process;
pub mod plain_registry;
pub mod stage;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod witness;
