//! What a liveview is told: the database, its port, its name.
//! Rule: every wrong value is found before the first connection.

use std::time::Duration;

use wire::env;

use crate::database::{self, DatabaseArgs};
use crate::settings::{Port, Result, given, number};
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
        Ok(Self {
            port: Port::parse(env::PORT, args.port.as_deref(), env::default::PORT)?,
            database: database::Address::parse(&args.database, PROGRAM).await?,
            pod: given(args.pod_name.as_deref()).map(str::to_owned),
            // The rest of the ten seconds belongs to the goodbyes.
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
        let wrong = Args { port: Some("http".into()), ..args };
        assert_eq!(
            Settings::parse(&wrong).await.unwrap_err().to_string(),
            "PORT: \"http\" is not accepted; set a port from 1 to 65535"
        );
    }
}
