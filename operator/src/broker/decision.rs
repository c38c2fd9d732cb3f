//! Decides what the broker still lacks.
//! Rule: pure; no step ever deletes a queue or a message but those of a company that was removed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use wire::queue::QueueType;

use super::management::{Login, Node, Policy, Queue};
use super::membership;
use super::users::{State, User};

/// Milliseconds a consumer may hold a message: seven days. The broker closes the channel of a consumer that holds one for
/// longer (30 minutes by default; RabbitMQ manual, "Delivery Acknowledgement Timeout"), and a window of 1000 events of a
/// slow company fills for hours. Verified on 4.0.5: the policy key counts for quorum and for classic queues.
pub const CONSUMER_TIMEOUT_MILLIS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Name of the policy of all quorum queues.
pub const QUORUM_POLICY: &str = "stockpipeline-quorum";
/// Name of the policy of all classic queues, those a foreign program declared first among them.
pub const CLASSIC_POLICY: &str = "stockpipeline-classic";

/// What the broker has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `http://host:port` of the management interface.
    pub management_url: String,
    /// An administrator of the broker.
    pub login: Login,
    /// Users that have to be there besides it.
    pub users: Vec<User>,
    /// Names of the users before these.
    pub former: Vec<String>,
    /// The nodes, `rabbit@host`, by ordinal.
    pub nodes: Vec<String>,
    /// Further nodes, should the cluster know them: they leave once no queue needs them.
    pub others: Vec<String>,
    /// All nodes were there once: the cluster is made.
    pub formed: bool,
    /// A node is to be replaced: what a list says of queues' replicas is not new enough for that.
    pub in_doubt: bool,
    /// Queues of which every wanted node was seen to vote.
    pub voting: BTreeSet<String>,
    /// Type of a queue that has to be declared.
    pub queue_type: QueueType,
    /// Symbols, exactly as written; each is the name of a queue.
    pub companies: Vec<String>,
    /// Companies on their way out.
    pub removed: Vec<Removed>,
}

/// A company that is on its way out: its queue is no longer made, and looked at as long as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its symbol.
    pub company: String,
    /// Whether its queues are to go now.
    pub delete: Option<DeleteQueue>,
}

/// How a queue goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteQueue {
    /// If there is nothing in it.
    WhenEmpty,
    /// With what is in it.
    WithContent,
}

/// What one look at the broker found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// All the cluster knows, running or not.
    pub nodes: Vec<Node>,
    /// The wanted users, by name.
    pub users: BTreeMap<String, State>,
    /// Those of the former ones that are there.
    pub former: Vec<String>,
    /// By name.
    pub policies: BTreeMap<String, Policy>,
    /// By name.
    pub queues: BTreeMap<String, Queue>,
}

impl Seen {
    /// How many nodes run.
    pub fn running(&self) -> u32 {
        self.nodes.iter().map(|node| u32::from(node.running)).sum()
    }
}

/// One act on the broker.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Makes a user with its password, and lets it do what it has to.
    PutUser(User),
    /// Lets a user do what it has to.
    PermitUser(User),
    /// Makes a policy, or makes it what it has to be.
    PutPolicy {
        /// Its name.
        name: &'static str,
        /// All of it.
        policy: Policy,
    },
    /// Makes a company's queue.
    DeclareQueue {
        /// The symbol.
        company: String,
        /// `quorum` or `classic`.
        queue_type: &'static str,
    },
    /// Gives a quorum queue a replica on a node.
    AddMember {
        /// Its name.
        queue: String,
        /// `rabbit@host`.
        node: String,
    },
    /// Takes a removed company's queue away.
    DeleteQueue {
        /// Its name.
        queue: String,
        /// Whether only an empty one goes.
        how: DeleteQueue,
    },
    /// Takes a quorum queue's replica away from a node that is to leave.
    DeleteMember {
        /// Its name.
        queue: String,
        /// `rabbit@host`.
        node: String,
    },
}

