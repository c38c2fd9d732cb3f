//! One company's programs: a publisher and two consumers, one of which is active while the other stands by.
//! Rule: each consumer runs as a user of its own, so that the network can tell them apart.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
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
    /// Publishers that were told to end.
    ending: Vec<Process>,
    /// Of each source that is gone: how many events the broker may have taken from it.
    pub taken: BTreeMap<String, RangeInclusive<i64>>,
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
        Self { symbol, publisher: start(), consumers, start, ending: Vec::new(), taken: BTreeMap::new() }
    }

    /// Waits until every program is ready and exactly one consumer is active; gives that one's position.
    pub async fn settled(&mut self) -> usize {
        let what = format!("the programs of {} are ready and one consumer is active", self.symbol);
        eventually(&what, async || {
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
        .await
    }

    /// Nobody knows what it published since it was asked last, nor what of that the broker took.
    pub async fn kill_publisher(&mut self) {
        let source = field(&self.publisher.says("a new source").await, "source").unwrap();
        let confirmed = metric(&self.publisher, "stock_publisher_events_confirmed_total").await.unwrap_or(0.0);
        self.publisher.kill();
        self.taken.insert(source, confirmed as i64..=i64::MAX);
        self.publisher = (self.start)();
    }

    /// SIGTERM; the next one works while this one waits for its last confirms.
    pub fn end_publisher(&mut self) {
        self.publisher.signal("TERM");
        self.ending.push(std::mem::replace(&mut self.publisher, (self.start)()));
    }

    /// The last one ends too. A publisher that ends in order says what it published and what of it was confirmed: without a
    /// broker's fault in its last seconds these are the same, and then so many events must be counted, not one more or less.
    pub async fn stop_publishing(&mut self) {
        self.publisher.signal("TERM");
        let mut last = 0..=0;
        for publisher in self.ending.iter_mut().chain([&mut self.publisher]) {
            publisher.end().await;
            let said = eventually("a publisher that ended says what it published", async || {
                // A thread of ours reads it, maybe a moment after the end.
                publisher.said(" stopped company=")
            })
            .await;
            let number = |name: &str| -> i64 { field(&said, name).expect(name).parse().unwrap() };
            last = number("confirmed")..=number("published");
            self.taken.insert(field(&said, "source").unwrap(), last.clone());
        }
        assert_eq!(last.start(), last.end(), "the last publisher of {} ended on servers that were well", self.symbol);
    }

    pub async fn stop_consuming(&mut self) {
        for consumer in &mut self.consumers {
            consumer.process.signal("TERM");
            consumer.process.end().await;
        }
    }
}

/// The value of `name=value` in a line of a log, which quotes some.
fn field(line: &str, name: &str) -> Option<String> {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_log_line_is_read_with_quotes_and_without() {
        let line = "MSFT source=\"ab12\" published=1234 confirmed=1230";
        assert_eq!(field(line, "source").as_deref(), Some("ab12"));
        assert_eq!(field(line, "confirmed").as_deref(), Some("1230"));
        assert_eq!(field(line, "lost"), None);
    }
}
