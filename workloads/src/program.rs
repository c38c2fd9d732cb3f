//! What the three mains have in common: settings, logs, signals, the runtime and the exit code.
//! Rule: 0 is a clean stop, 1 a failure while running, 2 a setting that must be changed first.

use std::fmt;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::settings::SettingsError;
use crate::{name_service, shutdown, telemetry};

/// Ends with code 2 and the sentence.
fn refuse(name: &str, error: &SettingsError) -> ExitCode {
    eprintln!("{name}: {error}");
    ExitCode::from(2)
}

/// Runs a program to its end. The settings are read inside the runtime because a database address may need it.
pub fn main<Settings: fmt::Debug>(
    name: &str,
    logs: &telemetry::LogArgs,
    settings: impl AsyncFnOnce() -> Result<Settings, SettingsError>,
    run: impl AsyncFnOnce(Settings, CancellationToken) -> anyhow::Result<()>,
) -> ExitCode {
    if let Err(error) = telemetry::start(logs) {
        return refuse(name, &error);
    }
    name_service::settle();
    // One thread does: measured, it costs less than a pool, and the broker's socket has a thread of its own in lapin.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(name, &error.into()),
    };
    let code = runtime.block_on(async {
        let settings = match settings().await {
            Ok(settings) => settings,
            Err(error) => return refuse(name, &error),
        };
        let stop = match shutdown::on_signal() {
            Ok(stop) => stop,
            Err(error) => return fail(name, &error.into()),
        };
        tracing::info!(version = env!("CARGO_PKG_VERSION"), ?settings, "{name} starts");
        match run(settings, stop).await {
            Ok(()) => {
                tracing::info!("{name} stopped");
                ExitCode::SUCCESS
            }
            Err(error) => fail(name, &error),
        }
    });
    // Dropping it would wait for name look-ups under way, which take long when the name server is gone.
    runtime.shutdown_background();
    code
}

fn fail(name: &str, error: &anyhow::Error) -> ExitCode {
    tracing::error!("{name} failed: {error:#}");
    ExitCode::FAILURE
}
