//! How far the edge is: which way in serves while its mode changes, and whether an Ingress or a route is accepted; pure.
//! Rule: what served before is taken away only when the new way serves.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::crd::{Edge, EdgeMode};
use crate::http_route::HTTPRoute;
use crate::names::{self, Part};

/// What the watches have of one pipeline's edge.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// NGINX.
    pub nginx: Option<Deployment>,
    /// The Service of the edge.
    pub service: Option<Service>,
    /// The Ingress.
    pub ingress: Option<Ingress>,
    /// The route.
    pub route: Option<HTTPRoute>,
    /// The cluster knows the kind HTTPRoute.
    pub routes_are_served: bool,
}

/// Whose pods the edge's Service names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behind {
    /// NGINX's.
    #[default]
    Nginx,
    /// Liveview's.
    Liveview,
}

/// What there is to be of the edge now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// NGINX runs.
    pub nginx: bool,
    /// What the Service leads to.
    pub behind: Behind,
    /// What the mode wants serves. Until it does, what an earlier mode wanted stays.
    pub serves: bool,
    /// Who comes to the page's pods is not known: they are reached past NGINX, or were until this pass.
    pub page_is_public: bool,
    /// An HTTPRoute can be made.
    pub routes_are_served: bool,
}

impl Way {
    /// From the wish and what is there.
    pub fn new(edge: &Edge, found: &Found) -> Self {
        let serves = match edge.mode {
            EdgeMode::Nginx => edge.replicas == 0 || found.nginx.as_ref().is_some_and(is_serving),
            EdgeMode::Ingress | EdgeMode::Gateway => acceptance(edge, found).is_accepted(),
            EdgeMode::None => true,
        };
        let (nginx, behind) = match edge.mode {
            EdgeMode::Nginx if !serves && found.leads_to_liveview() => (true, Behind::Liveview),
            EdgeMode::Nginx => (true, Behind::Nginx),
            EdgeMode::Ingress | EdgeMode::Gateway if !serves && found.leads_to_nginx() => (true, Behind::Nginx),
            EdgeMode::Ingress | EdgeMode::Gateway | EdgeMode::None => (false, Behind::Liveview),
        };
        // The pods stay open until the watches have seen that nothing leads past NGINX any more: nodes hear of it later than of a policy.
        let page_is_public = behind == Behind::Liveview
            || matches!(edge.mode, EdgeMode::Ingress | EdgeMode::Gateway)
            || found.leads_to_liveview()
            || found.ingress.is_some()
            || found.route.is_some();
        Self { nginx, behind, serves, page_is_public, routes_are_served: found.routes_are_served }
    }
}

impl Found {
    fn leads_to(&self, part: Part) -> bool {
        let selector = self.service.as_ref().and_then(|service| service.spec.as_ref()?.selector.as_ref());
        selector.and_then(|selector| selector.get(names::COMPONENT)).map(String::as_str) == Some(part.name())
    }

    fn leads_to_liveview(&self) -> bool {
        self.leads_to(Part::Liveview)
    }

    fn leads_to_nginx(&self) -> bool {
        self.nginx.is_some() && self.leads_to(Part::Edge)
    }
}

fn is_serving(nginx: &Deployment) -> bool {
    nginx.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0) > 0
}

/// What a controller of somebody else made of our Ingress or route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It serves; where or by whom.
    Accepted(String),
    /// Nobody has said anything yet; what to look at if it stays so.
    Open(String),
    /// It does not serve; why, and what to do.
    Refused(String),
}

impl Acceptance {
    /// Whether it serves.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }
}

/// Of the mode's object; modes without one are their own.
pub fn acceptance(edge: &Edge, found: &Found) -> Acceptance {
    match edge.mode {
        EdgeMode::Nginx | EdgeMode::None => Acceptance::Accepted(String::new()),
        EdgeMode::Ingress => of_ingress(found.ingress.as_ref()),
        EdgeMode::Gateway if !found.routes_are_served => Acceptance::Refused(
            "this cluster does not know gateway.networking.k8s.io/v1 HTTPRoute: install the Gateway API's definitions and a controller for \
             them, or choose another edge.mode"
                .into(),
        ),
        EdgeMode::Gateway => of_route(found.route.as_ref()),
    }
}

