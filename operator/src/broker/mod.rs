//! Gives the broker its policies and queues, and says how it is.
//! Rule: look, decide, act; the decision is pure ([`decision`]), an act is made only when the look found it missing.

mod amqp;
pub mod decision;
pub mod external;
pub mod management;
pub mod membership;
#[cfg(test)]
mod tests;
pub mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::web::Web;
pub use decision::{CLASSIC_POLICY, CONSUMER_TIMEOUT_MILLIS, DeleteQueue, QUORUM_POLICY, Removed, Wanted};
use decision::{Seen, Step, is_formed, is_gone, may_lose_a_node, next_steps, waiting_for};
use futures::{StreamExt, stream};
pub use management::Login;
use management::{DEFAULT_VIRTUAL_HOST, Failure, Management, Queue};

/// Acts under way at once; a broker with many new companies shall not hold up the pass.
const TOGETHER: usize = 8;
/// Acts of one pass. Each takes milliseconds; the next pass goes on with the rest.
const ACTS_MAX: usize = 200;

/// Bound of all closer looks of one pass, and what each queue adds to it: of 500 queues, all of which must be seen before a node is taken away.
const LOOKS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
const LOOKS_MAX: Duration = Duration::from_secs(20);

/// The broker after a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All wanted nodes run, and every company has a queue of the wanted type with a majority online.
    pub ready: bool,
    /// Nodes of the running cluster.
    pub nodes_running: u32,
    /// All nodes the cluster knows, running or not; `None` while it does not answer.
    pub nodes: Option<Vec<String>>,
    /// All wanted nodes have joined.
    pub formed: bool,
    /// The node that may leave the cluster now: nothing that has to stay is on it.
    pub may_leave: Option<String>,
    /// Whether any one node may be taken away and every queue goes on.
    pub may_lose_a_node: bool,
    /// Queues in which every wanted node votes; `None` while the broker does not answer.
    pub voting: Option<BTreeSet<String>>,
    /// A node is short of memory or disk and blocks the publishers: somebody has to act.
    pub alarm: bool,
    /// The wanted users, by name; empty while it does not answer.
    pub users: BTreeMap<String, users::State>,
    /// Those of the former users that are there.
    pub former: Vec<String>,
    /// By company; one whose queue does not exist is absent.
    pub queues: BTreeMap<String, QueueReport>,
    /// Removed companies of which nothing is left to delete.
    pub gone: BTreeSet<String>,
    /// What is missing and what a person can do, in one sentence; `None` when `ready`.
    pub waiting_for: Option<String>,
}

/// A company's queue. `None` is unknown: the broker has no figures for some seconds after a declaration or a restart, and
/// even a figure it gives just after a restart may be too low.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueReport {
    /// `quorum`, `classic` or `stream`.
    pub queue_type: Option<String>,
    /// Messages that wait.
    pub ready: Option<i64>,
    /// Messages a consumer holds.
    pub unacknowledged: Option<i64>,
    /// Its leader runs; of a classic queue, its node.
    pub served: bool,
    /// Somebody publishes to it.
    pub published: bool,
    /// Attached consumers.
    pub consumers: Option<i64>,
    /// Nodes with a replica; quorum queues only.
    pub members: Option<u32>,
    /// Those of them that run.
    pub online: Option<u32>,
}

/// The broker answered, and refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It does not know the operator's user.
    #[error(
        "broker {url} refuses user {user} ({status}): its Secret was changed after the broker's volume was made; \
         put the old password back, or set the new one with rabbitmqctl change_password"
    )]
    Unauthorized {
        /// Of the management interface.
        url: String,
        /// Who was refused.
        user: String,
        /// HTTP status, 401 or 403.
        status: u16,
    },
    /// It did not do what was asked.
    #[error("broker {url} did not {act} ({status}): {reason}: look at the log of its pods; it is tried again")]
    Refused {
        /// Of the management interface.
        url: String,
        /// What was asked.
        act: String,
        /// HTTP status.
        status: u16,
        /// The broker's words.
        reason: String,
    },
    /// Its answer is not that of a management interface.
    #[error("broker {url} is not understood: {reason}; is it RabbitMQ 3.13 or newer")]
    Unreadable {
        /// Of the management interface.
        url: String,
        /// What was not understood.
        reason: String,
    },
}