/// The queues of a removed company that are to go, that of its dead letters too. By the figures only those that are empty, and the act asks again.
pub(super) fn deletions(removed: &Removed, seen: &Seen) -> Vec<Step> {
    let Some(how) = removed.delete else { return Vec::new() };
    let empty = |queue: &Queue| (queue.messages_ready, queue.messages_unacknowledged) == (Some(0), Some(0));
    let dead_letters = removed.company.parse().ok().map(|symbol| wire::queue::dead_letters(&symbol));
    let names = [Some(removed.company.clone()), dead_letters].into_iter().flatten();
    names
        .filter(|name| seen.queues.get(name).is_some_and(|queue| how == DeleteQueue::WithContent || empty(queue)))
        .map(|queue| Step::DeleteQueue { queue, how })
        .collect()
}

/// Whether nothing of a removed company is left to go; what it leaves behind are dead letters that nobody has looked at.
pub fn is_gone(removed: &Removed, seen: &Seen) -> bool {
    removed.delete.is_some() && !seen.queues.contains_key(&removed.company) && deletions(removed, seen).is_empty()
}

/// Everything that is missing and can be made now: users, for whom programs wait, and policies, so that no queue lives a moment without its own.
pub fn next_steps(wanted: &Wanted, seen: &Seen) -> Vec<Step> {
    let mut steps: Vec<Step> = wanted.users.iter().filter_map(|user| user_step(user, seen)).collect();
    let policies = policies()
        .into_iter()
        .filter(|(name, policy)| seen.policies.get(*name) != Some(policy))
        .map(|(name, policy)| Step::PutPolicy { name, policy });
    steps.extend(policies);
    if may_declare(wanted, seen) {
        let missing = wanted.companies.iter().filter(|company| !seen.queues.contains_key(*company));
        steps.extend(
            missing
                .map(|company| Step::DeclareQueue { company: company.clone(), queue_type: wanted.queue_type.as_str() }),
        );
    }
    steps.extend(wanted.removed.iter().flat_map(|removed| deletions(removed, seen)));
    steps.extend(membership::next_changes(wanted, seen));
    steps
}

fn user_step(user: &User, seen: &Seen) -> Option<Step> {
    match seen.users.get(&user.login.user)? {
        State::Missing => Some(Step::PutUser(user.clone())),
        // Programs hold the old one: they are moved to another user (see `crate::rotation`).
        State::OtherPassword => (!user.in_use).then(|| Step::PutUser(user.clone())),
        State::NotPermitted => Some(Step::PermitUser(user.clone())),
        State::Current => None,
    }
}

/// A new cluster is complete before its first queue, so that no event lies on one node only. Later, a node that is down or
/// joins must not keep a new company away: a running majority is enough.
fn may_declare(wanted: &Wanted, seen: &Seen) -> bool {
    (wanted.formed || is_formed(wanted, seen)) && seen.running() as usize > seen.nodes.len() / 2
}

/// Whether the cluster knows all wanted nodes.
pub fn is_formed(wanted: &Wanted, seen: &Seen) -> bool {
    wanted.nodes.iter().all(|node| seen.nodes.iter().any(|known| known.name == *node))
}

