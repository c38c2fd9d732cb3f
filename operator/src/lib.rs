//! The operator of the StockPipeline resource.
//!
//! # Layout
//! A pass is `read` → `plan` → `objects` → `apply` → `observe` → `status`, driven by `reconcile`. The middle is pure; only
//! `read`, `apply`, `observe` (through `broker` and `database`) and the report at its end hold a client.

pub mod apply;
pub mod broker;
pub mod cert_manager;
pub mod certificates;
pub mod children;
pub mod claims;
mod companies;
pub mod compare;
pub mod crd;
pub mod credentials;
pub mod database;
pub mod discovery;
pub mod edge;
pub mod error;
pub mod external;
pub mod http;
pub mod http_route;
pub mod last_words;
pub mod lease;
pub mod leaving;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod observe;
pub mod ownership;
mod paused;
pub mod plan;
pub mod pod_monitor;
pub mod pods;
pub mod quantity;
pub mod read;
pub mod reconcile;
pub mod recorder;
pub mod rest;
pub mod roll;
pub mod rotate;
pub mod rotation;
pub mod run;
pub mod status;
pub mod tls_secret;
pub mod trust;
pub mod volumes;
pub mod watch;
pub mod web;
