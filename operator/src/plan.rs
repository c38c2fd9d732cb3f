//! From the resource's text to checked values; pure.
//! Rule: after a `Plan` exists nothing checks again, and building objects cannot fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::broker;
use crate::broker::users::User;
use crate::certificates::Tls;
use crate::claims::Size;
use crate::crd::{
    self, Broker, Database, DeletionPolicy, Edge, Liveview, Monitoring, NetworkPolicy, StockPipeline,
    StockPipelineSpec, Template,
};
use crate::credentials::{Credentials, Generation, REPLICA_SET, Role, key};
use crate::database;
use crate::edge::Way;
use crate::error::Error;
use crate::external::External;
use crate::leaving::{Leaving, Step};
use crate::names::{self, Part};
use crate::objects::{self, DatabaseForm};
use crate::trust::Trusted;

/// Most members of the database (`spec.database.replicas`).
pub(crate) const MEMBERS_MAX: i32 = 7;
/// Most nodes of the broker (`spec.broker.replicas`).
pub(crate) const NODES_MAX: i32 = 5;

/// Whether a part goes on when one of its pods is taken away; `None` while it was not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MayLoseOne {
    /// RabbitMQ.
    pub broker: Option<bool>,
    /// MongoDB.
    pub database: Option<bool>,
}

/// Images of the parts whose template names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Publisher, consumer and liveview.
    pub workloads: String,
    /// RabbitMQ.
    pub broker: String,
    /// MongoDB.
    pub database: String,
    /// NGINX, unprivileged.
    pub edge: String,
    /// Pull policy of all of them; the cluster's rule unless set.
    pub pull_policy: Option<String>,
}

/// One company, all defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Company {
    /// Its symbol, which is the name of its queue.
    pub symbol: String,
    /// Its part of object names.
    pub slug: String,
    /// Time from one event to the next.
    pub interval: Duration,
    /// Consumers, of which one works.
    pub consumers: i32,
    /// Events per window.
    pub batch_size: i32,
    /// The company as it was written, which is remembered for when it is removed.
    pub written: crd::Company,
    /// Lowest price, inclusive.
    pub price_min: f64,
    /// Highest price, exclusive.
    pub price_max: f64,
}

impl Company {
    /// A company with what the resource says of all.
    pub fn new(spec: &StockPipelineSpec, company: &crd::Company) -> Self {
        let rate = company.rate.unwrap_or(spec.publisher.rate).max(1);
        let price = company.price.clone().unwrap_or_default();
        Self {
            slug: names::slug(&company.symbol),
            symbol: company.symbol.clone(),
            interval: Duration::from_secs(1) / rate.unsigned_abs(),
            consumers: spec.consumers_of(company),
            batch_size: spec.batch_size_of(company),
            price_min: price.min,
            price_max: price.max,
            written: company.clone(),
        }
    }
}

/// The Secret with NGINX's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeCertificate {
    /// The user's.
    Users(String),
    /// Of the pipeline's own authority or issuer.
    Own(String),
}

/// Everything the objects are built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The reference that makes a child die with its pipeline.
    pub owner: OwnerReference,
    /// Default images.
    pub images: Images,
    /// The companies, in the order of the resource.
    pub companies: Vec<Company>,
    /// The companies that were taken out of the resource and are not yet gone.
    pub leaving: Vec<Leaving>,
    /// Whether publishers run.
    pub publishing: bool,
    /// What becomes of the data when the pipeline is deleted.
    pub deletion_policy: DeletionPolicy,
    /// Whether all companies are drained.
    pub paused: bool,
    /// Seed of the synthetic prices.
    pub seed: Option<i64>,
    /// Time after which a short window is stored; none: never.
    pub flush_after: Option<Duration>,
    /// How publisher pods run.
    pub publisher: Template,
    /// How consumer pods run.
    pub consumer: Template,
    /// RabbitMQ, as written.
    pub broker: Broker,
    /// Its pods: more than wanted while nodes are leaving.
    pub broker_size: Size,
    /// Bytes of the smallest volume of the broker's; none before one is there.
    pub broker_volume: Option<f64>,
    /// Whether all its nodes were there once.
    pub broker_formed: bool,
    /// The broker's queues of which every wanted node was seen to vote.
    pub voting: BTreeSet<String>,
    /// The node that nothing needs any more and that is to leave.
    pub broker_leaves: Option<i32>,
    /// MongoDB, as written.
    pub database: Database,
    /// Its pods: more than wanted while members are leaving.
    pub database_size: Size,
    /// How its members start.
    pub database_form: DatabaseForm,
    /// Secret and key that the running programs read an address from, where the resource names another one that cannot be read.
    pub read_now: BTreeMap<Part, (String, String)>,
    /// The claim for whose sake no further member is made.
    pub kept_claim: Option<String>,
    /// What broker and database said last of losing a pod.
    pub may_lose_one: MayLoseOne,
    /// Liveview, as written.
    pub liveview: Liveview,
    /// The way in, as written.
    pub edge: Edge,
    /// What there is to be of it now.
    pub edge_way: Way,
    /// Who reaches what, as written.
    pub network_policy: NetworkPolicy,
    /// What Prometheus is told, as written.
    pub monitoring: Monitoring,
    /// Where the operator runs.
    pub operator_namespace: String,
    /// Generated credentials.
    pub credentials: Credentials,
    /// Addresses of the parts that somebody else runs.
    pub external: External,
    /// How the operator trusts these.
    pub trusted: Option<Trusted>,
    /// The certificates of broker, database and edge; none without TLS.
    pub tls: Option<Tls>,
    /// Fingerprints of these addresses as pod templates carry them, by annotation: of those read, else of those that pods run with.
    pub addresses: BTreeMap<&'static str, String>,
}

