//! What a pipeline's status says; pure: spec, what was seen, the old status and the time in, the new status and the events out.
//! Rule: it always speaks, on failure too: which thing, why, and what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};

use crate::broker::QueueReport;
use crate::companies;
use crate::crd::{Edge, EdgeMode, PartStatus, Parts, ScaleStatus, StockPipeline, StockPipelineStatus};
use crate::edge::{self, Acceptance};
use crate::error::Error;
use crate::leaving::Leaving;
use crate::names::{self, Part};
use crate::paused;
use crate::plan::MayLoseOne;
use crate::pods;
use crate::rotation::Users;
use crate::volumes::{self, Volumes};

/// The figures of the companies are written at most this often: they change with every window, and each write wakes every watcher.
pub const FIGURES_EVERY: Duration = Duration::from_secs(30);

/// Most characters of what a company waits for: hundreds may wait for the same, and the status holds it for each.
pub(crate) const WORDS: usize = 300;

/// What was seen of one pipeline.
#[derive(Default)]
pub struct Seen {
    /// Its stateful sets.
    pub stateful_sets: Vec<StatefulSet>,
    /// Its deployments.
    pub deployments: Vec<Deployment>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Queues of the broker in which every wanted node votes, if it was heard.
    pub voting: Option<BTreeSet<String>>,
    /// How the volumes of broker and database are.
    pub volumes: BTreeMap<Part, Volumes>,
    /// What the broker says of itself; none while nobody asked.
    pub broker: Option<System>,
    /// What the database says of itself; none while nobody asked.
    pub database: Option<System>,
    /// What keeps parts from having a certificate.
    pub without_certificate: BTreeMap<Part, String>,
    /// What nobody looks after at a broker that somebody else runs.
    pub unattended: Option<String>,
    /// The database's primary.
    pub primary: Option<String>,
    /// One more than the highest ordinal among the members of the database's replica set, as its primary knows them.
    pub database_members: Option<i32>,
    /// The nodes of the broker's cluster; none while it was not asked.
    pub broker_nodes: Option<BrokerNodes>,
    /// Whether broker and database bear the loss of a pod; none while the one was not asked.
    pub may_lose_one: MayLoseOne,
    /// The broker's queues by symbol, those that exist; empty when it did not answer.
    pub queues: BTreeMap<String, QueueReport>,
    /// Companies on their way out.
    pub leaving: Vec<Leaving>,
    /// Those of them that have no queue; empty when the broker did not answer.
    pub absent: BTreeSet<String>,
    /// Those of them of which nothing is left to delete.
    pub gone: BTreeSet<String>,
    /// Companies whose consumers were told in this pass that they are drained; none when nobody was told anything.
    pub told: Option<BTreeSet<String>>,
    /// What is certainly left of the companies' events, of those whose publishers have ended.
    pub left: BTreeMap<String, i64>,
    /// Figures by symbol; none when they were not read this time.
    pub figures: Option<BTreeMap<String, Figures>>,
    /// The objects of the edge.
    pub edge: edge::Found,
    /// What is wrong with the Secret of the edge's certificate.
    pub edge_secret: Option<String>,
    /// What broker and database said of their users; one that did not answer is absent.
    pub users: BTreeMap<Part, Users>,
    /// Parts that did not take our login.
    pub refused: BTreeSet<Part>,
    /// How far new credentials are.
    pub rotation: Rotation,
    /// What went wrong in the pass.
    pub errors: Vec<Error>,
}

/// How far new credentials are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// Nobody looked.
    #[default]
    Unknown,
    /// Nobody asks for any.
    NotWished,
    /// What each part does or waits for.
    UnderWay(String),
    /// Which ones are in use.
    Done(String),
}

impl Seen {
    /// The StatefulSet of a part.
    pub fn set(&self, part: Part) -> Option<&StatefulSet> {
        self.stateful_sets.iter().find(|set| names::is_of(*set, part))
    }

