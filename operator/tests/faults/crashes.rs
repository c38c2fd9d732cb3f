//! The operator is killed at each of its writes to the API server in turn, before the write and after it, and a fresh one takes over.
//! Rule: the two together leave what one undisturbed operator leaves, and take nothing away that it would not have taken.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::{join, join_all, ready};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use operator::crd::StockPipeline;
use operator::names::{self, Part};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::relay::{Disturbance, Moment};
use crate::volumes;
use crate::world::{NAME, Operator, Picture, World, differences, say, until};

/// Worlds at once, of all changes together. Each mostly waits, for the names of brokers and databases that nobody runs; but every operator has its watches,
/// and with hundreds of them the API server came to a standstill of minutes on a slow machine.
static TOGETHER: Semaphore = Semaphore::const_new(64);

/// Writes of a new pipeline at which the operator is killed before the pipeline is deleted: two Secrets and 25 applied children.
const CHILDREN: usize = 27;

/// What happens to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Create,
    ScaleUp,
    /// Of broker and database, whose pods have volumes and cannot be asked whether they may go.
    ScaleDown,
    /// One is added, another removed.
    Companies,
    Template,
    /// Kubernetes has seen a new template; some pods are of the old one and cannot start.
    Roll,
    /// Of the volumes of broker and database, which makes their StatefulSets anew.
    Grow,
    /// Other credentials are asked for; no server runs, so it ends with those that wait for one.
    Rotate,
}

/// Where the operator dies.
type Crash = Option<(usize, Moment)>;

/// How a run ended.
struct Run {
    picture: Picture,
    /// Of all operators together.
    writes: Vec<String>,
    died: bool,
}

impl Change {
    const ALL: [Self; 8] = [
        Self::Create,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::Companies,
        Self::Template,
        Self::Roll,
        Self::Grow,
        Self::Rotate,
    ];

    /// Makes the world in which it begins.
    async fn prepare(self, world: &World) {
        match self {
            Self::Create => {}
            Self::ScaleUp | Self::Companies | Self::Template | Self::Rotate => world.create(json!({})).await,
            Self::ScaleDown => {
                world.create(json!({"broker": {"replicas": 3}, "database": {"replicas": 3}})).await;
                for part in [Part::Broker, Part::Database] {
                    for ordinal in 0..3 {
                        volumes::bound_claim(world, part, ordinal, None).await;
                    }
                }
            }
            Self::Roll => {
                broken_pod(world, Part::Broker, 0, "old").await;
                broken_pod(world, Part::Database, 0, "old").await;
                broken_pod(world, Part::Database, 1, "old").await;
                broken_pod(world, Part::Database, 2, "new").await;
                world.create(json!({"database": {"replicas": 3}})).await;
            }
            Self::Grow => volumes::prepare(world).await,
        }
    }

    async fn happen(self, world: &World) {
        match self {
            Self::Create => world.create(json!({})).await,
            Self::ScaleUp => {
                let more = json!({
                    "broker": {"replicas": 3}, "database": {"replicas": 3}, "consumer": {"replicas": 2},
                    "liveview": {"replicas": 2}, "edge": {"replicas": 2},
                });
                world.change(&more).await;
            }
            Self::ScaleDown => world.change(&json!({"broker": {"replicas": 1}, "database": {"replicas": 1}})).await,
            Self::Companies => world.change(&json!({"companies": [{"symbol": "TSLA"}]})).await,
            Self::Template => {
                let new = json!({"template": {"labels": {"team": "markets"}}});
                world.change(&json!({"broker": new, "database": new, "consumer": new, "edge": new})).await;
            }
            Self::Roll => {
                for part in [Part::Broker, Part::Database] {
                    newest_revision(world, part, "new").await;
                }
            }
            Self::Grow => world.change(&volumes::storage("20Gi")).await,
            Self::Rotate => {
                let wish = json!({"metadata": {"annotations": {names::ROTATE_CREDENTIALS: "now"}}});
                world.api::<StockPipeline>().patch(NAME, &PatchParams::default(), &Patch::Merge(&wish)).await.unwrap();
            }
        }
    }

    /// Waits for what the change leads to, where silence of the operator may also mean that it has not heard of it yet.
    async fn comes_to_pass(self, world: &World) {
        if self == Self::Rotate {
            until("the next passwords are written down", || async {
                let secrets = [Part::Broker, Part::Database].map(|part| names::credentials(NAME, part));
                let of = |name: String| async move {
                    world.api::<Secret>().get(&name).await.unwrap().data.unwrap_or_default()
                };
                let [broker, database] = secrets.map(of);
                let (broker, database) = join(broker, database).await;
                (broker.contains_key("next-password") && database.contains_key("next-application-password"))
                    .then_some(())
            })
            .await;
        }
        if self == Self::Roll {
            until("the old pods are evicted", || async {
                // The StatefulSet controller as well looks again, whenever the set has changed.
                self.happen(world).await;
                let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap();
                (pods.items.len() == 1).then_some(())
            })
            .await;
        }
    }

