//! What a status says of what was seen, and which events follow; pure.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use operator::broker::QueueReport;
use operator::crd::{OnRemove, StockPipeline, StockPipelineStatus};
use operator::error::Error;
use operator::leaving::{Leaving, Step};
use operator::names::Part;
use operator::status::{self, Figures, Rotation, Seen, System};
use operator::volumes::Volumes;
use serde_json::json;

fn pipeline() -> StockPipeline {
    serde_json::from_value(json!({
        "apiVersion": "stockpipeline.io/v1alpha1",
        "kind": "StockPipeline",
        "metadata": {"name": "demo", "namespace": "markets", "uid": "u", "generation": 4},
        "spec": {"companies": [{"symbol": "MSFT"}]},
    }))
    .unwrap()
}

fn set(component: &str, replicas: i32, ready: i32) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": format!("demo-{component}"), "generation": 1, "labels": {"app.kubernetes.io/component": component}},
        "status": {"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready, "observedGeneration": 1},
    }))
    .unwrap()
}

fn deployment(component: &str, replicas: i32, ready: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": format!("demo-{component}"), "generation": 1, "labels": {"app.kubernetes.io/component": component}},
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready, "observedGeneration": 1},
    }))
    .unwrap()
}

fn serving(ready: i32) -> Option<System> {
    Some(System { ready, waiting_for: None, trouble: false })
}

/// A world in which every part serves.
fn all_well() -> Seen {
    Seen {
        stateful_sets: vec![set("broker", 1, 1), set("database", 3, 3)],
        deployments: vec![
            deployment("publisher", 1, 1),
            deployment("consumer", 1, 1),
            deployment("liveview", 2, 2),
            deployment("edge", 2, 2),
        ],
        broker: serving(1),
        database: serving(3),
        ..Seen::default()
    }
}

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// Value, reason and message of a condition.
fn condition<'a>(status: &'a StockPipelineStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_pipeline_whose_parts_all_serve_is_ready() {
    let status = status::of(&pipeline(), &all_well(), now());
    assert_eq!(condition(&status, "Ready"), ("True", "Ready", "every part serves"));
    assert_eq!(condition(&status, "Progressing").0, "False");
    assert_eq!(condition(&status, "Degraded").0, "False");
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.parts.database.ready.as_deref(), Some("3/3"));
}

#[test]
fn a_database_whose_pods_run_but_which_has_no_primary_is_not_ready_and_says_why() {
    let mut seen = all_well();
    seen.database =
        Some(System { ready: 2, waiting_for: Some("no primary: an election is under way".into()), trouble: false });
    let status = status::of(&pipeline(), &seen, now());
    assert_eq!(condition(&status, "DatabaseReady"), ("False", "Forming", "no primary: an election is under way"));
    assert_eq!(condition(&status, "Ready").2, "database: no primary: an election is under way");
    assert_eq!(status.parts.database.ready.as_deref(), Some("2/3"));
    assert_eq!(condition(&status, "BrokerReady").0, "True");
}

#[test]
fn the_trouble_of_a_pod_beyond_those_wanted_is_told_while_the_database_waits_for_its_member() {
    let mut seen = all_well();
    // Two of five are to leave and fail; the three that are ready would be enough.
    seen.stateful_sets[1] = set("database", 5, 3);
    seen.database = Some(System { ready: 3, waiting_for: Some("no primary".into()), trouble: false });
    let pod = |name: &str, state: serde_json::Value| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "database"}},
            "status": {"containerStatuses": [{"name": "mongod", "image": "mongo", "imageID": "", "ready": false, "restartCount": 9, "state": state}]},
        }))
        .unwrap()
    };
    seen.pods = vec![pod("demo-database-4", json!({"waiting": {"reason": "CrashLoopBackOff"}}))];
    let status = status::of(&pipeline(), &seen, now());
    let (value, reason, message) = condition(&status, "DatabaseReady");
    assert_eq!((value, reason), ("False", "PodTrouble"));
    assert!(message.starts_with("no primary; pod demo-database-4 keeps failing"), "{message}");
    assert_eq!(condition(&status, "Degraded").0, "True");
    // A pod that only starts is no trouble.
    seen.pods = vec![pod("demo-database-4", json!({"waiting": {"reason": "ContainerCreating"}}))];
    assert_eq!(condition(&status::of(&pipeline(), &seen, now()), "DatabaseReady"), ("False", "Forming", "no primary"));
}