    /// The pods of a part that have to be made anew for their volume.
    pub fn restart(&self, part: Part) -> &[String] {
        self.volumes.get(&part).map(|volumes| volumes.restart.as_slice()).unwrap_or_default()
    }
}

/// What the system inside a StatefulSet says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Members that serve.
    pub ready: i32,
    /// What it waits for; none when it serves as a whole.
    pub waiting_for: Option<String>,
    /// Waiting will not help: somebody has to act.
    pub trouble: bool,
}

/// Which nodes the broker's cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerNodes {
    /// One more than the highest ordinal among them.
    pub upto: i32,
    /// The ordinal of the one that may leave.
    pub leaves: Option<i32>,
    /// All wanted ones have joined.
    pub formed: bool,
}

/// Figures of one company; what could not be read is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Events in the queue that no consumer holds.
    pub queued: Option<i64>,
    /// Events a consumer holds.
    pub unacked: Option<i64>,
    /// Stored windows.
    pub windows: Option<i64>,
    /// Average of the newest window.
    pub last_price: Option<f64>,
    /// When the newest window was stored.
    pub last_window_at: Option<Timestamp>,
}

/// The condition of one part before it becomes a `Condition`.
struct Judgement {
    type_: &'static str,
    part: Part,
    ready: i32,
    wanted: i32,
    reason: &'static str,
    message: String,
    /// Somebody should look: it will not become ready by waiting alone.
    trouble: bool,
}

impl Judgement {
    fn is_ready(&self) -> bool {
        self.reason == reason::READY || self.reason == reason::DISABLED
    }
}

/// Broker or database as the parts that need it see it: whole or not, it may serve.
pub(crate) struct Upstream {
    /// Which of the two.
    pub part: Part,
    /// Those that need it can work.
    pub serves: bool,
    /// It serves, and takes no events: RabbitMQ's alarms of memory and disk.
    pub blocks: bool,
    /// What its condition says.
    pub message: String,
}

impl Upstream {
    fn new(old: &StockPipelineStatus, judgement: &Judgement, system: Option<&System>, serves: bool) -> Self {
        let earlier = old.conditions.iter().find(|condition| condition.type_ == judgement.type_);
        match (system, earlier) {
            // Whom a failed pass did not ask, of them it has no news.
            (None, Some(earlier)) => Self {
                part: judgement.part,
                serves: earlier.status == "True",
                blocks: false,
                message: earlier.message.clone(),
            },
            _ => Self {
                part: judgement.part,
                serves: judgement.is_ready() || serves,
                // Of one that refused to answer no node counts.
                blocks: system.is_some_and(|system| system.trouble && system.ready > 0),
                message: judgement.message.clone(),
            },
        }
    }
}

/// Reasons of conditions, each used in one sense.
pub mod reason {
    /// All wanted pods serve.
    pub const READY: &str = "Ready";
    /// The spec wants none.
    pub const DISABLED: &str = "Disabled";
    /// Pods are starting.
    pub const STARTING: &str = "Starting";
    /// A pod cannot start or keeps failing.
    pub const POD_TROUBLE: &str = "PodTrouble";
    /// Nothing is wrong with its pods: another part has to serve first.
    pub const WAITING: &str = "Waiting";
    /// Pods run, and the system in them does not serve yet.
    pub const FORMING: &str = "Forming";
    /// What somebody else runs cannot be used: its Secret, its login, or itself.
    pub const EXTERNAL: &str = "External";
    /// Pods of an older template are being replaced.
    pub const ROLLING: &str = "Rolling";
    /// Programs move from one generation of users to the next.
    pub const ROTATING: &str = "Rotating";
    /// Publishers are stopped and queues run empty.
    pub const DRAINING: &str = "Draining";
    /// Nothing is left.
    pub const PAUSED: &str = "Paused";
    /// The Ingress or the route is not served.
    pub const NOT_ACCEPTED: &str = "NotAccepted";
    /// The certificate's Secret cannot be used.
    pub const NO_CERTIFICATE: &str = "NoCertificate";
    /// Parts are not ready.
    pub const PARTS_NOT_READY: &str = "PartsNotReady";
    /// All is as wanted.
    pub const AS_WANTED: &str = "AsWanted";
}

