//! What a status says of what was seen, and which events follow; pure.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use operator::crd::{StockPipeline, StockPipelineStatus};
use operator::error::Error;
use operator::status::{self, Figures, Seen, System};
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
    assert_eq!(condition(&status, "EdgeReady"), ("False", "Starting", "1 of 2 ready, the others are starting"));
    assert_eq!(condition(&status, "DatabaseReady").0, "False");
    assert_eq!(condition(&status, "Ready").0, "False");
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
    seen.errors.push(Error::IncompleteSecret { name: "demo-broker-credentials".into(), key: "password" });
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