#[test]
fn a_pod_that_no_node_can_take_is_named_with_what_to_do() {
    let mut seen = all_well();
    seen.stateful_sets[0] = set("broker", 1, 0);
    seen.pods = vec![
        serde_json::from_value::<Pod>(json!({
            "metadata": {"name": "demo-broker-0", "labels": {"app.kubernetes.io/component": "broker"}},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-11-23T11:59:40Z", "message": "0/3 nodes are available: 3 Insufficient memory."}]},
        }))
        .unwrap(),
    ];
    let status = status::of(&pipeline(), &seen, now());
    let (value, reason, message) = condition(&status, "BrokerReady");
    assert_eq!((value, reason), ("False", "PodTrouble"));
    assert!(
        message.contains("demo-broker-0")
            && message.contains("Insufficient memory")
            && message.contains("lower the requests"),
        "{message}"
    );
    assert_eq!(condition(&status, "Degraded").0, "True");
}

#[test]
fn a_pod_that_waits_a_moment_for_its_new_volume_is_no_trouble() {
    let mut seen = all_well();
    seen.stateful_sets[0] = set("broker", 1, 0);
    let pod = json!({
        "metadata": {"name": "demo-broker-0", "labels": {"app.kubernetes.io/component": "broker"}},
        "status": {"conditions": [{"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-11-23T11:59:58Z",
            "message": "pod has unbound immediate PersistentVolumeClaims"}]},
    });
    seen.pods = vec![serde_json::from_value::<Pod>(pod).unwrap()];
    let status = status::of(&pipeline(), &seen, now());
    assert_eq!(condition(&status, "BrokerReady").1, "Starting");
    assert_eq!(condition(&status, "Degraded").0, "False");
}

#[test]
fn pods_of_the_old_template_do_not_make_a_rolling_part_ready() {
    let mut seen = all_well();
    // One new pod is ready, one is not; one old pod still serves.
    let status = json!({"replicas": 3, "updatedReplicas": 2, "readyReplicas": 2, "observedGeneration": 1});
    seen.deployments[3].status = serde_json::from_value(status).unwrap();
    // All three members are ready and none is of the new revision.
    let status = json!({"replicas": 3, "updatedReplicas": 0, "readyReplicas": 3, "observedGeneration": 1});
    seen.stateful_sets[1].status = serde_json::from_value(status).unwrap();
    let status = status::of(&pipeline(), &seen, now());
    let message = "1 of 2 ready; no further pod yet: should that last, see `kubectl get events`";
    assert_eq!(condition(&status, "EdgeReady"), ("False", "Starting", message));
    assert_eq!(condition(&status, "DatabaseReady").0, "False");
    assert_eq!(condition(&status, "Ready").0, "False");
}

#[test]
fn a_pod_that_kubernetes_refuses_to_make_anew_is_named_while_a_part_rolls() {
    let mut seen = all_well();
    let status = json!({"replicas": 2, "updatedReplicas": 0, "readyReplicas": 2, "observedGeneration": 1});
    seen.stateful_sets[1].spec =
        serde_json::from_value(json!({"replicas": 3, "selector": {}, "template": {}})).unwrap();
    seen.stateful_sets[1].status = serde_json::from_value(status).unwrap();
    let waits = "member demo-database-2 does not answer: look at its pod";
    seen.database = Some(System { ready: 2, waiting_for: Some(waits.into()), trouble: false });
    let pods = |names: &[&str]| {
        names.iter().map(|name| pod(name, json!({"app.kubernetes.io/component": "database"}), json!({}))).collect()
    };
    seen.pods = pods(&["demo-database-0", "demo-database-1"]);
    let message = "2 pods are still to be replaced, one at a time; pod demo-database-2 is not there yet: should that last, \
                   `kubectl describe statefulset demo-database` says why";
    assert_eq!(condition(&status::of(&pipeline(), &seen, now()), "DatabaseReady"), ("False", "Rolling", message));
    seen.pods = pods(&["demo-database-0", "demo-database-1", "demo-database-2"]);
    let status = status::of(&pipeline(), &seen, now());
    assert!(condition(&status, "DatabaseReady").2.ends_with(waits), "{:?}", condition(&status, "DatabaseReady"));
}

#[test]
fn the_consumers_of_all_companies_are_counted_and_no_company_makes_up_for_another() {
    let mut pipeline = pipeline();
    pipeline.spec = serde_json::from_value(json!({
        "companies": [{"symbol": "MSFT"}, {"symbol": "TSLA", "consumers": 1}],
        "consumer": {"replicas": 2},
    }))
    .unwrap();
    let mut seen = all_well();
    seen.deployments[0] = deployment("publisher", 2, 2);
    seen.deployments.push(deployment("consumer", 2, 2));
    let status = status::of(&pipeline, &seen, now());
    assert_eq!(condition(&status, "ConsumersReady"), ("True", "Ready", "3 of 3 ready"));
    assert_eq!(status.parts.consumers.ready.as_deref(), Some("3/3"));

    // TSLA's new template is not ready, and one of MSFT's pods has not ended yet after its count went from 3 to 2.
    seen.deployments[1] = deployment("consumer", 1, 0);
    let status_of_pods = json!({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "observedGeneration": 1});
    seen.deployments[4].status = serde_json::from_value(status_of_pods).unwrap();
    let status = status::of(&pipeline, &seen, now());
    assert_eq!(condition(&status, "ConsumersReady").0, "False");
    assert_eq!(status.parts.consumers.ready.as_deref(), Some("2/3"));
}

