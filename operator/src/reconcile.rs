//! The driver: read → plan → objects → apply → observe → status, and the error policy.
//! Rule: a pass is whole, short and never waits; the same world twice writes nothing the second time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::EnvVar;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use wire::env;

use crate::apply::{self, Applied, Settled};
use crate::certificates::{self, Tls};
use crate::children::Children;
use crate::claims::{self, Size};
use crate::crd::{EdgeMode, StockPipeline, StockPipelineStatus};
use crate::edge;
use crate::error::{Error, Retry};
use crate::external;
use crate::last_words;
use crate::leaving;
use crate::metrics::Metrics;
use crate::names::{self, Part};
use crate::objects::{self, DatabaseForm};
use crate::observe::{self, Said};
use crate::ownership;
use crate::plan::{EdgeCertificate, Images, MayLoseOne, Plan, address_annotation};
use crate::read::{self, Known};
use crate::recorder::Recorder;
use crate::roll;
use crate::rotate::{Tools, rotate};
use crate::rotation;
use crate::status::{self, BrokerNodes, Seen};
use crate::tls_secret;
use crate::trust::Trust;
use crate::watch::{Guarded, Stores};
use crate::web::Web;

/// Pipelines that are looked at and applied at the same time: each has all its objects in memory meanwhile, in several forms, and an operator that
/// starts has them all to look at.
pub const AT_ONCE: usize = 8;
/// Pause between passes while something is under way.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// Pause between passes when all is well. Changes in the cluster are watched; this is for what happens inside broker and database.
const SETTLED: Duration = Duration::from_secs(10);
/// What a system said of its members counts this long. One that has fallen silent gets back each pod that still has a volume: it may need it.
const HEARD: Duration = Duration::from_secs(60);
/// A Secret of the user's that was good is looked at again after this long.
const SECRET_EVERY: Duration = Duration::from_secs(30);
/// After this long a pass is given up: an API server that takes a request and never answers must not hold a pipeline for ever.
const LONGEST: Duration = Duration::from_secs(60);
/// For telling of a pass that was given up.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What every pass needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The way to management interfaces without TLS, or with a public certificate.
    pub web: Web,
    /// What is known of the cluster.
    pub stores: Stores,
    /// All pipelines.
    pub pipelines: Store<Guarded>,
    /// Where events go.
    pub recorder: Recorder,
    /// Default images.
    pub images: Images,
    /// The operator's own figures.
    pub metrics: Arc<Metrics>,
    /// Objects that stay different however often they are applied.
    pub settled: Settled,
    /// Whose turn it is to be looked at and applied; closed when the operator stops.
    pub turns: Semaphore,
    /// Logs are large: one is read at a time.
    pub log_reader: Semaphore,
    /// Whom the operator trusts in brokers and databases of its own.
    pub trust: Trust,
    /// What was read of Secrets that users named.
    pub secrets: external::Secrets,
    /// What earlier passes of this process knew, by uid.
    pub memory: Mutex<HashMap<String, Memory>>,
}

/// What a pass leaves for the next one. Losing it costs nothing but a read.
#[derive(Clone, Default)]
pub struct Memory {
    /// The credentials, and what is known of them.
    known: Known,
    /// The status as written and the resource version it replaced. The watch may still show that version, and an older status
    /// with it, from which the same events would follow again.
    written: Option<(Option<String>, StockPipelineStatus)>,
    /// One more than the highest ordinal of the database's members.
    database: Option<Heard<i32>>,
    /// The nodes of the broker.
    broker: Option<Heard<BrokerNodes>>,
    /// What the servers were to show last, and whom they were trusted by.
    tls: Option<Tls>,
    /// What broker and database said last of losing a pod.
    may_lose_one: MayLoseOne,
    /// What external parts said last.
    said: Said,
    /// Of the companies that are drained or on their way out.
    companies: leaving::Known,
    /// The broker's queues of which every wanted node was seen to vote, of so many wanted.
    voting: (i32, BTreeSet<String>),
    /// Those whose consumers were told that they are drained.
    told: BTreeSet<String>,
    /// When the companies' figures were read last, whether they were news or not.
    figures_at: Option<Timestamp>,
    /// The Secret of the edge's certificate.
    edge_secret: Option<Look>,
    /// What was read of logs.
    last_words: last_words::Known,
}

