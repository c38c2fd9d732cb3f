//! A broker that somebody else runs: whether it lets the programs in, its queues' figures, and, where its management interface may be used, policies.
//! Rule: it may serve others too, so what is set there is of this pipeline's own queues alone; no answer of it is repeated, for the address is a user's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use lapin::protocol::AMQPErrorKind::{Hard, Soft};
use lapin::protocol::{AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::time::timeout;
use wire::queue::QueueType;

use super::decision::{self, CONSUMER_TIMEOUT_MILLIS, Seen};
use super::management::{Failure, Login, Management, Policy};
use super::{QueueReport, Removed, amqp, queue_reports};
use crate::crd::ExternalBroker;
use crate::external::BrokerAddress;
use crate::trust::Trusted;
use crate::web::Web;

/// Longest try of one address.
const LOGIN: Duration = Duration::from_secs(3);
/// Bytes, the least that AMQP allows: lapin keeps 64 frames in memory for a connection, and many pipelines may ask at once.
const FRAME_MAX: u32 = 4096;
/// Companies of one policy: its pattern names them all, and RabbitMQ compiles no pattern without end.
const TOGETHER: usize = 100;
/// Above that of policies for all queues, which are 0 as a rule: of several only the highest counts.
const PRIORITY: i64 = 100;
/// Acts of one pass; the next one goes on.
const ACTS_MAX: usize = 200;

/// What an external broker has to be.
pub struct Wanted<'a> {
    /// How it is reached.
    pub address: &'a BrokerAddress,
    /// `namespace.name` of the pipeline, which its policies are named after.
    pub pipeline: String,
    /// Type of a queue that has to be declared.
    pub queue_type: QueueType,
    /// Symbols, each the name of a queue.
    pub companies: Vec<String>,
    /// Companies on their way out.
    pub removed: Vec<Removed>,
}

impl Wanted<'_> {
    /// The queues that are there or have to be.
    fn queues(&self) -> impl Iterator<Item = &String> {
        self.companies.iter().chain(self.removed.iter().map(|removed| &removed.company))
    }
}

/// An external broker after a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is missing and what a person can do; `None`: the programs can work.
    pub waiting_for: Option<String>,
    /// It answers, and a node of it takes no events.
    pub blocks: bool,
    /// What nobody looks after, and how a person does it; told beside the condition, which holds all the same.
    pub unattended: Option<String>,
    /// By company. Without a management interface what a consumer holds is not known here.
    pub queues: BTreeMap<String, QueueReport>,
    /// Removed companies that have no queue, and of those the ones of which nothing is left to delete.
    pub absent: BTreeSet<String>,
    /// As said.
    pub gone: BTreeSet<String>,
}

/// Lets the broker be asked: first whether it takes the programs' login, then, if there is a management interface, the rest. Takes at most
/// three seconds for each of the addresses and each round of requests, and of deletions without a management interface for each queue.
pub async fn converge(http: &Web, wanted: &Wanted<'_>) -> Report {
    let source = &wanted.address.source;
    let trusted = wanted.address.trusted.as_ref();
    let connection = match login(&wanted.address.addresses, trusted).await {
        Ok(connection) => connection,
        Err(refusal) => return waits(refusal.sentence(source)),
    };
    let http = trusted.map_or(http, |trusted| &trusted.web);
    if wanted.address.management.is_none() {
        let report = by_amqp(&connection, wanted).await;
        leave(connection).await;
        return report;
    }
    leave(connection).await;
    let (url, login) = match &wanted.address.management {
        Some(Ok((url, login))) => (url, login),
        Some(Err(malformed)) => return waits(malformed.clone()),
        None => return Report::default(),
    };
    let virtual_host = wanted.address.addresses.first().map_or("/", |uri| &uri.vhost);
    manage(&Management { http, url, login, virtual_host }, wanted).await
}

fn waits(sentence: String) -> Report {
    Report { waiting_for: Some(sentence), ..Report::default() }
}

