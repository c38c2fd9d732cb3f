//! A broker and a database that somebody else runs: the real ones on loopback, by Secrets as a user writes them.
//! Rule: what is wrong is told by the Secret's name and key with what to do, and nothing of its content ever is.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use mongodb::bson::{Document, doc};
use operator::broker::external::policies;
use operator::crd::{StockPipeline, StockPipelineSpec};
use serde_json::{Value, json};

use crate::world::{World, until};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`, it starts the servers"))
}

/// All that is right.
pub fn addresses() -> BTreeMap<String, String> {
    let (amqp, database) = (variable("STOCK_TEST_RABBITMQ_URL"), variable("STOCK_TEST_MONGODB_URL"));
    let management = variable("STOCK_TEST_MANAGEMENT_URL");
    [("amqp", amqp), ("management", management), ("mongodb", database)]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

impl World {
    pub async fn secret(&self, name: &str, content: &BTreeMap<String, String>) {
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            string_data: Some(content.clone()),
            ..Secret::default()
        };
        self.api::<Secret>().create(&PostParams::default(), &secret).await.unwrap();
    }

    async fn external(&self, name: &str, symbol: &str, secret: &str) {
        let spec: StockPipelineSpec = serde_json::from_value(json!({
            "companies": [{"symbol": symbol}],
            "broker": {"external": {"secret": secret, "key": "amqp", "managementKey": "management"}},
            "database": {"external": {"secret": secret, "key": "mongodb"}},
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &StockPipeline::new(name, spec)).await.unwrap();
    }

    /// Says of each Deployment what its controller would: all its pods are ready.
    pub async fn pods_are_ready(&self) {
        for deployment in self.api::<Deployment>().list(&ListParams::default()).await.unwrap() {
            let replicas = deployment.spec.as_ref().unwrap().replicas;
            let status = json!({"status": {
                "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas,
                "availableReplicas": replicas, "observedGeneration": deployment.metadata.generation,
            }});
            let patch = Patch::Merge(&status);
            self.api::<Deployment>()
                .patch_status(&deployment.name_any(), &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    }

    async fn condition(&self, pipeline: &str, type_: &str) -> Option<Condition> {
        let pipeline = self.api::<StockPipeline>().get(pipeline).await.unwrap();
        pipeline.status?.conditions.into_iter().find(|condition| condition.type_ == type_)
    }

    /// What pods would be made from, by Deployment.
    pub async fn templates(&self) -> BTreeMap<String, Value> {
        let deployments = self.api::<Deployment>().list(&ListParams::default()).await.unwrap();
        let template =
            |deployment: &Deployment| serde_json::to_value(&deployment.spec.as_ref().unwrap().template).unwrap();
        deployments.iter().map(|deployment| (deployment.name_any(), template(deployment))).collect()
    }
}

/// One that no other run uses.
fn symbol(name: &str) -> String {
    format!("{name}-{}", jiff::Timestamp::now().as_microsecond())
}

async fn managed<T: serde::de::DeserializeOwned>(path: &str) -> Option<T> {
    let url = format!("{}/api/{path}", variable("STOCK_TEST_MANAGEMENT_URL"));
    reqwest::Client::new().get(url).send().await.unwrap().json().await.ok()
}

#[tokio::test]
async fn a_pipeline_works_with_a_broker_and_a_database_of_somebody_else_and_makes_neither() {
    let world = World::new().await;
    let company = symbol("OUT");
    let client = mongodb::Client::with_uri_str(variable("STOCK_TEST_MONGODB_URL")).await.unwrap();
    let windows = client.database("stockmarket").collection::<Document>("stocks");
    windows.insert_one(doc! {"company": &company, "avgPrice": 123.45, "window": 6_i64}).await.unwrap();
    world.secret("servers", &addresses()).await;
    world.external("demo", &company, "servers").await;
    let operator = world.operator();
    until("the programs are made", || async { (world.templates().await.len() == 4).then_some(()) }).await;
    world.pods_are_ready().await;
    let pipeline = until("the pipeline is ready", || async {
        let pipeline = world.api::<StockPipeline>().get("demo").await.unwrap();
        operator::status::is_ready(pipeline.status.as_ref()?).then_some(pipeline)
    })
    .await;
    let status = pipeline.status.unwrap();
    assert_eq!((status.companies[0].windows, status.companies[0].last_price), (Some(7), Some(123.45)));
    assert_eq!(status.parts.broker.ready.as_deref(), Some("external"));
    // Nothing of either part, and the addresses by reference alone.
    assert!(world.api::<StatefulSet>().list(&ListParams::default()).await.unwrap().items.is_empty());
    let secrets = world.api::<Secret>().list(&ListParams::default()).await.unwrap();
    assert_eq!(secrets.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["servers"]);
    let picture = world.picture().await;
    let services: Vec<&String> = picture.keys().filter(|name| name.starts_with("Service/")).collect();
    assert_eq!(services, ["Service/demo-edge", "Service/demo-liveview", "Service/demo-page"]);
    for (name, object) in picture.iter().filter(|(name, _)| !name.starts_with("Secret/")) {
        for address in addresses().values() {
            assert!(!object.to_string().contains(address), "{name} holds an address");
        }
    }
    let reference =
        json!({"name": "MONGODB_URL", "valueFrom": {"secretKeyRef": {"name": "servers", "key": "mongodb"}}});
    assert!(picture["Deployment/demo-liveview"].to_string().contains(&reference["valueFrom"].to_string()));
    // On the broker: the queue, and policies of this pipeline's queues alone.
    let queue: Value = managed(&format!("queues/%2F/{company}")).await.unwrap();
    assert_eq!(queue["type"], "quorum");
    let owner = format!("{}.demo", world.namespace);
    for (name, wanted) in policies(&owner, std::slice::from_ref(&company)) {
        let is: operator::broker::management::Policy =
            managed(&format!("policies/%2F/{}", name.replace('/', "%2F"))).await.unwrap();
        assert_eq!(is, wanted, "{name}");
    }
    // And a settled one costs the API server next to nothing, see `cost`.
    operator.stop().await;
    world.end().await;
}

/// The condition of a broker or database that cannot be used, by pipeline.
#[tokio::test]
async fn what_is_wrong_with_a_secret_or_what_it_leads_to_is_told_by_name_and_key_and_never_by_content() {
    let world = World::new().await;
    let host = |address: &str| address.rsplit_once('@').unwrap().1.to_owned();
    let (amqp, management) = (host(&addresses()["amqp"]), host(&addresses()["management"]));
    let broker_at = amqp.split('/').next().unwrap();
    // TLS, by an authority of its own.
    let api_server = world.server();
    let member = variable("STOCK_TEST_MONGODB_MEMBERS").split(',').next().unwrap().to_owned();
    let key = |key: &str, value: String| Some((key.to_owned(), Some(value)));
    let without = |key: &str| Some((key.to_owned(), None));
    // Pipeline, change of the right Secret, condition, its value, what it says.
    let cases = [
        ("none", None, "BrokerReady", "False", "secret none does not exist in namespace"),
        ("keyless", without("amqp"), "BrokerReady", "False", "secret keyless lacks the key amqp: add it"),
        (
            "scheme",
            key("amqp", format!("http://hush@{amqp}")),
            "BrokerReady",
            "False",
            "key amqp of secret scheme is not an address",
        ),
        (
            "login",
            key("amqp", format!("amqp://guest:hush@{amqp}")),
            "BrokerReady",
            "False",
            "key amqp of secret login refuses the login",
        ),
        (
            "vhost",
            key("amqp", format!("amqp://guest:guest@{broker_at}/hush")),
            "BrokerReady",
            "False",
            "key amqp of secret vhost has no such virtual host",
        ),
        (
            "down",
            key("amqp", "amqp://hush:hush@127.0.0.1:1/%2f".into()),
            "BrokerReady",
            "False",
            "of secret down does not answer (connection refused)",
        ),
        (
            "name",
            key("amqp", "amqp://hush:hush@hush.invalid/%2f".into()),
            "BrokerReady",
            "False",
            "its host name is not known",
        ),
        (
            "authority",
            key("amqp", format!("amqps://hush:hush@{api_server}/%2f")),
            "BrokerReady",
            "False",
            "shows a certificate that no public authority issued",
        ),
        (
            "manager",
            key("management", format!("http://guest:hush@{management}")),
            "BrokerReady",
            "False",
            "key management of secret manager refuses its user (401)",
        ),
        (
            "managed",
            key("management", "hush".into()),
            "BrokerReady",
            "False",
            "key management of secret managed is not an address",
        ),
        (
            "unmanaged",
            without("management"),
            "BrokerReady",
            "True",
            "policies are not looked after: secret unmanaged has no key management",
        ),
        ("nothing", without("mongodb"), "DatabaseReady", "False", "secret nothing lacks the key mongodb"),
        (
            "string",
            key("mongodb", "mongodb://hush:hu@sh@127.0.0.1/?hush=1".into()),
            "DatabaseReady",
            "False",
            "key mongodb of secret string is not a connection string",
        ),
        (
            "silent",
            key("mongodb", "mongodb://hush:hush@127.0.0.1:1/?directConnection=true".into()),
            "DatabaseReady",
            "False",
            "key mongodb of secret silent does not answer",
        ),
        (
            "unknown",
            key("mongodb", "mongodb+srv://hush:hush@hush.invalid/".into()),
            "DatabaseReady",
            "False",
            "key mongodb of secret unknown does not answer (its name is not known)",
        ),
        (
            "stranger",
            key("mongodb", format!("mongodb://hush:hush@{member}/?directConnection=true&authSource=admin")),
            "DatabaseReady",
            "False",
            "key mongodb of secret stranger refuses the login",
        ),
    ];
    for (name, change, ..) in &cases {
        if let Some((key, value)) = change {
            let mut content = addresses();
            match value {
                Some(value) => content.insert(key.clone(), value.clone()),
                None => content.remove(key),
            };
            world.secret(name, &content).await;
        }
        world.external(name, &symbol("BAD"), name).await;
    }
    let operator = world.operator();
    for (name, _, type_, value, words) in &cases {
        let mut last = None;
        until(&format!("{type_} of {name} tells it"), || async {
            let condition = world.condition(name, type_).await?;
            (condition.status == *value && condition.message.contains(words)).then_some(())
        })
        .await;
        last = world.condition(name, type_).await.or(last);
        assert_eq!(last.unwrap().reason, if *value == "True" { "Ready" } else { "External" }, "{name}");
    }
    for pipeline in world.api::<StockPipeline>().list(&ListParams::default()).await.unwrap() {
        let status = serde_json::to_string(&pipeline.status).unwrap();
        assert!(!status.contains("hush") && !status.contains("guest"), "{status}");
    }
    operator.stop().await;
    world.end().await;
}

/// A consumer of the test's, which may hold so many messages.
async fn attach(connection: &lapin::Connection, queue: &str, most: u16) -> (lapin::Channel, lapin::Consumer) {
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(most, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    (channel, consumer)
}

/// Takes messages and gives the tag of the last.
async fn take(consumer: &mut lapin::Consumer, messages: u16) -> u64 {
    let mut last = 0;
    for _ in 0..messages {
        last = consumer.next().await.unwrap().unwrap().delivery_tag;
    }
    last
}

#[tokio::test]
async fn without_a_management_interface_a_paused_pipeline_says_what_is_left_and_is_paused_when_nothing_is() {
    let world = World::new().await;
    let company = symbol("PAUSED");
    let mut content = addresses();
    content.remove("management");
    world.secret("servers", &content).await;
    let broker = lapin::Connection::connect(&content["amqp"], lapin::ConnectionProperties::default()).await.unwrap();
    let channel = broker.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
    channel.queue_declare(company.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for _ in 0..5 {
        let published = channel.basic_publish(
            "".into(),
            company.as_str().into(),
            BasicPublishOptions::default(),
            b"{}",
            lapin::BasicProperties::default(),
        );
        published.await.unwrap().await.unwrap();
    }
    // The pipeline's consumer, as the database and the broker see it.
    let client = mongodb::Client::with_uri_str(variable("STOCK_TEST_MONGODB_URL")).await.unwrap();
    let leases = client.database("stockmarket").collection::<Document>("stocks.leases");
    let says = async |held: i64| {
        let lease = doc! {"until": {"$add": ["$$NOW", 600_000]}, "held": {"$literal": held}};
        leases.update_one(doc! {"_id": &company}, vec![doc! {"$set": lease}]).upsert(true).await.unwrap();
    };
    says(3).await;
    let (works, mut consumer) = attach(&broker, &company, 3).await;
    let last = take(&mut consumer, 3).await;

    let spec: StockPipelineSpec = serde_json::from_value(json!({
        "companies": [{"symbol": company}], "paused": true,
        "broker": {"external": {"secret": "servers", "key": "amqp", "managementKey": "management"}},
        "database": {"external": {"secret": "servers", "key": "mongodb"}},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &StockPipeline::new("demo", spec)).await.unwrap();
    let operator = world.operator();
    let says_paused = async |status: &str, words: &str| {
        until(&format!("Paused is {status} and says: {words}"), || async {
            let paused = world.condition("demo", "Paused").await?;
            (paused.status == status && paused.message.contains(words)).then_some(())
        })
        .await;
    };
    says_paused("False", "5 events left").await;
    let status = world.api::<StockPipeline>().get("demo").await.unwrap().status.unwrap();
    let of = &status.companies[0];
    assert_eq!((of.left, of.queued, of.unacked), (Some(5), Some(2), Some(3)));

    // Somebody else takes the other two; how many those are nobody says.
    let (other, mut takes) = attach(&broker, &company, 2).await;
    take(&mut takes, 2).await;
    says_paused("False", "another program's is attached").await;
    other.close(200, "".into()).await.unwrap();
    says_paused("False", "5 events left").await;

    // What is in a window is acknowledged, and then the rest.
    for (last, held) in [(last, 2), (last + 2, 0)] {
        works.basic_ack(last, BasicAckOptions { multiple: true }).await.unwrap();
        if held > 0 {
            assert_eq!(take(&mut consumer, held).await, last + 2);
        }
        says(held.into()).await;
    }
    says_paused("True", "every event is in a stored window").await;
    operator.stop().await;
    leases.delete_one(doc! {"_id": &company}).await.unwrap();
    channel.queue_delete(company.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_changed_address_replaces_the_pods_that_read_it_and_a_lost_secret_replaces_none() {
    let world = World::new().await;
    world.secret("servers", &addresses()).await;
    world.external("demo", &symbol("ROLL"), "servers").await;
    let operator = world.operator();
    let before = until("the programs know their addresses", || async {
        let templates = world.templates().await;
        (templates.len() == 4 && templates["demo-liveview"].to_string().contains("database-address"))
            .then_some(templates)
    })
    .await;
    let secrets = world.api::<Secret>();
    let change = async |key: &str, value: &str| {
        let patch = json!({"stringData": {key: value}});
        secrets.patch("servers", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    };
    // Of the second no pod knows.
    let database = addresses()["mongodb"].clone() + "&appName=moved";
    change("management", &(addresses()["management"].clone() + "/")).await;
    change("mongodb", &database).await;
    let after = until("the readers of the database are of a new template", || async {
        let templates = world.templates().await;
        (templates["demo-liveview"] != before["demo-liveview"]).then_some(())?;
        let consumer = templates.keys().find(|name| name.contains("consumer"))?;
        (templates[consumer] != before[consumer]).then_some(templates)
    })
    .await;
    for (name, template) in after.iter().filter(|(name, _)| !name.contains("consumer") && !name.contains("liveview")) {
        assert_eq!(template, &before[name], "{name} does not read it");
    }
    assert!(!after["demo-liveview"].to_string().contains("moved"));
    let name = async |secret: &str| {
        let external = json!({"external": {"secret": secret}});
        world.change(&json!({"broker": external, "database": external})).await;
    };
    let is_told = async |of: &str, words: &str| {
        until(words, || async { world.condition("demo", of).await?.message.contains(words).then_some(()) }).await;
    };
    name("nowhere").await;
    is_told("BrokerReady", "secret nowhere does not exist").await;
    operator.settles(&world).await;
    assert_eq!(world.templates().await, after);
    name("servers").await;
    secrets.delete("servers", &DeleteParams::default()).await.unwrap();
    is_told("DatabaseReady", "secret servers does not exist").await;
    operator.settles(&world).await;
    assert_eq!(world.templates().await, after);
    // An operator that never saw the Secret finds what the pods run with.
    operator.stop().await;
    let next = world.operator();
    next.settles(&world).await;
    assert_eq!(world.templates().await, after);
    next.stop().await;
    world.end().await;
}