/// A look at a Secret that is not ours.
#[derive(Clone)]
struct Look {
    at: Timestamp,
    name: String,
    problem: Option<String>,
}

/// What the system inside a StatefulSet said of its members.
#[derive(Clone, Copy)]
struct Heard<T> {
    at: Timestamp,
    /// The wish at the time. Another one makes it void, for good: the act that followed may have changed the members and not been heard of.
    wanted: i32,
    /// One more than the highest ordinal of the pods just before.
    pods: i32,
    said: T,
}

impl<T> Heard<T> {
    fn still_counts(&self, wanted: i32, now: Timestamp) -> bool {
        self.wanted == wanted && now.duration_since(self.at).unsigned_abs() < HEARD
    }
}

impl Memory {
    /// What still counts of it.
    fn fresh(self, plan: &Plan, now: Timestamp) -> Self {
        Self {
            known: self.known.with(plan.credentials.clone()),
            tls: plan.tls.clone(),
            database: self.database.filter(|heard| heard.still_counts(plan.database.replicas, now)),
            broker: self.broker.filter(|heard| heard.still_counts(plan.broker.replicas, now)),
            ..self
        }
    }

    /// Adds what a pass has seen; where it has seen nothing the old still counts.
    fn hear(&mut self, plan: &Plan, seen: &Seen, now: Timestamp) {
        let pods = |part| claims::running(&names::part(&plan.name, part), &seen.pods);
        let (wanted, at) = (plan.database.replicas, now);
        let heard = |said| Heard { at, wanted, pods: pods(Part::Database), said };
        self.database = seen.database_members.map(heard).or(self.database);
        let wanted = plan.broker.replicas;
        let heard = |said| Heard { at, wanted, pods: pods(Part::Broker), said };
        self.broker = seen.broker_nodes.map(heard).or(self.broker);
        self.may_lose_one.broker = seen.may_lose_one.broker.or(self.may_lose_one.broker);
        self.may_lose_one.database = seen.may_lose_one.database.or(self.may_lose_one.database);
        if let Some(voting) = &seen.voting {
            self.voting = (plan.broker.replicas, voting.clone());
        }
        self.told = seen.told.clone().unwrap_or_else(|| std::mem::take(&mut self.told));
        self.figures_at = seen.figures.is_some().then_some(now).or(self.figures_at);
    }
}

/// One pass over one pipeline.
///
/// # Errors
/// The failure to be tried again the soonest; the status has told of it by then.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    // Waiting is no part of the pass, which would be given up for it.
    let Ok(turn) = context.turns.acquire().await else { return Ok(Action::await_change()) };
    // Meanwhile it may have changed or gone.
    let Some(object) = context.pipelines.get(&ObjectRef::from_obj(&*object)) else { return Ok(Action::await_change()) };
    let began = Instant::now();
    let result = match tokio::time::timeout(LONGEST, pass(&object, &context, turn)).await {
        Ok(result) => result,
        Err(_) => {
            // It may be one request that hangs, of an admission webhook for example; most often the status can be written.
            drop(tokio::time::timeout(LAST_WORD, give_up(&object, &context)).await);
            let error = Error::TookTooLong(LONGEST);
            tracing::warn!(pipeline = %ObjectRef::from_obj(&*object), %error, "given up");
            context.metrics.error(error.reason());
            Err(error)
        }
    };
    let label = result.as_ref().map_or_else(Error::reason, |_| "ok");
    context.metrics.pass(label, began.elapsed());
    result
}