/// What the programs' own protocol tells. Queues of companies are the programs' to declare.
async fn by_amqp(connection: &Connection, wanted: &Wanted<'_>) -> Report {
    let dead_letters =
        |removed: &Removed| removed.company.parse().ok().map(|symbol| wire::queue::dead_letters(&symbol));
    let letters = wanted.removed.iter().filter(|removed| removed.delete.is_some()).filter_map(dead_letters);
    let found = amqp::look(connection, wanted.queues().cloned().chain(letters).collect()).await;
    let seen = Seen { queues: found.queues, ..Seen::default() };
    amqp::delete(
        connection,
        wanted.removed.iter().flat_map(|removed| decision::deletions(removed, &seen)).take(ACTS_MAX),
    )
    .await;
    let is_known = |name: String| seen.queues.contains_key(&name) || found.absent.contains(&name);
    let absent = wanted.removed.iter().filter(|removed| found.absent.contains(&removed.company));
    let gone = absent
        .clone()
        .filter(|removed| decision::is_gone(removed, &seen) && dead_letters(removed).is_none_or(is_known))
        .map(|removed| removed.company.clone());
    Report {
        unattended: Some(unattended(wanted, &lacks(wanted))),
        queues: queue_reports(wanted.queues(), &seen),
        gone: gone.collect(),
        absent: absent.map(|removed| removed.company.clone()).collect(),
        ..Report::default()
    }
}

async fn manage(management: &Management<'_>, wanted: &Wanted<'_>) -> Report {
    let (queues, policies, nodes) = futures::join!(management.queues(), management.policies(), management.nodes());
    let queues = match queues {
        Ok(queues) => queues,
        Err(failure) => return waits(told(&failure, wanted, management.login)),
    };
    // Alarms are for monitoring users to see; who is none learns of them by the publishers.
    let mut seen = Seen { nodes: nodes.unwrap_or_default(), queues, ..Seen::default() };
    let without_policies = match policies {
        Ok(policies) => {
            seen.policies = policies;
            set_policies(management, wanted, &seen).await.err()
        }
        Err(failure) => Some(failure),
    };
    for company in wanted.companies.iter().filter(|company| !seen.queues.contains_key(*company)).take(ACTS_MAX) {
        // Who may not declare it, of them the programs' own user may.
        if let Err(failure) = management.declare_queue(company, wanted.queue_type.as_str()).await {
            tracing::debug!(company, ?failure, "queue not declared");
            break;
        }
    }
    for step in wanted.removed.iter().flat_map(|removed| decision::deletions(removed, &seen)).take(ACTS_MAX) {
        if let decision::Step::DeleteQueue { queue, how } = step
            && let Err(failure) = super::delete_queue(management, &queue, how).await
        {
            tracing::warn!(queue, ?failure, "queue not deleted, to be tried again");
        }
    }
    let unattended = match without_policies {
        None => None,
        Some(Failure::Refused { status: 401 | 403, .. }) => {
            let user = format!(
                "the user of key {} of secret {} may not set policies (tag policymaker)",
                wanted.address.source.management_key, wanted.address.source.secret
            );
            Some(unattended(wanted, &user))
        }
        Some(failure) => return waits(told(&failure, wanted, management.login)),
    };
    let of_removed = |which: &dyn Fn(&Removed) -> bool| {
        wanted.removed.iter().filter(|removed| which(removed)).map(|removed| removed.company.clone()).collect()
    };
    let alarm = seen.nodes.iter().any(|node| node.mem_alarm || node.disk_free_alarm);
    Report {
        waiting_for: decision::waiting_for(&judged(wanted), &seen),
        blocks: alarm,
        unattended,
        queues: queue_reports(wanted.queues(), &seen),
        absent: of_removed(&|removed| !seen.queues.contains_key(&removed.company)),
        gone: of_removed(&|removed| decision::is_gone(removed, &seen)),
    }
}

/// What a broker of our own is judged by, without its nodes, which are their owner's.
fn judged(wanted: &Wanted<'_>) -> decision::Wanted {
    decision::Wanted {
        management_url: String::new(),
        login: Login { user: String::new(), password: String::new() },
        users: Vec::new(),
        former: Vec::new(),
        nodes: Vec::new(),
        others: Vec::new(),
        formed: true,
        in_doubt: false,
        voting: BTreeSet::new(),
        queue_type: wanted.queue_type,
        companies: wanted.companies.clone(),
        removed: Vec::new(),
    }
}

