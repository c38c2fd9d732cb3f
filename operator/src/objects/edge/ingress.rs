//! Mode Ingress: a standard Ingress in front of the page, for the cluster's controller.
//! Rule: nothing of one controller is needed; F5's NGINX reads annotations that others ignore, and the user's replace them.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};

use crate::names::{self, Part};
use crate::plan::Plan;

pub(super) fn build(plan: &Plan) -> Ingress {
    let wish = plan.edge.ingress.clone().unwrap_or_default();
    let page = names::page(&plan.name);
    let selector = names::selector(&plan.name, Part::Edge);
    let mut metadata = super::super::metadata(plan, names::part(&plan.name, Part::Edge), &selector);
    let mut annotations = nginx_annotations(&page);
    annotations.extend(wish.annotations);
    metadata.annotations = Some(annotations);
    let port = ServiceBackendPort { name: Some("http".into()), number: None };
    let backend =
        IngressBackend { service: Some(IngressServiceBackend { name: page, port: Some(port) }), resource: None };
    let rule = IngressRule {
        host: wish.host.clone(),
        http: Some(HTTPIngressRuleValue {
            paths: vec![HTTPIngressPath { backend, path: Some("/".into()), path_type: "Prefix".into() }],
        }),
    };
    let tls = wish
        .tls
        .map(|tls| vec![IngressTLS { hosts: wish.host.map(|host| vec![host]), secret_name: Some(tls.secret_name) }]);
    Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: wish.class_name,
            rules: Some(vec![rule]),
            tls,
            ..IngressSpec::default()
        }),
        status: None,
    }
}

/// What F5's NGINX Ingress Controller needs for sockets and event streams (nginx/kubernetes-ingress, "Advanced configuration with
/// annotations"). Liveview says something at least every 20 s.
fn nginx_annotations(page: &str) -> BTreeMap<String, String> {
    [
        ("nginx.org/websocket-services", page),
        ("nginx.org/proxy-buffering", "False"),
        ("nginx.org/proxy-connect-timeout", "2s"),
        ("nginx.org/proxy-read-timeout", "60s"),
        ("nginx.org/proxy-send-timeout", "60s"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}
