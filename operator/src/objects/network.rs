//! Network policies, one for each part: who reaches it, and what it reaches.
//! Rule: a way is open because a line here says who needs it; all others are closed. The kubelet's probes always pass.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wire::env;

use super::{Objects, broker, database, edge};
use crate::names::{self, Part};
use crate::plan::Plan;

/// Where names are looked up: the usual port, and the one that OpenShift's name servers listen on behind it.
const NAME_SERVERS: [u16; 2] = [53, 5353];

/// A way: whom it joins to a part, `None` for anybody, and on which ports; without one on all.
type Way = (Option<Vec<NetworkPolicyPeer>>, Vec<u16>);

/// Adds the policies.
pub(super) fn build(plan: &Plan, objects: &mut Objects) {
    let policy = &plan.network_policy;
    if !policy.enabled {
        return;
    }
    let part = |part| pods(names::selector(&plan.name, part));
    let brokers = || Some(vec![of_broker(plan)]);
    let clients = |parts: &[Part]| {
        let own = parts.iter().map(|of| part(*of)).chain([pods(names::client_of(&plan.name))]);
        Some(own.chain(policy.clients_from.iter().cloned()).collect())
    };
    let operator = || Some(vec![operator(plan)]);
    let metrics_of = |ports| (Some(policy.metrics_from.clone()), ports);
    let metrics = |port| metrics_of(vec![port]);
    let to = |of, port| (Some(vec![part(of)]), vec![port]);
    // Where somebody else's is, and on which port, only the Secret says.
    let anywhere = || (None, Vec::new());
    let to_broker =
        || plan.broker.external.as_ref().map_or_else(|| to(Part::Broker, broker::amqp(plan).1), |_| anywhere());
    let to_database =
        || plan.database.external.as_ref().map_or_else(|| to(Part::Database, database::PORT), |_| anywhere());

    let mut add = |of: Part, selector: LabelSelector, ingress: Vec<Way>, egress: Vec<Way>| {
        objects.network_policies.push(NetworkPolicy {
            metadata: super::metadata(plan, names::part(&plan.name, of), &names::selector(&plan.name, of)),
            spec: Some(spec(selector, ingress, egress)),
        });
    };
    let all = |of| super::label_selector(&names::selector(&plan.name, of));

    if plan.broker.external.is_none() {
        let peers = broker::PEERS.to_vec();
        let ingress = vec![
            (clients(&[Part::Publisher, Part::Consumer]), vec![broker::amqp(plan).1]),
            (operator(), vec![broker::management(plan).1]),
            (brokers(), peers.clone()),
            metrics(broker::METRICS),
        ];
        add(Part::Broker, broker_selector(plan), ingress, vec![(brokers(), peers)]);
    }
    if plan.database.external.is_none() {
        let peers = to(Part::Database, database::PORT);
        let users = (clients(&[Part::Consumer, Part::Liveview]), vec![database::PORT]);
        let operator = (operator(), vec![database::PORT]);
        add(Part::Database, all(Part::Database), vec![users, operator, peers.clone()], vec![peers]);
    }

    let programs = env::default::METRICS_PORT;
    add(Part::Publisher, all(Part::Publisher), vec![metrics(programs)], vec![to_broker()]);

    add(Part::Consumer, all(Part::Consumer), vec![metrics(programs)], vec![to_broker(), to_database()]);

    // Where an ingress controller or a Gateway runs is not known here, nor who calls the Service that leads to the page itself.
    let ingress = match plan.edge_way.page_is_public {
        true => vec![(None, vec![env::default::PORT])],
        false => vec![to(Part::Edge, env::default::PORT), metrics(env::default::PORT)],
    };
    add(Part::Liveview, all(Part::Liveview), ingress, vec![to_database()]);

    if plan.edge_way.nginx {
        let ingress = vec![(None, edge::public_ports(plan)), metrics_of(edge::METRICS.to_vec())];
        add(Part::Edge, all(Part::Edge), ingress, vec![to(Part::Liveview, env::default::PORT)]);
    }
}

fn spec(selector: LabelSelector, ingress: Vec<Way>, egress: Vec<Way>) -> NetworkPolicySpec {
    // A list without peers would let everybody in.
    let leads_somewhere = |(peers, _): &Way| peers.as_ref().is_none_or(|peers| !peers.is_empty());
    // Name servers anywhere: a cache on the node has an address that no selector matches.
    let names = NAME_SERVERS.iter().flat_map(|number| [port("UDP", *number), port("TCP", *number)]).collect();
    let look_up = NetworkPolicyEgressRule { to: None, ports: Some(names) };
    let egress = egress.into_iter().filter(leads_somewhere);
    let egress = egress.map(|(to, ports)| NetworkPolicyEgressRule { to, ports: tcp(&ports) });
    NetworkPolicySpec {
        pod_selector: Some(selector),
        policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
        ingress: Some(
            ingress
                .into_iter()
                .filter(leads_somewhere)
                .map(|(from, ports)| NetworkPolicyIngressRule { from, ports: tcp(&ports) })
                .collect(),
        ),
        egress: Some([look_up].into_iter().chain(egress).collect()),
    }
}

fn tcp(ports: &[u16]) -> Option<Vec<NetworkPolicyPort>> {
    Some(ports.iter().map(|number| port("TCP", *number)).collect()).filter(|ports: &Vec<_>| !ports.is_empty())
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(i32::from(number))),
        end_port: None,
    }
}

/// Pods of the pipeline's namespace.
fn pods(labels: BTreeMap<String, String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(super::label_selector(&labels)), ..NetworkPolicyPeer::default() }
}

/// The operator's pods: those of its name, in its namespace.
fn operator(plan: &Plan) -> NetworkPolicyPeer {
    let labels = |label: &str, value: &str| super::label_selector(&BTreeMap::from([(label.into(), value.into())]));
    NetworkPolicyPeer {
        namespace_selector: Some(labels("kubernetes.io/metadata.name", &plan.operator_namespace)),
        pod_selector: Some(labels(names::NAME, names::MANAGER)),
        ..NetworkPolicyPeer::default()
    }
}

/// The broker's nodes, and what takes one of them out of the cluster.
fn broker_selector(plan: &Plan) -> LabelSelector {
    names::components_selector(&plan.name, &[Part::Broker.name(), names::BROKER_LEAVE])
}

fn of_broker(plan: &Plan) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(broker_selector(plan)), ..NetworkPolicyPeer::default() }
}
