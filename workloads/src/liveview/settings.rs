//! What a liveview is told: the database, its port, its name.
//! Rule: every wrong value is found before the first connection.

use std::time::Duration;

use wire::env;

use crate::database::{self, DatabaseArgs};
use crate::settings::{Port, Result, given, number, wrong};
use crate::telemetry;

const PROGRAM: &str = "stock-liveview";

/// The command line; each flag is also an environment variable.
#[derive(Clone, Default, clap::Parser)]
#[command(name = PROGRAM, version, about = "Shows the newest average of each company on a page")]
pub struct Args {
    /// Where the windows are.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Port of the page, of health and metrics. Default 3000.
    #[arg(long, env = env::PORT)]
    pub port: Option<String>,
    /// Name of this pod, shown on the page.
    #[arg(long, env = env::POD_NAME)]
    pub pod_name: Option<String>,
    /// Milliseconds to go on serving after SIGTERM before sockets are closed. Default 500.
    #[arg(long, env = env::SHUTDOWN_GRACE)]
    pub shutdown_grace: Option<String>,
    /// Milliseconds after that within which the sockets are closed, each at a moment of its own. Default 1500.
    #[arg(long, env = env::SHUTDOWN_SPREAD)]
    pub shutdown_spread: Option<String>,
    /// Sockets and event streams at a time; more are refused. Default 8000.
    #[arg(long, env = env::MAX_READERS)]
    pub max_readers: Option<String>,
    /// How to log.
    #[command(flatten)]
    pub logs: telemetry::LogArgs,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the windows are.
    pub database: database::Address,
    /// Port of everything.
    pub port: Port,
    /// Name of this pod.
    pub pod: Option<String>,
    /// How long to go on serving after SIGTERM.
    pub grace: Duration,
    /// Within how long the sockets are closed then.
    pub spread: Duration,
    /// Sockets and event streams at a time.
    pub max_readers: usize,
}

impl Settings {
    /// Checks everything.
    ///
    /// # Errors
    /// A sentence that names the variable and the remedy.
    pub async fn parse(args: &Args) -> Result<Self> {
        let grace = number(
            env::SHUTDOWN_GRACE,
            args.shutdown_grace.as_deref(),
            env::default::SHUTDOWN_GRACE,
            "set milliseconds from 0 to 5000",
        )?;
        let spread = number(
            env::SHUTDOWN_SPREAD,
            args.shutdown_spread.as_deref(),
            env::default::SHUTDOWN_SPREAD,
            "set milliseconds from 0 to 5000",
        )?;
        let remedy = "set a whole number from 1 to 100000";
        let max_readers = number(env::MAX_READERS, args.max_readers.as_deref(), env::default::MAX_READERS, remedy)?;
        if !(1..=100_000).contains(&max_readers) {
            return Err(wrong(env::MAX_READERS, format!("{max_readers} is not accepted; {remedy}")));
        }
        Ok(Self {
            max_readers,
            spread: Duration::from_millis(spread.min(5_000)),
            port: Port::parse(env::PORT, args.port.as_deref(), env::default::PORT)?,
            database: database::Address::parse(&args.database, PROGRAM).await?,
            pod: given(args.pod_name.as_deref()).map(str::to_owned),
            // The rest of the fifteen seconds belongs to the goodbyes.
            grace: Duration::from_millis(grace.min(5_000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[tokio::test]
    async fn a_database_is_enough_and_a_wrong_port_is_named() {
        let args = Args {
            database: DatabaseArgs { mongodb_url: Some("mongodb://localhost".into()), ..DatabaseArgs::default() },
            ..Args::default()
        };
        assert_eq!(Settings::parse(&args).await.unwrap().port, Port::Default(3000));
        let wrong = Args { max_readers: Some("0".into()), ..args.clone() };
        assert_eq!(
            Settings::parse(&wrong).await.unwrap_err().to_string(),
            "MAX_READERS: 0 is not accepted; set a whole number from 1 to 100000"
        );
        let wrong = Args { port: Some("http".into()), ..args };
        assert_eq!(
            Settings::parse(&wrong).await.unwrap_err().to_string(),
            "PORT: \"http\" is not accepted; set a port from 1 to 65535"
        );
    }
}
