//! The promises that hold on a cluster, one file per group.
//! Rule: every test has a namespace of its own, so any of them can run alone: `-- companies`.

mod bad_input;
mod companies;
mod delete;
mod drift;
mod exactly_once;
mod fail_over;
mod full_disk;
mod install;
mod members;
mod node_drain;
mod node_loss;
mod operator_killed;
mod replicas;
mod retain;
mod roll;
mod rotation;
mod tls;
mod upgrade;
mod volumes;