async fn pass(object: &Guarded, context: &Context, turn: SemaphorePermit<'_>) -> Result<Action, Error> {
    // Before the first full list absence proves nothing.
    context.stores.ready().await;
    let pipeline = match &object.0 {
        Ok(pipeline) => pipeline,
        Err(invalid) => return unreadable(object, Error::Unreadable(invalid.error.clone()), context).await,
    };
    if pipeline.metadata.deletion_timestamp.is_some() {
        // Garbage collection is at work; building against it would only make it longer.
        return Ok(Action::await_change());
    }
    let mut memory = context.recall(pipeline);
    let pipeline = as_written(pipeline, &memory);
    let now = Timestamp::now();
    let mut seen = context.look_around(&pipeline);
    let way = edge::Way::new(&pipeline.spec.edge, &seen.edge);
    match plan(&pipeline, way, &mut memory, context, now).await {
        Ok(mut plan) => {
            let mut memory = memory.fresh(&plan, now);
            context.remember(&pipeline, |known| *known = memory.clone());
            context.complete(&mut plan, &memory, &seen);
            let before = pipeline.status.as_ref().map(|status| status.companies.as_slice()).unwrap_or_default();
            let there = (seen.deployments.as_slice(), seen.pods.as_slice());
            plan.leaving = leaving::companies(&plan.name, &pipeline.spec, before, there, &memory.companies, now);
            seen.leaving.clone_from(&plan.leaving);
            let applied = context.apply(&plan).await;
            // What is inside broker and database may take long to say.
            drop(turn);
            // What the server returned is newer than what the watch has seen.
            (seen.stateful_sets, seen.deployments) = (applied.stateful_sets, applied.deployments);
            (seen.edge.ingress, seen.edge.route) = (applied.ingress, applied.http_route);
            seen.edge_secret = context.edge_secret(&pipeline, &plan, memory.edge_secret.as_ref(), now).await;
            last_words::add(context, &plan.namespace, &mut seen.pods, &mut memory.last_words).await;
            seen.volumes = applied.volumes;
            seen.errors = applied.failures;
            let due = pipeline.spec.paused || !plan.leaving.is_empty() || status::figures_due(memory.figures_at, now);
            observe::systems(context.web_of(&plan), &plan, due, &memory.told, &mut memory.said, now, &mut seen).await;
            let companies = leaving::Known::after(&memory.companies, &plan, &seen, now);
            let left = |symbol: String| companies.rest.of(&symbol, now).map(|left| (symbol, left));
            seen.left = plan.symbols().into_iter().filter_map(left).collect();
            seen.errors.extend(context.roll(&plan, &seen, now).await);
            context.rotate(&pipeline, &plan, &mut seen, &mut memory.known).await;
            context.remember(&pipeline, |known| {
                known.said = memory.said;
                known.last_words = memory.last_words;
                known.hear(&plan, &seen, now);
                known.companies = companies;
            });
        }
        Err(error) => seen.errors.push(error),
    }
    let status = status::of(&pipeline, &seen, now);
    let at_rest =
        status::is_ready(&status) && !status::is_draining(&pipeline, &status) && !status::is_rotating(&status);
    let reported = report(&pipeline, status, context).await;
    let errors = seen.errors.into_iter().chain(reported.err());
    let told = errors.inspect(|error| {
        tracing::warn!(pipeline = pipeline.name_any(), namespace = pipeline.namespace(), %error, "not done");
        context.metrics.error(error.reason());
    });
    match told.min_by_key(Error::retry) {
        Some(error) => Err(error),
        None => Ok(Action::requeue(if at_rest { out_of_step(SETTLED) } else { UNDER_WAY })),
    }
}

/// A fifth more or less: pipelines that were made together, or found together by an operator that starts, would be looked at together for ever, and
/// what each look needs for a moment would be there for all of them at once.
fn out_of_step(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.2))
}

