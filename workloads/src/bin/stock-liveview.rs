//! `stock-liveview`: see [`workloads::liveview`].
//! Rule: only wiring stands here.

use std::process::ExitCode;

use clap::Parser;
use workloads::liveview::{self, Args, Settings};
use workloads::{health, program};

fn main() -> ExitCode {
    let args = Args::parse();
    program::main(
        "stock-liveview",
        &args.logs,
        async || Settings::parse(&args).await,
        async |settings, stop| {
            let listener = health::bind(wire::env::PORT, settings.port)?;
            liveview::run(settings, listener, stop).await
        },
    )
}