/// What of a Deployment is read after it was applied. The rest, most of it, would be in memory as often as pipelines wait for an answer of theirs.
pub fn what_is_read(deployment: &Deployment) -> Deployment {
    let Deployment { metadata, spec, status } = deployment;
    let annotations =
        |spec: &DeploymentSpec| spec.template.metadata.as_ref().and_then(|template| template.annotations.clone());
    let spec = spec.as_ref().map(|spec| DeploymentSpec {
        replicas: spec.replicas,
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { annotations: annotations(spec), ..ObjectMeta::default() }),
            spec: None,
        },
        ..DeploymentSpec::default()
    });
    let ObjectMeta { name, namespace, labels, generation, deletion_timestamp, annotations, .. } = metadata.clone();
    // What tells a company that has left the spec.
    let of_company = |key: &str| key == names::SYMBOL || key == names::WRITTEN;
    let annotations = annotations.map(|all| all.into_iter().filter(|(key, _)| of_company(key)).collect());
    let metadata =
        ObjectMeta { name, namespace, labels, generation, deletion_timestamp, annotations, ..ObjectMeta::default() };
    Deployment { metadata, spec, status: status.clone() }
}

/// The new status.
pub fn of(pipeline: &StockPipeline, seen: &Seen, now: Timestamp) -> StockPipelineStatus {
    let old = pipeline.status.clone().unwrap_or_default();
    let spec = &pipeline.spec;
    // The schema allows 500.
    let company_count = i32::try_from(spec.companies.len()).unwrap_or(i32::MAX);
    let publishers = if spec.publisher.enabled && !spec.paused { company_count } else { 0 };
    let broker = match &spec.broker.external {
        Some(_) => external(Part::Broker, "BrokerReady", seen.broker.as_ref(), seen.unattended.as_deref()),
        None => {
            with_growth(set(seen, now, Part::Broker, "BrokerReady", spec.broker.replicas, seen.broker.as_ref()), seen)
        }
    };
    let database = match &spec.database.external {
        Some(_) => external(Part::Database, "DatabaseReady", seen.database.as_ref(), None),
        None => {
            let replicas = spec.database.replicas;
            with_growth(set(seen, now, Part::Database, "DatabaseReady", replicas, seen.database.as_ref()), seen)
        }
    };
    let (broker, database) = (with_certificate(broker, seen), with_certificate(database, seen));
    // A majority of the nodes serves all queues that have one.
    let majority =
        |system: &System| spec.broker.external.is_none() && !system.trouble && system.ready > spec.broker.replicas / 2;
    let needs_broker = Upstream::new(&old, &broker, seen.broker.as_ref(), seen.broker.as_ref().is_some_and(majority));
    let needs_database = Upstream::new(&old, &database, seen.database.as_ref(), seen.primary.is_some());
    let publishers = deployed(seen, now, Part::Publisher, "PublishersReady", publishers, &[&needs_broker]);
    let consumers = spec.companies.iter().map(|company| spec.consumers_of(company)).sum();
    let both = [&needs_broker, &needs_database];
    let consumers = deployed(seen, now, Part::Consumer, "ConsumersReady", consumers, &both);
    let liveview = deployed(seen, now, Part::Liveview, "LiveviewReady", spec.liveview.replicas, &[&needs_database]);
    let edge = way_in(seen, now, &spec.edge);

    let volume_size = |part| match (seen.volumes.get(&part), part) {
        (Some(volumes), _) => volumes.asked.clone(),
        (None, Part::Broker) => old.parts.broker.volume_size.clone(),
        (None, Part::Database) => old.parts.database.volume_size.clone(),
        (None, _) => None,
    };
    let ratio = |judgement: &Judgement| PartStatus {
        ready: Some(format!("{}/{}", judgement.ready, judgement.wanted)),
        volume_size: volume_size(judgement.part),
    };
    let elsewhere = || PartStatus { ready: Some("external".into()), volume_size: None };
    let parts = Parts {
        broker: spec.broker.external.as_ref().map_or_else(|| ratio(&broker), |_| elsewhere()),
        database: spec.database.external.as_ref().map_or_else(|| ratio(&database), |_| elsewhere()),
        publishers: ratio(&publishers),
        consumers: ratio(&consumers),
        liveview: ratio(&liveview),
        edge: ratio(&edge),
    };
    let judgements = [broker, database, publishers, consumers, liveview, edge];
    let mut conditions = overall(&judgements, &seen.errors);
    conditions.extend(judgements.iter().map(|judgement| {
        condition(judgement.type_, judgement.is_ready(), judgement.reason, judgement.message.clone())
    }));
    let (companies, figures_at) = companies::of(pipeline, &old, seen, now, both);
    if spec.paused {
        let asked = seen.broker.is_some();
        let earlier = old.conditions.iter().find(|condition| condition.type_ == paused::CONDITION && !asked);
        conditions.push(earlier.cloned().unwrap_or_else(|| paused::condition(seen, &companies)));
    }
    conditions.extend(rotated(&seen.rotation, &old));
    for condition in &mut conditions {
        condition.observed_generation = pipeline.metadata.generation;
    }
    // Whom a failed pass did not ask, of them it has no news, nor of this generation.
    for (type_, asked) in [("BrokerReady", seen.broker.is_some()), ("DatabaseReady", seen.database.is_some())] {
        let earlier = old.conditions.iter().find(|condition| condition.type_ == type_);
        if let (false, Some(earlier)) = (asked, earlier) {
            conditions.iter_mut().filter(|condition| condition.type_ == type_).for_each(|new| new.clone_from(earlier));
        }
    }
    for condition in &mut conditions {
        // Moves only with the value: otherwise every pass would change the resource and so cause the next pass.
        condition.last_transition_time = old
            .conditions
            .iter()
            .find(|earlier| earlier.type_ == condition.type_ && earlier.status == condition.status)
            .map_or(Time(now), |earlier| earlier.last_transition_time.clone());
    }
    let flowing = companies.iter().filter(|company| company.waiting_for.is_none()).count();
    StockPipelineStatus {
        observed_generation: pipeline.metadata.generation,
        conditions,
        company_count: Some(company_count),
        flowing_count: i32::try_from(flowing).ok(),
        parts,
        scale: Some(scale(pipeline, seen)),
        last_window_at: companies.iter().filter_map(|company| company.last_window_at.clone()).max(),
        companies,
        figures_at,
        // One look that found no primary is no news of another one.
        database_primary: seen.primary.clone().or(old.database_primary),
    }
}