    /// What is deleted or evicted, and nothing else.
    fn takes_away(self) -> BTreeSet<&'static str> {
        match self {
            // Its consumer stays until its queue is empty, and there is no broker that says so.
            Self::Companies => BTreeSet::from(["deployments/demo-publisher-msft"]),
            Self::Roll => BTreeSet::from([
                "pods/demo-broker-0/eviction",
                "pods/demo-database-0/eviction",
                "pods/demo-database-1/eviction",
            ]),
            // Their pods stay.
            Self::Grow => BTreeSet::from(["statefulsets/demo-broker", "statefulsets/demo-database"]),
            Self::Create | Self::ScaleUp | Self::ScaleDown | Self::Template | Self::Rotate => BTreeSet::new(),
        }
    }

    /// How many pods broker and database have in the end, where that is the question.
    fn members(self) -> Option<i32> {
        // Of the wish for one nothing follows: those that would go have volumes, and nobody said that they may.
        matches!(self, Self::ScaleUp | Self::ScaleDown).then_some(3)
    }

    async fn run(self, crash: Crash) -> Run {
        let _place = TOGETHER.acquire().await.unwrap();
        let world = World::new().await;
        let mut operator = world.operator();
        let collector = volumes::Collector::start(&world);
        self.prepare(&world).await;
        if self != Self::Create {
            world.is_observed().await;
            // What a busy API server refused in that pass comes in the next one; the edge's Deployment is the last of all objects.
            until("all objects are there", || async { world.api::<Deployment>().get_opt("demo-edge").await.unwrap() })
                .await;
        }
        operator.relay.disturb(crash.map_or(Disturbance::None, Disturbance::crash));
        self.happen(&world).await;
        let died = operator.dies(&world, self.comes_to_pass(&world)).await;
        let mut writes = operator.relay.writes();
        if died {
            let credentials = world.credentials().await;
            let next = world.operator();
            next.settles(&world).await;
            writes.extend(next.relay.writes());
            next.stop().await;
            let after = world.credentials().await;
            for (name, value) in credentials {
                assert!(after.get(&name) == Some(&value), "{self:?} {crash:?}: {name} has changed");
            }
        }
        let writes = writes.into_iter().map(|write| write.replace(&world.namespace, "NAMESPACE")).collect();
        let picture = world.picture().await;
        drop(collector);
        world.end().await;
        Run { picture, writes, died }
    }
}

fn taken_away(run: &Run) -> BTreeSet<&str> {
    let path = |write: &'_ String| write.starts_with("DELETE") || write.ends_with("/eviction");
    run.writes.iter().filter(|write| path(write)).filter_map(|write| write.split("NAMESPACE/").nth(1)).collect()
}

/// Kills the operator at each write of a change; returns how many such points there were.
async fn matrix(change: Change) -> usize {
    let undisturbed = change.run(None).await;
    assert_eq!(taken_away(&undisturbed), change.takes_away(), "{change:?}");
    for set in ["StatefulSet/demo-broker", "StatefulSet/demo-database"] {
        if let Some(replicas) = change.members() {
            assert_eq!(undisturbed.picture[set]["spec"]["replicas"], replicas, "{change:?}: {set}");
        }
    }
    let points = points(undisturbed.writes.len(), async |crash| {
        let run = change.run(Some(crash)).await;
        let differences = differences(&run.picture, &undisturbed.picture);
        assert!(differences.is_empty(), "{change:?}, killed at {crash:?}: {differences:#?} after {:#?}", run.writes);
        let taken = taken_away(&run);
        assert!(taken.is_subset(&change.takes_away()), "{change:?}, killed at {crash:?}: {taken:?}");
        run.died
    })
    .await;
    say(&format!("{change:?}: {} writes, {points} crash points", undisturbed.writes.len()));
    points
}

/// Runs each case and counts those in which the operator was killed: the last writes, of status and events, are not always as many.
async fn points(writes: usize, run: impl AsyncFn((usize, Moment)) -> bool) -> usize {
    let cases = (1..=writes).flat_map(|write| [(write, Moment::Before), (write, Moment::After)]);
    let killed = join_all(cases.map(|crash| run(crash))).await.into_iter().filter(|killed| *killed).count();
    assert!(killed >= writes, "only {killed} of {} cases came to pass", 2 * writes);
    killed
}