/// The annotation with the fingerprint of an external part's address.
pub fn address_annotation(part: Part) -> &'static str {
    if part == Part::Broker { names::BROKER_ADDRESS } else { names::DATABASE_ADDRESS }
}

/// Broker and database where we run them: one that somebody else runs is neither made nor looked after.
pub fn run_by_us(broker: &Broker, database: &Database) -> impl Iterator<Item = Part> + use<> {
    let parts = [(Part::Broker, broker.external.is_none()), (Part::Database, database.external.is_none())];
    parts.into_iter().filter_map(|(part, ours)| ours.then_some(part))
}

impl Plan {
    /// Checks and completes the resource.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] for what the schema could not refuse, with the field and the remedy; a stored resource may
    /// also be older than the schema, so the rules that keep data safe are checked here again.
    pub fn new(pipeline: &StockPipeline, images: &Images, credentials: Credentials) -> Result<Self, Error> {
        let invalid = |text: String| Err(Error::InvalidSpec(text));
        let spec = &pipeline.spec;
        let Some(owner) = pipeline.controller_owner_ref(&()) else {
            return invalid("metadata.uid is missing: the resource was not read from an API server".into());
        };
        if spec.companies.is_empty() {
            return invalid("spec.companies is empty: name at least one company".into());
        }
        let mut companies: Vec<Company> = Vec::with_capacity(spec.companies.len());
        for (index, company) in spec.companies.iter().enumerate() {
            if let Err(reason) = company.symbol.parse::<wire::Symbol>() {
                return invalid(format!("spec.companies[{index}].symbol: {reason}"));
            }
            if companies.iter().any(|earlier| earlier.symbol == company.symbol) {
                return invalid(format!(
                    "spec.companies[{index}].symbol: {} is named twice: remove one",
                    company.symbol
                ));
            }
            companies.push(Company::new(spec, company));
        }
        if spec.broker.replicas < 1 || spec.broker.replicas % 2 == 0 {
            return invalid(format!("spec.broker.replicas is {}: use 1, 3 or 5", spec.broker.replicas));
        }
        if spec.database.replicas < 1 || spec.database.replicas % 2 == 0 {
            return invalid(format!("spec.database.replicas is {}: use 1, 3, 5 or 7", spec.database.replicas));
        }
        if let Some(proxy) = spec.edge.trusted_proxies.iter().find(|proxy| !is_network(proxy)) {
            return invalid(format!("spec.edge.trustedProxies: {proxy} is neither an address nor a network"));
        }
        Ok(Self {
            name: pipeline.name_any(),
            namespace: pipeline.namespace().unwrap_or_default(),
            owner,
            images: images.clone(),
            companies,
            leaving: Vec::new(),
            kept_claim: None,
            publishing: spec.publisher.enabled && !spec.paused,
            deletion_policy: spec.deletion_policy,
            paused: spec.paused,
            seed: spec.publisher.seed,
            flush_after: spec.consumer.flush_after.map(Duration::from),
            publisher: spec.publisher.template.clone(),
            consumer: spec.consumer.template.clone(),
            broker: spec.broker.clone(),
            broker_volume: None,
            broker_size: Size { pods: spec.broker.replicas, free_from: None },
            broker_formed: false,
            voting: BTreeSet::new(),
            broker_leaves: None,
            database: spec.database.clone(),
            database_size: Size { pods: spec.database.replicas, free_from: None },
            database_form: DatabaseForm::default(),
            read_now: BTreeMap::new(),
            may_lose_one: MayLoseOne::default(),
            liveview: spec.liveview.clone(),
            edge: spec.edge.clone(),
            edge_way: Way::new(&spec.edge, &Default::default()),
            network_policy: spec.network_policy.clone(),
            monitoring: spec.monitoring.clone(),
            operator_namespace: String::new(),
            credentials,
            external: External::default(),
            tls: None,
            trusted: None,
            addresses: BTreeMap::new(),
        })
    }