#[test]
fn what_waiting_will_not_cure_is_degraded() {
    let mut seen = all_well();
    seen.broker = Some(System { ready: 0, waiting_for: Some("broker refuses the user".into()), trouble: true });
    let status = status::of(&pipeline(), &seen, now());
    assert_eq!(condition(&status, "Degraded"), ("True", "Forming", "broker refuses the user"));
    assert_eq!(condition(&status, "Progressing").0, "False");
}

#[test]
fn a_pass_that_asked_nobody_leaves_what_was_known_of_broker_and_database() {
    let mut pipeline = pipeline();
    pipeline.status = Some(status::of(&pipeline, &all_well(), now()));
    let mut seen = Seen { broker: None, database: None, ..all_well() };
    seen.errors.push(Error::IncompleteSecret { name: "demo-broker-credentials".into(), key: "password".into() });
    let status = status::of(&pipeline, &seen, later(5));
    assert_eq!(condition(&status, "BrokerReady").0, "True");
    assert_eq!(condition(&status, "Ready").1, "IncompleteSecret");
}

#[test]
fn an_error_of_the_pass_is_in_the_status() {
    let mut seen = all_well();
    seen.errors.push(Error::Foreign { kind: "Service".into(), name: "demo-edge".into() });
    let status = status::of(&pipeline(), &seen, now());
    let (value, reason, message) = condition(&status, "Ready");
    assert_eq!((value, reason), ("False", "ForeignObject"));
    assert!(message.contains("Service demo-edge"), "{message}");
}

#[test]
fn new_credentials_are_told_while_programs_move_and_when_they_have() {
    let mut pipeline = pipeline();
    pipeline.status = Some(status::of(&pipeline, &all_well(), now()));
    let with = |rotation| Seen { rotation, ..all_well() };
    let under_way = status::of(&pipeline, &with(Rotation::UnderWay("broker: pod a has not ended".into())), now());
    assert_eq!(condition(&under_way, "CredentialsRotated"), ("False", "Rotating", "broker: pod a has not ended"));
    assert_eq!(condition(&under_way, "Ready").0, "True", "it serves all the while");
    let reasons = |old: &StockPipelineStatus, new: &StockPipelineStatus| -> Vec<String> {
        status::events(Some(old), new).into_iter().map(|event| event.reason).collect()
    };
    assert_eq!(reasons(pipeline.status.as_ref().unwrap(), &under_way), ["Rotating"]);
    pipeline.status = Some(under_way.clone());
    let unknown = status::of(&pipeline, &all_well(), now());
    assert!(status::is_rotating(&unknown), "a pass that failed is no news of it");
    let done = status::of(&pipeline, &with(Rotation::Done("generation 1".into())), now());
    assert!(!status::is_rotating(&done));
    assert_eq!(reasons(&under_way, &done), ["CredentialsRotated"]);
    let over = status::of(&pipeline, &with(Rotation::NotWished), now());
    assert!(over.conditions.iter().all(|condition| condition.type_ != "CredentialsRotated"));
}

#[test]
fn the_transition_time_moves_only_with_the_value() {
    let mut pipeline = pipeline();
    let mut seen = all_well();
    seen.deployments[3] = deployment("edge", 2, 0);
    pipeline.status = Some(status::of(&pipeline, &seen, now()));
    seen.deployments[3] = deployment("edge", 2, 1);
    let same = status::of(&pipeline, &seen, later(5));
    let time = |status: &StockPipelineStatus| {
        status.conditions.iter().find(|condition| condition.type_ == "EdgeReady").unwrap().last_transition_time.0
    };
    assert_eq!(time(&same), now(), "only the message moved");
    let moved = status::of(&pipeline, &all_well(), later(9));
    assert_eq!(time(&moved), later(9));
}

#[test]
fn a_status_that_says_nothing_new_is_no_change() {
    let mut pipeline = pipeline();
    pipeline.status = Some(status::of(&pipeline, &all_well(), now()));
    let again = status::of(&pipeline, &all_well(), later(60));
    assert!(!status::changed(pipeline.status.as_ref(), &again));
    assert!(status::events(pipeline.status.as_ref(), &again).is_empty());
}

