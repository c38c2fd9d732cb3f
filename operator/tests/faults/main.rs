//! The operator is killed at each of its writes, and the API server answers as it does on a bad day.
//! Rule: whatever happened on the way, every run ends in the world that an undisturbed one makes; each run has a namespace of its own.
//!
//! No kubelet and no controllers run beside the API server. What they would have written (a pod, the status of a StatefulSet, a bound
//! volume) is written by the test where a promise needs it. What happens inside broker and database while nodes and members join and leave
//! is explored in `broker/tests/model.rs` and `database/tests.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

mod api;
mod broker;
mod cost;
mod crashes;
mod database;
mod external;
#[path = "../servers/kubernetes.rs"]
mod kubernetes;
#[path = "../servers/rabbitmq.rs"]
mod rabbitmq;
mod relay;
#[path = "../servers/replica_set.rs"]
mod replica_set;
mod volumes;
mod world;