/// Says in the status that a pass was given up. What it saw is lost with it, so this tells of what the watches know.
async fn give_up(object: &Guarded, context: &Context) -> Result<(), Error> {
    context.stores.ready().await;
    let Ok(pipeline) = &object.0 else { return Ok(()) };
    if pipeline.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let pipeline = as_written(pipeline, &context.recall(pipeline));
    let seen = Seen { errors: vec![Error::TookTooLong(LONGEST)], ..context.look_around(&pipeline) };
    let status = status::of(&pipeline, &seen, Timestamp::now());
    report(&pipeline, status, context).await
}

/// The pipeline with the status that was written last, where the watch has not seen it yet.
fn as_written(pipeline: &StockPipeline, memory: &Memory) -> StockPipeline {
    let mut pipeline = pipeline.clone();
    if let Some((_, status)) = memory.written.clone().filter(|(replaced, _)| *replaced == pipeline.resource_version()) {
        pipeline.status = Some(status);
    }
    pipeline
}

/// Says in the status that the resource cannot be read; its old status would go on to say that all is well.
async fn unreadable(object: &Guarded, error: Error, context: &Context) -> Result<Action, Error> {
    context.metrics.error(error.reason());
    let status = status::unreadable(object.meta().generation, &error, Timestamp::now());
    // The answer holds the same resource, which is still not readable: only a refusal is news.
    match write_status(object, &status, context).await {
        Err(Error::Kubernetes { source, .. }) if matches!(*source, kube::Error::Api(_)) => {
            tracing::warn!(error = %source, "status not written");
        }
        _ => {}
    }
    Err(error)
}

async fn plan(
    pipeline: &StockPipeline,
    way: edge::Way,
    memory: &mut Memory,
    context: &Context,
    now: Timestamp,
) -> Result<Plan, Error> {
    let Context { client, stores, .. } = context;
    let (credentials, restored) = read::credentials(client, &stores.secrets, pipeline, &mut memory.known).await?;
    for secret in restored {
        let note = format!(
            "secret {secret} was deleted or changed by somebody else and is as it was again, for its server knows no other passwords: \
             new ones are made when the annotation {} gets a new value",
            names::ROTATE_CREDENTIALS
        );
        tracing::warn!(pipeline = pipeline.name_any(), namespace = pipeline.namespace(), "{note}");
        context.tell(pipeline, "SecretRestored", note).await;
    }
    let mut plan = Plan::new(pipeline, &context.images, credentials)?;
    plan.edge_way = way;
    let issuers_are_known = stores.certificates.is_served();
    let found = certificates::of(client, &stores.secrets, pipeline, (way.nginx, issuers_are_known), now).await?;
    plan.tls = found.map(|tls| tls.or_remembered(memory.tls.as_ref(), now));
    plan.trusted = plan.tls.as_ref().and_then(Tls::trusted).map(|bundle| context.trust.of(&bundle)).transpose()?;
    context.keeps_its_data(&plan)?;
    let settled = pipeline.status.as_ref().is_some_and(status::is_ready);
    plan.external = context.secrets.read(client, &context.trust, &plan.namespace, &pipeline.spec, settled).await;
    Ok(plan)
}

/// Writes status and events, if they are news.
async fn report(pipeline: &StockPipeline, status: StockPipelineStatus, context: &Context) -> Result<(), Error> {
    let old = pipeline.status.as_ref();
    if !status::changed(old, &status) {
        return Ok(());
    }
    write_status(pipeline, &status, context).await?;
    context.metrics.status_written();
    for event in status::events(old, &status) {
        context.publish(pipeline, &event).await;
    }
    context.remember(pipeline, |memory| memory.written = Some((pipeline.resource_version(), status)));
    Ok(())
}

async fn write_status<K: Resource>(object: &K, status: &StockPipelineStatus, context: &Context) -> Result<(), Error> {
    let (name, kind) = (object.name_any(), StockPipeline::kind(&()));
    let api: Api<StockPipeline> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let patch = serde_json::json!({
        "apiVersion": StockPipeline::api_version(&()),
        "kind": kind,
        // With the uid, the status of a deleted pipeline cannot land on a new one of the same name.
        "metadata": {"name": name, "uid": object.uid()},
        "status": status,
    });
    let parameters = PatchParams::apply(names::MANAGER).force();
    let written = api.patch_status(&name, &parameters, &Patch::Apply(&patch)).await;
    written.map(drop).map_err(Error::kubernetes("write the status of", kind, name))
}