#[test]
fn an_unknown_figure_is_absent_and_a_known_one_stays_until_the_next_look() {
    let mut pipeline = pipeline();
    let mut seen = all_well();
    let figures = Figures { windows: Some(7), last_price: Some(301.25), ..Figures::default() };
    seen.figures = Some([("MSFT".to_owned(), figures)].into());
    let status = status::of(&pipeline, &seen, now());
    assert_eq!((status.companies[0].windows, status.companies[0].queued), (Some(7), None));
    assert!(!serde_json::to_string(&status).unwrap().contains("queued"));
    pipeline.status = Some(status);
    let between = status::of(&pipeline, &all_well(), later(10));
    assert_eq!(between.companies[0].windows, Some(7));
    assert!(!status::figures_due(Some(now()), later(10)));
    assert!(status::figures_due(Some(now()), later(30)));
}

#[test]
fn each_condition_that_turns_is_one_event_and_a_failure_is_a_warning() {
    let mut pipeline = pipeline();
    let first = status::of(&pipeline, &all_well(), now());
    let at_start: Vec<String> = status::events(None, &first).into_iter().map(|event| event.reason).collect();
    assert!(at_start.contains(&"Ready".to_owned()) && at_start.contains(&"DatabaseReady".to_owned()), "{at_start:?}");
    pipeline.status = Some(first);
    let mut seen = all_well();
    seen.errors.push(Error::Foreign { kind: "Service".into(), name: "demo-edge".into() });
    let failed = status::of(&pipeline, &seen, later(5));
    let events = status::events(pipeline.status.as_ref(), &failed);
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| matches!(event.type_, EventType::Warning) && event.reason == "ForeignObject"));
}

#[test]
fn liveview_scaled_to_nothing_does_not_keep_the_pipeline_from_being_ready() {
    let mut pipeline = pipeline();
    pipeline.spec.liveview.replicas = 0;
    let mut seen = all_well();
    seen.deployments[2] = deployment("liveview", 0, 0);
    let status = status::of(&pipeline, &seen, now());
    assert_eq!(condition(&status, "LiveviewReady"), ("True", "Disabled", "none is wanted"));
    assert_eq!(condition(&status, "Ready").0, "True");
}

/// A pipeline of these companies.
fn of_companies(symbols: &[&str]) -> StockPipeline {
    let mut pipeline = pipeline();
    let companies: Vec<_> = symbols.iter().map(|symbol| json!({"symbol": symbol})).collect();
    pipeline.spec = serde_json::from_value(json!({"companies": companies})).unwrap();
    pipeline
}

/// The Deployment of a plain symbol's publisher or consumer.
fn of_company(component: &str, symbol: &str, ready: i32) -> Deployment {
    let mut deployment = deployment(component, 1, ready);
    let slug = symbol.to_lowercase();
    deployment.metadata.name = Some(format!("demo-{component}-{slug}"));
    deployment.metadata.labels.as_mut().unwrap().insert("stockpipeline.io/company".into(), slug);
    deployment
}

/// A world in which every part serves these companies.
fn all_well_for(symbols: &[&str]) -> Seen {
    let of_companies =
        symbols.iter().flat_map(|symbol| ["publisher", "consumer"].map(|part| of_company(part, symbol, 1)));
    let deployments = of_companies.chain([deployment("liveview", 2, 2), deployment("edge", 2, 2)]).collect();
    Seen { deployments, primary: Some("demo-database-0:27017".into()), ..all_well() }
}

/// Publishers and consumers have lost what they were connected to.
fn disconnect(seen: &mut Seen) {
    for deployment in &mut seen.deployments {
        if deployment.metadata.labels.as_ref().unwrap().contains_key("stockpipeline.io/company") {
            deployment.status.as_mut().unwrap().ready_replicas = Some(0);
        }
    }
}

fn pod(name: &str, labels: serde_json::Value, status: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "status": status})).unwrap()
}

/// A broker of one whose only pod no node can take.
fn without_room(seen: &mut Seen) {
    seen.stateful_sets[0] = set("broker", 1, 0);
    let condition = json!({"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-11-23T11:59:00Z",
        "message": "0/3 nodes are available: 3 Insufficient memory. preemption: 0/3 nodes are available: 3 No preemption victims found."});
    let labels = json!({"app.kubernetes.io/component": "broker"});
    seen.pods.push(pod("demo-broker-0", labels, json!({"conditions": [condition]})));
    let waiting_for = "broker http://demo-broker.markets.svc:15672 does not answer: look at its pods".to_owned();
    seen.broker = Some(System { ready: 0, waiting_for: Some(waiting_for), trouble: false });
    disconnect(seen);
}

fn waiting_for<'a>(status: &'a StockPipelineStatus, symbol: &str) -> Option<&'a str> {
    status.companies.iter().find(|company| company.symbol == symbol).unwrap().waiting_for.as_deref()
}

