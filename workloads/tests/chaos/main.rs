//! Chaos on real servers: publishers, active and standby consumers, broker and database are killed, stopped and cut off under load.
//! Rule: at the end each event is counted exactly once; the windows are judged twice, by `verify` and by an audit of the test's own.
//!
//! `CHAOS_SEED` repeats a run's faults, `CHAOS_FAULTS` says how many, `CHAOS_MINUTES` how long instead; `make soak` is the long run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod audit;
mod company;
mod faults;
mod network;
mod progress;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use audit::Audit;
use company::{Company, Consumer, Program};
use faults::{Dice, Fault, ROUND};
use futures::TryStreamExt;
use mongodb::bson::doc;
use network::Network;
use progress::Progress;
use serde_json::Value;
use servers::{BROKER, Servers};
use support::process::{CONSUMER, command};
use support::{company as symbol, eventually};
use tokio::time::{Instant, sleep};
use wire::Symbol;

/// The first of the consumers' users. Nobody else has these.
const FIRST_USER: u32 = 27_000;

/// Written past the test harness, which would keep it until the end.
fn say(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "    {text}"));
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
}

struct Chaos {
    // Fields are dropped in this order: first what uses the servers.
    companies: Vec<Company>,
    network: Network,
    progress: Progress,
    dice: Dice,
    servers: Servers,
}

