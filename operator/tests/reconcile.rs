//! The operator against a real API server: no kubelet, so nothing becomes ready, but every write and every refusal is real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, Resource, ResourceExt};
use operator::crd::{self, StockPipeline, StockPipelineSpec};
use operator::metrics::Metrics;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "servers/kubernetes.rs"]
mod kubernetes;

/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(30);

/// An operator that works in a namespace of its own.
struct World {
    client: Client,
    namespace: String,
    stop: CancellationToken,
    operator: JoinHandle<anyhow::Result<()>>,
}

impl World {
    async fn new() -> Self {
        let client = kubernetes::client().await;
        kubernetes::define(&client, PATIENCE).await;
        let namespace = kubernetes::namespace(&client, "reconcile-").await;
        let stop = CancellationToken::new();
        let operator = kubernetes::operator(&client, &namespace, "test", &Arc::default(), &stop);
        Self { client, namespace, stop, operator }
    }

    fn api<K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create(&self, name: &str, symbols: &[&str]) -> StockPipeline {
        let spec: StockPipelineSpec = serde_json::from_value(json!({
            "companies": symbols.iter().map(|symbol| json!({"symbol": symbol})).collect::<Vec<_>>(),
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &StockPipeline::new(name, spec)).await.unwrap()
    }

    /// Kind and name of every child, with its resource version.
    async fn children(&self) -> BTreeMap<String, String> {
        let mut children = BTreeMap::new();
        async fn add<K>(api: Api<K>, into: &mut BTreeMap<String, String>)
        where
            K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
        {
            for object in api
                .list(&ListParams::default().labels("app.kubernetes.io/managed-by=stockpipeline-operator"))
                .await
                .unwrap()
            {
                into.insert(format!("{}/{}", K::kind(&()), object.name_any()), object.resource_version().unwrap());
            }
        }
        add(self.api::<Secret>(), &mut children).await;
        add(self.api::<ConfigMap>(), &mut children).await;
        add(self.api::<Service>(), &mut children).await;
        add(self.api::<PodDisruptionBudget>(), &mut children).await;
        add(self.api::<StatefulSet>(), &mut children).await;
        add(self.api::<Deployment>(), &mut children).await;
        children
    }

    /// Waits until there are `count` children.
    async fn all_children(&self, count: usize) -> BTreeMap<String, String> {
        until("all children are there", || async {
            let children = self.children().await;
            (children.len() == count).then_some(children)
        })
        .await
    }

    /// Waits until the status speaks of the present generation.
    async fn observed(&self, name: &str) -> StockPipeline {
        until(&format!("the status of {name} speaks of its present generation"), || async {
            let pipeline = self.api::<StockPipeline>().get(name).await.unwrap();
            let observed = pipeline.status.as_ref()?.observed_generation;
            (observed == pipeline.metadata.generation).then_some(pipeline)
        })
        .await
    }

    async fn end(self) {
        self.stop.cancel();
        self.operator.await.unwrap().unwrap();
        drop(Api::<Namespace>::all(self.client).delete(&self.namespace, &DeleteParams::default()).await);
    }
}

async fn until<T, F: Future<Output = Option<T>>>(condition: &str, look: impl FnMut() -> F) -> T {
    kubernetes::until(PATIENCE, condition, look).await
}

#[tokio::test]
async fn one_resource_becomes_all_children_and_a_status_that_says_what_is_missing() {
    let world = World::new().await;
    world.create("demo", &["MSFT", "BRK.B"]).await;
    let children = world.all_children(22).await;
    assert!(children.contains_key("Deployment/demo-consumer-msft"), "{children:?}");
    let pipeline = world.observed("demo").await;
    let status = pipeline.status.unwrap();
    let types: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    let all = [
        "Ready",
        "Progressing",
        "Degraded",
        "BrokerReady",
        "DatabaseReady",
        "PublishersReady",
        "ConsumersReady",
        "LiveviewReady",
        "EdgeReady",
    ];
    assert_eq!(types, all);
    let ready = &status.conditions[0];
    assert_eq!(ready.status, "False");
    assert!(ready.message.contains("broker: 0 of 1 ready"), "{}", ready.message);
    assert_eq!(status.parts.database.ready.as_deref(), Some("0/3"));
    world.end().await;
}

#[tokio::test]
async fn a_second_pass_over_an_unchanged_world_writes_nothing() {
    let world = World::new().await;
    world.create("demo", &["MSFT"]).await;
    world.observed("demo").await;
    let before = world.all_children(20).await;
    // A fresh operator knows nothing of the passes before it and makes a whole one.
    world.stop.cancel();
    world.operator.await.unwrap().unwrap();
    let metrics = Arc::new(Metrics::default());
    let stop = CancellationToken::new();
    let again = kubernetes::operator(&world.client, &world.namespace, "again", &metrics, &stop);
    until("two passes were made", || async {
        let text = metrics.text();
        let passes = text.lines().find(|line| line.starts_with("stockpipeline_operator_reconciliations_total"))?;
        (passes.rsplit(' ').next()?.parse::<u32>().ok()? >= 2).then_some(())
    })
    .await;
    stop.cancel();
    again.await.unwrap().unwrap();
    let objects = Api::<StockPipeline>::namespaced(world.client.clone(), &world.namespace);
    let children =
        World { client: world.client, namespace: world.namespace, stop, operator: tokio::spawn(async { Ok(()) }) };
    assert_eq!(before, children.children().await);
    assert!(!metrics.text().contains("verb=\"apply\""), "{}", metrics.text());
    assert!(objects.get("demo").await.unwrap().status.is_some());
    children.end().await;
}

#[tokio::test]
async fn a_deleted_or_edited_child_comes_back_as_it_was() {
    let world = World::new().await;
    world.create("demo", &["MSFT"]).await;
    let before = world.all_children(20).await;
    world.observed("demo").await;
    let secrets = world.api::<Secret>();
    let credentials = secrets.get("demo-broker-credentials").await.unwrap();
    let parameters = DeleteParams::background();
    secrets.delete("demo-broker-credentials", &parameters).await.unwrap();
    world.api::<ConfigMap>().delete("demo-edge", &parameters).await.unwrap();
    world.api::<Service>().delete("demo-liveview", &parameters).await.unwrap();
    world.api::<PodDisruptionBudget>().delete("demo-database", &parameters).await.unwrap();
    world.api::<Deployment>().delete("demo-consumer-msft", &parameters).await.unwrap();
    let edit = json!({"spec": {"replicas": 7}});
    world.api::<StatefulSet>().patch("demo-database", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    until("every child is back", || async { world.children().await.keys().eq(before.keys()).then_some(()) }).await;
    until("the edited number of replicas is back", || async {
        let set = world.api::<StatefulSet>().get("demo-database").await.unwrap();
        (set.spec?.replicas == Some(3)).then_some(())
    })
    .await;
    let restored = until("the Secret is whole", || async {
        let secret = secrets.get("demo-broker-credentials").await.ok()?;
        secret.data.as_ref().is_some_and(|data| data.contains_key("url")).then_some(secret)
    })
    .await;
    assert!(restored.data == credentials.data, "the Secret came back with other content");
    world.end().await;
}

#[tokio::test]
async fn removing_a_company_removes_its_children_and_nothing_else() {
    let world = World::new().await;
    world.create("demo", &["MSFT", "TSLA"]).await;
    let before = world.all_children(22).await;
    world.observed("demo").await;
    let stranger = ConfigMap {
        metadata: ObjectMeta {
            name: Some("stranger".into()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), "stockpipeline-operator".into())])),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    world.api::<ConfigMap>().create(&PostParams::default(), &stranger).await.unwrap();
    let companies = async |companies: serde_json::Value| {
        let change = json!({"spec": {"companies": companies}});
        world.api::<StockPipeline>().patch("demo", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    };
    let without = async |child: &str| {
        until(&format!("{child} is gone"), || async {
            let children = world.children().await;
            (!children.contains_key(child)).then_some(children)
        })
        .await
    };
    companies(json!([{"symbol": "MSFT"}])).await;
    let after = without("Deployment/demo-publisher-tsla").await;
    // Nobody says here that its queue is empty.
    assert!(after.contains_key("Deployment/demo-consumer-tsla"));
    until("the status tells of the company that leaves", || async {
        let status = world.api::<StockPipeline>().get("demo").await.unwrap().status?;
        let tsla = status.companies.into_iter().find(|company| company.symbol == "TSLA")?;
        (tsla.leaving == Some(crd::OnRemove::Drain)).then_some(())
    })
    .await;
    companies(json!([{"symbol": "MSFT"}, {"symbol": "TSLA", "onRemove": "Retain"}])).await;
    world.all_children(before.len()).await;
    until("it is remembered how the company is to leave", || async {
        let consumers = world.api::<Deployment>().get("demo-consumer-tsla").await.unwrap();
        consumers.annotations()["stockpipeline.io/written"].contains("Retain").then_some(())
    })
    .await;
    companies(json!([{"symbol": "MSFT"}])).await;
    let after = without("Deployment/demo-consumer-tsla").await;
    for (name, version) in &before {
        if !name.ends_with("-tsla") {
            assert_eq!(after.get(name), Some(version), "{name} was touched");
        }
    }
    assert!(after.contains_key("ConfigMap/stranger"), "an object that only looks like ours was deleted");
    world.end().await;
}

/// Without garbage collection here, what it would take is what has the pipeline's uid among its owners.
#[tokio::test]
async fn retained_data_belongs_to_nobody_and_is_taken_up_by_the_next_pipeline_of_that_name() {
    let world = World::new().await;
    let created = world.create("demo", &["MSFT"]).await;
    world.observed("demo").await;
    let claims = world.api::<PersistentVolumeClaim>();
    let claim = json!({
        "metadata": {
            "name": "data-demo-database-0",
            "labels": operator::names::labels(&operator::names::selector("demo", operator::names::Part::Database)),
            "ownerReferences": [created.owner_ref(&()).unwrap()],
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "volume", "resources": {"requests": {"storage": "10Gi"}}},
    });
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    let secrets = world.api::<Secret>();
    let data = async || secrets.get("demo-database-credentials").await.unwrap().data.unwrap()["keyfile"].clone();
    let keyfile = data().await;
    let owned_by = |uid: Option<String>| {
        let (claims, secrets) = (claims.clone(), secrets.clone());
        async move {
            let of = |owners: &[OwnerReference]| owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
            let wanted: Vec<String> = uid.into_iter().collect();
            for name in ["demo-database-credentials", "demo-broker-credentials"] {
                (of(secrets.get(name).await.ok()?.owner_references()) == wanted).then_some(())?;
            }
            (of(claims.get("data-demo-database-0").await.ok()?.owner_references()) == wanted).then_some(())
        }
    };
    until("data goes with the pipeline", || owned_by(created.uid())).await;
    let pipelines = world.api::<StockPipeline>();
    let policy = async |policy: &str| {
        let change = json!({"spec": {"deletionPolicy": policy}});
        pipelines.patch("demo", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    };
    policy("Retain").await;
    until("data stays when the pipeline goes", || owned_by(None)).await;
    let deployments = world.api::<Deployment>();
    assert!(!deployments.get("demo-consumer-msft").await.unwrap().owner_references().is_empty());

    pipelines.delete("demo", &DeleteParams::default()).await.unwrap();
    until("the pipeline is gone", || async { pipelines.get_opt("demo").await.unwrap().is_none().then_some(()) }).await;
    // As garbage collection does with what belongs to it.
    world.api::<StatefulSet>().delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let again = world.create("demo", &["MSFT"]).await;
    until("the next one takes the data up", || owned_by(again.uid())).await;
    assert!(data().await == keyfile, "the data is locked with other credentials");
    world.end().await;
}

#[tokio::test]
async fn consumers_that_stand_by_come_with_a_disruption_budget_and_go_with_it() {
    let world = World::new().await;
    world.create("demo", &["MSFT", "TSLA"]).await;
    let alone = world.all_children(22).await;
    let pods = async |replicas: i32, flush_after: Option<&str>, children: usize| {
        let change = json!({"spec": {"consumer": {"replicas": replicas, "flushAfter": flush_after}}});
        world.api::<StockPipeline>().patch("demo", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
        let children = world.all_children(children).await;
        until("each consumer has its pods", || async {
            let consumers = world.api::<Deployment>().get("demo-consumer-tsla").await.unwrap();
            (consumers.spec?.replicas == Some(replicas)).then_some(())
        })
        .await;
        children
    };
    let with_standbys = pods(3, Some("1m30s"), 24).await;
    assert!(with_standbys.contains_key("PodDisruptionBudget/demo-consumer-msft"), "{with_standbys:?}");
    // The number of pods is in no template: a standby that comes or goes replaces no pod.
    let template = async || world.api::<Deployment>().get("demo-consumer-msft").await.unwrap().spec.unwrap().template;
    let before = template().await;
    let without = pods(1, Some("1m30s"), 22).await;
    assert!(without.keys().eq(alone.keys()), "{without:?}");
    assert_eq!(template().await, before);
    world.end().await;
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone_and_named_in_the_status() {
    let world = World::new().await;
    let foreign = ConfigMap {
        metadata: ObjectMeta { name: Some("demo-edge".into()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("mine".into(), "yes".into())])),
        ..ConfigMap::default()
    };
    world.api::<ConfigMap>().create(&PostParams::default(), &foreign).await.unwrap();
    world.create("demo", &["MSFT"]).await;
    let message = until("the status names the object", || async {
        let pipeline = world.api::<StockPipeline>().get("demo").await.unwrap();
        let ready = pipeline.status?.conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        (ready.reason == "ForeignObject").then_some(ready.message)
    })
    .await;
    assert!(message.contains("ConfigMap demo-edge"), "{message}");
    let untouched = world.api::<ConfigMap>().get("demo-edge").await.unwrap();
    assert_eq!(untouched.data, foreign.data);
    // One failure keeps nothing else away.
    assert!(world.children().await.contains_key("Deployment/demo-edge"));
    world.end().await;
}

#[tokio::test]
async fn symbols_that_look_alike_get_children_of_their_own() {
    let world = World::new().await;
    let long = "A".repeat(64);
    let symbols = ["BRK.B", "BRK-B", "BRKB", "^GSPC", "0700.HK", "brk.b", &long];
    world.create("demo", &symbols).await;
    until("each symbol has a consumer", || async {
        let consumers = world
            .api::<Deployment>()
            .list(&ListParams::default().labels("app.kubernetes.io/component=consumer"))
            .await
            .unwrap();
        let mut found: Vec<String> =
            consumers.iter().map(|consumer| consumer.annotations()["stockpipeline.io/symbol"].clone()).collect();
        found.sort();
        let mut wanted: Vec<String> = symbols.iter().map(|symbol| (*symbol).to_owned()).collect();
        wanted.sort();
        (found == wanted).then_some(())
    })
    .await;
    world.end().await;
}

const FLUSH_AFTER: &str = "flushAfter must be a duration of at least 1s, for example 30s or 1m30s";

/// What users write that cannot be right, and what the sentence must name.
#[tokio::test]
async fn the_api_server_refuses_what_cannot_be_right_with_a_sentence() {
    let world = World::new().await;
    let one = json!([{"symbol": "MSFT"}]);
    let cases = [
        ("none", json!({"companies": []}), "name at least one company"),
        ("missing", json!({}), "spec.companies: Required value"),
        (
            "twice",
            json!({"companies": [{"symbol": "MSFT"}, {"symbol": "MSFT"}]}),
            "Duplicate value: {\"symbol\":\"MSFT\"}",
        ),
        ("illegal", json!({"companies": [{"symbol": "MS FT"}]}), "a symbol is 1 to 64 letters, digits or"),
        ("empty", json!({"companies": [{"symbol": ""}]}), "a symbol is 1 to 64 letters, digits or"),
        ("even", json!({"companies": one, "database": {"replicas": 2}}), "database.replicas must be 1, 3, 5 or 7"),
        ("zero", json!({"companies": one, "database": {"replicas": 0}}), "database.replicas must be 1, 3, 5 or 7"),
        ("two", json!({"companies": one, "broker": {"replicas": 2}}), "broker.replicas must be 1, 3 or 5"),
        (
            "negative",
            json!({"companies": one, "liveview": {"replicas": -1}}),
            "spec.liveview.replicas in body should be greater than or equal to 0",
        ),
        (
            "storage",
            json!({"companies": one, "broker": {"storage": {"size": "lots"}}}),
            "storage.size must be a quantity above 0",
        ),
        (
            "nothing",
            json!({"companies": one, "database": {"storage": {"size": "0"}}}),
            "storage.size must be a quantity above 0",
        ),
        ("batch", json!({"companies": one, "consumer": {"batchSize": 0}}), "batchSize must be at least 1"),
        (
            "consumers",
            json!({"companies": one, "consumer": {"replicas": 6}}),
            "spec.consumer.replicas in body should be less than or equal to 5",
        ),
        (
            "consumer",
            json!({"companies": [{"symbol": "MSFT", "consumers": 0}]}),
            "spec.companies[0].consumers in body should be greater than or equal to 1",
        ),
        ("short", json!({"companies": one, "consumer": {"flushAfter": "999ms"}}), FLUSH_AFTER),
        ("negative-time", json!({"companies": one, "consumer": {"flushAfter": "-30s"}}), FLUSH_AFTER),
        ("no-unit", json!({"companies": one, "consumer": {"flushAfter": "30"}}), FLUSH_AFTER),
        ("words", json!({"companies": one, "consumer": {"flushAfter": "half a minute"}}), FLUSH_AFTER),
        ("endless", json!({"companies": one, "consumer": {"flushAfter": "99999999999999999999999h"}}), FLUSH_AFTER),
        (
            "price",
            json!({"companies": [{"symbol": "MSFT", "price": {"min": 9, "max": 1}}]}),
            "price needs 0 <= min < max",
        ),
        (
            "port",
            json!({"companies": one, "edge": {"service": {"nodePort": 30080}}}),
            "service.nodePort needs service.type",
        ),
        (
            "local",
            json!({"companies": one, "edge": {"service": {"externalTrafficPolicy": "Local"}}}),
            "service.externalTrafficPolicy needs service.type",
        ),
        (
            "secure",
            json!({"companies": one, "edge": {"tls": {"secretName": "x"}, "service": {"type": "NodePort"}}}),
            "edge.tls with service.type NodePort needs service.httpsNodePort",
        ),
        (
            "nowhere",
            json!({"companies": one, "edge": {"mode": "Gateway"}}),
            "edge.mode Gateway needs edge.gateway.parentRef",
        ),
        ("nobodys", json!({"companies": one, "edge": {"tls": {}}}), "edge.tls needs edge.tls.secretName"),
        (
            "both",
            json!({"companies": one, "tls": {"enabled": true}, "edge": {"tls": {"secretName": "x", "hostnames": ["a.example"]}}}),
            "edge.tls.hostnames is for the certificate that is made",
        ),
        (
            "url",
            json!({"companies": one, "tls": {"enabled": true}, "edge": {"tls": {"hostnames": ["https://a.example"]}}}),
            "edge.tls.hostnames are host names in small letters",
        ),
        (
            "whose",
            json!({"companies": one, "edge": {"mode": "Ingress", "tls": {"secretName": "x"}}}),
            "edge.tls is NGINX's",
        ),
        (
            "proxies",
            json!({"companies": one, "edge": {"trustedProxies": ["10.0.0.0/8", "1.2.3.4; include /etc/passwd"]}}),
            "edge.trustedProxies are IP addresses or networks",
        ),
        (
            "burst",
            json!({"companies": one, "edge": {"limits": {"burst": 5}}}),
            "limits.burst needs limits.requestsPerSecond",
        ),
        (
            "label",
            json!({"companies": one, "edge": {"template": {"labels": {"app.kubernetes.io/name": "x"}}}}),
            "template.labels must not use the prefixes",
        ),
        (
            "whose-broker",
            json!({"companies": one, "broker": {"replicas": 3, "external": {"secret": "rabbit"}}}),
            "broker.external excludes broker.replicas, storage and template",
        ),
        (
            "whose-database",
            json!({"companies": one, "database": {"storage": {"size": "1Gi"}, "external": {"secret": "mongo"}}}),
            "database.external excludes database.replicas",
        ),
        (
            "nobodys",
            json!({"companies": one, "broker": {"external": {"secret": ""}}}),
            "broker.external.secret must name a Secret",
        ),
        ("a.dotted-name", json!({"companies": one}), "metadata.name must be 1 to 40 lower-case letters"),
    ];
    let resource = kube::api::ApiResource::erase::<StockPipeline>(&());
    let pipelines: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    for (name, spec, sentence) in cases {
        let object = DynamicObject::new(name, &resource).data(json!({"spec": spec}));
        let refusal = pipelines.create(&PostParams::default(), &object).await.expect_err(name).to_string();
        assert!(refusal.contains(sentence), "{name}: {refusal}");
    }
    world.create("fixed", &["MSFT"]).await;
    for (change, sentence) in [
        (json!({"broker": {"replicas": 2}}), "broker.replicas must be 1, 3 or 5"),
        (json!({"broker": {"external": {"secret": "rabbit"}}}), "broker.external cannot be set or taken away later"),
        (json!({"database": {"external": {"secret": "mongo"}}}), "database.external cannot be set or taken away later"),
        (json!({"broker": {"storage": {"size": "4095Mi"}}}), "broker.storage.size cannot be less than it was"),
        (json!({"database": {"storage": {"size": "1Gi"}}}), "database.storage.size cannot be less than it was"),
        (json!({"database": {"storage": {"class": "fast"}}}), "storage.class cannot be changed"),
    ] {
        let patch = json!({"spec": change});
        let refusal = pipelines
            .patch("fixed", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect_err(sentence)
            .to_string();
        assert!(refusal.contains(sentence), "{refusal}");
    }
    world.end().await;
}

#[tokio::test]
async fn network_policies_are_mended_and_go_when_they_are_turned_off() {
    let world = World::new().await;
    world.create("demo", &["MSFT"]).await;
    let policies = world.api::<NetworkPolicy>();
    let count = |wanted: usize| {
        let policies = policies.clone();
        async move {
            until(&format!("there are {wanted} policies"), || async {
                let list = policies.list(&ListParams::default()).await.unwrap();
                (list.items.len() == wanted).then_some(list.items)
            })
            .await
        }
    };
    let made = count(6).await;
    world.observed("demo").await;
    policies.delete("demo-database", &DeleteParams::default()).await.unwrap();
    let wide_open = json!({"spec": {"ingress": [{}]}});
    policies.patch("demo-broker", &PatchParams::default(), &Patch::Merge(&wide_open)).await.unwrap();
    until("both are as they were", || async {
        let now = policies.list(&ListParams::default()).await.unwrap().items;
        let specs = |list: &[NetworkPolicy]| list.iter().map(|policy| policy.spec.clone()).collect::<Vec<_>>();
        (specs(&now) == specs(&made)).then_some(())
    })
    .await;
    let off = json!({"spec": {"networkPolicy": {"enabled": false}}});
    world.api::<StockPipeline>().patch("demo", &PatchParams::default(), &Patch::Merge(&off)).await.unwrap();
    count(0).await;
    world.end().await;
}
