//! The programs a StockPipeline runs: `stock-publisher`, `stock-consumer` and `stock-liveview`.
//! Rule: pure functions decide (`prices`, `pacer`, `outbox`, `intake`, `batch`, `pipeline`, `board`, `beat`); thin edges act.
//!
//! # Layout
//!
//! | what | where |
//! | --- | --- |
//! | one program | [`publisher`], [`consumer`], [`liveview`]: `run(settings, …, stop)` and the settings it takes |
//! | start and end of a process | [`program`], [`telemetry`], [`shutdown`] |
//! | what a process says of itself | [`health`] |
//! | connections | [`broker`], [`database`], [`name_service`], [`retry`], [`backoff`] |
//! | texts of the environment to checked values | [`settings`] |

pub mod backoff;
pub mod broker;
pub mod consumer;
pub mod database;
pub mod health;
pub mod liveview;
pub mod name_service;
pub mod program;
pub mod publisher;
pub mod retry;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