impl Context {
    /// Takes the next steps from one generation of users to the next. What was written is remembered at once: a pass may be given up.
    async fn rotate(&self, pipeline: &StockPipeline, plan: &Plan, seen: &mut Seen, known: &mut Known) {
        for (part, users) in &seen.users {
            if users.edited {
                known.accepted.remove(part)
            } else {
                known.accepted.insert(*part)
            };
        }
        known.accepted.retain(|part| !seen.refused.contains(part));
        let tools = Tools { client: &self.client, secrets: &self.stores.secrets, http: self.web_of(plan) };
        let wish = rotation::wish(pipeline);
        let (rotation, errors) = rotate(&tools, plan, wish.as_deref(), seen, known).await;
        seen.rotation = rotation;
        seen.errors.extend(errors);
        self.remember(pipeline, |memory| memory.known = known.clone());
    }

    /// Publishes a warning that no condition holds.
    async fn tell(&self, pipeline: &StockPipeline, reason: &str, note: String) {
        let (reason, action) = (reason.to_owned(), "Reconcile".to_owned());
        let event = Event { type_: EventType::Warning, reason, note: Some(note), action, secondary: None };
        self.publish(pipeline, &event).await;
    }

    /// An event that is lost costs a line in `kubectl describe`; of most of them the conditions say the same.
    async fn publish(&self, pipeline: &StockPipeline, event: &Event) {
        if let Err(error) = self.recorder.publish(event, &pipeline.object_ref(&())).await {
            tracing::warn!(%error, "event not published");
        }
    }

    /// The way to the management interface of the pipeline's broker.
    fn web_of<'a>(&'a self, plan: &'a Plan) -> &'a Web {
        plan.trusted.as_ref().map_or(&self.web, |trusted| &trusted.web)
    }

    /// What the watches know of a pipeline's children.
    fn look_around(&self, pipeline: &StockPipeline) -> Seen {
        let (uid, name, namespace) = (pipeline.uid().unwrap_or_default(), pipeline.name_any(), pipeline.namespace());
        let namespace = namespace.unwrap_or_default();
        let mut stateful_sets = self.stores.stateful_sets.of(&namespace, &name);
        stateful_sets.retain(|set| ownership::is_owned(set, &uid));
        let mut deployments = self.stores.deployments.of(&namespace, &name);
        deployments.retain(|deployment| ownership::is_owned(deployment, &uid));
        Seen {
            stateful_sets,
            deployments: deployments.iter().map(status::what_is_read).collect(),
            edge: self.edge(pipeline, &uid),
            pods: self.stores.pods.of(&namespace, &name),
            ..Seen::default()
        }
    }

    fn edge(&self, pipeline: &StockPipeline, uid: &str) -> edge::Found {
        let (of, namespace) = (pipeline.name_any(), pipeline.namespace().unwrap_or_default());
        let Stores { deployments, services, ingresses, http_routes, .. } = &self.stores;
        edge::Found {
            nginx: edge_of(deployments, &namespace, &of, uid),
            service: edge_of(services, &namespace, &of, uid),
            ingress: edge_of(ingresses, &namespace, &of, uid),
            route: edge_of(&http_routes.store, &namespace, &of, uid),
            routes_are_served: http_routes.is_served(),
        }
    }

