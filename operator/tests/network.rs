//! Who reaches whom, by the policies as they are built and by the rules of Kubernetes (NetworkPolicy, networking.k8s.io/v1).
//! Rule: each way of a running pipeline is open, and every other one is closed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use operator::crd::StockPipeline;
use operator::credentials::Credentials;
use operator::names::{self, Part};
use operator::objects;
use operator::plan::{Images, Plan};
use serde_json::{Value, json};

const NAMESPACE: &str = "markets";

/// A pod, or what is outside of the cluster when it has no labels.
struct Place {
    namespace: &'static str,
    labels: BTreeMap<String, String>,
}

fn place(namespace: &'static str, labels: &[(&str, &str)]) -> Place {
    Place { namespace, labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect() }
}

fn of(part: Part) -> Place {
    Place { namespace: NAMESPACE, labels: names::labels(&names::company_selector("demo", part, "msft")) }
}

fn places() -> BTreeMap<&'static str, Place> {
    BTreeMap::from([
        ("broker", of(Part::Broker)),
        ("broker-leave", Place { namespace: NAMESPACE, labels: names::broker_leave_selector("demo") }),
        ("database", of(Part::Database)),
        ("publisher", of(Part::Publisher)),
        ("consumer", of(Part::Consumer)),
        ("liveview", of(Part::Liveview)),
        ("edge", of(Part::Edge)),
        ("operator", place("stockpipeline", &[(names::NAME, names::MANAGER)])),
        ("impostor", place("elsewhere", &[(names::NAME, names::MANAGER)])),
        ("verify", place(NAMESPACE, &[("stockpipeline.io/client-of", "demo")])),
        ("client-of-another", place(NAMESPACE, &[("stockpipeline.io/client-of", "other")])),
        ("prometheus", place("monitoring", &[])),
        ("neighbour", place(NAMESPACE, &[("app", "shop")])),
        ("research", place("research", &[])),
        ("browser", place("", &[])),
    ])
}

fn policies(more: Value) -> Vec<NetworkPolicy> {
    let mut spec = json!({"companies": [{"symbol": "MSFT"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let pipeline: StockPipeline = serde_json::from_value(json!({
        "apiVersion": "stockpipeline.io/v1alpha1", "kind": "StockPipeline",
        "metadata": {"name": "demo", "namespace": NAMESPACE, "uid": "u"}, "spec": spec,
    }))
    .unwrap();
    let word = || "x".to_owned();
    let images = Images { workloads: word(), broker: word(), database: word(), edge: word(), pull_policy: None };
    let mut plan = Plan::new(&pipeline, &images, Credentials::generate(None)).unwrap();
    plan.operator_namespace = "stockpipeline".into();
    objects::build(&plan).network_policies
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let all = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    all && selector.match_expressions.iter().flatten().all(|expression| {
        assert_eq!(expression.operator, "In");
        labels.get(&expression.key).is_some_and(|value| expression.values.as_ref().unwrap().contains(value))
    })
}

fn is_one_of(peers: Option<&Vec<NetworkPolicyPeer>>, place: &Place) -> bool {
    // None and an empty list both mean anybody.
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return true };
    let namespace = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), place.namespace.to_owned())]);
    peers.iter().any(|peer| {
        let here = match &peer.namespace_selector {
            Some(selector) => selects(selector, &namespace),
            None => place.namespace == NAMESPACE,
        };
        here && !place.namespace.is_empty()
            && peer.pod_selector.as_ref().is_none_or(|pods| selects(pods, &place.labels))
    })
}

fn has(ports: Option<&Vec<NetworkPolicyPort>>, protocol: &str, number: i32) -> bool {
    ports.is_none_or(|ports| {
        ports
            .iter()
            .any(|port| port.protocol.as_deref() == Some(protocol) && port.port == Some(IntOrString::Int(number)))
    })
}

/// Whether the policies let a connection pass: what selects the one end must let it out, and what selects the other must let it in.
fn passes(policies: &[NetworkPolicy], from: &Place, to: &Place, (protocol, port): (&str, i32)) -> bool {
    let of = |place: &Place, direction: &str| -> Vec<&NetworkPolicy> {
        let is_about = |policy: &&NetworkPolicy| {
            let spec = policy.spec.as_ref().unwrap();
            place.namespace == NAMESPACE
                && policy.metadata.namespace.as_deref() == Some(NAMESPACE)
                && spec.policy_types.as_ref().unwrap().iter().any(|type_| type_ == direction)
                && selects(spec.pod_selector.as_ref().unwrap(), &place.labels)
        };
        policies.iter().filter(is_about).collect()
    };
    let (out, into) = (of(from, "Egress"), of(to, "Ingress"));
    let lets_out = out.is_empty()
        || out
            .iter()
            .flat_map(|policy| policy.spec.as_ref().unwrap().egress.iter().flatten())
            .any(|rule| is_one_of(rule.to.as_ref(), to) && has(rule.ports.as_ref(), protocol, port));
    let lets_in = into.is_empty()
        || into
            .iter()
            .flat_map(|policy| policy.spec.as_ref().unwrap().ingress.iter().flatten())
            .any(|rule| is_one_of(rule.from.as_ref(), from) && has(rule.ports.as_ref(), protocol, port));
    lets_out && lets_in
}

