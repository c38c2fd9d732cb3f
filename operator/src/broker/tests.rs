//! The decision on values a broker gives.
//! Rule: no client, no time.

mod model;

use std::collections::BTreeSet;

use wire::queue::QueueType;

use super::decision::{Seen, Step, Wanted, next_steps, policies};
use super::management::{Login, Node, Queue};
use super::users::{State, User};
use super::{membership, report};

fn name(ordinal: usize) -> String {
    format!("rabbit@demo-broker-{ordinal}")
}

fn wanted(replicas: usize) -> Wanted {
    Wanted {
        management_url: "http://demo-broker:15672".to_owned(),
        login: Login { user: "operator".to_owned(), password: "hidden".to_owned() },
        users: Vec::new(),
        former: Vec::new(),
        nodes: (0..replicas).map(name).collect(),
        others: (replicas..5).map(name).collect(),
        formed: false,
        in_doubt: false,
        voting: BTreeSet::new(),
        queue_type: QueueType::Quorum,
        companies: vec!["MSFT".to_owned(), "^GSPC".to_owned()],
        removed: Vec::new(),
    }
}

fn node(ordinal: usize, running: bool) -> Node {
    Node { name: name(ordinal), running, mem_alarm: false, disk_free_alarm: false }
}

fn queue(name: &str, queue_type: &str, members: usize, online: usize) -> (String, Queue) {
    let nodes = |count| (0..count).map(self::name).collect();
    let queue = Queue {
        name: name.to_owned(),
        queue_type: Some(queue_type.to_owned()),
        members: Some(nodes(members)),
        online: Some(nodes(online)),
        voters: Some(nodes(members)),
        ..Queue::default()
    };
    (name.to_owned(), queue)
}

fn as_wanted() -> Seen {
    Seen {
        nodes: vec![node(0, true)],
        policies: policies().map(|(name, policy)| (name.to_owned(), policy)).into(),
        queues: [queue("MSFT", "quorum", 1, 1), queue("^GSPC", "quorum", 1, 1)].into(),
        ..Seen::default()
    }
}

#[test]
fn a_node_may_go_when_every_queue_keeps_a_majority_without_it() {
    let three = |queues: &[(usize, usize)], running: usize| Seen {
        nodes: (0..3).map(|ordinal| node(ordinal, ordinal < running)).collect(),
        queues: ["MSFT", "^GSPC"]
            .iter()
            .zip(queues)
            .map(|(name, (members, online))| queue(name, "quorum", *members, *online))
            .collect(),
        ..Seen::default()
    };
    for (queues, running, may) in [
        ([(3, 3), (3, 3)], 3, true),
        ([(3, 3), (3, 2)], 3, false),
        ([(3, 3), (1, 1)], 3, false),
        ([(3, 3), (3, 3)], 2, false),
    ] {
        assert_eq!(report(&wanted(3), &three(&queues, running)).may_lose_a_node, may, "{queues:?} {running}");
    }
    assert!(report(&wanted(1), &as_wanted()).may_lose_a_node, "one node stops in any case, and a drain must end");
    let mut fresh = three(&[(3, 3)], 3);
    fresh.queues.get_mut("MSFT").unwrap().online = None;
    assert!(!report(&wanted(3), &fresh).may_lose_a_node, "what is not known yet is not safe");
}

#[test]
fn a_replica_without_a_vote_is_waited_for_and_counts_for_no_majority() {
    let wanted = only_msft(3);
    let told = report(&wanted, &three_nodes(&[0, 1, 2], &[0, 1]));
    assert!(!told.may_lose_a_node, "of two votes both are needed");
    let words = told.waiting_for.unwrap();
    assert!(words.contains("queue MSFT has 2 of 3 replicas with a vote"), "{words}");
    let all = report(&wanted, &three_nodes(&[0, 1, 2], &[0, 1, 2]));
    assert!(all.ready && all.may_lose_a_node);
    // The list of queues says nothing of votes: what was seen once is believed, and nothing else.
    let mut listed = three_nodes(&[0, 1, 2], &[]);
    listed.queues.get_mut("MSFT").unwrap().voters = None;
    assert!(membership::needs_a_closer_look(&wanted, &listed.queues["MSFT"]) && !report(&wanted, &listed).ready);
    let wanted = Wanted { voting: all.voting.unwrap(), ..wanted };
    assert!(!membership::needs_a_closer_look(&wanted, &listed.queues["MSFT"]));
    let all = report(&wanted, &listed);
    assert!(all.ready && all.may_lose_a_node);
}

