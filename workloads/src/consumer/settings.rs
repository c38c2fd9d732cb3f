//! What a consumer is told: its queue, the broker, the database, the size of a window.
//! Rule: every wrong value is found before the first connection.

use std::num::NonZeroU32;
use std::time::Duration;

use wire::queue::QueueType;
use wire::{Symbol, env};

use super::verify;
use crate::database::{self, DatabaseArgs};
use crate::settings::{Port, Result, batch_size, given, queue_type, required, wrong};
use crate::{broker, telemetry};

const PROGRAM: &str = "stock-consumer";

/// The command line; each flag is also an environment variable.
#[derive(Clone, Default, clap::Parser)]
#[command(name = PROGRAM, version, about = "Averages the trades of one company and stores each window")]
pub struct Args {
    /// What to do instead of consuming.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The queue to read; it is the company's symbol.
    #[arg(long, env = env::QUEUE_NAME)]
    pub queue_name: Option<String>,
    /// Address of the broker; several, separated by commas, are tried in turn.
    #[arg(long, env = env::RABBITMQ_URL, hide_env_values = true)]
    pub rabbitmq_url: Option<String>,
    /// Where the windows go.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Events per window. Default 1000.
    #[arg(long, env = env::BATCH_SIZE)]
    pub batch_size: Option<String>,
    /// Milliseconds after its first event that a window is closed although it is short. Never unless set.
    #[arg(long, env = env::FLUSH_AFTER)]
    pub flush_after: Option<String>,
    /// Type of a queue that does not exist yet: quorum or classic. Default quorum.
    #[arg(long, env = env::QUEUE_TYPE)]
    pub queue_type: Option<String>,
    /// Port of health and metrics. Default 9090.
    #[arg(long, env = env::METRICS_PORT)]
    pub metrics_port: Option<String>,
    /// Name of this pod, written into each window.
    #[arg(long, env = env::POD_NAME)]
    pub pod_name: Option<String>,
    /// How to log.
    #[command(flatten)]
    pub logs: telemetry::LogArgs,
}

/// What a consumer's program does besides consuming.
#[derive(Clone, clap::Subcommand)]
pub enum Command {
    /// Read the stored windows and prove that every event is in them exactly once.
    Verify(verify::Args),
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The company, and so the queue.
    pub company: Symbol,
    /// Where the broker is.
    pub broker: broker::Address,
    /// Where the windows go.
    pub database: database::Address,
    /// Events per window.
    pub batch_size: NonZeroU32,
    /// How long a short window waits for more events; for ever unless set.
    pub flush_after: Option<Duration>,
    /// Type of a queue that does not exist yet.
    pub queue_type: QueueType,
    /// Port of health and metrics.
    pub port: Port,
    /// Name of this pod, where there is one.
    pub pod: Option<String>,
    /// This process, as each window names it: pod and a random part, for a pod's name outlives its processes.
    pub writer: String,
}

impl Settings {
    /// Checks everything.
    ///
    /// # Errors
    /// A sentence that names the variable and the remedy.
    pub async fn parse(args: &Args) -> Result<Self> {
        let company =
            required(env::QUEUE_NAME, args.queue_name.as_deref(), "set it to the company's symbol, for example MSFT")?;
        let pod = given(args.pod_name.as_deref());
        Ok(Self {
            company: company.parse().map_err(|error| wrong(env::QUEUE_NAME, error))?,
            batch_size: batch_size(args.batch_size.as_deref())?,
            flush_after: flush_after(args.flush_after.as_deref())?,
            broker: broker::Address::parse(args.rabbitmq_url.as_deref(), broker::WHOLE_FRAMES)?,
            database: database::Address::parse(&args.database, PROGRAM).await?,
            queue_type: queue_type(args.queue_type.as_deref())?,
            port: Port::parse(env::METRICS_PORT, args.metrics_port.as_deref(), env::default::METRICS_PORT)?,
            writer: format!("{}/{:08x}", pod.unwrap_or(PROGRAM), rand::random::<u32>()),
            pod: pod.map(str::to_owned),
        })
    }
}

fn flush_after(value: Option<&str>) -> Result<Option<Duration>> {
    let Some(text) = given(value) else { return Ok(None) };
    let milliseconds = text.parse().ok().filter(|milliseconds: &f64| *milliseconds >= 1.0);
    let after = milliseconds.and_then(|milliseconds| Duration::try_from_secs_f64(milliseconds / 1000.0).ok());
    let remedy = "set milliseconds from 1 up such as 30000, or leave it unset for windows of exactly BATCH_SIZE events";
    after.map(Some).ok_or_else(|| wrong(env::FLUSH_AFTER, format!("{text:?} is not accepted; {remedy}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            queue_name: Some("BRK.B".into()),
            rabbitmq_url: Some("amqp://guest:secret@localhost".into()),
            database: DatabaseArgs {
                mongodb_url: Some("mongodb://u:secret@localhost".into()),
                ..DatabaseArgs::default()
            },
            ..Args::default()
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[tokio::test]
    async fn queue_broker_and_database_are_enough() {
        let settings = Settings::parse(&args()).await.unwrap();
        assert_eq!((settings.company.as_str(), settings.batch_size.get()), ("BRK.B", 1000));
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[tokio::test]
    async fn what_is_missing_or_wrong_is_named_with_its_remedy() {
        let cases = [
            (
                Args { queue_name: None, ..args() },
                "QUEUE_NAME: is not set; set it to the company's symbol, for example MSFT",
            ),
            (
                Args { queue_name: Some("A B".into()), ..args() },
                "QUEUE_NAME: symbol \"A B\" holds ' ': use letters, digits and . ^ = _ - only",
            ),
            (
                Args { batch_size: Some("0".into()), ..args() },
                "BATCH_SIZE: 0 is not accepted; set a whole number from 1 to 32767",
            ),
            (
                Args { flush_after: Some("30s".into()), ..args() },
                "FLUSH_AFTER: \"30s\" is not accepted; set milliseconds from 1 up such as 30000, \
                 or leave it unset for windows of exactly BATCH_SIZE events",
            ),
            (
                Args { rabbitmq_url: None, ..args() },
                "RABBITMQ_URL: is not set; set it like amqp://user:password@host:5672/%2f, several separated by commas",
            ),
            (
                Args { database: DatabaseArgs::default(), ..args() },
                "MONGODB_URL: is not set; set it like mongodb://user:password@host:27017/?replicaSet=rs0",
            ),
        ];
        for (args, sentence) in cases {
            assert_eq!(Settings::parse(&args).await.unwrap_err().to_string(), sentence);
        }
    }
}