/// The condition of new credentials: there as long as somebody asks for some.
const ROTATED: &str = "CredentialsRotated";

fn rotated(rotation: &Rotation, old: &StockPipelineStatus) -> Option<Condition> {
    match rotation {
        Rotation::Unknown => old.conditions.iter().find(|condition| condition.type_ == ROTATED).cloned(),
        Rotation::NotWished => None,
        Rotation::UnderWay(message) => Some(condition(ROTATED, false, reason::ROTATING, message.clone())),
        Rotation::Done(message) => Some(condition(ROTATED, true, reason::AS_WANTED, message.clone())),
    }
}

pub(crate) fn condition(type_: &str, holds: bool, reason: &str, message: String) -> Condition {
    Condition {
        type_: type_.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

/// `Ready`, `Progressing` and `Degraded`.
fn overall(judgements: &[Judgement], errors: &[Error]) -> Vec<Condition> {
    let unready: Vec<&Judgement> = judgements.iter().filter(|judgement| !judgement.is_ready()).collect();
    let trouble = unready.iter().find(|judgement| judgement.trouble);
    let ready = unready.is_empty() && errors.is_empty();
    let (reason, message) = match (errors.first(), unready.first()) {
        (Some(error), _) => (error.reason(), error.to_string()),
        (None, Some(_)) => {
            let waits: Vec<String> =
                unready.iter().map(|judgement| format!("{}: {}", judgement.part.name(), judgement.message)).collect();
            (reason::PARTS_NOT_READY, waits.join("; "))
        }
        (None, None) => (reason::READY, "every part serves".into()),
    };
    let degraded = !errors.is_empty() || trouble.is_some();
    let degraded_reason =
        errors.first().map(Error::reason).or(trouble.map(|judgement| judgement.reason)).unwrap_or(reason::AS_WANTED);
    let degraded_message = match (errors.first(), trouble) {
        (Some(error), _) => error.to_string(),
        (None, Some(judgement)) => judgement.message.clone(),
        (None, None) => "nothing needs attention".into(),
    };
    let progressing = !ready && !degraded;
    let progressing_reason = if progressing { reason::PARTS_NOT_READY } else { reason::AS_WANTED };
    let progressing_message = if progressing { message.clone() } else { "nothing is under way".into() };
    vec![
        condition("Ready", ready, reason, message),
        condition("Progressing", progressing, progressing_reason, progressing_message),
        condition("Degraded", degraded, degraded_reason, degraded_message),
    ]
}

/// Judges a broker or database that somebody else runs; it has no pods here.
fn external(part: Part, type_: &'static str, system: Option<&System>, unattended: Option<&str>) -> Judgement {
    let (reason, message, trouble) = match system {
        None => (reason::FORMING, "somebody else runs it; whether it serves is asked next".into(), false),
        Some(System { waiting_for: Some(waiting), trouble, .. }) => (reason::EXTERNAL, waiting.clone(), *trouble),
        Some(_) => {
            let unattended = unattended.map_or_else(String::new, |unattended| format!("; {unattended}"));
            (reason::READY, format!("somebody else runs it, and it serves{unattended}"), false)
        }
    };
    Judgement { type_, part, ready: 0, wanted: 0, reason, message, trouble }
}

/// Tells that volumes grow beside what else is said: it takes nothing from what serves.
fn with_growth(mut judgement: Judgement, seen: &Seen) -> Judgement {
    if let Some(growing) = seen.volumes.get(&judgement.part).and_then(|volumes| volumes.growing.as_deref()) {
        judgement.message = format!("{}; {growing}", judgement.message);
    }
    judgement
}

/// Without a certificate its pods cannot start, which is all that they would say.
fn with_certificate(judgement: Judgement, seen: &Seen) -> Judgement {
    match seen.without_certificate.get(&judgement.part) {
        Some(missing) => {
            Judgement { reason: reason::NO_CERTIFICATE, message: missing.clone(), trouble: true, ..judgement }
        }
        None => judgement,
    }
}

/// Judges a StatefulSet and the system that runs in it.
fn set(
    seen: &Seen,
    now: Timestamp,
    part: Part,
    type_: &'static str,
    wanted: i32,
    system: Option<&System>,
) -> Judgement {
    let live = seen.set(part);
    let made_anew = live.is_some_and(volumes::is_made_anew);
    let counts = live.and_then(|set| set.status.as_ref());
    let current = made_anew
        || live
            .and_then(|set| Some(set.status.as_ref()?.observed_generation? >= set.metadata.generation?))
            .unwrap_or(false);
    let ready = if made_anew {
        let pods = pods_of(seen, part).filter(|pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
        i32::try_from(pods.count()).unwrap_or(i32::MAX)
    } else {
        counts.map_or(0, |status| new_and_ready(status.replicas, status.updated_replicas, status.ready_replicas))
    };
    let ready = ready.min(wanted);
    let pods_ready = current && ready == wanted;
    let old = counts.map_or(0, |status| status.replicas - status.updated_replicas.unwrap_or(0));
    if current && old > 0 && pods::worst(pods_of(seen, part), now, pods::trouble).is_none() {
        let waits = system.and_then(|system| system.waiting_for.as_deref());
        let waits = match (live.and_then(|set| not_made(set, &seen.pods)), waits) {
            (Some(missing), _) => format!("; {missing}"),
            (None, Some(reason)) => format!("; the next one waits: {reason}"),
            (None, None) => String::new(),
        };
        let pods = if old == 1 { "1 pod is".to_owned() } else { format!("{old} pods are") };
        let message = format!("{pods} still to be replaced, one at a time{waits}");
        return Judgement { type_, part, ready, wanted, reason: reason::ROLLING, message, trouble: false };
    }
    match system {
        Some(System { ready, waiting_for: Some(waiting), trouble }) if pods_ready => {
            let ready = (*ready).min(wanted);
            // More pods than wanted may run, and what it waits for may be one of those that `ready` does not count.
            let (reason, message, trouble) = match pods::worst(pods_of(seen, part), now, pods::trouble) {
                Some(pod) => (reason::POD_TROUBLE, format!("{waiting}; {pod}"), true),
                None => (reason::FORMING, waiting.clone(), *trouble),
            };
            Judgement { type_, part, ready, wanted, reason, message, trouble }
        }
        None if pods_ready => {
            let message = "its pods are ready; whether it serves is asked next".into();
            Judgement { type_, part, ready, wanted, reason: reason::FORMING, message, trouble: false }
        }
        _ => judge(seen, now, part, type_, (ready, wanted, current), &[]),
    }
}

/// Which pod of a StatefulSet there is not, in words. Kubernetes makes it within a moment or says why not, and that in events alone: of a quota, of a priority
/// class or service account that does not exist.
fn not_made(set: &StatefulSet, pods: &[Pod]) -> Option<String> {
    let name = set.name_any();
    let mut names = (0..set.spec.as_ref()?.replicas?).rev().map(|ordinal| format!("{name}-{ordinal}"));
    let missing = names.find(|pod| pods.iter().all(|found| found.name_any() != *pod))?;
    Some(format!("pod {missing} is not there yet: should that last, `kubectl describe statefulset {name}` says why"))
}

/// Pods of the newest revision that are certainly ready. In the middle of a roll old pods are ready too, and the counts do not
/// say which are; the wish is fulfilled by the new ones.
fn new_and_ready(all: i32, updated: Option<i32>, ready: Option<i32>) -> i32 {
    let old = all - updated.unwrap_or(0);
    (ready.unwrap_or(0) - old).max(0)
}

/// Judges the Deployments of a part that needs others.
fn deployed(
    seen: &Seen,
    now: Timestamp,
    part: Part,
    type_: &'static str,
    wanted: i32,
    needs: &[&Upstream],
) -> Judgement {
    let (mut ready, mut current) = (0, true);
    // Those of a company that is leaving make up for none that is wanted.
    let leaves = |deployment: &&Deployment| {
        let company = deployment.labels().get(names::COMPANY);
        seen.leaving.iter().any(|leaving| company == Some(&leaving.company.slug))
    };
    for deployment in deployments_of(seen, part).filter(|deployment| !leaves(deployment)) {
        let status = deployment.status.as_ref();
        let new = status.map_or(0, |status| {
            new_and_ready(status.replicas.unwrap_or(0), status.updated_replicas, status.ready_replicas)
        });
        // One company's pod too many makes up for none of another's.
        ready += new.min(deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1));
        current &= status.and_then(|status| status.observed_generation) >= deployment.metadata.generation;
    }
    judge(seen, now, part, type_, (ready.min(wanted), wanted, current), needs)
}

/// Judges the edge: by NGINX's pods, or by what a controller of somebody else says of our Ingress or route.
fn way_in(seen: &Seen, now: Timestamp, wish: &Edge) -> Judgement {
    const TYPE: &str = "EdgeReady";
    let judgement = |ready, wanted, reason, message, trouble| Judgement {
        type_: TYPE,
        part: Part::Edge,
        ready,
        wanted,
        reason,
        message,
        trouble,
    };
    let meanwhile = |message: String| match seen.edge.nginx {
        Some(_) => format!("{message}; NGINX serves until then"),
        None => message,
    };
    match wish.mode {
        EdgeMode::Nginx => {
            let pods = deployed(seen, now, Part::Edge, TYPE, wish.replicas, &[]);
            let issued = |missing: &String| {
                format!("{missing}; NGINX goes on with the certificate it had, and without one serves plain HTTP")
            };
            let problem = seen.edge_secret.clone().or_else(|| seen.without_certificate.get(&Part::Edge).map(issued));
            match problem {
                Some(problem) if pods.is_ready() => {
                    judgement(pods.ready, pods.wanted, reason::NO_CERTIFICATE, problem, true)
                }
                _ => pods,
            }
        }
        EdgeMode::None => judgement(0, 0, reason::DISABLED, "only the Service is wanted".into(), false),
        EdgeMode::Ingress | EdgeMode::Gateway => match edge::acceptance(wish, &seen.edge) {
            Acceptance::Accepted(message) => judgement(1, 1, reason::READY, message, false),
            Acceptance::Open(message) => judgement(0, 1, reason::NOT_ACCEPTED, meanwhile(message), false),
            Acceptance::Refused(message) => judgement(0, 1, reason::NOT_ACCEPTED, meanwhile(message), true),
        },
    }
}

fn deployments_of(seen: &Seen, part: Part) -> impl Iterator<Item = &Deployment> {
    seen.deployments
        .iter()
        .filter(move |deployment| deployment.metadata.deletion_timestamp.is_none() && names::is_of(*deployment, part))
}

/// Why a Deployment cannot even make its pods (Kubernetes, `ReplicaFailure`).
pub(crate) fn refused(deployment: &Deployment) -> Option<String> {
    let mut conditions = deployment.status.as_ref()?.conditions.iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let why = shortened(condition.message.as_deref().unwrap_or_default(), WORDS);
    let name = deployment.name_any();
    Some(format!("deployment {name} may not make its pods: {why}: raise the quota or allow them in the policy named"))
}

/// The pods of a part, and those that take a node out of it.
fn pods_of(seen: &Seen, part: Part) -> impl Iterator<Item = &Pod> {
    seen.pods.iter().filter(move |pod| match pod.labels().get(names::COMPONENT).map(String::as_str) {
        Some(names::BROKER_LEAVE) => part == Part::Broker,
        component => component == Some(part.name()),
    })
}

fn judge(
    seen: &Seen,
    now: Timestamp,
    part: Part,
    type_: &'static str,
    (ready, wanted, current): (i32, i32, bool),
    needs: &[&Upstream],
) -> Judgement {
    let judgement = |reason, message, trouble| Judgement { type_, part, ready, wanted, reason, message, trouble };
    if wanted == 0 {
        return judgement(reason::DISABLED, "none is wanted".into(), false);
    }
    let all = current && ready == wanted;
    // A publisher finds out only after half a minute without an answer, comes back, and finds out again.
    let blocked = part == Part::Publisher && needs.iter().any(|upstream| upstream.blocks);
    if all && !blocked {
        return judgement(reason::READY, format!("{ready} of {wanted} ready"), false);
    }
    let trouble = |text| judgement(reason::POD_TROUBLE, format!("{ready} of {wanted} ready; {text}"), true);
    let obstacle = pods::worst(pods_of(seen, part), now, pods::obstacle);
    if let Some(obstacle) = obstacle.or_else(|| deployments_of(seen, part).find_map(refused)) {
        return trouble(obstacle);
    }
    if let Some(upstream) = needs.iter().find(|upstream| !upstream.serves) {
        let message = format!("{ready} of {wanted} ready; waiting for the {}", upstream.part.name());
        return judgement(reason::WAITING, message, false);
    }
    match pods::worst(pods_of(seen, part), now, pods::trouble) {
        Some(unready) => trouble(unready),
        None => {
            let starting = pods::starting(pods_of(seen, part));
            judgement(reason::STARTING, format!("{ready} of {wanted} ready; {starting}"), false)
        }
    }
}

/// What the scale subresource shows: the live page's pods.
fn scale(pipeline: &StockPipeline, seen: &Seen) -> ScaleStatus {
    let selector = names::selector(&pipeline.name_any(), Part::Liveview);
    let selector: Vec<String> = selector.iter().map(|(label, value)| format!("{label}={value}")).collect();
    let pods = |deployment: &Deployment| deployment.status.as_ref()?.replicas;
    ScaleStatus { replicas: deployments_of(seen, Part::Liveview).filter_map(pods).sum(), selector: selector.join(",") }
}

/// The status of a resource that cannot be read.
pub fn unreadable(generation: Option<i64>, error: &Error, now: Timestamp) -> StockPipelineStatus {
    let mut conditions = overall(&[], std::slice::from_ref(error));
    for condition in &mut conditions {
        condition.observed_generation = generation;
        condition.last_transition_time = Time(now);
    }
    StockPipelineStatus { observed_generation: generation, conditions, ..StockPipelineStatus::default() }
}

/// True when the condition `Ready` holds.
pub fn is_ready(status: &StockPipelineStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// True while programs move to new users.
pub fn is_rotating(status: &StockPipelineStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == ROTATED && condition.status != "True")
}

/// True when something goes on that nothing but a pass looks at: a queue runs empty, or a company leaves.
pub fn is_draining(pipeline: &StockPipeline, status: &StockPipelineStatus) -> bool {
    let is_paused =
        || status.conditions.iter().any(|condition| condition.type_ == paused::CONDITION && condition.status == "True");
    status.companies.iter().any(|company| company.leaving.is_some()) || (pipeline.spec.paused && !is_paused())
}

/// True when the figures should be read again.
pub fn figures_due(read_at: Option<Timestamp>, now: Timestamp) -> bool {
    read_at.is_none_or(|read_at| now.duration_since(read_at).unsigned_abs() >= FIGURES_EVERY)
}

/// True when the new status says something the old one does not; the time of the look alone is no news.
pub fn changed(old: Option<&StockPipelineStatus>, new: &StockPipelineStatus) -> bool {
    let Some(old) = old else { return true };
    let mut comparable = new.clone();
    comparable.figures_at.clone_from(&old.figures_at);
    *old != comparable
}

/// The events a change is worth: one per condition whose value or reason moved.
pub fn events(old: Option<&StockPipelineStatus>, new: &StockPipelineStatus) -> Vec<Event> {
    let before =
        |type_: &str| old.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == type_));
    new.conditions
        .iter()
        // The three summaries repeat the parts; of them only Ready and Degraded are news of their own.
        .filter(|condition| condition.type_ != "Progressing")
        .filter(|condition| {
            before(&condition.type_).is_none_or(|old| old.status != condition.status || old.reason != condition.reason)
        })
        // That a new pipeline is not ready, or not degraded, goes without saying.
        .filter(|condition| {
            before(&condition.type_).is_some()
                || condition.reason == reason::ROTATING
                || (condition.status == "True") == (condition.type_ != "Degraded")
        })
        .filter(|condition| condition.type_ != "Degraded" || condition.status == "True" || before("Degraded").is_some())
        .map(|condition| {
            let good = (condition.status == "True") == (condition.type_ != "Degraded");
            let waiting = condition.reason == reason::STARTING
                || condition.reason == reason::WAITING
                || condition.reason == reason::FORMING
                || condition.reason == reason::ROLLING
                || condition.reason == reason::DRAINING
                || condition.reason == reason::ROTATING
                || condition.reason == reason::PARTS_NOT_READY;
            Event {
                type_: if good || waiting { EventType::Normal } else { EventType::Warning },
                reason: if good && condition.status == "True" {
                    condition.type_.clone()
                } else {
                    condition.reason.clone()
                },
                note: Some(format!("{}: {}", condition.type_, shortened(&condition.message, NOTE))),
                // Events of one type, reason and action are folded into one: without the part, the second one's text would be lost.
                action: condition.type_.clone(),
                secondary: None,
            }
        })
        .collect()
}

/// Most characters of an event's note: the API server takes 1024 bytes.
const NOTE: usize = 240;

pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
