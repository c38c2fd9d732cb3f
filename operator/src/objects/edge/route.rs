//! Mode Gateway: an HTTPRoute to the page on a Gateway that is there already.
//! Rule: only what every conforming implementation must support; Gateways and their classes are the administrator's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::http_route::{BackendRef, HTTPRoute, HttpRouteSpec, Match, ParentRef, PathMatch, Rule};
use crate::names::{self, Part};
use crate::plan::Plan;

/// None without a Gateway to attach to, which the schema refuses.
pub(super) fn build(plan: &Plan) -> Option<HTTPRoute> {
    let wish = plan.edge.gateway.as_ref()?;
    let selector = names::selector(&plan.name, Part::Edge);
    let metadata: ObjectMeta = super::super::metadata(plan, names::part(&plan.name, Part::Edge), &selector);
    let parent = &wish.parent_ref;
    let spec = HttpRouteSpec {
        parent_refs: vec![ParentRef {
            name: parent.name.clone(),
            namespace: parent.namespace.clone(),
            section_name: parent.section_name.clone(),
        }],
        hostnames: wish.hostnames.clone(),
        rules: vec![Rule {
            matches: vec![Match { path: Some(PathMatch { type_: "PathPrefix".into(), value: "/".into() }) }],
            backend_refs: vec![BackendRef { name: names::page(&plan.name), port: Some(80) }],
        }],
    };
    Some(HTTPRoute { metadata, spec, status: None })
}