/// One pass: looks at nodes, policies and queues, makes what is missing, says what is left. A broker that does not answer
/// is a report, not an error. A look takes at most three seconds and the closer ones [`LOOKS_MAX`], each round of acts at most three more, and only the
/// first round of a new broker has any.
///
/// # Errors
/// The broker answered and refused; see [`BrokerError`].
pub async fn converge(http: &Web, wanted: &Wanted) -> Result<Report, BrokerError> {
    let management = management(http, wanted);
    let mut seen = match observe(&management, wanted).await {
        Ok(seen) => seen,
        Err(failure) => return failed(wanted, "show its state", failure),
    };
    let steps = next_steps(wanted, &seen);
    let mut outcomes = Vec::new();
    // Policies come first and alone: a queue must not live a moment without its own.
    let comes_first = |step: &Step| matches!(step, Step::PutUser(_) | Step::PermitUser(_) | Step::PutPolicy { .. });
    let (first, queues): (Vec<_>, Vec<_>) = steps.into_iter().take(ACTS_MAX).partition(comes_first);
    for steps in [first, queues] {
        let mut acts = stream::iter(steps).map(|step| carry_out(&management, step)).buffer_unordered(TOGETHER);
        while let Some((step, outcome)) = acts.next().await {
            if let Err(failure) = outcome {
                return failed(wanted, &describe(&step), failure);
            }
            outcomes.push(step);
        }
    }
    for step in outcomes {
        if let Step::DeclareQueue { company, queue_type } = step {
            let queue = Queue { name: company.clone(), queue_type: Some(queue_type.to_owned()), ..Queue::default() };
            seen.queues.insert(company, queue);
        }
    }
    Ok(report(wanted, &seen))
}

/// Removes these users, unless somebody is connected as one of them, and says who.
///
/// # Errors
/// What the broker said; what is not known keeps them.
pub async fn retire(http: &Web, wanted: &Wanted, names: &[String]) -> Result<Option<String>, String> {
    let management = management(http, wanted);
    let done = async {
        let connections = management.connections().await?;
        if let Some(one) = connections.iter().find(|connection| names.contains(&connection.user)) {
            return Ok(Some(format!("somebody at {} is connected as {}", one.peer_host, one.user)));
        }
        for name in names {
            management.delete_user(name).await?;
        }
        Ok(None)
    };
    done.await.map_err(|failure: Failure| match failure {
        Failure::Unreachable(reason) | Failure::Unreadable(reason) => reason,
        Failure::Refused { status, reason } => format!("refused ({status}): {reason}"),
    })
}

/// The way to the broker that we run.
fn management<'a>(http: &'a Web, wanted: &'a Wanted) -> Management<'a> {
    Management { http, url: &wanted.management_url, login: &wanted.login, virtual_host: DEFAULT_VIRTUAL_HOST }
}

async fn observe(management: &Management<'_>, wanted: &Wanted) -> Result<Seen, Failure> {
    let (nodes, listed, permissions, policies, mut queues) = futures::try_join!(
        management.nodes(),
        management.users(),
        management.permissions(),
        management.policies(),
        management.queues()
    )?;
    let users = users::states(&wanted.users, &listed, &permissions);
    let former = listed.into_iter().map(|user| user.name).filter(|name| wanted.former.contains(name)).collect();
    if wanted.in_doubt {
        // What nobody confirms is not known.
        queues.values_mut().filter(|queue| membership::is_quorum(queue)).for_each(|queue| queue.online = None);
    }
    let doubtful: Vec<&mut Queue> =
        queues.values_mut().filter(|queue| membership::needs_a_closer_look(wanted, queue)).collect();
    let bound = (LOOKS + LOOK * u32::try_from(doubtful.len()).unwrap_or(u32::MAX)).min(LOOKS_MAX);
    let looks = stream::iter(doubtful).for_each_concurrent(TOGETHER, async |queue| {
        // A queue whose nodes do not answer keeps what the list said.
        if let Err(failure) = management.look_closer(queue).await {
            tracing::debug!(queue = queue.name, ?failure, "no closer look");
        }
    });
    // All of them together: with a node that answers nobody each look would take its time.
    drop(tokio::time::timeout(bound, looks).await);
    Ok(Seen { nodes, users, former, policies, queues })
}

async fn carry_out(management: &Management<'_>, step: Step) -> (Step, Result<(), Failure>) {
    tracing::info!(broker = management.url, "{}", describe(&step));
    let outcome = match &step {
        Step::PutUser(user) => match management.put_user(user).await {
            Ok(()) => management.permit(&user.login.user).await,
            failed => failed,
        },
        Step::PermitUser(user) => management.permit(&user.login.user).await,
        Step::PutPolicy { name, policy } => management.put_policy(name, policy).await,
        Step::DeclareQueue { company, queue_type } => management.declare_queue(company, queue_type).await,
        Step::AddMember { queue, node } => put_off(management.add_member(queue, node).await),
        Step::DeleteMember { queue, node } => put_off(management.delete_member(queue, node).await),
        Step::DeleteQueue { queue, how } => {
            if let Err(failure) = delete_queue(management, queue, *how).await {
                tracing::warn!(queue, ?failure, "queue not deleted, to be tried again");
            }
            Ok(())
        }
    };
    (step, outcome)
}

