//! Logs on standard error: text for a person, JSON for a collector.
//! Rule: one line per thing that changed, never one per event; the libraries stay silent, for their errors reach us as values.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use wire::env;

use crate::settings::{Result, given, wrong};

const FILTER: &str = "info,lapin=off,mongodb=off";
/// Of a program that answers one question: Kubernetes mixes the log into the answer, even into the midst of it.
const FILTER_OF_ANSWER: &str = "warn,lapin=off,mongodb=off";

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a collector.
    Json,
}

/// How to log: flags that every program has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LogArgs {
    /// Log filter, for example `debug` or `info,workloads=debug`.
    #[arg(long, env = env::LOG)]
    pub log: Option<String>,
    /// Shape of the log lines: `text` or `json`.
    #[arg(long, env = env::LOG_FORMAT)]
    pub log_format: Option<String>,
}

impl LogArgs {
    /// The same, and only what goes wrong is logged unless somebody asks for more.
    #[must_use]
    pub fn quiet(&self) -> Self {
        let filter = given(self.log.as_deref()).unwrap_or(FILTER_OF_ANSWER);
        Self { log: Some(filter.to_owned()), ..self.clone() }
    }
}

/// Starts logging.
///
/// # Errors
/// When the filter or the format cannot be read.
pub fn start(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(given(args.log.as_deref()).unwrap_or(FILTER))
        .map_err(|error| wrong(env::LOG, format!("{error}; set a level such as info or debug")))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    let started = match format(args.log_format.as_deref())? {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| wrong(env::LOG, error))
}

fn format(value: Option<&str>) -> Result<Format> {
    match given(value) {
        None | Some("text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        Some(other) => Err(wrong(env::LOG_FORMAT, format!("{other:?} is not accepted; set text or json"))),
    }
}