    /// Where NGINX's certificate is; none: it serves plain HTTP alone.
    pub fn edge_certificate(&self) -> Option<EdgeCertificate> {
        let users = self.edge.tls.as_ref().and_then(|tls| tls.secret_name.clone()).map(EdgeCertificate::Users);
        let own = self.tls.as_ref().filter(|tls| tls.is_of(Part::Edge));
        users.or_else(|| own.map(|_| EdgeCertificate::Own(names::certificate(&self.name, Part::Edge))))
    }

    /// Secret and key of the address by which programs reach broker or database.
    pub fn address(&self, part: Part) -> (String, &str) {
        if let Some((secret, key)) = self.read_now.get(&part) {
            return (secret.clone(), key);
        }
        let external = match part {
            Part::Broker => self.broker.external.as_ref().map(|external| (&external.secret, &external.key)),
            _ => self.database.external.as_ref().map(|external| (&external.secret, &external.key)),
        };
        match external {
            Some((secret, key)) => (secret.clone(), key),
            None => (names::credentials(&self.name, part), key::URL),
        }
    }

    /// Annotations of pods that read the addresses of `parts`: an address of ours stays, one of somebody else's may change.
    pub fn address_annotations(&self, parts: &[Part]) -> BTreeMap<String, String> {
        let annotations = parts.iter().map(|part| address_annotation(*part));
        annotations.filter_map(|name| Some((name.to_owned(), self.addresses.get(name)?.clone()))).collect()
    }

    /// Database members as `host:port`, by ordinal.
    pub fn database_members(&self) -> Vec<String> {
        (0..self.database.replicas).map(|ordinal| self.database_member(ordinal)).collect()
    }

    fn database_member(&self, ordinal: i32) -> String {
        let set = names::part(&self.name, Part::Database);
        format!("{}:27017", names::pod_host(&set, ordinal, &set, &self.namespace))
    }

    /// The pod of a database member, `host:port`.
    pub fn database_pod(&self, member: &str) -> Option<String> {
        let ordinal = (0..MEMBERS_MAX).find(|ordinal| self.database_member(*ordinal) == member)?;
        Some(format!("{}-{ordinal}", names::part(&self.name, Part::Database)))
    }

    /// One more than the highest ordinal among `hosts`.
    pub fn database_members_upto(&self, hosts: &[String]) -> i32 {
        (0..MEMBERS_MAX)
            .rev()
            .find(|ordinal| hosts.contains(&self.database_member(*ordinal)))
            .map_or(0, |highest| highest + 1)
    }

    /// What `crate::database` looks after; `outdated` are the ordinals of the pods that are to be replaced.
    pub fn database_wanted(&self, outdated: &[i32]) -> database::Wanted {
        database::Wanted {
            set: REPLICA_SET.into(),
            members: self.database_members(),
            others: (self.database.replicas..self.database_size.pods)
                .map(|ordinal| self.database_member(ordinal))
                .collect(),
            outdated: outdated.iter().map(|ordinal| self.database_member(*ordinal)).collect(),
            database: wire::env::default::MONGODB_DB.into(),
            election_timeout_millis: u64::from(self.database.election_timeout_milliseconds.unsigned_abs()),
            trusted: self.trusted.as_ref().map(|trusted| trusted.file.clone()),
        }
    }

    /// The database's users.
    pub fn database_credentials(&self) -> database::Credentials {
        self.database_credentials_of(&self.credentials.database.current)
    }

    /// The database's users of one generation.
    pub fn database_credentials_of(&self, generation: &Generation) -> database::Credentials {
        database::Credentials {
            key: self.credentials.database.mutual.clone(),
            administrator: generation.account(Role::Administrator),
            application: generation.account(Role::Application),
            monitoring: generation.account(Role::Monitoring),
        }
    }

    /// The connection string of consumer and liveview, or of another program, which finds the database's authorities in the file `trusted`.
    pub fn database_url(&self, trusted: &str) -> String {
        let application = self.credentials.database.current.account(Role::Application);
        let mut url = database::connection_string(
            &self.database_members(),
            &application.name,
            &application.password,
            wire::env::default::MONGODB_DB,
            REPLICA_SET,
        );
        if self.tls.is_some() {
            url.push_str(&format!("&tls=true&tlsCAFile={}", database::encode(trusted)));
        }
        url
    }