/// Quorum queues have no deletion on the condition that they are empty (RabbitMQ 4.0.5 refuses it), so their leader is asked just before. What another program
/// publishes in between goes with the queue; programs of ours do not run by then.
async fn delete_queue(management: &Management<'_>, queue: &str, how: DeleteQueue) -> Result<(), Failure> {
    if how == DeleteQueue::WhenEmpty && management.has_message(queue).await? {
        tracing::info!(queue, "not deleted: a message came");
        return Ok(());
    }
    management.delete_queue(queue).await
}

/// A change of one queue's membership that the broker cannot make now (another one is under way, a node is joining) is looked at again in
/// the next pass, and keeps no other queue waiting.
fn put_off(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(Failure::Unreachable(reason)) => {
            tracing::info!(reason, "put off");
            Ok(())
        }
        outcome => outcome,
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::PutUser(user) => format!("make user {}", user.login.user),
        Step::PermitUser(user) => format!("give user {} its permissions", user.login.user),
        Step::PutPolicy { name, .. } => format!("set policy {name}"),
        Step::DeclareQueue { company, queue_type } => format!("declare {queue_type} queue {company}"),
        Step::AddMember { queue, node } => format!("give queue {queue} a replica on {node}"),
        Step::DeleteMember { queue, node } => format!("take the replica of queue {queue} from {node}"),
        Step::DeleteQueue { queue, .. } => format!("delete queue {queue}"),
    }
}

fn failed(wanted: &Wanted, act: &str, failure: Failure) -> Result<Report, BrokerError> {
    let url = wanted.management_url.clone();
    match failure {
        Failure::Unreachable(reason) => Ok(Report {
            waiting_for: Some(format!("broker {url} does not answer ({reason}): look at its pods")),
            may_lose_a_node: wanted.nodes.len() == 1,
            ..Report::default()
        }),
        Failure::Refused { status: status @ (401 | 403), .. } => {
            Err(BrokerError::Unauthorized { url, user: wanted.login.user.clone(), status })
        }
        Failure::Refused { status, reason } => Err(BrokerError::Refused { url, act: act.to_owned(), status, reason }),
        Failure::Unreadable(reason) => Err(BrokerError::Unreadable { url, reason }),
    }
}

/// What a pass that saw `seen` has to say.
pub fn report(wanted: &Wanted, seen: &Seen) -> Report {
    let waiting_for = waiting_for(wanted, seen);
    let removed = wanted.removed.iter().map(|removed| &removed.company);
    let gone = wanted.removed.iter().filter(|removed| is_gone(removed, seen));
    let alarm = seen.nodes.iter().any(|node| node.mem_alarm || node.disk_free_alarm);
    Report {
        ready: waiting_for.is_none(),
        nodes_running: seen.running(),
        nodes: Some(seen.nodes.iter().map(|node| node.name.clone()).collect()),
        formed: is_formed(wanted, seen),
        may_leave: membership::next_to_leave(wanted, seen)
            .filter(|node| membership::holds(wanted, seen, node).is_none())
            .map(str::to_owned),
        may_lose_a_node: may_lose_a_node(wanted, seen),
        voting: Some(membership::voting(wanted, seen)),
        alarm,
        users: seen.users.clone(),
        former: seen.former.clone(),
        queues: queue_reports(wanted.companies.iter().chain(removed), seen),
        gone: gone.map(|removed| removed.company.clone()).collect(),
        waiting_for,
    }
}

fn queue_reports<'a>(companies: impl Iterator<Item = &'a String>, seen: &Seen) -> BTreeMap<String, QueueReport> {
    let count = |nodes: &Option<Vec<String>>| nodes.as_ref().and_then(|nodes| u32::try_from(nodes.len()).ok());
    let runs = |name: &String| seen.nodes.iter().any(|node| node.name == *name && node.running);
    // Who may not see the nodes of somebody else's broker has to believe what it says of its queues.
    let served = |queue: &Queue| {
        queue.state.as_deref() == Some("running") && (seen.nodes.is_empty() || queue.node.as_ref().is_some_and(runs))
    };
    let published = |queue: &Queue| {
        let rate = queue.message_stats.as_ref().and_then(|stats| stats.pointer("/publish_details/rate")?.as_f64());
        rate.is_some_and(|rate| rate > 0.0)
    };
    companies
        .filter_map(|company| {
            let queue = seen.queues.get(company)?;
            let report = QueueReport {
                queue_type: queue.queue_type.clone(),
                ready: queue.messages_ready,
                unacknowledged: queue.messages_unacknowledged,
                served: served(queue),
                published: published(queue),
                consumers: queue.consumers,
                members: count(&queue.members),
                online: count(&queue.online),
            };
            Some((company.clone(), report))
        })
        .collect()
}