    /// What is wrong with the Secret of the edge's certificate. It is not ours, so it is not watched, but looked at now and then.
    async fn edge_secret(
        &self,
        of: &StockPipeline,
        plan: &Plan,
        last: Option<&Look>,
        now: Timestamp,
    ) -> Option<String> {
        let Some(EdgeCertificate::Users(name)) = plan.edge_certificate().filter(|_| plan.edge.mode == EdgeMode::Nginx)
        else {
            return None;
        };
        let still_counts = |last: &&Look| {
            // What is wrong is looked at sooner: somebody may be at it.
            let counts_for = if last.problem.is_none() { SECRET_EVERY } else { SETTLED };
            last.name == name && now.duration_since(last.at).unsigned_abs() < counts_for
        };
        if let Some(last) = last.filter(still_counts) {
            return last.problem.clone();
        }
        let problem = tls_secret::problem(&self.client, &plan.namespace, &name).await;
        let look = Look { at: now, name, problem: problem.clone() };
        self.remember(of, |memory| memory.edge_secret = Some(look));
        problem
    }

    /// What was heard last; a part that was not heard of yet keeps the budget that an earlier operator gave it.
    fn may_lose_one(&self, plan: &Plan, heard: MayLoseOne) -> MayLoseOne {
        let before = |part: Part| {
            let name = names::part(&plan.name, part);
            let budget = self.stores.pod_disruption_budgets.get(&plan.namespace, &plan.name, &name)?;
            Some(objects::allows_a_disruption(&budget))
        };
        MayLoseOne {
            broker: heard.broker.or_else(|| before(Part::Broker)),
            database: heard.database.or_else(|| before(Part::Database)),
        }
    }

    /// Builds and applies all objects.
    async fn apply(&self, plan: &Plan) -> Applied {
        let Self { client, stores, metrics, settled, .. } = self;
        let mut applied = apply::apply(client, stores, metrics, settled, plan, objects::build(plan)).await;
        applied.deployments.iter_mut().for_each(|deployment| *deployment = status::what_is_read(deployment));
        applied
    }

    /// The schema refuses to make a part external that we run; a resource may be older than the schema, and what is not wanted is pruned.
    fn keeps_its_data(&self, plan: &Plan) -> Result<(), Error> {
        let external =
            [(Part::Broker, plan.broker.external.is_some()), (Part::Database, plan.database.external.is_some())];
        for (part, _) in external.into_iter().filter(|(_, external)| *external) {
            let name = names::part(&plan.name, part);
            let set = self.stores.stateful_sets.get(&plan.namespace, &plan.name, &name);
            if set.is_some_and(|set| ownership::is_owned(&set, &plan.owner.uid)) {
                let part = part.name();
                return Err(Error::InvalidSpec(format!(
                    "spec.{part}.external is set, and statefulset {name} of this pipeline is there with its data: \
                     take it out again, and make a new StockPipeline for the external {part}"
                )));
            }
        }
        Ok(())
    }

    /// Completes the wish with what is known of the systems inside.
    fn complete(&self, plan: &mut Plan, memory: &Memory, seen: &Seen) {
        plan.addresses = addresses(plan, seen);
        plan.read_now = read_now(plan, || self.stores.deployments.of(&plan.namespace, &plan.name));
        // In a pod, that of the pod.
        plan.operator_namespace = self.client.default_namespace().to_owned();
        plan.may_lose_one = self.may_lose_one(plan, memory.may_lose_one);
        let database = memory.database.map(|heard| claims::Heard { members: heard.said, pods: heard.pods });
        // Whoever owns them: a StatefulSet takes any claim of the right name, and its data counts.
        let claims = self.stores.claims.of(&plan.namespace, &plan.name);
        let claimed = |part| claims::claimed(&names::part(&plan.name, part), &claims);
        let (wanted, kept) = claims::barred(&names::part(&plan.name, Part::Database), plan.database.replicas, &claims);
        plan.database_size = Size::new(wanted, database, claimed(Part::Database));
        let broker = memory.broker.map(|heard| claims::Heard { members: heard.said.upto, pods: heard.pods });
        plan.broker_size = Size::new(plan.broker.replicas, broker, claimed(Part::Broker));
        plan.broker_volume = claims::smallest(&names::part(&plan.name, Part::Broker), &claims);
        let (of, voting) = &memory.voting;
        plan.voting = if *of == plan.broker.replicas { voting.clone() } else { BTreeSet::new() };
        plan.database_form = DatabaseForm::of(seen.set(Part::Database), &seen.pods, plan);
        plan.kept_claim = kept;
        plan.broker_leaves = memory.broker.and_then(|heard| heard.said.leaves);
        plan.broker_formed = memory.broker.is_some_and(|heard| heard.said.formed) || self.broker_was_formed(plan);
    }

