//! TLS: the authority and the certificates on a real API server, cert-manager's kind, and renewal on a real RabbitMQ and a real mongod.
//! Rule: alone in its program, for the definition of Certificate is the whole cluster's; the servers are its own and end with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::collections::BTreeMap;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use lapin::tcp::OwnedTLSConfig;
use lapin::{Connection, ConnectionProperties};
use mongodb::bson::doc;
use mongodb::options::ClientOptions;
use operator::broker::{self, management::DEFAULT_VIRTUAL_HOST, management::Management};
use operator::cert_manager::Certificate;
use operator::certificates::{key, x509};
use operator::crd::{ExternalBroker, ExternalDatabase, StockPipeline};
use operator::database::{Account, Credentials, rotation};
use operator::external::{BrokerAddress, DatabaseAddress};
use operator::trust::{Trust, Trusted};
use operator::web::Web;
use operator::{broker::Login, database};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use wire::queue::QueueType;

#[path = "servers/kubernetes.rs"]
mod kubernetes;

/// How long the tests wait for a condition.
const PATIENCE: Duration = Duration::from_secs(90);
const DEFINITION: &str = "certificates.cert-manager.io";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/servers");

async fn until<T, F: Future<Output = Option<T>>>(condition: &str, look: impl FnMut() -> F) -> T {
    kubernetes::until(PATIENCE, condition, look).await
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`, it starts the servers"))
}

/// A namespace with an operator of its own.
struct World {
    client: Client,
    namespace: String,
    stop: CancellationToken,
    operator: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl World {
    async fn new(spec: serde_json::Value) -> Self {
        let client = kubernetes::client().await;
        kubernetes::define(&client, PATIENCE).await;
        let namespace = kubernetes::namespace(&client, "tls-").await;
        let pipeline = StockPipeline::new("demo", serde_json::from_value(spec).unwrap());
        let pipelines: Api<StockPipeline> = Api::namespaced(client.clone(), &namespace);
        pipelines.create(&PostParams::default(), &pipeline).await.unwrap();
        let stop = CancellationToken::new();
        let operator = kubernetes::operator(&client, &namespace, "test", &Arc::default(), &stop);
        Self { client, namespace, stop, operator }
    }

    fn api<K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn secret(&self, name: &str) -> Secret {
        let secrets: Api<Secret> = self.api();
        until(&format!("secret {name} is there"), || async { secrets.get_opt(name).await.unwrap() }).await
    }

    /// Replaces the operator by one that remembers nothing.
    async fn restart(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        let next = kubernetes::operator(&self.client, &self.namespace, "next", &Arc::default(), &self.stop);
        std::mem::replace(&mut self.operator, next).await.unwrap().unwrap();
    }

    async fn condition(&self, type_: &str, holds: impl Fn(&Condition) -> bool) -> Condition {
        let pipelines: Api<StockPipeline> = self.api();
        until(&format!("the condition {type_}"), || async {
            let conditions = pipelines.get("demo").await.unwrap().status?.conditions;
            conditions.into_iter().find(|condition| condition.type_ == type_ && holds(condition))
        })
        .await
    }

    async fn end(self) {
        self.stop.cancel();
        self.operator.await.unwrap().unwrap();
        drop(Api::<Namespace>::all(self.client).delete(&self.namespace, &DeleteParams::default()).await);
    }
}

fn text(secret: &Secret, key: &str) -> String {
    String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap()
}

#[tokio::test]
async fn an_authority_is_made_once_and_a_deleted_secret_is_a_renewed_certificate() {
    let mut world = World::new(json!({"companies": [{"symbol": "MSFT"}], "tls": {"enabled": true}})).await;
    let authority = world.secret("demo-ca").await;
    let certificate = text(&authority, key::CERTIFICATE);
    let mut servers = BTreeMap::new();
    for (name, host) in [
        ("demo-broker-tls", "demo-broker-0.demo-broker-nodes"),
        ("demo-database-tls", "demo-database-2.demo-database"),
        ("demo-edge-tls", "demo-edge"),
    ] {
        let secret = world.secret(name).await;
        let own = text(&secret, key::CERTIFICATE);
        assert!(x509::has_names(&own, &[format!("{host}.{}.svc", world.namespace)]), "{name}");
        assert!(x509::is_signed_by(&own, &certificate), "{name}");
        assert_eq!(text(&secret, key::TRUSTED), certificate, "{name}");
        assert_eq!(text(&secret, key::COMBINED), text(&secret, key::KEY) + &own, "{name}");
        servers.insert(name, secret);
    }
    let maps: Api<ConfigMap> = world.api();
    let published = until("it is told whom to trust", || async { maps.get_opt("demo-ca").await.unwrap() }).await;
    let published = published.data.unwrap();
    assert_eq!(published, BTreeMap::from([(key::TRUSTED.to_owned(), certificate.clone())]), "without the key");
    let url = text(&world.secret("demo-broker-credentials").await, "url");
    assert!(
        url.starts_with("amqps://") && url.ends_with(":5671/%2f?frame_max=16384&cacertfile=/run/tls/broker/ca.crt"),
        "{url:.8}"
    );

    // An operator that remembers nothing takes what is there.
    world.restart().await;
    let secrets: Api<Secret> = world.api();
    secrets.delete("demo-database-tls", &DeleteParams::default()).await.unwrap();
    let renewed = world.secret("demo-database-tls").await;
    let shown = |secret: &Secret| x509::shown(&text(secret, key::CERTIFICATE));
    assert_ne!(shown(&renewed), shown(&servers["demo-database-tls"]));
    assert!(x509::is_signed_by(&text(&renewed, key::CERTIFICATE), &certificate));
    for (name, before) in [("demo-ca", &authority), ("demo-broker-tls", &servers["demo-broker-tls"])] {
        assert_eq!(world.secret(name).await.resource_version(), before.resource_version(), "{name}");
    }

    // Without its key nothing is issued any more: clients trust the next one beside the old one before a server shows what it signed.
    secrets.delete("demo-ca", &DeleteParams::default()).await.unwrap();
    let next = text(&world.secret("demo-ca").await, key::CERTIFICATE);
    assert_ne!(x509::key_of(&next), x509::key_of(&certificate));
    let both = until("both are trusted", || async {
        let trusted = x509::each(&text(&secrets.get("demo-broker-tls").await.unwrap(), key::TRUSTED));
        (trusted.len() == 2).then_some(trusted)
    })
    .await;
    assert_eq!(both, [next, certificate]);
    assert_eq!(shown(&secrets.get("demo-broker-tls").await.unwrap()), shown(&servers["demo-broker-tls"]));

    let pipelines: Api<StockPipeline> = world.api();
    let off = Patch::Merge(json!({"spec": {"tls": {"enabled": false}}}));
    let refused = pipelines.patch("demo", &PatchParams::default(), &off).await.unwrap_err().to_string();
    assert!(refused.contains("tls cannot be changed later, for servers and programs"), "{refused}");
    world.end().await;
}

#[tokio::test]
async fn cert_manager_is_asked_when_it_is_there_and_the_status_says_what_is_missing_until_then() {
    let client = kubernetes::client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    // What an earlier run left.
    drop(definitions.delete(DEFINITION, &DeleteParams::default()).await);
    until("the kind is unknown", || async { definitions.get_opt(DEFINITION).await.unwrap().is_none().then_some(()) })
        .await;
    let issuer = json!({"name": "markets", "kind": "ClusterIssuer"});
    let world =
        World::new(json!({"companies": [{"symbol": "MSFT"}], "tls": {"enabled": true, "issuerRef": issuer}})).await;
    let without = world.condition("BrokerReady", |condition| condition.reason == "NoCertificate").await;
    assert!(without.message.ends_with("install cert-manager"), "{}", without.message);

    let definition: serde_json::Value = serde_saphyr::from_str(include_str!("servers/certificates.yaml")).unwrap();
    let apply = PatchParams::apply("test").force();
    definitions.patch(DEFINITION, &apply, &Patch::Apply(&definition)).await.unwrap();
    let certificates: Api<Certificate> = world.api();
    let name = "demo-database-tls";
    let asked = until("the certificate is asked for", || async { certificates.get_opt(name).await.ok()? }).await;
    // The server would have left out what the definition does not know.
    assert_eq!(asked.spec.issuer_ref.as_ref().map(|issuer| issuer.kind.as_str()), Some("ClusterIssuer"));
    assert_eq!(asked.spec.additional_output_formats[0].type_, "CombinedPEM");
    assert_eq!((asked.spec.secret_name.as_str(), asked.spec.private_key.rotation_policy.as_str()), (name, "Always"));
    let waits = world.condition("DatabaseReady", |condition| condition.message.contains("has not issued")).await;
    assert!(waits.message.contains("kubectl describe certificate demo-database-tls"), "{}", waits.message);

    // What cert-manager does then.
    let now = Timestamp::now();
    let authority = x509::make_authority("markets", now).unwrap();
    let pair = x509::issue(&authority, &asked.spec.dns_names, now).unwrap();
    let mut data = BTreeMap::from([
        (key::COMBINED, format!("{}{}", pair.key, pair.certificate)),
        (key::CERTIFICATE, pair.certificate),
        (key::KEY, pair.key),
    ]);
    let secret = |data: &BTreeMap<&str, String>| Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(asked.spec.secret_template.labels.clone()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = world.api();
    let issued = secrets.patch(name, &apply, &Patch::Apply(secret(&data))).await.unwrap();
    let lacks = world.condition("DatabaseReady", |condition| condition.message.contains("lacks ca.crt")).await;
    assert!(lacks.message.contains("name an issuer that tells its own certificate"), "{}", lacks.message);
    data.insert(key::TRUSTED, authority.certificate);
    secrets.patch(name, &apply, &Patch::Apply(secret(&data))).await.unwrap();
    world.condition("DatabaseReady", |condition| condition.reason != "NoCertificate").await;
    assert_eq!(secrets.get(name).await.unwrap().uid(), issued.uid(), "it is cert-manager's and stays");
    world.end().await;
    definitions.delete(DEFINITION, &DeleteParams::default()).await.unwrap();
}

/// A server of `e2e/servers` that ends with the test.
struct Server(&'static str);

impl Server {
    fn act(&self, what: &str) {
        assert!(Command::new(SCRIPT).args([what, self.0]).status().unwrap().success(), "{what} {}", self.0);
    }

    /// Starts it with another authority than every other has, and gives who trusts it.
    fn start(name: &'static str) -> (Self, Trusted) {
        let server = Self(name);
        server.act("reset");
        let authority = std::fs::read_to_string(variable("STOCK_TEST_TLS_AUTHORITY")).unwrap();
        (server, Trust::default().of(&authority).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.act("kill");
    }
}

fn somebody_else() -> Trusted {
    Trust::default().of(&x509::make_authority("somebody else", Timestamp::now()).unwrap().certificate).unwrap()
}

async fn shown(address: &str, trusted: &Trusted) -> Option<String> {
    rotation::shown_by(address, &trusted.config).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_of_the_broker_is_shown_to_new_connections_and_the_old_ones_stay() {
    let (broker, trusted) = Server::start("tls-rabbitmq");
    let (url, management) = (variable("STOCK_TEST_TLS_RABBITMQ_URL"), variable("STOCK_TEST_TLS_MANAGEMENT_URL"));
    let login = Login { user: "guest".into(), password: "guest".into() };
    let nodes = |trusted: &Trusted| {
        let (web, management, login) = (trusted.web.clone(), management.clone(), login.clone());
        async move {
            let management =
                Management { http: &web, url: &management, login: &login, virtual_host: DEFAULT_VIRTUAL_HOST };
            management.nodes().await
        }
    };
    assert!(nodes(&trusted).await.unwrap()[0].running);
    let refused = nodes(&somebody_else()).await.unwrap_err();
    assert!(matches!(&refused, broker::management::Failure::Unreachable(_)), "{refused:?}");

    // As a broker of somebody else's, AMQP and management interface under an authority that no browser knows.
    let source = ExternalBroker {
        secret: "rabbit".into(),
        key: "url".into(),
        management_key: "management-url".into(),
        ca_key: Some("ca.crt".into()),
    };
    let ask = |source: ExternalBroker, trusted: Option<Trusted>| {
        let management = Some(Ok((management.clone(), login.clone())));
        let addresses = vec![url.parse().unwrap()];
        let address = BrokerAddress { source, addresses, management, trusted, fingerprint: String::new() };
        async move {
            let wanted = broker::external::Wanted {
                address: &address,
                pipeline: "markets.demo".into(),
                queue_type: QueueType::Quorum,
                companies: vec!["MSFT".into()],
                removed: Vec::new(),
            };
            broker::external::converge(&Web::public().unwrap(), &wanted).await
        }
    };
    let of_nobody = ask(ExternalBroker { ca_key: None, ..source.clone() }, None).await.waiting_for.unwrap();
    assert!(
        of_nobody.contains("no public authority issued") && of_nobody.contains("broker.external.caKey"),
        "{of_nobody}"
    );
    let of_another = ask(source.clone(), Some(somebody_else())).await.waiting_for.unwrap();
    assert!(of_another.contains("none of the authorities of key ca.crt issued"), "{of_another}");
    until("the queue is there, and the policies are as they have to be", || async {
        let report = ask(source.clone(), Some(trusted.clone())).await;
        let queue = report.queues.get("MSFT")?;
        (report.waiting_for.is_none() && report.unattended.is_none() && queue.served).then_some(())
    })
    .await;

    let authority = std::fs::read_to_string(&trusted.file).unwrap();
    let config = OwnedTLSConfig { identity: None, cert_chain: Some(authority) };
    let connect = || {
        let runtime = lapin::runtime::default_runtime().unwrap();
        Connection::connect_with_config(&url, ConnectionProperties::default(), config.clone(), runtime)
    };
    let old = connect().await.unwrap();
    let address = url.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let before = shown(&address, &trusted).await.unwrap();
    assert_eq!(shown(&address, &somebody_else()).await, None);
    broker.act("renew");
    until("another certificate is shown", || async { shown(&address, &trusted).await.filter(|now| *now != before) })
        .await;
    connect().await.unwrap().create_channel().await.unwrap();
    old.create_channel().await.expect("the old connection lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_told_to_show_its_renewed_certificate_and_connections_stay() {
    let (mongod, trusted) = Server::start("tls-mongodb");
    let member = variable("STOCK_TEST_TLS_MONGODB");
    let account = |name: &str| Account { name: name.into(), password: "only for tests".into() };
    let credentials = Credentials {
        key: std::fs::read_to_string(variable("STOCK_TEST_MONGODB_KEYFILE")).unwrap(),
        administrator: account("administrator"),
        application: account("application"),
        monitoring: account("monitoring"),
    };
    let wanted = |trusted: &Trusted| database::Wanted {
        set: "rs0".into(),
        members: vec![member.clone()],
        others: Vec::new(),
        outdated: Vec::new(),
        database: "stockmarket".into(),
        election_timeout_millis: database::ELECTION_TIMEOUT_MILLIS,
        trusted: Some(trusted.file.clone()),
    };
    let stranger = database::converge(&wanted(&somebody_else()), &credentials).await.unwrap();
    assert_eq!(stranger.members[0].state, "UNREACHABLE");
    until("the set is made over TLS", || async {
        database::converge(&wanted(&trusted), &credentials).await.ok().filter(|report| report.ready)
    })
    .await;

    let mut url = database::connection_string(
        std::slice::from_ref(&member),
        "application",
        "only for tests",
        "stockmarket",
        "rs0",
    );
    assert!(ClientOptions::parse(&url).await.unwrap().tls.is_none());
    // As a database of somebody else's.
    let look = |url: &str| {
        let source = ExternalDatabase { secret: "mongo".into(), key: "url".into(), ca_key: None };
        let address = DatabaseAddress { source, url: url.to_owned(), fingerprint: String::new() };
        async move { database::external::look(&address, "stockmarket", "stocks", &["MSFT".into()]).await }
    };
    let in_the_clear = look(&url).await.unwrap_err();
    assert!(in_the_clear.contains("does it want tls=true"), "{in_the_clear}");
    let of_another = look(&format!("{url}&tls=true&tlsCAFile={}", somebody_else().file.display())).await.unwrap_err();
    assert!(of_another.contains("does not answer"), "{of_another}");
    url.push_str(&format!("&tls=true&tlsCAFile={}&maxPoolSize=1", trusted.file.display()));
    assert_eq!(look(&url).await, Ok(BTreeMap::new()), "nothing is stored");
    let client = mongodb::Client::with_uri_str(&url).await.unwrap();
    let connection = || async {
        let hello = client.database("stockmarket").run_command(doc! {"hello": 1}).await.unwrap();
        hello.get_i32("connectionId").unwrap()
    };
    let old = connection().await;
    let before = shown(&member, &trusted).await.unwrap();
    mongod.act("renew");
    let file = variable("STOCK_TEST_TLS_AUTHORITY").replace("ca.crt", "tls-mongodb.crt");
    let expected = x509::shown(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(shown(&member, &trusted).await.as_ref(), Some(&before), "mongod does not look at its files by itself");
    let take_over = |known| {
        let (wanted, credentials, config) = (wanted(&trusted), credentials.clone(), trusted.config.clone());
        let expected = expected.clone();
        async move { rotation::take_over(&wanted, &credentials, &config, &expected, &known).await }
    };
    let first = take_over(rotation::Shown::new()).await;
    assert_eq!(first.get(&member), Some(&before), "what it showed when it was told");
    let second = take_over(first).await;
    assert_eq!(second.get(&member), Some(&expected));
    assert_eq!(connection().await, old, "the old connection lives on");
}
