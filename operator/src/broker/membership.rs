//! Which nodes hold a replica of which queue, and which node may leave the cluster.
//! Rule: pure; a replica goes only when every node that stays votes in its queue, a node only when no queue needs it.

use std::collections::BTreeSet;

use wire::queue::QueueType;

use super::decision::{Seen, Step, Wanted};
use super::management::Queue;

/// Most changes of memberships in one pass; the next one goes on.
const CHANGES_MAX: usize = 50;
const QUORUM: &str = QueueType::Quorum.as_str();
const CLASSIC: &str = QueueType::Classic.as_str();

/// The node that is to leave next: one that does not run, for without it the others bear less; else the one whose pod a StatefulSet takes
/// first, that of the highest ordinal.
pub fn next_to_leave<'a>(wanted: &'a Wanted, seen: &Seen) -> Option<&'a str> {
    let known = |name: &&String| seen.nodes.iter().any(|node| node.name == **name);
    let down = |name: &&String| !seen.nodes.iter().any(|node| node.name == **name && node.running);
    let mut leaving = wanted.others.iter().rev().filter(known);
    leaving.clone().find(down).or_else(|| leaving.next()).map(String::as_str)
}

/// One change of membership for each queue that needs one. The broker allows one at a time and queue, and answers an idle one with success.
///
/// A replica on a node that leaves is not taken away before each node that stays votes (a new replica has no vote until it has caught up)
/// and a majority of the others is online. One that is offline goes first: it counts for the majority and helps nobody to reach it.
pub fn next_changes(wanted: &Wanted, seen: &Seen) -> Vec<Step> {
    let running: BTreeSet<&str> =
        seen.nodes.iter().filter(|node| node.running).map(|node| node.name.as_str()).collect();
    let all_stay = wanted.nodes.iter().all(|node| running.contains(node.as_str()));
    let change = |queue: &Queue| {
        let (members, online) = (queue.members.as_ref()?, queue.online.as_ref()?);
        if let Some(node) = wanted.nodes.iter().find(|node| !members.contains(node) && running.contains(node.as_str()))
        {
            return Some(Step::AddMember { queue: queue.name.clone(), node: node.clone() });
        }
        let voters = queue.voters.as_ref()?;
        let mut leaving = wanted.others.iter().rev().filter(|node| members.contains(node));
        let node = leaving.clone().find(|node| !online.contains(node)).or_else(|| leaving.next())?;
        let others = members.iter().filter(|member| *member != node);
        let others_online = others.clone().filter(|member| online.contains(member)).count();
        let may_shrink =
            all_stay && wanted.nodes.iter().all(|node| voters.contains(node)) && others_online * 2 > others.count();
        may_shrink.then(|| Step::DeleteMember { queue: queue.name.clone(), node: node.clone() })
    };
    seen.queues.values().filter(|queue| is_quorum(queue)).filter_map(change).take(CHANGES_MAX).collect()
}

/// What keeps `node` in the cluster, in one sentence; `None`: it may leave.
pub fn holds(wanted: &Wanted, seen: &Seen, node: &str) -> Option<String> {
    if let Some(down) =
        wanted.nodes.iter().find(|name| !seen.nodes.iter().any(|node| node.name == **name && node.running))
    {
        return Some(format!("node {node} leaves once all that remain run: look at the pod of {down}"));
    }
    let is_on_it = |queue: &&Queue| match queue.queue_type.as_deref() {
        Some(QUORUM) => queue.members.as_ref().is_none_or(|members| members.iter().any(|member| member == node)),
        // An exclusive one goes with its client's connection.
        Some(CLASSIC) => queue.exclusive != Some(true) && queue.node.as_deref() == Some(node),
        _ => queue.members.iter().flatten().any(|member| member == node),
    };
    let queue = seen.queues.values().find(is_on_it)?;
    Some(if is_quorum(queue) {
        format!("node {node} leaves once queue {} has its replicas on those that remain", queue.name)
    } else {
        format!(
            "node {node} cannot leave: queue {} lies on it alone and would be lost: drain and delete that queue, or ask for more nodes again",
            queue.name
        )
    })
}

/// Whether what the list says of a queue's replicas must be asked of its nodes: the list may be minutes old after a node has gone or
/// come (measured on 4.0.5: up to two), so only what is as it has to be is believed.
pub fn needs_a_closer_look(wanted: &Wanted, queue: &Queue) -> bool {
    let (Some(members), Some(online)) = (&queue.members, &queue.online) else { return is_quorum(queue) };
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    is_quorum(queue)
        && (wanted.in_doubt
            || set(members) != set(&wanted.nodes)
            || online.len() < members.len()
            || voters(wanted, queue).is_none())
}

/// The replicas of a queue that count for its majority; `None` is unknown. One that was just added holds nothing yet and counts only once it has
/// caught up (RabbitMQ calls it `promotable`), which the list of queues does not tell. One that votes goes on doing so.
pub fn voters<'a>(wanted: &Wanted, queue: &'a Queue) -> Option<&'a [String]> {
    let members = queue.members.as_deref();
    let known = members.filter(|members| members.len() == 1 || wanted.voting.contains(&queue.name));
    queue.voters.as_deref().or(known)
}

/// The queues in which every wanted node votes.
pub fn voting(wanted: &Wanted, seen: &Seen) -> BTreeSet<String> {
    let vote = |queue: &&Queue| {
        voters(wanted, queue).is_some_and(|voters| wanted.nodes.iter().all(|node| voters.contains(node)))
    };
    seen.queues.values().filter(|queue| is_quorum(queue)).filter(vote).map(|queue| queue.name.clone()).collect()
}

/// Whether a queue is replicated.
pub fn is_quorum(queue: &Queue) -> bool {
    queue.queue_type.as_deref() == Some(QUORUM)
}
