//! The promises that hold on a cluster, one file per group.
//! Rule: every test has a namespace of its own, so any two of them can run at a time; what cannot is in alone.rs.

mod bad_input;
mod broken_template;
mod companies;
mod exactly_once;
mod full_disk;
mod install;
mod members;
mod replicas;
mod retain;
mod rotation;
mod tls;
mod volumes;