fn declared(steps: &[Step]) -> Vec<&str> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::DeclareQueue { company, .. } => Some(company.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_broker_as_wanted_gets_no_step_and_is_ready() {
    assert_eq!(next_steps(&wanted(1), &as_wanted()), []);
    assert!(report(&wanted(1), &as_wanted()).ready);
}

#[test]
fn a_password_that_programs_work_with_is_never_changed_under_them() {
    let user = |in_use| User {
        login: Login { user: "application".to_owned(), password: "hidden".to_owned() },
        administrator: false,
        in_use,
    };
    for (state, in_use, acts) in [
        (State::Missing, true, true),
        (State::NotPermitted, true, true),
        (State::OtherPassword, true, false),
        (State::OtherPassword, false, true),
        (State::Current, true, false),
    ] {
        let wanted = Wanted { users: vec![user(in_use)], ..wanted(1) };
        let seen = Seen { users: [("application".to_owned(), state)].into(), ..as_wanted() };
        assert_eq!(next_steps(&wanted, &seen).len(), usize::from(acts), "{state:?} {in_use}");
    }
}

#[test]
fn an_empty_broker_gets_its_policies_before_its_queues() {
    let seen = Seen { nodes: vec![node(0, true)], ..Seen::default() };
    let steps = next_steps(&wanted(1), &seen);
    assert!(matches!(steps[..2], [Step::PutPolicy { .. }, Step::PutPolicy { .. }]));
    assert_eq!(declared(&steps[2..]), ["MSFT", "^GSPC"]);
}

#[test]
fn queues_of_a_new_cluster_wait_for_all_its_nodes() {
    let seen = Seen { nodes: vec![node(0, true)], ..Seen::default() };
    assert!(declared(&next_steps(&wanted(3), &seen)).is_empty());
    let reason = report(&wanted(3), &seen).waiting_for.unwrap();
    assert!(reason.contains("1 of 3"), "{reason}");
}

#[test]
fn a_node_that_is_down_keeps_no_new_company_away() {
    let mut seen = as_wanted();
    seen.nodes = vec![node(0, true), node(1, true), node(2, false)];
    seen.queues = [queue("^GSPC", "quorum", 3, 2)].into();
    assert_eq!(declared(&next_steps(&wanted(3), &seen)), ["MSFT"]);
    seen.nodes[1].running = false;
    assert!(declared(&next_steps(&wanted(3), &seen)).is_empty());
}

#[test]
fn an_alarm_a_wrong_type_and_a_lost_majority_are_named() {
    let mut alarm = as_wanted();
    alarm.nodes[0].disk_free_alarm = true;
    let mut wrong_type = as_wanted();
    wrong_type.queues.extend([queue("MSFT", "classic", 1, 1)]);
    let mut no_majority = as_wanted();
    no_majority.queues.extend([queue("MSFT", "quorum", 3, 1)]);
    for (seen, word) in [(alarm, "disk"), (wrong_type, "classic"), (no_majority, "1 of 3 replicas")] {
        let report = report(&wanted(1), &seen);
        assert!(!report.ready);
        let reason = report.waiting_for.unwrap();
        assert!(reason.contains(word), "{reason}");
    }
}

/// Three nodes that run, and MSFT with these members and voters.
fn three_nodes(members: &[usize], voters: &[usize]) -> Seen {
    let names = |ordinals: &[usize]| Some(ordinals.iter().copied().map(name).collect());
    let msft = Queue {
        name: "MSFT".to_owned(),
        queue_type: Some("quorum".to_owned()),
        members: names(members),
        online: names(members),
        voters: names(voters),
        ..Queue::default()
    };
    Seen {
        nodes: (0..3).map(|ordinal| node(ordinal, true)).collect(),
        queues: [("MSFT".to_owned(), msft)].into(),
        ..as_wanted()
    }
}

fn only_msft(replicas: usize) -> Wanted {
    Wanted { companies: vec!["MSFT".to_owned()], formed: true, ..wanted(replicas) }
}

#[test]
fn a_queue_grows_onto_every_node_one_replica_at_a_time_and_the_status_counts_them() {
    let wanted = only_msft(3);
    let add = |ordinal| [Step::AddMember { queue: "MSFT".to_owned(), node: name(ordinal) }];
    for (members, steps, words) in [
        (&[0][..], &add(1)[..], "queue MSFT has 1 of 3 replicas"),
        (&[0, 1], &add(2), "queue MSFT has 2 of 3 replicas"),
        (&[0, 1, 2], &[], ""),
    ] {
        let seen = three_nodes(members, members);
        assert_eq!(next_steps(&wanted, &seen), steps);
        let told = report(&wanted, &seen).waiting_for.unwrap_or_default();
        assert!(told.contains(words), "{told}");
    }
    let mut seen = three_nodes(&[0], &[0]);
    seen.nodes[1].running = false;
    assert_eq!(next_steps(&wanted, &seen), add(2), "a node that is down gets its replica when it is back");
}

#[test]
fn a_replica_is_taken_from_the_node_that_leaves_only_when_every_node_that_stays_votes() {
    let wanted = only_msft(1);
    let delete = [Step::DeleteMember { queue: "MSFT".to_owned(), node: name(2) }];
    assert_eq!(next_steps(&wanted, &three_nodes(&[0, 1, 2], &[0, 1, 2])), delete);
    assert_eq!(next_steps(&wanted, &three_nodes(&[0, 1, 2], &[1, 2])), [], "node 0 has not caught up");
    let mut unknown = three_nodes(&[0, 1, 2], &[]);
    unknown.queues.get_mut("MSFT").unwrap().voters = None;
    assert_eq!(next_steps(&wanted, &unknown), []);
    let mut down = three_nodes(&[0, 1, 2], &[0, 1, 2]);
    down.nodes[0].running = false;
    assert_eq!(next_steps(&wanted, &down), []);
    let told = report(&wanted, &down).waiting_for.unwrap();
    assert!(told.contains("0 of 1 broker nodes run: look at the pod of rabbit@demo-broker-0"), "{told}");
}

#[test]
fn nodes_leave_from_the_highest_ordinal_and_not_while_a_queue_lies_on_them() {
    let wanted = only_msft(1);
    let seen = three_nodes(&[0, 1, 2], &[0, 1, 2]);
    assert_eq!(report(&wanted, &seen).may_leave, None);
    let mut seen = three_nodes(&[0, 1], &[0, 1]);
    assert_eq!(report(&wanted, &seen).may_leave, Some(name(2)));
    // It does not matter whether the node that leaves still runs.
    seen.nodes[2].running = false;
    assert_eq!(report(&wanted, &seen).may_leave, Some(name(2)));
    assert_eq!(report(&only_msft(3), &seen).may_leave, None);
}

#[test]
fn a_queue_that_lies_only_on_the_node_that_is_to_leave_keeps_it_and_the_remedy_is_told() {
    let wanted = only_msft(1);
    let mut seen = three_nodes(&[0], &[0]);
    let own = |exclusive| Queue {
        name: "orders".to_owned(),
        queue_type: Some("classic".to_owned()),
        node: Some(name(2)),
        exclusive: Some(exclusive),
        ..Queue::default()
    };
    seen.queues.insert("orders".to_owned(), own(false));
    let told = report(&wanted, &seen);
    assert_eq!(told.may_leave, None);
    let words = told.waiting_for.unwrap();
    assert!(words.contains("queue orders lies on it alone") && words.contains("delete that queue"), "{words}");
    seen.queues.insert("orders".to_owned(), own(true));
    assert_eq!(report(&wanted, &seen).may_leave, Some(name(2)), "it goes with its client");
}

#[test]
fn a_figure_the_broker_does_not_give_is_unknown() {
    let report = report(&wanted(1), &as_wanted());
    assert_eq!(report.queues["MSFT"].ready, None);
    assert_eq!(report.queues["MSFT"].members, Some(1));
}

#[test]
fn the_password_is_not_in_debug_text() {
    assert!(!format!("{:?}", wanted(1)).contains("hidden"));
}