#[test]
fn a_company_that_flows_waits_for_nothing() {
    let symbols = ["AAPL", "MSFT"];
    let status = status::of(&of_companies(&symbols), &all_well_for(&symbols), now());
    assert_eq!((waiting_for(&status, "AAPL"), status.flowing_count), (None, Some(2)));
    assert_eq!(condition(&status, "Ready").0, "True");
}

#[test]
fn two_hundred_companies_that_wait_for_the_same_broker_say_so_and_the_conditions_stay_short() {
    let symbols: Vec<String> = (0..200).map(|number| format!("S{number}")).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let mut seen = all_well_for(&symbols);
    without_room(&mut seen);
    let status = status::of(&of_companies(&symbols), &seen, now());
    assert_eq!(
        waiting_for(&status, "S117"),
        Some(
            "broker: 0 of 1 ready; pod demo-broker-0 cannot be scheduled: 0/3 nodes are available: 3 Insufficient memory: \
             free or add a node, or lower the requests in broker.template.resources"
        )
    );
    assert_eq!(status.flowing_count, Some(0));
    let wait = "0 of 200 ready; waiting for the broker";
    assert_eq!(condition(&status, "PublishersReady"), ("False", "Waiting", wait));
    assert_eq!(condition(&status, "ConsumersReady"), ("False", "Waiting", wait));
    let ready = condition(&status, "Ready").2;
    assert!(ready.len() < 400 && ready.starts_with("broker: 0 of 1 ready; pod demo-broker-0 cannot"), "{ready}");
    let size = serde_json::to_string(&status).unwrap().len();
    assert!(size < 100_000, "{size} bytes");
}

#[test]
fn a_company_names_its_own_pod_before_what_it_shares_with_the_others() {
    let symbols = ["AAPL", "MSFT"];
    let mut seen = all_well_for(&symbols);
    without_room(&mut seen);
    let labels = json!({"app.kubernetes.io/component": "consumer", "stockpipeline.io/company": "aapl"});
    let container = json!({"name": "consumer", "image": "registry.example/workloads:2", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}});
    seen.pods.push(pod("demo-consumer-aapl-7", labels, json!({"containerStatuses": [container]})));
    let status = status::of(&of_companies(&symbols), &seen, now());
    let aapl = waiting_for(&status, "AAPL").unwrap();
    assert!(aapl.starts_with("consumer: pod demo-consumer-aapl-7 cannot pull registry.example/workloads:2"), "{aapl}");
    assert!(waiting_for(&status, "MSFT").unwrap().starts_with("broker: "));
    assert_eq!(condition(&status, "ConsumersReady").1, "PodTrouble");
}

#[test]
fn a_company_whose_child_belongs_to_someone_else_says_so() {
    let symbols = ["AAPL", "MSFT"];
    let mut seen = all_well_for(&symbols);
    seen.deployments.remove(1);
    seen.errors.push(Error::Foreign { kind: "Deployment".into(), name: "demo-consumer-aapl".into() });
    let status = status::of(&of_companies(&symbols), &seen, now());
    let aapl = waiting_for(&status, "AAPL").unwrap();
    assert!(aapl.starts_with("consumer: Deployment demo-consumer-aapl exists and does not belong"), "{aapl}");
    assert_eq!(waiting_for(&status, "MSFT"), None);
}

#[test]
fn a_company_is_not_told_to_wait_for_a_broker_that_serves_without_one_of_its_nodes() {
    let mut pipeline = of_companies(&["AAPL", "MSFT"]);
    pipeline.spec.broker.replicas = 3;
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    seen.stateful_sets[0] = set("broker", 3, 2);
    let waiting = "2 of 3 broker nodes run: look at the pod of rabbit@demo-broker-2".to_owned();
    seen.broker = Some(System { ready: 2, waiting_for: Some(waiting), trouble: false });
    seen.deployments[1] = of_company("consumer", "AAPL", 0);
    let labels = json!({"app.kubernetes.io/component": "consumer", "stockpipeline.io/company": "aapl"});
    seen.pods = vec![pod("demo-consumer-aapl-7", labels, json!({"phase": "Pending"}))];
    let status = status::of(&pipeline, &seen, now());
    let words = "pod demo-consumer-aapl-7 waits for a node";
    assert_eq!(waiting_for(&status, "AAPL"), Some(format!("consumer: {words}").as_str()));
    assert_eq!(waiting_for(&status, "MSFT"), None);
    assert_eq!(condition(&status, "ConsumersReady"), ("False", "Starting", format!("1 of 2 ready; {words}").as_str()));
    assert_eq!(condition(&status, "BrokerReady").0, "False");
}

