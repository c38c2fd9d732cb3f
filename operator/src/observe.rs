//! Looks at what runs inside the pods: asks the broker and the database, and lets each take its next step.
//! Rule: bounded in time, side by side, and a failure is something seen, never the end of the pass.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;
use wire::env::default::{MONGODB_COLLECTION, MONGODB_DB};

use crate::broker::users::State;
use crate::broker::{self, BrokerError};
use crate::certificates::x509;
use crate::claims;
use crate::database::drain::{self, Forgotten};
use crate::database::windows::{self, Latest};
use crate::database::{self, DatabaseError, rotation};
use crate::external::{self, BrokerAddress, DatabaseAddress};
use crate::leaving::{Leaving, Step};
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::roll;
use crate::rotation::Users;
use crate::status::{BrokerNodes, Figures, Seen, System};
use crate::web::Web;

/// What external parts said last, by the fingerprint of their address. One that serves is asked only when figures are due: it may be far away,
/// and its logins may be counted.
#[derive(Clone, Default)]
pub struct Said {
    /// The broker, with what nobody looks after there.
    pub broker: Option<(String, System, Option<String>)>,
    /// The database.
    pub database: Option<(String, System)>,
    /// Of the database we run, the certificates that its members show.
    pub shown: rotation::Shown,
}

