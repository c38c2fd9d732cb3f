//! The way in from outside against a real API server, with the Gateway API's own definitions; a controller's part is played here.
//! Rule: alone in its program, for those definitions are the whole cluster's; they are gone when the test has ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use operator::crd::StockPipeline;
use operator::http_route::HTTPRoute;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[path = "servers/kubernetes.rs"]
mod kubernetes;

const DEFINITION: &str = "httproutes.gateway.networking.k8s.io";

/// Waits for a condition; gives up with its name.
async fn until<T, F: Future<Output = Option<T>>>(condition: &str, look: impl FnMut() -> F) -> T {
    kubernetes::until(Duration::from_secs(90), condition, look).await
}

struct World {
    client: Client,
    namespace: String,
}

impl World {
    async fn new() -> Self {
        let client = kubernetes::client().await;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        // What an earlier run left.
        drop(definitions.delete(DEFINITION, &DeleteParams::default()).await);
        until("the kind is unknown", || async {
            definitions.get_opt(DEFINITION).await.unwrap().is_none().then_some(())
        })
        .await;
        kubernetes::define(&client, Duration::from_secs(30)).await;
        let namespace = kubernetes::namespace(&client, "edge-").await;
        Self { client, namespace }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn edge(&self, edge: Value) {
        let change = json!({"spec": {"edge": edge}});
        self.api::<StockPipeline>().patch("demo", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    }

    /// Waits until the condition of the edge has a reason, and gives its message.
    async fn says(&self, reason: &str, words: &str) -> String {
        until(&format!("EdgeReady says {reason}: {words}"), || async {
            let pipeline = self.api::<StockPipeline>().get("demo").await.unwrap();
            let status = pipeline.status?;
            let current = status.observed_generation == pipeline.metadata.generation;
            let edge: Condition = status.conditions.into_iter().find(|condition| condition.type_ == "EdgeReady")?;
            (current && edge.reason == reason && edge.message.contains(words)).then_some(edge.message)
        })
        .await
    }

    /// The part whose pods the Service leads to.
    async fn behind(&self) -> String {
        let service = self.api::<Service>().get("demo-edge").await.unwrap();
        service.spec.unwrap().selector.unwrap()["app.kubernetes.io/component"].clone()
    }

    async fn leads_to(&self, part: &str) {
        until(&format!("the Service leads to {part}"), || async { (self.behind().await == part).then_some(()) }).await;
    }

    async fn exists<K>(&self) -> bool
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        self.api::<K>().get_opt("demo-edge").await.unwrap().is_some_and(|live| live.meta().deletion_timestamp.is_none())
    }

    async fn gone<K>(&self)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        until(&format!("{} is gone", K::kind(&())), || async { (!self.exists::<K>().await).then_some(()) }).await;
    }

    /// What the kubelets do: all pods of NGINX's newest template are ready.
    async fn nginx_is_ready(&self) {
        let nginx =
            until("NGINX is there", || async { self.api::<Deployment>().get_opt("demo-edge").await.unwrap() }).await;
        let status = json!({"status": {"observedGeneration": nginx.metadata.generation, "replicas": 2, "updatedReplicas": 2,
            "readyReplicas": 2, "availableReplicas": 2}});
        self.api::<Deployment>()
            .patch_status("demo-edge", &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    async fn secret(&self, certificate: &str, key: &str) {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "certificate"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key}});
        self.api::<Secret>().patch("certificate", &apply(), &Patch::Apply(&secret)).await.unwrap();
    }
}

fn apply() -> PatchParams {
    PatchParams::apply("test").force()
}

/// A certificate and its key.
fn certificate(folder: &Path) -> (String, String) {
    let (certificate, key) = (folder.join("crt"), folder.join("key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=demo"])
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (std::fs::read_to_string(certificate).unwrap(), std::fs::read_to_string(key).unwrap())
}