#[test]
fn a_queue_without_a_majority_stops_its_company_alone() {
    let symbols = ["AAPL", "MSFT"];
    let mut seen = all_well_for(&symbols);
    let replicas = |online| QueueReport { members: Some(3), online: Some(online), ..QueueReport::default() };
    seen.queues = [("AAPL".to_owned(), replicas(1)), ("MSFT".to_owned(), replicas(2))].into();
    let status = status::of(&of_companies(&symbols), &seen, now());
    let words = "queue: 1 of 3 replicas online, no majority: look at the pods of the broker";
    assert_eq!((waiting_for(&status, "AAPL"), waiting_for(&status, "MSFT")), (Some(words), None));
}

/// Publishers are not ready for a moment every half minute while the broker takes nothing.
#[test]
fn a_broker_short_of_memory_stops_all_companies_and_its_publishers_do_not_flap() {
    let symbols = ["AAPL", "MSFT"];
    let mut pipeline = of_companies(&symbols);
    let mut seen = all_well_for(&symbols);
    let alarm = "broker node rabbit@demo-broker-0 is short of memory and blocks the publishers: raise its memory limit"
        .to_owned();
    seen.broker = Some(System { ready: 1, waiting_for: Some(alarm.clone()), trouble: true });
    let status = status::of(&pipeline, &seen, now());
    assert_eq!(waiting_for(&status, "AAPL"), Some(format!("broker: {alarm}").as_str()));
    assert_eq!(condition(&status, "PublishersReady"), ("False", "Waiting", "2 of 2 ready; waiting for the broker"));
    assert_eq!(condition(&status, "ConsumersReady").0, "True", "they drain the queues");
    pipeline.status = Some(status);
    seen.deployments[0] = of_company("publisher", "AAPL", 0);
    let status = status::of(&pipeline, &seen, later(30));
    let events = status::events(pipeline.status.as_ref(), &status);
    assert!(events.is_empty(), "{:?}", events.iter().map(|event| &event.note).collect::<Vec<_>>());
}

#[test]
fn without_a_primary_consumers_and_liveview_wait_for_the_database_and_publishers_do_not() {
    let symbols = ["AAPL"];
    let mut seen = all_well_for(&symbols);
    seen.primary = None;
    let waiting = "replica set demo has no primary: an election is under way".to_owned();
    seen.database = Some(System { ready: 1, waiting_for: Some(waiting), trouble: false });
    let mut status = status::of(&of_companies(&symbols), &seen, now());
    assert_eq!(waiting_for(&status, "AAPL"), None, "an election is over before a consumer gives up");
    seen.deployments[1] = of_company("consumer", "AAPL", 0);
    seen.deployments[2] = deployment("liveview", 2, 0);
    status = status::of(&of_companies(&symbols), &seen, now());
    let words = "database: replica set demo has no primary: an election is under way";
    assert_eq!(waiting_for(&status, "AAPL"), Some(words));
    assert_eq!(condition(&status, "ConsumersReady").2, "0 of 1 ready; waiting for the database");
    assert_eq!(condition(&status, "LiveviewReady").2, "0 of 2 ready; waiting for the database");
    assert_eq!(condition(&status, "PublishersReady").0, "True");
    assert_eq!(condition(&status, "Degraded").0, "False");
}

#[test]
fn pods_that_a_quota_refuses_are_no_start() {
    let mut seen = all_well_for(&["AAPL"]);
    seen.deployments[1] = of_company("consumer", "AAPL", 0);
    let refusal = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "pods \"demo-consumer-aapl-5d8-\" is forbidden: exceeded quota: compute, requested: limits.memory=96Mi"}]);
    seen.deployments[1].status.as_mut().unwrap().conditions = serde_json::from_value(refusal).unwrap();
    let status = status::of(&of_companies(&["AAPL"]), &seen, now());
    let (_, reason, message) = condition(&status, "ConsumersReady");
    assert!(reason == "PodTrouble" && message.contains("exceeded quota: compute"), "{message}");
    let aapl = waiting_for(&status, "AAPL").unwrap();
    assert!(aapl.contains("exceeded quota: compute") && aapl.contains("raise the quota"), "{aapl}");
}