/// Asks broker and database and fills in what they say; the companies' figures only when `figures` says so.
/// `told` are the companies whose consumers were told before that they are drained.
pub async fn systems(
    web: &Web,
    plan: &Plan,
    figures: bool,
    told: &BTreeSet<String>,
    said: &mut Said,
    now: Timestamp,
    seen: &mut Seen,
) {
    let outdated = |part| {
        let of_set = |set| roll::outdated(set, &seen.pods, seen.restart(part), None, now);
        seen.set(part).map(of_set).unwrap_or_default()
    };
    let broker_wanted = plan.broker_wanted(!outdated(Part::Broker).is_empty());
    let set = names::part(&plan.name, Part::Database);
    let outdated: Vec<i32> =
        outdated(Part::Database).iter().filter_map(|pod| claims::ordinal(&set, &pod.name_any())).collect();
    let database_wanted = plan.database_wanted(&outdated);
    let database_credentials = plan.database_credentials();
    let Said { broker: broker_said, database: database_said, .. } = said.clone();
    seen.without_certificate = plan.tls.iter().flat_map(|tls| tls.missing.clone()).collect();
    // Without a certificate its pods do not start, and nothing there can be asked.
    let without_certificate = |part| plan.tls.as_ref().and_then(|tls| tls.missing.get(&part).cloned());
    let broker = async {
        match &plan.external.broker {
            None => match without_certificate(Part::Broker) {
                Some(reason) => Broker::NotAsked(in_trouble(reason)),
                None => Broker::Ours(broker::converge(web, &broker_wanted).await),
            },
            Some(Err(reason)) => Broker::NotAsked(in_trouble(reason.clone())),
            Some(Ok(address)) => ask_broker(web, plan, address, figures, broker_said).await,
        }
    };
    let database = async {
        match &plan.external.database {
            None => match without_certificate(Part::Database) {
                Some(reason) => Database::NotAsked(in_trouble(reason)),
                None => Database::Ours(database::converge(&database_wanted, &database_credentials).await),
            },
            Some(Err(reason)) => Database::NotAsked(in_trouble(reason.clone())),
            Some(Ok(address)) => ask_database(plan, address, figures, database_said).await,
        }
    };
    let (broker, database) = futures::join!(broker, database);
    match broker {
        Broker::Ours(Ok(report)) => {
            seen.users.extend(report.nodes.is_some().then(|| (Part::Broker, broker_users(plan, &report))));
            seen.may_lose_one.broker = Some(report.may_lose_a_node);
            seen.voting = report.voting;
            seen.broker_nodes = report.nodes.as_ref().map(|nodes| BrokerNodes {
                upto: nodes.iter().filter_map(|node| plan.broker_ordinal(node)).max().map_or(0, |highest| highest + 1),
                leaves: report.may_leave.as_ref().and_then(|node| plan.broker_ordinal(node)),
                formed: report.formed,
            });
            let ready = i32::try_from(report.nodes_running).unwrap_or(i32::MAX);
            seen.broker = Some(System { ready, waiting_for: report.waiting_for, trouble: report.alarm });
            if report.nodes.is_some() {
                let absent = plan.leaving.iter().map(|leaving| &leaving.company.symbol);
                seen.absent = absent.filter(|symbol| !report.queues.contains_key(*symbol)).cloned().collect();
            }
            (seen.queues, seen.gone) = (report.queues, report.gone);
        }
        Broker::NotAsked(system) => (said.broker, seen.broker) = (None, Some(system)),
        Broker::Ours(Err(error)) => {
            seen.refused.extend(matches!(error, BrokerError::Unauthorized { .. }).then_some(Part::Broker));
            seen.broker = Some(in_trouble(error.to_string()));
        }
        Broker::Theirs(fingerprint, system, unattended, queues) => {
            said.broker = fingerprint.map(|fingerprint| (fingerprint, system.clone(), unattended.clone()));
            (seen.broker, seen.unattended) = (Some(system), unattended);
            (seen.queues, seen.absent, seen.gone) = (queues.queues, queues.absent, queues.gone);
        }
    }
    let mut latest = None;
    match database {
        Database::Ours(Ok(report)) => {
            let ready = i32::try_from(report.members_ready).unwrap_or(i32::MAX);
            seen.database = Some(System { ready, waiting_for: report.waiting_for, trouble: report.refused });
            seen.database_members = report.configured.map(|hosts| plan.database_members_upto(&hosts));
            seen.may_lose_one.database = Some(report.may_lose_a_member);
            seen.refused
                .extend(report.members.iter().any(|member| member.state == "REFUSED").then_some(Part::Database));
            seen.primary = report.primary.filter(|_| report.writable);
            if seen.primary.is_some() {
                seen.users.insert(Part::Database, Users { edited: report.edited, ..Users::default() });
            }
            if figures && seen.primary.is_some() {
                latest = Some(latest_windows(plan).await);
            }
        }
        Database::NotAsked(system) => (said.database, seen.database) = (None, Some(system)),
        Database::Ours(Err(error)) => seen.database = Some(in_trouble(error.to_string())),
        Database::Theirs(fingerprint, system, windows) => {
            said.database = fingerprint.map(|fingerprint| (fingerprint, system.clone()));
            (seen.database, latest) = (Some(system), windows);
        }
    }
    if let (Some(tls), Some(trusted)) = (&plan.tls, &plan.trusted)
        && let Some(certificate) =
            tls.servers.get(&Part::Database).and_then(|server| x509::shown(&server.pair.certificate))
    {
        let known = std::mem::take(&mut said.shown);
        said.shown =
            rotation::take_over(&database_wanted, &database_credentials, &trusted.config, &certificate, &known).await;
    }
    let writable =
        seen.primary.is_some() || seen.database.as_ref().is_some_and(|database| database.waiting_for.is_none());
    if writable {
        tell(plan, told, seen).await;
        forget(plan, figures).await;
    }
    if figures && writable && matches!(&plan.external.broker, Some(Ok(address)) if address.management.is_none()) {
        held_by_ours(plan, seen).await;
    }
    if let Some(latest) = latest {
        seen.figures = Some(figures_of(plan, seen, &latest));
    }
}