#[tokio::test]
async fn each_mode_of_the_edge_serves_before_the_one_it_follows_is_taken_away() {
    let world = World::new().await;
    let spec = serde_json::from_value(json!({"companies": [{"symbol": "MSFT"}]})).unwrap();
    world.api().create(&PostParams::default(), &StockPipeline::new("demo", spec)).await.unwrap();
    let stop = CancellationToken::new();
    let operator = kubernetes::operator(&world.client, &world.namespace, "test", &Arc::default(), &stop);
    world.nginx_is_ready().await;
    world.says("Ready", "2 of 2").await;
    world.leads_to("edge").await;

    // A Gateway on a cluster that has never heard of one: NGINX goes on.
    world
        .edge(json!({"mode": "Gateway", "gateway": {"parentRef": {"name": "public", "namespace": "gateways"},
        "hostnames": ["prices.example.com"]}}))
        .await;
    let message = world.says("NotAccepted", "install the Gateway API").await;
    assert!(message.contains("NGINX serves until then"), "{message}");
    let definitions =
        std::env::var("STOCK_TEST_GATEWAY_API").expect("STOCK_TEST_GATEWAY_API is not set: run `make integration`");
    let definition = format!("{definitions}/gateway.networking.k8s.io_httproutes.yaml");
    let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(definition).unwrap()).unwrap();
    let all: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    all.patch(DEFINITION, &apply(), &Patch::Apply(&definition)).await.unwrap();
    world.says("NotAccepted", "no controller has said anything").await;
    let route =
        until("the route is there", || async { world.api::<HTTPRoute>().get_opt("demo-edge").await.ok()? }).await;
    assert_eq!(
        (route.spec.hostnames, route.spec.rules[0].backend_refs[0].name.as_str()),
        (vec!["prices.example.com".into()], "demo-page")
    );
    assert!(world.exists::<Deployment>().await && world.behind().await == "edge");
    let answer = |accepted: &str| {
        let condition = |type_: &str, status: &str| {
            json!({"type": type_, "status": status, "reason": "NotAllowedByListeners",
            "message": "of another namespace", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        json!({"status": {"parents": [{"parentRef": {"name": "public", "namespace": "gateways"}, "controllerName": "example.com/gateway",
            "conditions": [condition("Accepted", accepted), condition("ResolvedRefs", "True")]}]}})
    };
    let routes = world.api::<HTTPRoute>();
    routes.patch_status("demo-edge", &PatchParams::default(), &Patch::Merge(&answer("False"))).await.unwrap();
    world.says("NotAccepted", "NotAllowedByListeners: of another namespace").await;
    assert!(world.exists::<Deployment>().await);
    routes.patch_status("demo-edge", &PatchParams::default(), &Patch::Merge(&answer("True"))).await.unwrap();
    world.says("Ready", "gateway gateways/public accepted the route").await;
    world.gone::<Deployment>().await;
    world.leads_to("liveview").await;

    world.edge(json!({"mode": "None", "gateway": null})).await;
    world.says("Disabled", "only the Service").await;
    world.gone::<HTTPRoute>().await;

    world.edge(json!({"mode": "Ingress", "ingress": {"className": "nginx", "annotations": {"nginx.org/proxy-read-timeout": "5m"}}})).await;
    world.says("NotAccepted", "the controller of class nginx has to take it").await;
    let ingress = world.api::<Ingress>().get("demo-edge").await.unwrap();
    assert_eq!(ingress.annotations()["nginx.org/proxy-read-timeout"], "5m");
    assert_eq!(ingress.annotations()["nginx.org/websocket-services"], "demo-page");
    let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    world.api::<Ingress>().patch_status("demo-edge", &PatchParams::default(), &Patch::Merge(&address)).await.unwrap();
    world.says("Ready", "served at 192.0.2.1").await;

    // Back: the Ingress goes when NGINX is ready, and the Service leads to the page until then.
    world.edge(json!({"mode": "Nginx", "ingress": null})).await;
    world.says("Starting", "0 of 2").await;
    assert!(
        world.exists::<Ingress>().await && world.exists::<Deployment>().await && world.behind().await == "liveview"
    );
    world.nginx_is_ready().await;
    world.leads_to("edge").await;
    world.gone::<Ingress>().await;

    world.edge(json!({"tls": {"secretName": "certificate"}})).await;
    until("the certificate is mounted", || async {
        let nginx = world.api::<Deployment>().get("demo-edge").await.unwrap();
        nginx.spec?.template.spec?.volumes?.iter().any(|volume| volume.name == "certificate").then_some(())
    })
    .await;
    world.nginx_is_ready().await;
    world.says("NoCertificate", "secret certificate does not exist").await;
    let folder = std::env::temp_dir().join(&world.namespace);
    std::fs::create_dir_all(&folder).unwrap();
    let ((one, its_key), (_, key_of_another)) = (certificate(&folder), certificate(&folder));
    world.secret(&one, &key_of_another).await;
    world.says("NoCertificate", "has a tls.key that is not the key of its tls.crt").await;
    world.secret(&one, &its_key).await;
    world.says("Ready", "2 of 2").await;
    let service = world.api::<Service>().get("demo-edge").await.unwrap();
    let ports: Vec<i32> = service.spec.unwrap().ports.unwrap().iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 443]);
    std::fs::remove_dir_all(folder).unwrap();

    stop.cancel();
    operator.await.unwrap().unwrap();
    all.delete(DEFINITION, &DeleteParams::default()).await.unwrap();
    drop(Api::<Namespace>::all(world.client.clone()).delete(&world.namespace, &DeleteParams::default()).await);
}