#[test]
fn a_message_that_flaps_within_one_reason_is_no_further_event() {
    let mut pipeline = of_companies(&["AAPL"]);
    let mut seen = all_well_for(&["AAPL"]);
    pipeline.status = Some(status::of(&pipeline, &seen, now()));
    disconnect(&mut seen);
    let labels = json!({"app.kubernetes.io/component": "consumer", "stockpipeline.io/company": "aapl"});
    let crashing = |state: serde_json::Value, restarts: i32| {
        let container = json!({"name": "consumer", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
            "lastState": {"terminated": {"exitCode": restarts, "reason": "Error"}}});
        pod("demo-consumer-aapl-7", labels.clone(), json!({"containerStatuses": [container]}))
    };
    let mut events = 0;
    for round in 0_i32..20 {
        let state = if round % 2 == 0 {
            json!({"waiting": {"reason": "CrashLoopBackOff"}})
        } else {
            json!({"running": {"startedAt": later(i64::from(round) * 60 - 5).to_string()}})
        };
        seen.pods = vec![crashing(state, 2 + round)];
        let status = status::of(&pipeline, &seen, later(i64::from(round) * 60));
        let turned = status::events(pipeline.status.as_ref(), &status);
        events += turned.iter().filter(|event| event.action == "ConsumersReady").count();
        assert!(round == 0 || turned.is_empty(), "{:?}", turned.iter().map(|event| &event.note).collect::<Vec<_>>());
        assert!(status::changed(pipeline.status.as_ref(), &status), "the exit code is news for the condition");
        pipeline.status = Some(status);
    }
    assert_eq!(events, 1);
}

#[test]
fn what_was_not_asked_is_of_the_generation_that_was() {
    let mut pipeline = of_companies(&["AAPL"]);
    pipeline.status = Some(status::of(&pipeline, &all_well_for(&["AAPL"]), now()));
    pipeline.metadata.generation = Some(5);
    let mut seen = Seen { broker: None, database: None, ..all_well_for(&["AAPL"]) };
    seen.errors.push(Error::InvalidSpec("spec.companies is empty: name at least one company".into()));
    seen.deployments[1] = of_company("consumer", "AAPL", 0);
    let status = status::of(&pipeline, &seen, later(5));
    let generation =
        |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().observed_generation;
    assert_eq!((generation("BrokerReady"), generation("Ready")), (Some(4), Some(5)));
    let aapl = waiting_for(&status, "AAPL").unwrap();
    assert!(aapl.starts_with("consumer: "), "the broker served when it was asked: {aapl}");
}

#[test]
fn the_scale_shows_the_live_pages_pods_and_what_selects_them() {
    let scale = status::of(&pipeline(), &all_well(), now()).scale.unwrap();
    assert_eq!(scale.replicas, 2);
    assert_eq!(
        scale.selector,
        "app.kubernetes.io/component=liveview,app.kubernetes.io/instance=demo,app.kubernetes.io/name=stockpipeline"
    );
}

#[test]
fn the_newest_window_of_any_company_has_its_age_in_the_list() {
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    let at = |seconds| Figures { last_window_at: Some(later(seconds)), ..Figures::default() };
    seen.figures = Some([("AAPL".to_owned(), at(-7)), ("MSFT".to_owned(), at(-90))].into());
    let status = status::of(&of_companies(&["AAPL", "MSFT"]), &seen, now());
    assert_eq!(status.last_window_at.unwrap().0, later(-7));
}

/// A StatefulSet without its pods is on its way out, then gone, then new and not yet looked at by Kubernetes: nothing of it is worth a word.
#[test]
fn a_set_that_is_made_anew_for_larger_volumes_does_not_take_readiness_away() {
    let pods = |ready: usize| -> Vec<Pod> {
        (0..3)
            .map(|ordinal| {
                serde_json::from_value(json!({
                    "metadata": {"name": format!("demo-database-{ordinal}"), "labels": {"app.kubernetes.io/component": "database"}},
                    "status": {"conditions": [{"type": "Ready", "status": if ordinal < ready { "True" } else { "False" }}]},
                }))
                .unwrap()
            })
            .collect()
    };
    let mut leaving = set("database", 3, 3);
    leaving.metadata.generation = Some(2);
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-23T10:00:00Z")).unwrap();
    leaving.metadata.finalizers = Some(vec!["orphan".into()]);
    let mut new = set("database", 0, 0);
    new.status = serde_json::from_value(json!({"replicas": 0})).unwrap();
    for made_anew in [leaving, new] {
        let growing = Volumes {
            growing: Some("volume data-demo-database-0 from 10Gi to 20Gi grows".into()),
            ..Volumes::default()
        };
        let mut seen = Seen {
            stateful_sets: vec![set("broker", 1, 1), made_anew],
            pods: pods(3),
            volumes: BTreeMap::from([(Part::Database, growing)]),
            ..all_well()
        };
        let status = status::of(&pipeline(), &seen, now());
        assert_eq!(condition(&status, "Ready").0, "True", "{:?}", condition(&status, "Ready"));
        let words = "3 of 3 ready; volume data-demo-database-0 from 10Gi to 20Gi grows";
        assert_eq!(condition(&status, "DatabaseReady").2, words);
        seen.pods = pods(2);
        let status = status::of(&pipeline(), &seen, now());
        assert_eq!(condition(&status, "DatabaseReady").0, "False");
        assert_eq!(status.parts.database.ready.as_deref(), Some("2/3"));
    }
}