/// What the consumers of queues hold, where the broker tells only how many consumers there are: ours say it in their leases, and what others hold
/// nobody says. Whoever died with events in hand is a consumer of the broker's until it has noticed, and has no lease then.
async fn held_by_ours(plan: &Plan, seen: &mut Seen) {
    let asked: Vec<String> = seen
        .queues
        .iter()
        .filter(|(_, queue)| queue.unacknowledged.is_none() && queue.consumers == Some(1))
        .map(|(symbol, _)| symbol.clone())
        .collect();
    let Some((url, ours)) = database_url(plan).filter(|_| !asked.is_empty()) else { return };
    match windows::held(&url, MONGODB_DB, MONGODB_COLLECTION, &asked).await {
        Ok(held) => {
            for (symbol, held) in held {
                seen.queues.entry(symbol).and_modify(|queue| queue.unacknowledged = held);
            }
        }
        // Nothing that somebody else's database answers is repeated.
        Err(_) if !ours => tracing::warn!("cannot read what the consumers hold, to be tried again"),
        Err(error) => tracing::warn!(%error, "cannot read what the consumers hold, to be tried again"),
    }
}

fn broker_users(plan: &Plan, report: &broker::Report) -> Users {
    let credentials = &plan.credentials.broker;
    let state = |(_, account): (_, database::Account)| report.users.get(&account.name);
    Users {
        next: credentials
            .next
            .as_ref()
            .is_some_and(|next| next.accounts().all(|one| state(one) == Some(&State::Current))),
        edited: credentials.current.accounts().any(|one| state(one) == Some(&State::OtherPassword)),
        former: report.former.clone(),
    }
}

/// What the broker answered.
enum Broker {
    /// It cannot be: the one we run has no certificate yet, or nobody says where that of somebody else is.
    NotAsked(System),
    /// The one we run.
    Ours(Result<broker::Report, BrokerError>),
    /// Somebody else's: the fingerprint of its address if it has one, how it is, what nobody looks after, its queues.
    Theirs(Option<String>, System, Option<String>, Queues),
}

/// What a broker said of the companies' queues, and of those that leave; nothing when it was not asked.
#[derive(Default)]
struct Queues {
    queues: BTreeMap<String, broker::QueueReport>,
    absent: BTreeSet<String>,
    gone: BTreeSet<String>,
}

/// What the database answered.
enum Database {
    /// It cannot be: the one we run has no certificate yet, or nobody says where that of somebody else is.
    NotAsked(System),
    /// The one we run.
    Ours(Result<database::Report, DatabaseError>),
    /// Somebody else's: the fingerprint of its address if it has one, how it is, the newest windows if they were read.
    Theirs(Option<String>, System, Option<BTreeMap<String, Latest>>),
}

fn in_trouble(reason: String) -> System {
    System { ready: 0, waiting_for: Some(reason), trouble: true }
}

/// Whether what an external part said counts until figures are due: it serves, at the address that it has now.
fn still_counts(of: &str, system: &System, fingerprint: &str) -> bool {
    of == fingerprint && system.waiting_for.is_none()
}

async fn ask_broker(
    web: &Web,
    plan: &Plan,
    address: &BrokerAddress,
    figures: bool,
    said: Option<(String, System, Option<String>)>,
) -> Broker {
    let fingerprint = address.fingerprint.clone();
    if let Some((of, system, unattended)) = said
        && !figures
        && still_counts(&of, &system, &fingerprint)
    {
        return Broker::Theirs(Some(of), system, unattended, Queues::default());
    }
    let _permit = external::ASKED.acquire().await.ok();
    let wanted = broker::external::Wanted {
        address,
        pipeline: format!("{}.{}", plan.namespace, plan.name),
        queue_type: plan.broker.queue_type.into(),
        companies: plan.companies.iter().map(|company| company.symbol.clone()).collect(),
        removed: plan.leaving.iter().map(Leaving::removed).collect(),
    };
    let report = broker::external::converge(web, &wanted).await;
    let trouble = report.waiting_for.is_some();
    // A node counts only to tell one that blocks from one that refuses, see `Upstream`.
    let system = System { ready: i32::from(report.blocks), waiting_for: report.waiting_for, trouble };
    let broker::external::Report { queues, absent, gone, unattended, .. } = report;
    Broker::Theirs(Some(fingerprint), system, unattended, Queues { queues, absent, gone })
}