/// The first thing that keeps the broker from being as wanted after all steps, with what a person can do.
pub fn waiting_for(wanted: &Wanted, seen: &Seen) -> Option<String> {
    let replicas = wanted.nodes.len();
    let runs = |node: &&String| seen.nodes.iter().any(|known| known.name == **node && known.running);
    let running = wanted.nodes.iter().filter(runs).count();
    if let Some(node) = seen.nodes.iter().find(|node| node.mem_alarm) {
        return Some(format!(
            "broker node {} is short of memory and blocks the publishers: raise its memory limit or let consumers catch up",
            node.name
        ));
    }
    if let Some(node) = seen.nodes.iter().find(|node| node.disk_free_alarm) {
        return Some(format!(
            "broker node {} is short of disk and blocks the publishers: enlarge its volume or let consumers catch up",
            node.name
        ));
    }
    if running < replicas {
        let down = seen.nodes.iter().find(|node| !node.running && wanted.nodes.contains(&node.name));
        return Some(match down {
            Some(node) => format!("{running} of {replicas} broker nodes run: look at the pod of {}", node.name),
            None => {
                format!("{running} of {replicas} broker nodes have joined the cluster: look at the pods of the others")
            }
        });
    }
    let ours = |company: &String| seen.queues.get(company);
    let wrong_type = wanted.companies.iter().find_map(|company| {
        let found = ours(company)?.queue_type.as_deref()?;
        (found != wanted.queue_type.as_str()).then_some((company, found))
    });
    if let Some((company, found)) = wrong_type {
        return Some(format!(
            "queue {company} is {found}, not {}, since another program declared it first: \
             drain it, delete it by hand, and it is made anew",
            wanted.queue_type.as_str()
        ));
    }
    let without_majority = wanted.companies.iter().find_map(|company| {
        let queue = ours(company)?;
        let (members, online) = (queue.members.as_ref()?.len(), queue.online.as_ref()?.len());
        (online * 2 <= members).then_some((company, members, online))
    });
    if let Some((company, members, online)) = without_majority {
        return Some(format!(
            "queue {company} has {online} of {members} replicas online, no majority: look at the broker's pods"
        ));
    }
    if let Some(missing) = wanted.companies.iter().find(|company| ours(company).is_none()) {
        return Some(format!("queue {missing} is being made"));
    }
    let short = wanted.companies.iter().find_map(|company| {
        let members = ours(company)?.members.as_ref()?;
        let there = wanted.nodes.iter().filter(|node| members.contains(node)).count();
        (membership::is_quorum(ours(company)?) && there < replicas).then_some((company, there))
    });
    if let Some((company, there)) = short {
        return Some(format!("queue {company} has {there} of {replicas} replicas, the others are being made"));
    }
    let catching_up = wanted.companies.iter().find_map(|company| {
        let queue = ours(company).filter(|queue| membership::is_quorum(queue) && queue.members.is_some())?;
        let voters = membership::voters(wanted, queue).unwrap_or_default();
        let vote = wanted.nodes.iter().filter(|node| voters.contains(node)).count();
        (vote < replicas).then_some((company, vote))
    });
    if let Some((company, vote)) = catching_up {
        return Some(format!(
            "queue {company} has {vote} of {replicas} replicas with a vote, the others are catching up"
        ));
    }
    let leaving = membership::next_to_leave(wanted, seen)?;
    Some(membership::holds(wanted, seen, leaving).unwrap_or_else(|| format!("node {leaving} is leaving the cluster")))
}

/// Whether any one node may be taken away without a queue that stops: all of them run, and each replicated queue keeps a majority
/// of its votes online without one. A broker of one stops with it in any case, and a drain must end.
pub fn may_lose_a_node(wanted: &Wanted, seen: &Seen) -> bool {
    let bears_it = |queue: &Queue| match (membership::voters(wanted, queue), &queue.online) {
        (Some(voters), Some(online)) => {
            let votes = voters.iter().filter(|voter| online.contains(voter)).count();
            votes.saturating_sub(1) * 2 > voters.len()
        }
        // The broker has no figures for some seconds.
        _ => false,
    };
    let runs = |name: &String| seen.nodes.iter().any(|node| node.name == *name && node.running);
    let replicated = |queue: &&Queue| membership::is_quorum(queue);
    let alone = wanted.nodes.len() == 1 && seen.nodes.len() <= 1;
    alone || (wanted.nodes.iter().all(runs) && seen.queues.values().filter(replicated).all(bears_it))
}

/// The policies that have to be. A delivery limit of −1 is none: with the default of 20 a consumer that crashes in a loop
/// loses all messages it held for good (measured on 4.0.5).
pub fn policies() -> [(&'static str, Policy); 2] {
    let timeout = ("consumer-timeout", Value::from(CONSUMER_TIMEOUT_MILLIS));
    let policy = |apply_to: &str, definition: Vec<(&str, Value)>| Policy {
        pattern: ".*".to_owned(),
        apply_to: apply_to.to_owned(),
        priority: 0,
        definition: definition.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>(),
    };
    let no_limit = ("delivery-limit", Value::from(-1));
    [
        (QUORUM_POLICY, policy("quorum_queues", vec![no_limit, timeout.clone()])),
        (CLASSIC_POLICY, policy("classic_queues", vec![timeout])),
    ]
}