fn paused(seen: &Seen) -> StockPipelineStatus {
    let mut pipeline = of_companies(&["AAPL", "MSFT"]);
    pipeline.spec.paused = true;
    status::of(&pipeline, seen, now())
}

fn left(left: &[(&str, i64)]) -> std::collections::BTreeMap<String, i64> {
    left.iter().map(|(symbol, left)| ((*symbol).to_owned(), *left)).collect()
}

#[test]
fn a_pipeline_that_is_being_paused_says_what_is_left_of_which_company_until_nothing_is() {
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    seen.left = left(&[("MSFT", 0)]);
    let status = paused(&seen);
    let words = "1 of 2 companies are drained; AAPL: not yet certain what is left";
    assert_eq!(condition(&status, "Paused"), ("False", "Draining", words));
    assert_eq!((status.companies[0].left, status.companies[1].left), (None, Some(0)), "an unknown figure is absent");
    assert_eq!(waiting_for(&status, "AAPL"), Some("paused: its queue is being drained"));
    seen.left = left(&[("MSFT", 0), ("AAPL", 500)]);
    assert_eq!(condition(&paused(&seen), "Paused").2, "1 of 2 companies are drained; AAPL: 500 events left");
    seen.left = left(&[("MSFT", 0), ("AAPL", 0)]);
    let status = paused(&seen);
    assert_eq!((condition(&status, "Paused").0, condition(&status, "Paused").1), ("True", "Paused"));
    assert_eq!(condition(&status, "Ready").0, "True");
    assert_eq!((status.flowing_count, waiting_for(&status, "AAPL")), (Some(0), Some("paused: spec.paused is true")));
    let unpaused = status::of(&of_companies(&["AAPL", "MSFT"]), &all_well_for(&["AAPL", "MSFT"]), now());
    assert!(unpaused.conditions.iter().all(|condition| condition.type_ != "Paused"));
}

#[test]
fn a_pipeline_whose_publishers_are_still_stopping_is_not_paused_whatever_the_queues_say() {
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    seen.left = left(&[("MSFT", 0), ("AAPL", 0)]);
    let labels = json!({"app.kubernetes.io/component": "publisher", "stockpipeline.io/company": "aapl"});
    seen.pods = vec![pod("demo-publisher-aapl-7", labels, json!({"phase": "Running"}))];
    assert_eq!(condition(&paused(&seen), "Paused"), ("False", "Draining", "1 publishers are stopping"));
}

#[test]
fn who_publishes_beside_us_to_a_queue_that_is_to_run_empty_is_told() {
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    seen.left = left(&[("MSFT", 0)]);
    seen.queues = [(
        "AAPL".to_owned(),
        QueueReport { queue_type: Some("quorum".into()), published: true, ..QueueReport::default() },
    )]
    .into();
    let status = paused(&seen);
    let message = condition(&status, "Paused").2;
    assert!(
        message.contains("AAPL: not yet certain what is left: another program publishes to its queue"),
        "{message}"
    );
}

#[test]
fn a_failed_pass_has_no_news_of_what_is_left() {
    let mut pipeline = of_companies(&["AAPL", "MSFT"]);
    pipeline.spec.paused = true;
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    seen.left = left(&[("MSFT", 0), ("AAPL", 0)]);
    pipeline.status = Some(status::of(&pipeline, &seen, now()));
    let nothing = Seen { broker: None, database: None, left: Default::default(), ..seen };
    let status = status::of(&pipeline, &nothing, later(10));
    assert_eq!(condition(&status, "Paused").0, "True");
    assert_eq!(status.companies[0].left, Some(0));
}

#[test]
fn a_removed_company_that_is_being_drained_is_told_of_and_counts_for_nothing_else() {
    let mut seen = all_well_for(&["AAPL", "MSFT"]);
    let pipeline = of_companies(&["MSFT"]);
    let company = operator::plan::Company::new(&pipeline.spec, &operator::crd::Company::named("AAPL"));
    seen.leaving = vec![Leaving { company, step: Step::Drain }];
    seen.left = left(&[("AAPL", 7)]);
    seen.deployments[3] = of_company("consumer", "MSFT", 0);
    let status = status::of(&pipeline, &seen, now());
    let aapl = status.companies.iter().find(|company| company.symbol == "AAPL").unwrap();
    assert_eq!((aapl.leaving, aapl.left), (Some(OnRemove::Drain), Some(7)));
    assert_eq!(aapl.waiting_for.as_deref(), Some("removed: its consumer goes on until every event is stored"));
    assert_eq!(status.company_count, Some(1));
    assert_eq!(
        status.parts.consumers.ready.as_deref(),
        Some("0/1"),
        "one that leaves makes up for none that is wanted"
    );
}
