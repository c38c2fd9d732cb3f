//! What the operator costs: requests while nothing changes, writes for one company more, memory beside foreign objects.
//! Rule: bounded, for every `make test`; the figures of the release build at full size are `e2e/bench/operator`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams};
use operator::crd::{StockPipeline, StockPipelineSpec};
use operator::status::is_ready;
use serde_json::json;

use crate::external::addresses;
use crate::world::{World, say, until};

/// Longer than the longest interval at which the operator looks at anything.
const LOOK: Duration = Duration::from_secs(40);

/// Symbols of this run.
fn companies(count: usize) -> Vec<String> {
    let run = jiff::Timestamp::now().as_microsecond();
    (0..count).map(|index| format!("C{index}.{run}")).collect()
}

/// Broker and database are the real ones, so that all becomes ready once the pods are said to be.
fn spec(companies: &[String]) -> serde_json::Value {
    json!({
        "companies": companies.iter().map(|symbol| json!({"symbol": symbol})).collect::<Vec<_>>(),
        "broker": {"external": {"secret": "servers", "key": "amqp", "managementKey": "management"}, "queueType": "Classic"},
        "database": {"external": {"secret": "servers", "key": "mongodb"}},
    })
}

async fn becomes_ready(world: &World) {
    until("the pipeline is ready", || async {
        let pipeline = world.pipeline().await?;
        let observed = pipeline.status.as_ref()?.observed_generation == pipeline.metadata.generation;
        (observed && is_ready(pipeline.status.as_ref()?)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_settled_pipeline_costs_no_write_and_at_most_a_read_in_ten_seconds() {
    let world = World::new().await;
    world.secret("servers", &addresses()).await;
    world.create(spec(&companies(3))).await;
    let operator = world.operator();
    until("the programs are made", || async { (world.templates().await.len() == 8).then_some(()) }).await;
    world.pods_are_ready().await;
    becomes_ready(&world).await;
    // The broker has none for some seconds after the declaration; the next look at the figures is 30 s later.
    until("the figures are known", || async {
        let companies = world.pipeline().await?.status?.companies;
        companies.iter().all(|company| company.queued.is_some()).then_some(())
    })
    .await;
    operator.settles(&world).await;
    let passes = operator.passes();
    operator.relay.forget();
    tokio::time::sleep(LOOK).await;
    let (reads, writes) = (operator.relay.reads(), operator.relay.writes());
    assert!(operator.passes() > passes + 1, "it did not even look");
    assert!(writes.is_empty(), "{writes:?}");
    // Which kinds there are it asks for itself, once in minutes, however many pipelines there are.
    let (of_the_pipeline, own): (Vec<_>, Vec<_>) = reads.iter().partition(|read| read.contains(&world.namespace));
    assert!(of_the_pipeline.len() as f64 <= 0.1 * LOOK.as_secs_f64(), "{reads:?}");
    assert_eq!(own.len(), own.iter().collect::<BTreeSet<_>>().len(), "more than once: {own:?}");
    say(&format!("settled: {} reads and no write in {} s", reads.len(), LOOK.as_secs()));
    operator.stop().await;
    world.end().await;
}

/// Resource version of every object but the pipeline, which says what is new.
async fn children(world: &World) -> BTreeMap<String, String> {
    let mut versions = world.versions().await;
    versions.retain(|name, _| !name.starts_with("StockPipeline/"));
    versions
}

#[tokio::test]
async fn one_company_more_beside_two_hundred_touches_its_own_objects_alone() {
    let world = World::new().await;
    world.secret("servers", &addresses()).await;
    let mut companies = companies(201);
    let added = companies.pop().unwrap();
    world.create(spec(&companies)).await;
    let operator = world.operator();
    until("all programs are made", || async { (world.templates().await.len() == 402).then_some(()) }).await;
    world.pods_are_ready().await;
    becomes_ready(&world).await;
    operator.settles(&world).await;
    let before = children(&world).await;
    operator.relay.forget();
    world.change(&spec(&[companies, vec![added.clone()]].concat())).await;
    until("its programs are made", || async { (world.templates().await.len() == 404).then_some(()) }).await;
    operator.settles(&world).await;
    let after = children(&world).await;
    let touched: Vec<&String> =
        before.iter().filter(|(name, at)| after.get(*name) != Some(at)).map(|(name, _)| name).collect();
    assert!(touched.is_empty(), "{touched:?}");
    let made: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert_eq!(made.len(), 2, "{made:?}");
    let writes = operator.relay.writes();
    let others = writes.iter().filter(|write| !write.contains("/status") && !write.contains("/events"));
    assert_eq!(others.count(), 2, "{writes:?}");
    operator.stop().await;
    world.end().await;
}

/// The program itself, in a process of its own.
struct Process(Child);

impl Process {
    fn start(namespace: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_stockpipeline-operator"))
            .arg("run")
            .env("KUBECONFIG", std::env::var("STOCK_TEST_KUBECONFIG").unwrap())
            .envs([("WATCH_NAMESPACE", namespace), ("POD_NAMESPACE", namespace), ("LISTEN", "127.0.0.1:0")])
            .envs([
                ("STOCK_IMAGE_WORKLOADS", "w"),
                ("STOCK_IMAGE_BROKER", "b"),
                ("STOCK_IMAGE_DATABASE", "d"),
                ("STOCK_IMAGE_EDGE", "e"),
            ])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// KiB in memory.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Foreign objects of each kind, and bytes in each: together as much as the whole operator takes.
const FOREIGN: usize = 1000;
const BYTES: usize = 10_000;

#[tokio::test]
async fn memory_follows_the_operators_own_objects_and_not_what_else_is_there() {
    let world = World::new().await;
    let create = async |name: &str| {
        let companies = companies(3);
        let spec: StockPipelineSpec = serde_json::from_value(spec(&companies)).unwrap();
        world.api().create(&PostParams::default(), &StockPipeline::new(name, spec)).await.unwrap();
    };
    world.secret("servers", &addresses()).await;
    for index in 0..5 {
        create(&format!("demo-{index}")).await;
    }
    let operator = Process::start(&world.namespace);
    let observed = async |count: usize| {
        until("all pipelines are looked after", || async {
            let pipelines = world.api::<StockPipeline>().list(&ListParams::default()).await.unwrap();
            let observed = |pipeline: &&StockPipeline| {
                pipeline.status.as_ref().is_some_and(|status| status.observed_generation.is_some())
            };
            (pipelines.iter().filter(observed).count() == count).then_some(())
        })
        .await;
    };
    observed(5).await;
    until("all programs are made", || async { (world.templates().await.len() == 40).then_some(()) }).await;
    world.pods_are_ready().await;
    // What passes need is in memory after some of them.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = operator.memory();
    let content = ByteString(vec![b'x'; BYTES]);
    let (secrets, config_maps) = (world.api::<Secret>(), world.api::<ConfigMap>());
    let make = async |index: usize| {
        let metadata = ObjectMeta { name: Some(format!("foreign-{index}")), ..ObjectMeta::default() };
        let data = Some(BTreeMap::from([("content".to_owned(), content.clone())]));
        let secret = Secret { metadata: metadata.clone(), data: data.clone(), ..Secret::default() };
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let config_map = ConfigMap { metadata, binary_data: data, ..ConfigMap::default() };
        config_maps.create(&PostParams::default(), &config_map).await.unwrap();
    };
    stream::iter(0..FOREIGN).for_each_concurrent(8, make).await;
    // A pass of a new pipeline comes after all of them.
    create("demo-5").await;
    observed(6).await;
    let after = operator.memory();
    say(&format!("memory of a debug build: {before} KiB, beside {} foreign objects {after} KiB", 2 * FOREIGN));
    // They hold 20 MB.
    assert!(after < before + 6 * 1024, "{before} KiB, then {after} KiB");
    world.end().await;
}