/// All open ways from any place to a part of the pipeline, on any port that one of its programs listens on.
fn open(policies: &[NetworkPolicy]) -> BTreeSet<String> {
    let (places, mut open) = (places(), BTreeSet::new());
    for (to, target) in places.iter().filter(|(name, _)| Part::ALL.iter().any(|part| part.name() == **name)) {
        for (from, source) in &places {
            for port in [4369, 25672, 5672, 15672, 15692, 27017, 9090, 3000, 8080, 8081, 8082, 8443, 22] {
                if passes(policies, source, target, ("TCP", port)) {
                    open.insert(format!("{from} → {to} {port}"));
                }
            }
        }
    }
    open
}

fn ways(lines: &str) -> BTreeSet<String> {
    lines.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

const OPEN: &str = "
    publisher → broker 5672
    consumer → broker 5672
    verify → broker 5672
    operator → broker 15672
    prometheus → broker 15692
    broker → broker 4369
    broker → broker 25672
    broker-leave → broker 4369
    broker-leave → broker 25672
    consumer → database 27017
    liveview → database 27017
    verify → database 27017
    operator → database 27017
    database → database 27017
    prometheus → publisher 9090
    prometheus → consumer 9090
    prometheus → liveview 3000
    edge → liveview 3000
    prometheus → edge 8081
    prometheus → edge 8082
    prometheus → edge 8080
    operator → edge 8080
    impostor → edge 8080
    verify → edge 8080
    client-of-another → edge 8080
    neighbour → edge 8080
    research → edge 8080
    browser → edge 8080
";

#[test]
fn the_ways_a_pipeline_needs_are_open_and_all_others_are_closed() {
    assert_eq!(open(&policies(json!({}))), ways(OPEN));
}

#[test]
fn every_part_can_look_up_names_and_nothing_else_outside() {
    let (policies, places) = (policies(json!({})), places());
    for part in Part::ALL.map(Part::name).iter().chain(&["broker-leave"]) {
        for protocol in ["UDP", "TCP"] {
            assert!(passes(&policies, &places[part], &places["browser"], (protocol, 53)), "{part} {protocol}");
        }
        for port in [80, 443, 6443] {
            assert!(!passes(&policies, &places[part], &places["browser"], ("TCP", port)), "{part} {port}");
        }
    }
}

#[test]
fn clients_elsewhere_are_let_in_where_the_resource_names_them_and_metrics_can_be_closed() {
    let research = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "research"}}}]);
    let open = open(&policies(json!({"networkPolicy": {"clientsFrom": research, "metricsFrom": []}})));
    let mut wanted = ways(OPEN);
    wanted.retain(|way| !way.starts_with("prometheus") || way.ends_with("edge 8080"));
    wanted.extend(["research → broker 5672".into(), "research → database 27017".into()]);
    assert_eq!(open, wanted);
}

#[test]
fn what_somebody_else_runs_can_be_reached_wherever_it_is_by_those_that_use_it() {
    let external = json!({"broker": {"external": {"secret": "rabbit"}}, "database": {"external": {"secret": "mongo"}}});
    let (policies, places) = (policies(external), places());
    assert_eq!(policies.len(), 4);
    for (part, reaches) in [("publisher", true), ("consumer", true), ("liveview", true), ("edge", false)] {
        assert_eq!(passes(&policies, &places[part], &places["browser"], ("TCP", 5671)), reaches, "{part}");
    }
}

#[test]
fn the_page_is_anybodys_in_the_modes_without_nginx_and_https_with_a_certificate() {
    let (places, tls) = (places(), policies(json!({"edge": {"tls": {"secretName": "x"}}})));
    let gateway = json!({"mode": "Gateway", "gateway": {"parentRef": {"name": "public"}}});
    for edge in [json!({"mode": "None"}), json!({"mode": "Ingress"}), gateway] {
        let policies = policies(json!({"edge": edge}));
        assert!(passes(&policies, &places["browser"], &places["liveview"], ("TCP", 3000)), "{edge}");
    }
    assert!(!passes(&tls, &places["browser"], &places["liveview"], ("TCP", 3000)));
    for (port, is_open) in [(8080, true), (8443, true), (8081, false), (8082, false)] {
        assert_eq!(passes(&tls, &places["browser"], &places["edge"], ("TCP", port)), is_open, "{port}");
    }
}

#[test]
fn without_policies_there_is_none() {
    assert_eq!(policies(json!({"networkPolicy": {"enabled": false}})), Vec::new());
}