    /// The address of publisher and consumer.
    pub fn broker_url(&self) -> String {
        let application = self.credentials.broker.current.account(Role::Application);
        let host = format!("{}.{}.svc", names::part(&self.name, Part::Broker), self.namespace);
        let (scheme, port) = objects::amqp(self);
        // As RabbitMQ's own clients name it (rabbitmq.com/docs/uri-query-parameters).
        let trusted = self.tls.as_ref().map(|_| format!("&cacertfile={}", objects::trusted_file(Part::Broker)));
        let (user, password, trusted) = (application.name, application.password, trusted.unwrap_or_default());
        // Larger ones our broker does not take, so nobody needs buffers for them.
        format!("{scheme}://{user}:{password}@{host}:{port}/%2f?frame_max={}{trusted}", objects::MAX_FRAME_BYTES)
    }

    /// The content of the Secret of broker or database: what was generated, and what is derived from it.
    pub fn secret(&self, part: Part) -> BTreeMap<String, ByteString> {
        let credentials = self.credentials.of(part);
        let mut data = credentials.data();
        let mut derive = |key: &str, text: String| data.insert(key.to_owned(), ByteString(text.into_bytes()));
        if part == Part::Broker {
            // Counts for a broker without any data: its first user.
            let database::Account { name, password } = credentials.current.account(Role::Administrator);
            derive(
                key::CONFIGURATION,
                format!("default_user = {name}\ndefault_pass = {password}\ndefault_user_tags.administrator = true\n"),
            );
            derive(key::URL, self.broker_url());
        } else {
            derive(key::URL, self.database_url(&objects::trusted_file(Part::Database)));
        }
        data
    }

    /// A node of the broker, `rabbit@host`.
    pub fn broker_node(&self, ordinal: i32) -> String {
        let (set, nodes) = (names::part(&self.name, Part::Broker), names::broker_nodes(&self.name));
        format!("rabbit@{}", names::pod_host(&set, ordinal, &nodes, &self.namespace))
    }

    /// The ordinal of a node of the broker.
    pub fn broker_ordinal(&self, node: &str) -> Option<i32> {
        (0..NODES_MAX).find(|ordinal| self.broker_node(*ordinal) == node)
    }

    /// What `crate::broker` looks after; `in_doubt`: one of its pods is to be replaced.
    pub fn broker_wanted(&self, in_doubt: bool) -> broker::Wanted {
        let service = names::part(&self.name, Part::Broker);
        broker::Wanted {
            management_url: match self.tls {
                None => format!("http://{service}.{}.svc:15672", self.namespace),
                Some(_) => format!("https://{service}.{}.svc:15671", self.namespace),
            },
            login: self.credentials.broker.current.account(Role::Administrator).into(),
            users: self.broker_users(),
            former: self.credentials.broker.current.former(),
            nodes: (0..self.broker.replicas).map(|ordinal| self.broker_node(ordinal)).collect(),
            others: (self.broker.replicas..NODES_MAX).map(|ordinal| self.broker_node(ordinal)).collect(),
            formed: self.broker_formed,
            in_doubt,
            voting: self.voting.clone(),
            queue_type: self.broker.queue_type.into(),
            companies: self.companies.iter().map(|company| company.symbol.clone()).collect(),
            removed: self.leaving.iter().map(Leaving::removed).collect(),
        }
    }

    /// The users that the broker has to have besides the one it began with: those of the programs, and those that will follow.
    fn broker_users(&self) -> Vec<User> {
        let user = |(role, account): (Role, database::Account), in_use| User {
            login: account.into(),
            administrator: role == Role::Administrator,
            in_use,
        };
        let credentials = &self.credentials.broker;
        let current = credentials.current.accounts().filter(|(role, _)| *role != Role::Administrator);
        let next = credentials.next.iter().flat_map(Generation::accounts);
        current.map(|account| user(account, true)).chain(next.map(|account| user(account, false))).collect()
    }

    /// The companies whose last windows may be short: their publishers are stopped, and nothing is to be left in their queues.
    pub fn draining(&self) -> BTreeSet<String> {
        let paused = self.companies.iter().filter(|_| self.paused).map(|company| &company.symbol);
        let leaving = self.leaving.iter().filter(|leaving| leaving.step == Step::Drain);
        paused.chain(leaving.map(|leaving| &leaving.company.symbol)).cloned().collect()
    }

    /// The symbols of all companies that are of interest, those that leave included.
    pub fn symbols(&self) -> Vec<String> {
        let leaving = self.leaving.iter().map(|leaving| &leaving.company);
        self.companies.iter().chain(leaving).map(|company| company.symbol.clone()).collect()
    }
}

/// An IP address, alone or with the length of its prefix: it is written into NGINX's configuration.
fn is_network(text: &str) -> bool {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    address.parse::<IpAddr>().is_ok_and(|address| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|length| length <= most))
    })
}
