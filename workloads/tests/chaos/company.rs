//! One company's programs: a publisher and two consumers, one of which is active while the other stands by.
//! Rule: each consumer runs as a user of its own, so that the network can tell them apart.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use wire::Symbol;

use crate::servers::Servers;
use crate::support::eventually;
use crate::support::process::{CONSUMER, PUBLISHER, Process, command};

/// The consumer's program where any user may run it: a clone under /root is closed to others.
pub struct Program(PathBuf);

impl Program {
    pub fn copy() -> Self {
        let folder = std::env::temp_dir().join(format!("stock-chaos-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(CONSUMER, folder.join("stock-consumer")).unwrap();
        Self(folder)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub struct Company {
    pub symbol: Symbol,
    publisher: Process,
    pub consumers: Vec<Consumer>,
    start: Box<dyn Fn() -> Process>,
    /// Events that publishers which are gone said the broker had confirmed.
    pub confirmed: f64,
}

pub struct Consumer {
    pub user: u32,
    process: Process,
    start: Box<dyn Fn() -> Process>,
}

impl Consumer {
    fn new(user: u32, start: impl Fn() -> Process + 'static) -> Self {
        Self { user, process: start(), start: Box::new(start) }
    }

    async fn is_ready(&self) -> bool {
        get(&self.process, "readyz").await.is_some()
    }

    async fn is_active(&self) -> bool {
        metric(&self.process, "stock_consumer_active").await == Some(1.0)
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn restart(&mut self) {
        self.process = (self.start)();
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }
}

impl Company {
    pub fn start(
        symbol: Symbol,
        batch: u32,
        first_user: u32,
        servers: &Servers,
        database: &str,
        program: &Program,
    ) -> Self {
        let consumers = (first_user..first_user + 2).map(|user| {
            let variables = [
                ("RABBITMQ_URL", servers.broker.clone()),
                ("QUEUE_NAME", symbol.to_string()),
                ("MONGODB_URL", servers.database.clone()),
                ("MONGODB_DB", database.to_owned()),
                ("BATCH_SIZE", batch.to_string()),
                ("FLUSH_AFTER", "1000".into()),
                ("METRICS_PORT", "0".into()),
                ("POD_NAME", format!("consumer-{user}")),
            ];
            let (program, name) = (program.0.join("stock-consumer"), format!("consumer {user} of {symbol}"));
            Consumer::new(user, move || {
                let variables = variables.iter().map(|(name, value)| (*name, value.as_str()));
                let mut command = command(program.to_str().unwrap(), variables);
                command.uid(user).gid(user);
                Process::start(name.clone(), command)
            })
        });
        let consumers = consumers.collect();
        let (broker, name) = (servers.broker.clone(), symbol.to_string());
        let start = Box::new(move || {
            let variables = [
                ("RABBITMQ_URL", broker.as_str()),
                ("COMPANY", &name),
                ("TICKER_INTERVAL", "0.5"),
                ("METRICS_PORT", "0"),
            ];
            Process::start(format!("publisher of {name}"), command(PUBLISHER, variables))
        });
        Self { symbol, publisher: start(), consumers, start, confirmed: 0.0 }
    }

    /// Waits until every program is ready and exactly one consumer is active; gives that one.
    pub async fn settled(&mut self) -> &mut Consumer {
        let what = format!("the programs of {} are ready and one consumer is active", self.symbol);
        let active = eventually(&what, async || {
            self.publisher.still_runs();
            let mut active = Vec::new();
            for (position, consumer) in self.consumers.iter_mut().enumerate() {
                consumer.process.still_runs();
                if !consumer.is_ready().await {
                    return None;
                }
                if consumer.is_active().await {
                    active.push(position);
                }
            }
            (active.len() == 1).then(|| active[0])
        })
        .await;
        &mut self.consumers[active]
    }

    async fn confirmed_now(&self) -> f64 {
        metric(&self.publisher, "stock_publisher_events_confirmed_total").await.unwrap_or(0.0)
    }

    pub async fn kill_publisher(&mut self) {
        self.confirmed += self.confirmed_now().await;
        self.publisher.kill();
        self.publisher = (self.start)();
    }

    /// SIGTERM to the publisher, which waits for its last confirms.
    pub async fn stop_publishing(&mut self) {
        self.confirmed += self.confirmed_now().await;
        self.publisher.signal("TERM");
        self.publisher.end().await;
    }

    pub async fn stop_consuming(&mut self) {
        for consumer in &mut self.consumers {
            consumer.process.signal("TERM");
            consumer.process.end().await;
        }
    }
}

/// The value of a metric whose line starts so; nothing when the program does not answer, or has no such metric.
async fn metric(process: &Process, name: &str) -> Option<f64> {
    let text = get(process, "metrics").await?;
    text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
}

/// What a program answers when all is well. The system chose its port, which may be another after each start.
async fn get(process: &Process, path: &str) -> Option<String> {
    let port = process.said("health and metrics on http://0.0.0.0:")?;
    let request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/{path}")).timeout(Duration::from_secs(2));
    request.send().await.ok()?.error_for_status().ok()?.text().await.ok()
}
