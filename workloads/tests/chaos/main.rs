//! Chaos on real servers: publishers, active and standby consumers, broker and database are killed, stopped and cut off under load.
//! Rule: at the end each event is counted exactly once; the windows are judged twice, by `verify` and by an audit of the test's own.
//!
//! `CHAOS_SEED` repeats a run's faults, `CHAOS_FAULTS` says how many, `CHAOS_MINUTES` how long instead, and then
//! every second strike is two faults at once; `make soak` is that long run.
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
use company::{Company, Program};
use faults::{Dice, Fault, ROUND};
use futures::TryStreamExt;
use mongodb::bson::doc;
use network::Network;
use progress::Progress;
use serde_json::Value;
use servers::{BROKER, Servers};
use support::process::{CONSUMER, command};
use support::{company as symbol, eventually};
use tokio::time::{Instant, sleep, sleep_until};
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

/// A consumer by the positions of its company and of itself.
type Place = (usize, usize);

/// What mends a fault.
enum Remedy {
    Restart(&'static str),
    Resume(&'static str),
    Wake(Place),
    Reconnect,
    /// These wait until the others have taken over.
    RestartLater(&'static str),
    ReplaceLater(Place),
}

impl Chaos {
    /// Lets faults happen at once and mends each after its time; gives the longest time without a new window of some company.
    async fn strike(&mut self, faults: &[Fault]) -> Duration {
        self.servers.whole().await;
        let primary = self.servers.primary().await;
        let mut active = Vec::new();
        for (position, company) in self.companies.iter_mut().enumerate() {
            active.push((position, company.settled().await));
        }
        sleep(self.dice.moment()).await;
        let since = Instant::now();
        let (mut remedies, mut later) = (Vec::new(), Vec::new());
        for fault in faults {
            let (place, lasts) = (active[self.dice.choose(active.len())], self.dice.duration(*fault));
            match self.inflict(*fault, place, primary).await {
                Some(remedy @ (Remedy::RestartLater(_) | Remedy::ReplaceLater(_))) => later.push(remedy),
                Some(remedy) => remedies.push((Instant::now() + lasts, remedy)),
                None => {}
            }
        }
        remedies.sort_by_key(|(moment, _)| *moment);
        for (moment, remedy) in remedies {
            sleep_until(moment).await;
            self.mend(remedy).await;
        }
        self.progress.regained().await;
        let pause = self.progress.longest_pause(since);
        for remedy in later {
            self.mend(remedy).await;
        }
        pause
    }

    async fn inflict(&mut self, fault: Fault, place: Place, primary: &'static str) -> Option<Remedy> {
        let company = &mut self.companies[place.0];
        let active = &mut company.consumers[place.1];
        match fault {
            Fault::KillPublisher => company.kill_publisher().await,
            Fault::EndPublisher => company.end_publisher(),
            Fault::KillConsumer => {
                active.kill();
                active.restart();
            }
            Fault::LoseConsumer => {
                active.kill();
                return Some(Remedy::ReplaceLater(place));
            }
            Fault::KillBroker => {
                self.servers.kill(BROKER).await;
                return Some(Remedy::Restart(BROKER));
            }
            Fault::StopBroker => {
                self.servers.pause(BROKER).await;
                return Some(Remedy::Resume(BROKER));
            }
            Fault::KillPrimary => {
                self.servers.kill(primary).await;
                return Some(Remedy::RestartLater(primary));
            }
            Fault::StopPrimary => {
                self.servers.pause(primary).await;
                return Some(Remedy::Resume(primary));
            }
            Fault::StopConsumer | Fault::StopConsumerLong => {
                active.signal("STOP");
                return Some(Remedy::Wake(place));
            }
            Fault::CutBroker | Fault::CutBrokerLong => {
                self.network.cut(active.user, &self.servers.broker_ports());
                return Some(Remedy::Reconnect);
            }
            Fault::CutDatabase | Fault::CutDatabaseLong => {
                self.network.cut(active.user, &self.servers.database_ports());
                return Some(Remedy::Reconnect);
            }
        }
        None
    }

    async fn mend(&mut self, remedy: Remedy) {
        match remedy {
            Remedy::Restart(name) | Remedy::RestartLater(name) => self.servers.restart(name).await,
            Remedy::Resume(name) => self.servers.resume(name).await,
            Remedy::Wake((company, consumer)) => self.companies[company].consumers[consumer].signal("CONT"),
            Remedy::ReplaceLater((company, consumer)) => self.companies[company].consumers[consumer].restart(),
            Remedy::Reconnect => self.network.heal(),
        }
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

    let mut pauses: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let faults_began = Instant::now();
    for number in 1.. {
        let enough = minutes.map_or(number > limit, |minutes| faults_began.elapsed().as_secs_f64() > minutes * 60.0);
        if enough {
            break;
        }
        let two = minutes.is_some() && number % 2 == 0;
        let faults = if two { chaos.dice.pair().to_vec() } else { vec![chaos.dice.fault()] };
        let what = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(" + ");
        let pause = chaos.strike(&faults).await;
        say(format!(
            "{number:3}. {what:40} {:5.1} s without a window, {} windows so far",
            pause.as_secs_f64(),
            chaos.progress.windows()
        ));
        pauses.entry(if two { "two at once".to_owned() } else { what }).or_default().push(pause);
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
        let exact = company.taken.values().filter(|taken| taken.start() == taken.end()).count();
        say(format!(
            "{name}: {} events in {} windows of {} publishers, {} gaps, {} duplicates, {left} left; \
             of {exact} publishers every confirmed event and no other",
            audit.events,
            audit.windows,
            audit.sources.len(),
            audit.gaps,
            audit.duplicates,
        ));
        assert_eq!(audit.findings, [""; 0], "{name}");
        assert_eq!(
            (audit.gaps, audit.duplicates, audit.unsequenced, left),
            (0, 0, 0, 0),
            "{name}: {:?}",
            audit.sources
        );
        for (source, taken) in &company.taken {
            let counted = audit.sources.get(source).copied().unwrap_or(0);
            assert!(taken.contains(&counted), "{name}: {counted} events of {source} are counted, {taken:?} were taken");
        }
        let unknown = audit.sources.keys().find(|source| !company.taken.contains_key(*source));
        assert_eq!(unknown, None, "{name}: events of a source that no publisher had");
        events += audit.events;
        verify_agrees(&chaos.servers, &database, &audit, name).await;
    }
    say(format!(
        "{} faults, {events} events, {} windows",
        pauses.values().map(Vec::len).sum::<usize>(),
        chaos.progress.windows()
    ));
    say(format!("{:40} faults   median      max   (time without a window)", "kind"));
    for (fault, mut pauses) in pauses {
        pauses.sort_unstable();
        let (median, max) = (pauses[pauses.len() / 2].as_secs_f64(), pauses[pauses.len() - 1].as_secs_f64());
        say(format!("{fault:40} {:6} {median:6.1} s {max:6.1} s", pauses.len()));
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