impl Chaos {
    /// Lets one fault happen and heals it; gives the longest time without a new window of some company.
    async fn strike(&mut self, fault: Fault) -> Duration {
        for company in &mut self.companies {
            company.settled().await;
        }
        self.servers.whole().await;
        sleep(self.dice.moment()).await;
        let (chosen, lasts) = (self.dice.choose(self.companies.len()), self.dice.duration(fault));
        let company = &mut self.companies[chosen];
        let mut since = Instant::now();
        let (mut killed, mut lost) = (None, None);
        match fault {
            Fault::KillPublisher => company.kill_publisher().await,
            Fault::KillConsumer => {
                let active = company.settled().await;
                active.kill();
                active.restart();
            }
            Fault::LoseConsumer => {
                let active = company.settled().await;
                active.kill();
                lost = Some(active.user);
            }
            Fault::KillBroker => {
                self.servers.kill(BROKER).await;
                sleep(lasts).await;
                self.servers.restart(BROKER).await;
            }
            Fault::KillPrimary => {
                let primary = self.servers.primary().await;
                since = Instant::now();
                self.servers.kill(primary).await;
                killed = Some(primary);
            }
            Fault::StopConsumer | Fault::StopConsumerLong => {
                let active = company.settled().await;
                active.signal("STOP");
                sleep(lasts).await;
                active.signal("CONT");
            }
            Fault::CutBroker | Fault::CutBrokerLong | Fault::CutDatabase => {
                let active = company.settled().await;
                let of_broker = fault != Fault::CutDatabase;
                self.network.cut(
                    active.user,
                    &if of_broker { self.servers.broker_ports() } else { self.servers.database_ports() },
                );
                sleep(lasts).await;
                self.network.heal();
            }
        }
        self.progress.regained().await;
        let pause = self.progress.longest_pause(since);
        if let Some(member) = killed {
            self.servers.restart(member).await;
        }
        let consumers = self.companies.iter_mut().flat_map(|company| &mut company.consumers);
        consumers.filter(|consumer| Some(consumer.user) == lost).for_each(Consumer::restart);
        pause
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_counted_once_whatever_is_killed_stopped_or_cut_off() {
    let seed = variable("CHAOS_SEED").unwrap_or_else(rand::random::<u32>);
    let (limit, minutes) = (variable("CHAOS_FAULTS").unwrap_or(ROUND.len()), variable::<f64>("CHAOS_MINUTES"));
    say(format!("chaos with CHAOS_SEED={seed}"));
    let (began, program, servers) = (Instant::now(), Program::copy(), Servers::start().await);
    let database = format!("chaos_{:016x}", rand::random::<u64>());
    let windows = servers.windows(&database);
    let symbols = [symbol("CHAOS-1"), symbol("CHAOS-2")];
    let companies = symbols.iter().zip([(200, FIRST_USER), (1000, FIRST_USER + 2)]);
    let companies = companies
        .map(|(symbol, (batch, user))| Company::start(symbol.clone(), batch, user, &servers, &database, &program));
    let companies = companies.collect();
    let progress = Progress::watch(&windows, &symbols);
    let mut chaos = Chaos { companies, network: Network::new(), progress, dice: Dice::new(u64::from(seed)), servers };
    chaos.progress.regained().await;
    say(format!("two publishers of 2000 events/s and four consumers work ({:.1?})", began.elapsed()));

    let mut pauses: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
    let faults_began = Instant::now();
    for number in 1.. {
        let enough = minutes.map_or(number > limit, |minutes| faults_began.elapsed().as_secs_f64() > minutes * 60.0);
        if enough {
            break;
        }
        let fault = chaos.dice.fault();
        let pause = chaos.strike(fault).await;
        say(format!(
            "{number:3}. {fault:36} {:5.1} s without a window, {} windows so far",
            pause.as_secs_f64(),
            chaos.progress.windows()
        ));
        pauses.entry(fault).or_default().push(pause);
    }

    let mut events = 0;
    for company in &mut chaos.companies {
        company.stop_publishing().await;
    }
    for company in &mut chaos.companies {
        drained(company, &chaos.servers, &windows).await;
        company.stop_consuming().await;
    }
    for company in &chaos.companies {
        let name = company.symbol.as_str();
        let left = eventually("the queue's count", async || chaos.servers.ready(name).await).await;
        let audit = audit(&windows, &company.symbol).await;
        say(format!(
            "{name}: {} events in {} windows of {} publishers, {} gaps, {} duplicates, {left} left, at least {} confirmed",
            audit.events,
            audit.windows,
            audit.sources.len(),
            audit.gaps,
            audit.duplicates,
            company.confirmed,
        ));
        assert_eq!(audit.findings, [""; 0], "{name}");
        assert_eq!(
            (audit.gaps, audit.duplicates, audit.unsequenced, left),
            (0, 0, 0, 0),
            "{name}: {:?}",
            audit.sources
        );
        assert!(
            audit.events as f64 >= company.confirmed,
            "{name}: {} events, {} confirmed",
            audit.events,
            company.confirmed
        );
        events += audit.events;
        verify_agrees(&chaos.servers, &database, &audit, name).await;
    }
    say(format!(
        "{} faults, {events} events, {} windows",
        pauses.values().map(Vec::len).sum::<usize>(),
        chaos.progress.windows()
    ));
    say(format!("{:36} faults   median      max   (time without a window)", "kind"));
    for (fault, mut pauses) in pauses {
        pauses.sort_unstable();
        let (median, max) = (pauses[pauses.len() / 2].as_secs_f64(), pauses[pauses.len() - 1].as_secs_f64());
        say(format!("{fault:36} {:6} {median:6.1} s {max:6.1} s", pauses.len()));
    }
}

async fn audit(windows: &mongodb::Collection<mongodb::bson::Document>, company: &Symbol) -> Audit {
    let found = windows.find(doc! {"company": company.as_str()}).await.unwrap();
    Audit::of(&found.try_collect::<Vec<_>>().await.unwrap())
}

/// Waits until the queue is empty and the last short window is stored: for longer than consumers wait with it, nothing grows.
async fn drained(company: &Company, servers: &Servers, windows: &mongodb::Collection<mongodb::bson::Document>) {
    let (mut before, mut since) = (-1, Instant::now());
    eventually(&format!("{} is drained", company.symbol), async || {
        let events = audit(windows, &company.symbol).await.events;
        if servers.ready(company.symbol.as_str()).await != Some(0) || events != before {
            (before, since) = (events, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(4)).then_some(())
    })
    .await;
}

/// `stock-consumer verify` comes to the same as our audit.
async fn verify_agrees(servers: &Servers, database: &str, audit: &Audit, company: &str) {
    let mut verify = command(CONSUMER, [("MONGODB_URL", servers.database.as_str()), ("MONGODB_DB", database)]);
    verify.args(["verify", "--company", company, "--output", "json"]);
    let output = tokio::task::spawn_blocking(move || verify.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "verify ended with {}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(report["ok"], true, "{report}");
    let found = &report["companies"][0];
    let figures = |name: &str| found[name].as_i64();
    assert_eq!(figures("events"), Some(audit.events), "{report}");
    assert_eq!(figures("windows"), Some(audit.windows as i64), "{report}");
    assert_eq!(found["sources"].as_array().map(Vec::len), Some(audit.sources.len()), "{report}");
}