    /// Replaces the next pod of broker and of database that is of an older template, if it may go. An eviction and not a deletion: so a
    /// drain that goes on at the same time and we together never take two.
    async fn roll(&self, plan: &Plan, seen: &Seen, now: Timestamp) -> Vec<Error> {
        let primary = seen.primary.as_deref().and_then(|member| plan.database_pod(member));
        let parts = [
            (Part::Broker, None, seen.may_lose_one.broker),
            (Part::Database, primary.filter(|_| plan.database.replicas > 1), seen.may_lose_one.database),
        ];
        let mut errors = Vec::new();
        for (part, primary, may_lose_one) in parts {
            let Some(set) = seen.set(part) else { continue };
            let outdated = roll::outdated(set, &seen.pods, seen.restart(part), primary.as_deref(), now);
            let Some(pod) = outdated.first() else { continue };
            // The budget follows what the system said a pass later. The primary hands over first (see `database::decision`).
            let may_lose_one =
                may_lose_one == Some(true) && self.budget_is_open(plan, part) && primary != pod.metadata.name;
            if roll::may_replace(set, &seen.pods, pod, may_lose_one, now) {
                errors.extend(apply::evict(&self.client, &self.metrics, pod).await.err());
            }
        }
        errors
    }

    /// Whether Kubernetes would let one pod of a part go now.
    fn budget_is_open(&self, plan: &Plan, part: Part) -> bool {
        let name = names::part(&plan.name, part);
        let budget = self.stores.pod_disruption_budgets.get(&plan.namespace, &plan.name, &name);
        budget.is_some_and(|budget| budget.status.as_ref().is_some_and(|status| status.disruptions_allowed > 0))
    }

    /// Whether an earlier pass, of whatever operator, saw the broker's cluster made.
    fn broker_was_formed(&self, plan: &Plan) -> bool {
        let name = names::part(&plan.name, Part::Broker);
        let config_map = self.stores.config_maps.get(&plan.namespace, &plan.name, &name);
        config_map.is_some_and(|config_map| objects::says_formed(&config_map))
    }

    fn recall(&self, pipeline: &StockPipeline) -> Memory {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        pipeline.uid().and_then(|uid| memory.get(&uid).cloned()).unwrap_or_default()
    }

    fn remember(&self, pipeline: &StockPipeline, change: impl FnOnce(&mut Memory)) {
        let Some(uid) = pipeline.uid() else { return };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        change(memory.entry(uid).or_default());
        // Nobody tells us that a pipeline is gone, so what is left of the gone ones goes when it becomes the larger half.
        if memory.len() > 2 * self.pipelines.len().max(8) {
            let alive: Vec<String> = self.pipelines.state().iter().filter_map(|pipeline| pipeline.uid()).collect();
            memory.retain(|uid, _| alive.contains(uid));
        }
    }

    /// Counts the pipelines that there are, by their statuses: nobody tells of one that is gone, and one that is at rest writes nothing.
    pub fn count(&self) {
        let pipelines = self.pipelines.state();
        let is_ready = |pipeline: &&Arc<Guarded>| {
            pipeline.0.as_ref().is_ok_and(|pipeline| pipeline.status.as_ref().is_some_and(status::is_ready))
        };
        let ready = pipelines.iter().filter(is_ready).count();
        self.metrics.pipelines(ready, pipelines.len() - ready);
    }
}

/// The pipeline's own object of the edge that is not on its way out.
fn edge_of<K>(store: &Children<K>, namespace: &str, pipeline: &str, uid: &str) -> Option<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let live = store.get(namespace, pipeline, &names::part(pipeline, Part::Edge));
    live.filter(|live| ownership::is_owned(live, uid) && live.meta().deletion_timestamp.is_none())
}

