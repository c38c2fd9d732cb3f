//! `stock-consumer`: see [`workloads::consumer`].
//! Rule: only wiring stands here.

use std::process::ExitCode;

use clap::Parser;
use workloads::consumer::settings::Command;
use workloads::consumer::{self, Args, Settings, verify};
use workloads::{database, health, program};

const PROGRAM: &str = "stock-consumer";

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        None => program::main(
            PROGRAM,
            &args.logs,
            async || Settings::parse(&args).await,
            async |settings, stop| {
                let listener = health::bind(wire::env::METRICS_PORT, settings.port)?;
                consumer::run(settings, listener, stop).await
            },
        ),
        Some(Command::Verify(verify)) => program::main(
            PROGRAM,
            &args.logs.quiet(),
            async || database::Address::parse(&args.database, PROGRAM).await,
            async |address, stop| {
                let windows = address.windows()?;
                tokio::select! {
                    verified = verify::run(&windows, verify) => verified,
                    () = stop.cancelled() => anyhow::bail!("stopped before the end"),
                }
            },
        ),
    }
}