/// Kills the operator at a write of a new pipeline that is then deleted; the next operator finds it being deleted, then gone.
async fn deleted_after(crash: (usize, Moment)) -> bool {
    let _place = TOGETHER.acquire().await.unwrap();
    let world = World::new().await;
    let mut first = world.operator();
    first.relay.disturb(Disturbance::crash(crash));
    world.create(json!({})).await;
    if !first.dies(&world, ready(())).await {
        world.end().await;
        return false;
    }
    // Nobody collects garbage here, so the resource stays with its mark, and what was made stays too.
    let pipelines = world.api::<StockPipeline>();
    pipelines.delete(NAME, &DeleteParams::foreground()).await.unwrap();
    let before = world.picture().await;
    let next = world.operator();
    nudge_until_passed(&world, &next).await;
    let collected = json!({"metadata": {"finalizers": null}});
    pipelines.patch(NAME, &PatchParams::default(), &Patch::Merge(&collected)).await.unwrap();
    until("the pipeline is gone", || async { world.pipeline().await.is_none().then_some(()) }).await;
    // No pass is made for what is not there, so there is no sign to wait for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(next.relay.writes(), Vec::<String>::new(), "killed at {crash:?}");
    let mut after = world.picture().await;
    after.insert(format!("StockPipeline/{NAME}"), before[&format!("StockPipeline/{NAME}")].clone());
    assert_eq!(differences(&after, &before), Vec::<String>::new(), "killed at {crash:?}");
    next.stop().await;
    world.end().await;
    true
}

/// Touches a child, as garbage collection does, until the operator has made two passes because of it.
async fn nudge_until_passed(world: &World, operator: &Operator) {
    let nudge = Secret {
        metadata: ObjectMeta {
            generate_name: Some("nudge-".into()),
            labels: Some(names::labels(&names::selector(NAME, Part::Edge))),
            owner_references: serde_json::from_value(owner(world).await).unwrap(),
            ..ObjectMeta::default()
        },
        ..Secret::default()
    };
    until("two passes were made", || async {
        let nudge = world.api::<Secret>().create(&PostParams::default(), &nudge).await.unwrap();
        world.api::<Secret>().delete(&nudge.name_any(), &DeleteParams::default()).await.unwrap();
        (operator.passes() >= 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_the_operator_ends_in_the_same_world() {
    let began = Instant::now();
    let deletions = async {
        // As many as there are writes of a new pipeline's children; at least the Secrets, StatefulSets and Deployments.
        let points = points(CHILDREN, deleted_after).await;
        say(&format!("Delete: {points} crash points, and not one write"));
        points
    };
    let (changes, deletions) = join(join_all(Change::ALL.map(matrix)), deletions).await;
    let points = changes.iter().sum::<usize>() + deletions;
    say(&format!("crash matrix: {points} crash points in {:.0?}", began.elapsed()));
}

pub async fn owner(world: &World) -> Value {
    let uid = world.pipeline().await.unwrap().uid();
    json!([{"apiVersion": "stockpipeline.io/v1alpha1", "kind": "StockPipeline", "name": NAME, "uid": uid}])
}

/// A pod whose image cannot be pulled, as the kubelet would say it.
async fn broken_pod(world: &World, part: Part, ordinal: i32, revision: &str) {
    let status = json!({
        "phase": "Pending",
        "containerStatuses": [{
            "name": "main", "image": "none:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}},
        }],
    });
    pod(world, part, ordinal, revision, status).await;
}

pub async fn pod(world: &World, part: Part, ordinal: i32, revision: &str, status: Value) {
    let mut labels = names::labels(&names::selector(NAME, part));
    labels.insert("controller-revision-hash".into(), revision.into());
    if part == Part::Database {
        // As its set's template has it.
        labels.insert(names::FORM.into(), "second".into());
    }
    let name = format!("{}-{ordinal}", names::part(NAME, part));
    let pod = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "none:1"}]},
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let pods: Api<Pod> = world.api();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let status = json!({"status": status});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// What the StatefulSet controller writes when it has seen a template.
async fn newest_revision(world: &World, part: Part, revision: &str) {
    let (sets, name) = (world.api::<StatefulSet>(), names::part(NAME, part));
    let set = sets.get(&name).await.unwrap();
    // It would count the pods as well.
    let status = json!({"observedGeneration": set.metadata.generation, "updateRevision": revision, "replicas": 0});
    let status = json!({"status": status});
    sets.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// Nothing is wrong with a pod that runs, so the budget decides; here it looks open and Kubernetes refuses, for it has not judged its newest form yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_that_the_budget_refuses_holds_up_no_pass() {
    let world = World::new().await;
    let operator = world.operator();
    pod(
        &world,
        Part::Broker,
        0,
        "old",
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    )
    .await;
    world.create(json!({})).await;
    world.is_observed().await;
    let behind = json!({"status": {
        "observedGeneration": 0, "disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
    }});
    let budgets = world.api::<PodDisruptionBudget>();
    budgets.patch_status("demo-broker", &PatchParams::default(), &Patch::Merge(&behind)).await.unwrap();
    operator.relay.disturb(Disturbance::None);
    newest_revision(&world, Part::Broker, "new").await;
    until("an eviction was tried", || async {
        operator.relay.writes().iter().any(|write| write.ends_with("/eviction")).then_some(())
    })
    .await;
    let (began, passes) = (Instant::now(), operator.passes());
    until("three more passes have ended", || async { (operator.passes() >= passes + 3).then_some(()) }).await;
    assert!(began.elapsed() < Duration::from_secs(45), "three passes took {:?}", began.elapsed());
    operator.stop().await;
    world.end().await;
}