/// The fingerprints of external addresses, and the generations of our own ones. Where one cannot be read, that of the pods which run: a Secret that is gone or wrong replaces none.
fn addresses(plan: &Plan, seen: &Seen) -> BTreeMap<&'static str, String> {
    let broker = plan.external.broker.as_ref().map(|found| found.as_ref().ok().map(|found| found.fingerprint.clone()));
    let database =
        plan.external.database.as_ref().map(|found| found.as_ref().ok().map(|found| found.fingerprint.clone()));
    let generation = |part: Part, external: bool| rotation::mark(plan.credentials.of(part)).filter(|_| !external);
    let broker = broker.or_else(|| generation(Part::Broker, plan.broker.external.is_some()).map(Some));
    let database = database.or_else(|| generation(Part::Database, plan.database.external.is_some()).map(Some));
    let running = |annotation: &str| {
        let annotations =
            |deployment: &Deployment| deployment.spec.as_ref()?.template.metadata.as_ref()?.annotations.clone();
        seen.deployments.iter().find_map(|deployment| annotations(deployment)?.get(annotation).cloned())
    };
    [(Part::Broker, broker), (Part::Database, database)]
        .into_iter()
        .filter_map(|(part, found)| {
            let annotation = address_annotation(part);
            Some((annotation, found?.or_else(|| running(annotation))?))
        })
        .collect()
}

/// Where running programs read the addresses of external parts that cannot be read where the resource says: a name that leads nowhere replaces no pod either.
/// Nothing where some of them read it there already, or where a template says where.
fn read_now(plan: &Plan, deployments: impl FnOnce() -> Vec<Deployment>) -> BTreeMap<Part, (String, String)> {
    let of_parts = [
        (Part::Broker, env::RABBITMQ_URL, plan.external.broker.as_ref().is_some_and(Result::is_err)),
        (Part::Database, env::MONGODB_URL, plan.external.database.as_ref().is_some_and(Result::is_err)),
    ];
    let templates = [&plan.publisher, &plan.consumer, &plan.liveview.template];
    let of_users =
        |name: &str| templates.iter().flat_map(|template| &template.env).any(|variable| variable.name == name);
    let unread = of_parts.into_iter().filter(|(_, name, unread)| *unread && !of_users(name));
    let unread: Vec<(Part, &str)> = unread.map(|(part, name, _)| (part, name)).collect();
    if unread.is_empty() {
        return BTreeMap::new();
    }
    let deployments = deployments();
    let ours = deployments.iter().filter(|deployment| ownership::is_owned(*deployment, &plan.owner.uid));
    let pods = ours.filter_map(|deployment| deployment.spec.as_ref()?.template.spec.as_ref());
    let variables: Vec<&EnvVar> =
        pods.flat_map(|pod| &pod.containers).filter_map(|container| container.env.as_ref()).flatten().collect();
    let source = |(part, name): (Part, &str)| {
        let of_name = variables.iter().filter(|variable| variable.name == name);
        let sources = of_name.filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
        let sources: Vec<(&str, &str)> = sources.map(|read| (read.name.as_str(), read.key.as_str())).collect();
        let (secret, key) = plan.address(part);
        let (name, of) = *sources.first().filter(|_| !sources.contains(&(secret.as_str(), key)))?;
        Some((part, (name.to_owned(), of.to_owned())))
    };
    unread.into_iter().filter_map(source).collect()
}

/// When to try again after a failed pass, with jitter so that many pipelines do not come back at once.
pub fn error_policy(object: Arc<Guarded>, error: &Error, _context: Arc<Context>) -> Action {
    if error.retry() == Retry::OnChange {
        tracing::warn!(pipeline = %ObjectRef::from_obj(object.as_ref()), %error, "waiting for a change of the resource");
    }
    match error.retry().pause() {
        Some(pause) => Action::requeue(pause.mul_f64(rand::random_range(0.8..1.2))),
        None => Action::await_change(),
    }
}