fn of_ingress(ingress: Option<&Ingress>) -> Acceptance {
    let Some(ingress) = ingress else { return Acceptance::Open("the Ingress is being made".into()) };
    let addresses =
        ingress.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    let addresses: Vec<&str> = addresses.filter_map(|one| one.hostname.as_deref().or(one.ip.as_deref())).collect();
    if !addresses.is_empty() {
        return Acceptance::Accepted(format!("served at {}", addresses.join(", ")));
    }
    let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let class = class.map_or_else(|| "the cluster's default class".into(), |class| format!("class {class}"));
    Acceptance::Open(format!(
        "ingress {} has no address: the controller of {class} has to take it and report one; `kubectl get ingressclass` names the classes \
         there are, and a controller may have to be told to report (F5's NGINX: reportIngressStatus)",
        ingress.name_any()
    ))
}

fn of_route(route: Option<&HTTPRoute>) -> Acceptance {
    let Some(route) = route else { return Acceptance::Open("the HTTPRoute is being made".into()) };
    let name = route.name_any();
    let gateway = route.spec.parent_refs.first().map_or_else(String::new, |parent| match &parent.namespace {
        Some(namespace) => format!("{namespace}/{}", parent.name),
        None => parent.name.clone(),
    });
    // Each says of which generation it speaks.
    let current = |condition: &&Condition| condition.observed_generation >= route.metadata.generation;
    let parents = route.status.iter().flat_map(|status| &status.parents);
    let conditions: Vec<Vec<&Condition>> =
        parents.map(|parent| parent.conditions.iter().filter(current).collect()).collect();
    let holds = |conditions: &[&Condition], type_: &str| {
        conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let accepted = |conditions: &&Vec<&Condition>| holds(conditions, "Accepted") && holds(conditions, "ResolvedRefs");
    if conditions.iter().find(accepted).is_some() {
        return Acceptance::Accepted(format!("gateway {gateway} accepted the route"));
    }
    let refusal = conditions.iter().flatten().find(|condition| {
        ["Accepted", "ResolvedRefs"].contains(&condition.type_.as_str()) && condition.status == "False"
    });
    match refusal {
        Some(why) => Acceptance::Refused(format!(
            "gateway {gateway} does not serve HTTPRoute {name}: {} is False, {}: {}: correct edge.gateway, or the Gateway's listeners",
            why.type_, why.reason, why.message
        )),
        None => Acceptance::Open(format!(
            "no controller has said anything of HTTPRoute {name}: Gateway {gateway} has to exist, and its controller to run"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edge(mode: &str) -> Edge {
        serde_json::from_value(json!({"mode": mode, "gateway": {"parentRef": {"name": "public"}}})).unwrap()
    }

    /// NGINX with that many ready pods, and a Service that leads to a part.
    fn found(ready: Option<i32>, behind: Part) -> Found {
        let selector = json!({names::COMPONENT: behind.name()});
        Found {
            nginx: ready.map(|ready| serde_json::from_value(json!({"status": {"readyReplicas": ready}})).unwrap()),
            service: Some(serde_json::from_value(json!({"spec": {"selector": selector}})).unwrap()),
            ingress: None,
            route: None,
            routes_are_served: true,
        }
    }

    fn ingress(addresses: serde_json::Value) -> Option<Ingress> {
        let ingress = json!({"metadata": {"name": "demo-edge"}, "spec": {"ingressClassName": "nginx"},
            "status": {"loadBalancer": {"ingress": addresses}}});
        Some(serde_json::from_value(ingress).unwrap())
    }

    fn route(generation: i64, accepted: &str, resolved: &str) -> Option<HTTPRoute> {
        let condition = |type_: &str, status: &str| {
            json!({"type": type_, "status": status, "reason": "NotAllowedByListeners", "message": "no", "observedGeneration": generation,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "demo-edge", "generation": 2},
            "spec": {"parentRefs": [{"name": "public", "namespace": "gateways"}], "rules": []},
            "status": {"parents": [{"parentRef": {"name": "public"}, "controllerName": "example.com/gateway",
                "conditions": [condition("Accepted", accepted), condition("ResolvedRefs", resolved)]}]},
        });
        Some(serde_json::from_value(route).unwrap())
    }

    #[test]
    fn a_new_pipeline_leads_to_nginx_from_the_start() {
        let way = Way::new(&edge("Nginx"), &Found::default());
        assert_eq!((way.nginx, way.behind), (true, Behind::Nginx));
    }

    #[test]
    fn the_page_itself_is_reached_until_nginx_serves() {
        let before = Way::new(&edge("Nginx"), &found(Some(0), Part::Liveview));
        assert_eq!((before.nginx, before.behind, before.serves), (true, Behind::Liveview, false));
        let after = Way::new(&edge("Nginx"), &found(Some(1), Part::Liveview));
        assert_eq!((after.nginx, after.behind, after.serves), (true, Behind::Nginx, true));
    }

    #[test]
    fn the_page_closes_only_after_nothing_leads_past_nginx() {
        let public = |found: &Found| Way::new(&edge("Nginx"), found).page_is_public;
        assert!(public(&found(Some(1), Part::Liveview)), "the pass in which the Service moves to NGINX");
        let mut moved = found(Some(1), Part::Edge);
        moved.ingress = ingress(json!([{"ip": "192.0.2.1"}]));
        assert!(public(&moved), "the Ingress is still there");
        moved.ingress = None;
        assert!(!public(&moved));
        assert!(Way::new(&edge("Ingress"), &moved).page_is_public);
    }

    #[test]
    fn nginx_serves_until_the_ingress_has_an_address() {
        let mut found = found(Some(2), Part::Edge);
        found.ingress = ingress(json!([]));
        let before = Way::new(&edge("Ingress"), &found);
        assert_eq!((before.nginx, before.behind, before.serves), (true, Behind::Nginx, false));
        found.ingress = ingress(json!([{"ip": "192.0.2.1"}]));
        let after = Way::new(&edge("Ingress"), &found);
        assert_eq!((after.nginx, after.behind, after.serves), (false, Behind::Liveview, true));
    }

    #[test]
    fn the_service_alone_needs_nothing_in_front() {
        let way = Way::new(&edge("None"), &found(Some(2), Part::Edge));
        assert_eq!((way.nginx, way.behind, way.serves), (false, Behind::Liveview, true));
    }

    #[test]
    fn a_route_is_accepted_when_its_gateway_says_both_of_its_present_generation() {
        let mut found = found(None, Part::Liveview);
        let mut says = |route: Option<HTTPRoute>| {
            found.route = route;
            acceptance(&edge("Gateway"), &found)
        };
        assert!(says(route(2, "True", "True")).is_accepted());
        assert!(matches!(says(route(1, "True", "True")), Acceptance::Open(_)), "it speaks of an older route");
        assert!(
            matches!(says(route(2, "True", "False")), Acceptance::Refused(text) if text.contains("ResolvedRefs is False"))
        );
        let refused = says(route(2, "False", "True"));
        assert!(
            matches!(refused, Acceptance::Refused(text) if text.contains("gateway gateways/public") && text.contains("NotAllowedByListeners"))
        );
        assert!(matches!(says(None), Acceptance::Open(_)));
    }

    #[test]
    fn a_cluster_without_the_gateway_api_is_told_what_to_install() {
        let found = Found::default();
        assert!(
            matches!(acceptance(&edge("Gateway"), &found), Acceptance::Refused(text) if text.contains("install the Gateway API"))
        );
    }
}
