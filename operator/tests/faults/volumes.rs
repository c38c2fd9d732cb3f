//! Volumes grow: the claims first, then the StatefulSet is made anew around its running pods.
//! Rule: the test plays what is not here: the storage driver that binds a claim, and the garbage collector that lets pods go.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use operator::crd::StockPipeline;
use operator::names::{self, Part};
use operator::ownership;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::crashes::{owner, pod};
use crate::world::{NAME, World, until};

const GROWS: &str = "faults-grows";
const FIXED: &str = "faults-fixed";

/// Takes the mark of a deletion without pods from StatefulSets, as the garbage collector does once it has let the pods go.
pub struct Collector(JoinHandle<()>);

impl Collector {
    pub fn start(world: &World) -> Self {
        let sets: Api<StatefulSet> = world.api();
        Self(tokio::spawn(async move {
            loop {
                for set in sets.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                    if operator::volumes::leaves_its_pods(&set) {
                        let done = json!({"metadata": {"finalizers": null}});
                        drop(sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(&done)).await);
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Broker and database with volumes of `size`.
pub fn storage(size: &str) -> Value {
    json!({"broker": {"storage": {"size": size}}, "database": {"storage": {"size": size}}})
}

/// A pipeline whose volumes can grow, with a running pod of broker and of database.
pub async fn prepare(world: &World) {
    make_class(world, GROWS, true).await;
    let storage = json!({"size": "10Gi", "class": GROWS});
    world
        .create(json!({"broker": {"replicas": 1, "storage": storage}, "database": {"replicas": 1, "storage": storage}}))
        .await;
    for part in [Part::Broker, Part::Database] {
        bound_claim(world, part, 0, Some(GROWS)).await;
        running_pod(world, part).await;
    }
}

async fn running_pod(world: &World, part: Part) {
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    pod(world, part, 0, "only", status).await;
}

async fn make_class(world: &World, name: &str, grows: bool) {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": "nobody", "allowVolumeExpansion": grows,
    });
    let classes: Api<StorageClass> = Api::all(world.client.clone());
    classes.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&class)).await.unwrap();
}

/// A claim with a volume of the size that the part's volumes have. As in a cluster it comes after the credentials: without them, data
/// that is there is a reason not to make any.
pub async fn bound_claim(world: &World, part: Part, ordinal: i32, class: Option<&str>) {
    until("the credentials are there", || async {
        world.api::<Secret>().get_opt(&names::credentials(NAME, part)).await.unwrap()
    })
    .await;
    let size = match (class, part) {
        (None, Part::Broker) => "4Gi",
        _ => "10Gi",
    };
    let name = format!("data-{}-{ordinal}", names::part(NAME, part));
    let claim = json!({
        "metadata": {"name": name, "labels": names::labels(&names::selector(NAME, part)), "ownerReferences": owner(world).await},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeName": format!("volume-{part:?}-{ordinal}").to_lowercase(),
            "resources": {"requests": {"storage": size}}, "storageClassName": class,
        },
    });
    let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
    let claims: Api<PersistentVolumeClaim> = world.api();
    claims.create(&PostParams::default(), &claim).await.unwrap();
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": size}}});
    claims.patch_status(&name, &PatchParams::default(), &Patch::Merge(&bound)).await.unwrap();
}

async fn asked(world: &World, claim: &str) -> String {
    let claim = world.api::<PersistentVolumeClaim>().get(claim).await.unwrap();
    claim.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0.clone()
}

async fn set(world: &World, name: &str) -> Option<StatefulSet> {
    world.api::<StatefulSet>().get_opt(name).await.unwrap()
}

fn size(set: &StatefulSet) -> &str {
    let template = &set.spec.as_ref().unwrap().volume_claim_templates.as_ref().unwrap()[0];
    &template.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()["storage"].0
}

async fn ready(world: &World) -> (String, String) {
    let status = world.pipeline().await.unwrap().status.unwrap();
    let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    (ready.reason, ready.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn larger_volumes_are_asked_for_first_and_the_set_is_made_anew_around_its_pods() {
    let world = World::new().await;
    let operator = world.operator();
    prepare(&world).await;
    world.is_observed().await;
    let before = set(&world, "demo-database").await.unwrap();
    // Nothing serves in this world, and nothing waits for that.
    world.change(&storage("20Gi")).await;
    until("the set is on its way out without its pods", || async {
        set(&world, "demo-database").await.filter(operator::volumes::leaves_its_pods)
    })
    .await;
    assert_eq!(asked(&world, "data-demo-database-0").await, "20Gi", "the claim comes first");
    // Were the pipeline deleted now, the pod would still go with it.
    let pod = world.api::<Pod>().get("demo-database-0").await.unwrap();
    assert!(ownership::is_owned(&pod, &world.pipeline().await.unwrap().uid().unwrap()));
    world.is_observed().await;
    let (reason, message) = ready(&world).await;
    assert_ne!(reason, "BeingDeleted", "{message}");
    let collector = Collector::start(&world);
    let after = until("the set is there again", || async {
        set(&world, "demo-database").await.filter(|set| set.uid() != before.uid())
    })
    .await;
    assert_eq!(size(&after), "20Gi");
    // The same template has the same revision, so no pod is outdated by it.
    assert_eq!(after.spec.as_ref().unwrap().template, before.spec.as_ref().unwrap().template);
    assert_eq!(world.api::<Pod>().get("demo-database-0").await.unwrap().uid(), pod.uid());
    operator.settles(&world).await;
    let writes = operator.relay.writes();
    let taken: Vec<&String> = writes.iter().filter(|write| write.starts_with("DELETE")).collect();
    assert_eq!(taken.len(), 2, "only the two sets: {taken:?}");
    drop(collector);
    operator.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_does_not_let_volumes_grow_is_named_and_the_wish_can_be_taken_back() {
    let world = World::new().await;
    let operator = world.operator();
    make_class(&world, FIXED, false).await;
    let fixed = json!({"replicas": 1, "storage": {"size": "10Gi", "class": FIXED}});
    world.create(json!({"database": fixed})).await;
    bound_claim(&world, Part::Database, 0, Some(FIXED)).await;
    let asked_for = || async {
        let status = world.pipeline().await?.status?;
        (status.parts.database.volume_size.as_deref() == Some("10Gi")).then_some(())
    };
    until("the status says what is asked of the volume", asked_for).await;
    let before = set(&world, "demo-database").await.unwrap();

    let more = json!({"database": {"storage": {"size": "20Gi"}, "template": {"labels": {"team": "markets"}}}});
    world.change(&more).await;
    let message = until("the status names the class", || async {
        let (reason, message) = ready(&world).await;
        (reason == "VolumeCannotGrow").then_some(message)
    })
    .await;
    assert!(message.contains("data-demo-database-0 cannot grow from 10Gi to 20Gi"), "{message}");
    assert!(message.contains("allowVolumeExpansion: true") && message.contains(FIXED), "{message}");
    let after = until("what else was asked for is done", || async {
        let set = set(&world, "demo-database").await?;
        let labels = set.spec.as_ref()?.template.metadata.as_ref()?.labels.as_ref()?;
        labels.contains_key("team").then_some(set)
    })
    .await;
    assert_eq!((after.uid(), size(&after)), (before.uid(), "10Gi"));

    let smaller = json!({"spec": {"database": {"storage": {"size": "9Gi"}}}});
    let pipelines = world.api::<StockPipeline>();
    let refusal = pipelines.patch(NAME, &PatchParams::default(), &Patch::Merge(&smaller)).await.unwrap_err();
    assert!(refusal.to_string().contains("database.storage.size cannot be less than it was"), "{refusal}");
    world.change(&json!({"database": {"storage": {"size": "10Gi"}}})).await;
    until("the status says no more of it", || async { (ready(&world).await.0 != "VolumeCannotGrow").then_some(()) })
        .await;
    assert_eq!(set(&world, "demo-database").await.unwrap().uid(), before.uid());
    operator.stop().await;
    world.end().await;
}