async fn ask_database(
    plan: &Plan,
    address: &DatabaseAddress,
    figures: bool,
    said: Option<(String, System)>,
) -> Database {
    let fingerprint = address.fingerprint.clone();
    if let Some((of, system)) = said
        && !figures
        && still_counts(&of, &system, &fingerprint)
    {
        return Database::Theirs(Some(of), system, None);
    }
    let _permit = external::ASKED.acquire().await.ok();
    let companies = if figures { plan.symbols() } else { Vec::new() };
    match database::external::look(address, MONGODB_DB, MONGODB_COLLECTION, &companies).await {
        Ok(latest) => {
            let system = System { ready: 0, waiting_for: None, trouble: false };
            Database::Theirs(Some(fingerprint), system, figures.then_some(latest))
        }
        Err(reason) => Database::Theirs(Some(fingerprint), in_trouble(reason), None),
    }
}

async fn latest_windows(plan: &Plan) -> BTreeMap<String, Latest> {
    windows::latest_windows(&own_url(plan), MONGODB_DB, MONGODB_COLLECTION, &plan.symbols())
        .await
        .inspect_err(|error| tracing::warn!(%error, "cannot read the newest windows"))
        .unwrap_or_default()
}

/// The application user's address for the operator itself.
fn own_url(plan: &Plan) -> String {
    let trusted = plan.trusted.as_ref().map(|trusted| trusted.file.to_string_lossy());
    plan.database_url(&trusted.unwrap_or_default())
}

/// The application user's address of the database, and whether it is of our own making.
fn database_url(plan: &Plan) -> Option<(String, bool)> {
    match &plan.external.database {
        None => Some((own_url(plan), true)),
        Some(Ok(address)) => Some((address.url.clone(), false)),
        Some(Err(_)) => None,
    }
}

fn figures_of(plan: &Plan, seen: &Seen, latest: &BTreeMap<String, Latest>) -> BTreeMap<String, Figures> {
    let of = |symbol: String| {
        let (queue, window) = (seen.queues.get(&symbol), latest.get(&symbol));
        let figures = Figures {
            queued: queue.and_then(|queue| queue.ready),
            unacked: queue.and_then(|queue| queue.unacknowledged),
            windows: window.and_then(|window| window.windows),
            last_price: window.map(|window| window.price),
            last_window_at: window.map(|window| window.at),
        };
        (symbol, figures)
    };
    plan.symbols().into_iter().map(of).collect()
}

/// Tells the consumers what is drained, and those of before that it is over.
async fn tell(plan: &Plan, told: &BTreeSet<String>, seen: &mut Seen) {
    let drained = plan.draining();
    let others: BTreeSet<String> = told.difference(&drained).cloned().collect();
    if drained.is_empty() && others.is_empty() {
        return;
    }
    let Some((url, ours)) = database_url(plan) else { return };
    match drain::tell(&url, MONGODB_DB, MONGODB_COLLECTION, &drained, &others).await {
        Ok(()) => seen.told = Some(drained),
        Err(error) => warn(&error, ours, "cannot tell the consumers what is drained, to be tried again"),
    }
}

/// Forgets the consumers of companies of which only the queue is left, and when figures are `due` those of all companies that the pipeline does not name. In
/// somebody else's database the others may be another pipeline's.
async fn forget(plan: &Plan, due: bool) {
    let ended = plan.leaving.iter().filter(|leaving| leaving.step == Step::Delete);
    let ended: BTreeSet<String> = ended.map(|leaving| leaving.company.symbol.clone()).collect();
    let Some((url, ours)) = database_url(plan) else { return };
    let companies = match (ended.is_empty(), due && ours) {
        (false, _) => Forgotten::These(ended),
        (true, true) => Forgotten::AllBut(plan.symbols().into_iter().collect()),
        (true, false) => return,
    };
    if let Err(error) = drain::forget(&url, MONGODB_DB, MONGODB_COLLECTION, &companies).await {
        warn(&error, ours, "cannot forget the consumers of companies that are gone");
    }
}

/// Nothing that somebody else's database answers is repeated.
fn warn(error: &DatabaseError, ours: bool, what: &str) {
    if ours { tracing::warn!(%error, "{what}") } else { tracing::warn!("{what}") }
}
