//! `stock-consumer`: see [`workloads::consumer`].
//! Rule: only wiring stands here.

use std::process::ExitCode;

use clap::Parser;
use workloads::consumer::{self, Args, Settings};
use workloads::{health, program};

fn main() -> ExitCode {
    let args = Args::parse();
    program::main(
        "stock-consumer",
        &args.logs,
        async || Settings::parse(&args).await,
        async |settings, stop| {
            let listener = health::bind(wire::env::METRICS_PORT, settings.port).await?;
            consumer::run(settings, listener, stop).await
        },
    )
}
