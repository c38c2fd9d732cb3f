//! `stock-publisher`: see [`workloads::publisher`].
//! Rule: only wiring stands here.

use std::process::ExitCode;

use clap::Parser;
use workloads::publisher::{self, Args, Settings};
use workloads::{health, program};

fn main() -> ExitCode {
    let args = Args::parse();
    program::main(
        "stock-publisher",
        &args.logs,
        async || Settings::parse(&args),
        async |settings, stop| {
            let listener = health::bind(wire::env::METRICS_PORT, settings.port)?;
            publisher::run(settings, listener, stop).await
        },
    )
}