async fn set_policies(management: &Management<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Failure> {
    let queues: Vec<String> = wanted.queues().cloned().collect();
    let policies = policies(&wanted.pipeline, &queues);
    for (name, policy) in policies.iter().filter(|(name, policy)| seen.policies.get(*name) != Some(policy)) {
        management.put_policy(name, policy).await?;
    }
    let prefix = prefix(&wanted.pipeline);
    let ours = seen.policies.keys().filter(|name| name.starts_with(&prefix));
    for name in ours.filter(|name| !policies.contains_key(*name)) {
        management.delete_policy(name).await?;
    }
    Ok(())
}

fn prefix(pipeline: &str) -> String {
    format!("stockpipeline/{pipeline}/")
}

/// The policies of a pipeline's queues on a broker that may have others, by name: what [`decision::policies`] sets for all queues of ours.
pub fn policies(pipeline: &str, companies: &[String]) -> BTreeMap<String, Policy> {
    let kinds = decision::policies().map(|(_, policy)| policy);
    let mut policies = BTreeMap::new();
    for (index, companies) in companies.chunks(TOGETHER).enumerate() {
        let names: Vec<String> = companies.iter().map(|company| literal(company)).collect();
        for of_all in &kinds {
            let kind = of_all.apply_to.trim_end_matches("_queues");
            let pattern = format!("^(?:{})(?:/dead-letters)?$", names.join("|"));
            let policy = Policy { pattern, priority: PRIORITY, ..of_all.clone() };
            policies.insert(format!("{}{kind}-{index}", prefix(pipeline)), policy);
        }
    }
    policies
}

/// A symbol as a regular expression that matches it alone.
fn literal(symbol: &str) -> String {
    symbol.chars().flat_map(|c| (!c.is_ascii_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}

fn lacks(wanted: &Wanted<'_>) -> String {
    let source = &wanted.address.source;
    format!(
        "secret {} has no key {} with the address of the management interface",
        source.secret, source.management_key
    )
}

/// What nobody does, and how it is done by hand.
fn unattended(wanted: &Wanted<'_>, why: &str) -> String {
    let host = wanted.address.addresses.first().map_or("/", |uri| &uri.vhost);
    let by_hand = match host {
        "/" => "rabbitmqctl set_policy",
        // Its name is the Secret's.
        _ => "rabbitmqctl --vhost VHOST set_policy",
    };
    format!(
        "policies are not looked after: {why}. Set by hand, or a consumer that crashes in a loop loses events: {by_hand} --priority {PRIORITY} \
         --apply-to quorum_queues NAME '^(SYMBOL|SYMBOL)(/dead-letters)?$' '{{\"delivery-limit\": -1, \"consumer-timeout\": {CONSUMER_TIMEOUT_MILLIS}}}'"
    )
}

/// What a failure of the management interface means to the person with the Secret. Of a body that came back nothing is told: the
/// address is whatever somebody wrote.
fn told(failure: &Failure, wanted: &Wanted<'_>, login: &Login) -> String {
    let (secret, key) = (&wanted.address.source.secret, &wanted.address.source.management_key);
    match failure {
        Failure::Refused { status: status @ (401 | 403), .. } => format!(
            "the management interface of key {key} of secret {secret} refuses its user{} ({status}): correct the login, or give it the \
             tags management and policymaker and its rights on the virtual host",
            if login.user.is_empty() { ", which has no name" } else { "" }
        ),
        Failure::Refused { status: 404, .. } => format!(
            "the management interface of key {key} of secret {secret} does not know the virtual host of key {} (404): create it, or correct the address",
            wanted.address.source.key
        ),
        Failure::Refused { status, .. } => {
            format!(
                "the management interface of key {key} of secret {secret} answered {status}: is it RabbitMQ 3.13 or newer"
            )
        }
        Failure::Unreadable(_) => {
            format!(
                "what answers at key {key} of secret {secret} is no management interface of RabbitMQ: correct the address"
            )
        }
        Failure::Unreachable(reason) => format!(
            "the management interface of key {key} of secret {secret} does not answer ({}): is it up, and may the operator reach it",
            reason.split(": ").next().unwrap_or_default()
        ),
    }
}

/// Why a broker lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// User or password.
    Login,
    /// The virtual host is missing or not the user's.
    VirtualHost,
    /// Its certificate.
    Certificate,
    /// It refused in another way, or did not answer.
    Unreachable(String),
}

impl Refusal {
    fn sentence(&self, source: &ExternalBroker) -> String {
        let ExternalBroker { secret, key, ca_key, .. } = source;
        let of = format!("the broker of key {key} of secret {secret}");
        match self {
            Self::Login => format!("{of} refuses the login: correct user and password in that key"),
            Self::VirtualHost => {
                format!(
                    "{of} has no such virtual host for that user: create it, give the user its rights on it, or correct the key"
                )
            }
            Self::Certificate => match ca_key {
                None => format!(
                    "{of} shows a certificate that no public authority issued for that host: correct the host, give it such a certificate, or \
                     name its authority in broker.external.caKey"
                ),
                Some(ca_key) => format!(
                    "{of} shows a certificate that none of the authorities of key {ca_key} issued for that host: correct the host, or that key"
                ),
            },
            Self::Unreachable(why) => format!("{of} does not answer ({why}): is it up, and may the cluster reach it"),
        }
    }
}

/// Tries the addresses in turn, as the programs do, and tells of the first what it said.
async fn login(addresses: &[AMQPUri], trusted: Option<&Trusted>) -> Result<Connection, Refusal> {
    let mut first = None;
    for uri in addresses {
        match timeout(LOGIN, log_in(uri.clone(), trusted)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => first = first.or(Some(refusal(&error))),
            Err(_) => first = first.or(Some(Refusal::Unreachable(format!("no answer within {} s", LOGIN.as_secs())))),
        }
    }
    Err(first.unwrap_or(Refusal::Unreachable("no address".into())))
}

async fn log_in(mut uri: AMQPUri, trusted: Option<&Trusted>) -> Result<Connection, lapin::Error> {
    uri.query.frame_max = Some(FRAME_MAX);
    let properties = ConnectionProperties::default().with_connection_name("stockpipeline-operator".into());
    let Some(trusted) = trusted else { return Connection::connect_uri(uri, properties).await };
    let config = OwnedTLSConfig { identity: None, cert_chain: Some(std::fs::read_to_string(&trusted.file)?) };
    Connection::connect_uri_with_config(uri, properties, config, lapin::runtime::default_runtime()?).await
}

/// Whether it closes well is nobody's concern.
async fn leave(connection: Connection) {
    drop(timeout(LOGIN, connection.close(200, "ok".into())).await);
}

fn refusal(error: &lapin::Error) -> Refusal {
    match error.kind() {
        ErrorKind::ProtocolError(error) if *error.kind() == Soft(AMQPSoftError::ACCESSREFUSED) => Refusal::Login,
        ErrorKind::ProtocolError(error)
            if matches!(error.kind(), Hard(AMQPHardError::NOTALLOWED) | Soft(AMQPSoftError::NOTFOUND)) =>
        {
            Refusal::VirtualHost
        }
        ErrorKind::IOError(error) if error.kind() == io::ErrorKind::InvalidData => Refusal::Certificate,
        // The kind alone: a text of the system may name the host.
        ErrorKind::IOError(error) if error.to_string().starts_with("failed to lookup") => {
            Refusal::Unreachable("its host name is not known".into())
        }
        ErrorKind::IOError(error) => Refusal::Unreachable(error.kind().to_string()),
        ErrorKind::ProtocolError(error) => Refusal::Unreachable(format!("AMQP error {}", error.get_id())),
        _ => Refusal::Unreachable("it does not speak AMQP 0-9-1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_of_a_shared_broker_match_the_queues_of_the_pipeline_alone() {
        let companies: Vec<String> = ["MSFT", "BRK.B", "^GSPC"].map(str::to_owned).to_vec();
        let policies = policies("markets.demo", &companies);
        assert_eq!(
            policies.keys().collect::<Vec<_>>(),
            ["stockpipeline/markets.demo/classic-0", "stockpipeline/markets.demo/quorum-0"]
        );
        let quorum = &policies["stockpipeline/markets.demo/quorum-0"];
        assert_eq!(quorum.pattern, r"^(?:MSFT|BRK\.B|\^GSPC)(?:/dead-letters)?$");
        assert_eq!(quorum.apply_to, "quorum_queues");
        assert_eq!(quorum.definition["delivery-limit"], -1);
        assert!(!policies["stockpipeline/markets.demo/classic-0"].definition.contains_key("delivery-limit"));
    }

    #[test]
    fn hundreds_of_companies_are_spread_over_policies_and_each_is_in_one() {
        let companies: Vec<String> = (0..250).map(|index| format!("C{index}")).collect();
        let policies = policies("markets.demo", &companies);
        assert_eq!(policies.len(), 6);
        let quorum = policies.values().filter(|policy| policy.apply_to == "quorum_queues");
        let named: Vec<String> = quorum
            .flat_map(|policy| {
                let names = policy.pattern.trim_start_matches("^(?:").split(')').next().unwrap_or_default();
                names.split('|').map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(named, companies);
    }
}
