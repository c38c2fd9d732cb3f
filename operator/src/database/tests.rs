//! The decision on values a user could have, and on every state of a small world.
//! Rule: the world behaves as mongod does at its worst: stale looks, two operators, kills between any two acts.

use std::collections::{BTreeMap, HashSet, VecDeque};

use mongodb::bson::{doc, oid::ObjectId};

use super::decision::{Change, ELECTION_TIMEOUT_MILLIS, Step, Wanted, next_step};
use super::seen::{Config, ConfigMember, Member, Seen, State, User, UserState, View};
use super::{Account, Credentials, connection_string, document, report, windows};

fn host(ordinal: usize) -> String {
    format!("demo-database-{ordinal}.demo-database:27017")
}

fn wanted(members: usize) -> Wanted {
    Wanted {
        set: "rs0".to_owned(),
        members: (0..members).map(host).collect(),
        outdated: Vec::new(),
        others: Vec::new(),
        database: "stockmarket".to_owned(),
        election_timeout_millis: ELECTION_TIMEOUT_MILLIS,
    }
}

fn config(members: usize) -> Config {
    Config {
        set: "rs0".to_owned(),
        id: "1".to_owned(),
        version: 1,
        term: 1,
        election_timeout_millis: Some(ELECTION_TIMEOUT_MILLIS),
        members: (0..members)
            .map(|ordinal| ConfigMember { host: host(ordinal), votes: true, electable: true })
            .collect(),
    }
}

fn member(state: State, config: &Config) -> Member {
    Member::Initialised(View { state, term: 1, config: config.clone() })
}

fn seen(members: Vec<Member>, users: UserState) -> Seen {
    Seen { members: (0..).map(host).zip(members).collect(), users: Some(User::ALL.map(|user| (user, users)).into()) }
}

fn healthy(members: usize) -> Seen {
    let config = config(members);
    let state = |ordinal| match ordinal {
        0 => State::Primary,
        _ => State::Secondary,
    };
    let members = (0..members).map(|ordinal| member(state(ordinal), &config));
    seen(members.collect(), UserState::Current)
}

fn down() -> Member {
    Member::Unreachable { error: "connection refused".to_owned() }
}

#[test]
fn a_set_is_made_on_the_first_member_when_all_are_empty() {
    let seen = seen(vec![Member::Uninitialised; 3], UserState::Missing);
    assert_eq!(next_step(&wanted(3), &seen), Step::Initiate { on: host(0) });
}

#[test]
fn no_set_is_made_while_a_member_is_silent_refusing_or_starting() {
    let refused = Member::Refused { error: "authentication failed".to_owned() };
    for other in [down(), refused, Member::Starting] {
        let seen = seen(vec![Member::Uninitialised, Member::Uninitialised, other], UserState::Missing);
        match next_step(&wanted(3), &seen) {
            Step::Wait { reason } => assert!(reason.contains(&host(2)), "{reason}"),
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn users_are_made_one_after_the_other_the_administrator_first() {
    let wanted = wanted(3);
    let mut seen = healthy(3);
    seen.users = Some(BTreeMap::new());
    let mut made = Vec::new();
    while let Step::CreateUser { user, on } = next_step(&wanted, &seen) {
        assert_eq!(on, host(0));
        made.push(user);
        seen.users.as_mut().unwrap().insert(user, UserState::Current);
    }
    assert_eq!(made, User::ALL);
    assert_eq!(next_step(&wanted, &seen), Step::Done);
}

#[test]
fn a_member_of_another_set_is_refused() {
    let mut foreign = config(3);
    foreign.id = "2".to_owned();
    let mut two_sets = healthy(3);
    two_sets.members.insert(host(2), member(State::Secondary, &foreign));
    assert!(matches!(next_step(&wanted(3), &two_sets), Step::Refuse { .. }));
    let mut other_name = wanted(3);
    other_name.set = "rs1".to_owned();
    assert!(matches!(next_step(&other_name, &healthy(3)), Step::Refuse { .. }));
}

/// Does what mongod does with a change, on all members at once.
fn apply(seen: &mut Seen, step: &Step) {
    match step {
        Step::Reconfigure { change, .. } => {
            for member in seen.members.values_mut() {
                if let Member::Initialised(view) = member {
                    view.config.version += 1;
                    change_members(&mut view.config.members, change);
                }
            }
        }
        Step::StepDown { on } => {
            let successor = seen.config().unwrap().members.iter().find(|m| m.electable && m.host != *on).unwrap();
            let successor = successor.host.clone();
            for (host, member) in &mut seen.members {
                if let Member::Initialised(view) = member {
                    view.state = if *host == successor { State::Primary } else { State::Secondary };
                }
            }
        }
        step => panic!("{step:?}"),
    }
}

fn change_members(members: &mut Vec<ConfigMember>, change: &Change) {
    match change {
        Change::Add(host) => {
            members.push(ConfigMember { host: host.clone(), votes: false, electable: false });
        }
        Change::Remove(host) => members.retain(|member| member.host != *host),
        Change::Promote(host) | Change::Retire(host) => {
            for member in members.iter_mut().filter(|member| member.host == *host) {
                member.electable = matches!(change, Change::Promote(_));
                member.votes |= member.electable;
            }
        }
        Change::ElectionTimeout(_) => {}
    }
}

#[test]
fn members_leave_one_by_one_after_the_primary_among_them_has_stepped_down() {
    let (wanted, mut seen) = (wanted(1), healthy(3));
    // The primary is a member that leaves.
    for (ordinal, state) in [(0, State::Secondary), (2, State::Primary)] {
        seen.members.insert(host(ordinal), member(state, &config(3)));
    }
    let mut steps = Vec::new();
    loop {
        let step = next_step(&wanted, &seen);
        if step == Step::Done {
            break;
        }
        let report = report(&wanted, &seen, &step);
        assert!(report.writable && !report.ready && !report.refused, "{report:?}");
        apply(&mut seen, &step);
        steps.push(match step {
            Step::Reconfigure { change, .. } => format!("{change:?}"),
            step => format!("{step:?}"),
        });
    }
    let expected = [
        format!("Retire({:?})", host(1)),
        format!("StepDown {{ on: {:?} }}", host(2)),
        format!("Retire({:?})", host(2)),
        format!("Remove({:?})", host(1)),
        format!("Remove({:?})", host(2)),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn nobody_leaves_while_a_member_that_stays_does_not_serve() {
    for state in [Some(State::Recovering), Some(State::Startup2), None] {
        let mut seen = healthy(5);
        seen.members.insert(host(2), state.map_or_else(down, |state| member(state, &config(5))));
        match next_step(&wanted(3), &seen) {
            Step::Wait { reason } => assert!(reason.contains(&host(2)), "{reason}"),
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn of_those_who_leave_the_one_that_is_down_leaves_first() {
    let mut config = config(5);
    for member in &mut config.members[3..] {
        member.electable = false;
    }
    let mut seen = healthy(5);
    for ordinal in 0..5 {
        let state = if ordinal == 0 { State::Primary } else { State::Secondary };
        seen.members.insert(host(ordinal), member(state, &config));
    }
    seen.members.insert(host(4), down());
    match next_step(&wanted(3), &seen) {
        Step::Reconfigure { change, .. } => assert_eq!(change, Change::Remove(host(4))),
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_member_that_was_to_leave_and_stays_may_become_primary_again() {
    let mut config = config(3);
    config.members[2].electable = false;
    let members = [State::Primary, State::Secondary, State::Secondary].map(|state| member(state, &config));
    match next_step(&wanted(3), &seen(members.into(), UserState::Current)) {
        Step::Reconfigure { change, .. } => assert_eq!(change, Change::Promote(host(2))),
        step => panic!("{step:?}"),
    }
}

#[test]
fn no_set_is_made_while_a_member_that_is_no_longer_wanted_may_hold_data() {
    let mut wanted = wanted(1);
    wanted.others = vec![host(1), host(2)];
    let mut seen = seen(vec![Member::Uninitialised, down(), Member::Uninitialised], UserState::Missing);
    assert!(matches!(next_step(&wanted, &seen), Step::Wait { .. }));
    seen.members.insert(host(1), Member::Uninitialised);
    assert_eq!(next_step(&wanted, &seen), Step::Initiate { on: host(0) });
}

#[test]
fn a_member_that_is_down_is_named_and_the_rest_stays_writable() {
    let mut seen = healthy(3);
    seen.members.insert(host(2), down());
    let report = report(&wanted(3), &seen, &next_step(&wanted(3), &seen));
    assert!(report.writable && !report.ready);
    assert_eq!(report.members_ready, 2);
    assert!(report.waiting_for.unwrap().contains(&host(2)));
}

#[test]
fn a_member_may_go_while_the_voters_bear_it() {
    let may = |wanted: &Wanted, seen: &Seen| report(wanted, seen, &next_step(wanted, seen)).may_lose_a_member;
    assert!(may(&wanted(3), &healthy(3)) && may(&wanted(1), &healthy(1)) && may(&wanted(5), &healthy(5)));
    assert!(!may(&wanted(1), &healthy(2)), "in the middle of shrinking two must serve");
    assert!(!may(&wanted(3), &healthy(1)), "in the middle of growing the first is the only one");
    let mut lagging = healthy(3);
    lagging.members.insert(host(2), member(State::Recovering, &config(3)));
    assert!(!may(&wanted(3), &lagging));
}

#[test]
fn the_primary_hands_over_when_its_pod_is_the_last_to_be_replaced_and_another_member_can_take_its_part() {
    let outdated = |members, outdated: &[usize]| {
        let wanted = Wanted { outdated: outdated.iter().copied().map(host).collect(), ..wanted(members) };
        next_step(&wanted, &healthy(members))
    };
    assert_eq!(outdated(3, &[0]), Step::StepDown { on: host(0) });
    for step in [outdated(3, &[0, 2]), outdated(3, &[2]), outdated(3, &[]), outdated(1, &[0])] {
        assert_eq!(step, Step::Done);
    }
}

#[test]
fn of_two_primaries_the_one_of_the_newer_term_counts() {
    let mut seen = healthy(3);
    let newer = View { state: State::Primary, term: 2, config: config(3) };
    seen.members.insert(host(1), Member::Initialised(newer));
    assert_eq!(seen.primary(), Some(host(1).as_str()));
}

#[test]
fn a_change_keeps_what_it_does_not_know_and_is_void_on_another_version() {
    let answer = doc! {"config": {
        "_id": "rs0", "version": 4, "term": 2, "protocolVersion": 1_i64,
        "members": [{"_id": 0, "host": host(0), "votes": 1, "priority": 1.0, "tags": {"rack": "a"}}],
        "settings": {"heartbeatTimeoutSecs": 10, "replicaSetId": ObjectId::new()},
    }};
    let added = document::changed(&answer, 4, &Change::Add(host(1))).unwrap();
    assert_eq!(added.get_i64("version").unwrap(), 5);
    let members = added.get_array("members").unwrap();
    let newcomer = members[1].as_document().unwrap();
    assert_eq!(newcomer.get_i64("_id").unwrap(), 1);
    assert_eq!(newcomer.get_i32("votes").unwrap(), 0);
    assert!(members[0].as_document().unwrap().contains_key("tags"));
    let timed = document::changed(&answer, 4, &Change::ElectionTimeout(2000)).unwrap();
    let settings = timed.get_document("settings").unwrap();
    assert_eq!(settings.get_i64("electionTimeoutMillis").unwrap(), 2000);
    assert!(settings.contains_key("heartbeatTimeoutSecs"));
    assert_eq!(document::changed(&answer, 3, &Change::Add(host(1))), None);
    assert_eq!(document::changed(&answer, 4, &Change::Add(host(0))), None);
}

#[test]
fn an_even_number_of_members_keeps_an_odd_number_of_votes() {
    for (members, votes) in [(1, 1), (2, 1), (3, 3), (4, 3), (6, 5), (7, 7), (9, 7)] {
        let config = document::initial(&wanted(members));
        let voting = config
            .get_array("members")
            .unwrap()
            .iter()
            .filter(|member| member.as_document().unwrap().get_i32("votes").unwrap() == 1)
            .count();
        assert_eq!(voting, votes, "of {members} members");
    }
}

#[test]
fn any_password_survives_the_connection_string() {
    let text = connection_string(&[host(0), host(1)], "application", "p@ss:w/rd?%ü", "stockmarket", "rs0");
    assert_eq!(
        text,
        "mongodb://application:p%40ss%3Aw%2Frd%3F%25%C3%BC@demo-database-0.demo-database:27017,\
         demo-database-1.demo-database:27017/stockmarket?replicaSet=rs0&authSource=admin"
    );
}

#[test]
fn secrets_are_not_in_debug_text() {
    let account = |name: &str| Account { name: name.to_owned(), password: "hidden".to_owned() };
    let credentials = Credentials {
        key: "hidden".to_owned(),
        administrator: account("a"),
        application: account("b"),
        monitoring: account("c"),
    };
    let text = format!("{credentials:?} {:?}", credentials.application);
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn a_window_without_a_number_has_an_unknown_count_not_zero() {
    let id = ObjectId::new();
    let foreign = windows::latest(&doc! {"_id": id, "avgPrice": 12.5}).unwrap();
    assert_eq!(foreign.windows, None);
    assert_eq!(foreign.at.as_millisecond(), id.timestamp().timestamp_millis());
    assert_eq!(windows::latest(&doc! {"_id": id, "window": 1}), None);
}

// ---- every state of a small world ----

/// Members, two operators (an old leader may not know yet that it is none), and the faults still to come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    primary: Option<usize>,
    /// Who may not become primary for a while.
    stepped_down: Option<usize>,
    users: Vec<UserState>,
    /// What each operator has decided on an earlier state of the world and not done yet.
    decided: [Option<Step>; 2],
    sets_made: u32,
    kills: u32,
    volumes_to_lose: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    up: bool,
    config: Option<Config>,
}

impl World {
    fn empty(members: usize) -> Self {
        Self {
            nodes: vec![Node { up: true, config: None }; members],
            primary: None,
            stepped_down: None,
            users: vec![UserState::Missing; 3],
            decided: [None, None],
            sets_made: 0,
            kills: 2,
            volumes_to_lose: 1,
        }
    }

    fn look(&self) -> Seen {
        let view = |(ordinal, node): (usize, &Node)| {
            let found = match &node.config {
                _ if !node.up => down(),
                None => Member::Uninitialised,
                Some(config) if self.primary == Some(ordinal) => member(State::Primary, config),
                Some(config) if listed(config, ordinal) => member(State::Secondary, config),
                Some(config) => member(State::Removed, config),
            };
            (host(ordinal), found)
        };
        let users = User::ALL.into_iter().zip(self.users.iter().copied());
        Seen {
            members: self.nodes.iter().enumerate().map(view).collect(),
            users: self.primary.map(|_| users.collect()),
        }
    }

    /// What mongod does with an act, including its own checks.
    fn act(&mut self, step: &Step) {
        match step {
            Step::Wait { .. } | Step::Refuse { .. } | Step::Done => {}
            Step::StepDown { on } => {
                let Some(primary) = self.primary.filter(|primary| host(*primary) == *on) else {
                    return;
                };
                let config = self.nodes[primary].config.clone();
                let caught_up = |(other, node): (usize, &Node)| {
                    other != primary && node.up && node.config == config && electable(config.as_ref().unwrap(), other)
                };
                if self.nodes.iter().enumerate().any(caught_up) {
                    self.primary = None;
                    self.stepped_down = Some(primary);
                }
            }
            Step::Initiate { on } => {
                assert_eq!(*on, host(0));
                let quorum_check = self.nodes.iter().all(|node| node.up && node.config.is_none());
                if quorum_check {
                    self.sets_made += 1;
                    let mut config = config(self.nodes.len());
                    config.id = self.sets_made.to_string();
                    self.nodes[0].config = Some(config);
                    self.users = vec![UserState::Missing; 3];
                }
            }
            Step::CreateUser { on, user } | Step::UpdateUser { on, user } => {
                if self.primary.map(host).as_ref() == Some(on) {
                    self.users[*user as usize] = UserState::Current;
                }
            }
            Step::Reconfigure { on, from_version, change } => {
                let Some(primary) = self.primary.filter(|primary| host(*primary) == *on) else {
                    return;
                };
                let config = self.nodes[primary].config.as_mut().unwrap();
                if config.version != *from_version {
                    return;
                }
                config.version += 1;
                if let Change::ElectionTimeout(millis) = change {
                    config.election_timeout_millis = Some(*millis);
                }
                change_members(&mut config.members, change);
                assert!(electable(config, primary), "the primary would make itself unelectable: {change:?}");
            }
        }
    }

    /// Elections, and the configuration on its way from the primary to the others.
    fn settle(&self) -> Vec<World> {
        let mut next = Vec::new();
        for (ordinal, node) in self.nodes.iter().enumerate() {
            let Some(config) = &node.config else { continue };
            let majority = |config: &Config| {
                let voters: Vec<_> = config.members.iter().filter(|m| m.votes).collect();
                let alive = voters.iter().filter(|voter| {
                    self.nodes.iter().enumerate().any(|(other, node)| node.up && host(other) == voter.host)
                });
                alive.count() * 2 > voters.len()
            };
            let newest =
                self.nodes.iter().all(|other| other.config.as_ref().map(|c| c.version).unwrap_or(0) <= config.version);
            let may_lead = electable(config, ordinal) && self.stepped_down != Some(ordinal);
            if node.up && self.primary.is_none() && newest && may_lead && majority(config) {
                let mut world = self.clone();
                world.primary = Some(ordinal);
                world.stepped_down = None;
                next.push(world);
            }
            if self.primary == Some(ordinal) {
                if !majority(config) {
                    let mut world = self.clone();
                    world.primary = None;
                    next.push(world);
                }
                for (other, target) in self.nodes.iter().enumerate() {
                    if target.up && listed(config, other) && target.config != node.config {
                        let mut world = self.clone();
                        world.nodes[other].config = node.config.clone();
                        next.push(world);
                    }
                }
            }
            // A configuration spreads by heartbeats before there is a primary, too.
            if node.up && self.primary.is_none() && newest {
                for (other, target) in self.nodes.iter().enumerate() {
                    if target.up && listed(config, other) && target.config.is_none() {
                        let mut world = self.clone();
                        world.nodes[other].config = node.config.clone();
                        next.push(world);
                    }
                }
            }
        }
        next
    }

    /// The operator takes away the pods and volumes of those who are out of the set: never of one that holds a vote or data
    /// that only it has.
    fn shrunk(&self, wanted: &Wanted) -> Option<World> {
        let seen = self.look();
        let report = report(wanted, &seen, &next_step(wanted, &seen));
        let configured = report.configured?;
        let needed = wanted.members.iter().chain(&configured);
        let pods = (0..self.nodes.len()).filter(|ordinal| needed.clone().any(|m| *m == host(*ordinal))).max()? + 1;
        (pods < self.nodes.len()).then(|| {
            let mut world = self.clone();
            for gone in world.nodes.drain(pods..) {
                let may_lead = gone.config.is_some_and(|config| config.version >= self.version());
                assert!(!may_lead, "a pod was taken away whose member is in the set: {self:?}");
            }
            world
        })
    }

    fn version(&self) -> i64 {
        self.nodes.iter().filter_map(|node| node.config.as_ref()).map(|config| config.version).max().unwrap_or(0)
    }

    /// Every state that may follow this one.
    fn next(&self, wanted: &Wanted) -> Vec<World> {
        let mut next = self.settle();
        next.extend(self.shrunk(wanted));
        for operator in 0..2 {
            let mut world = self.clone();
            match world.decided[operator].take() {
                None => {
                    let step = next_step(wanted, &self.look());
                    if matches!(step, Step::Wait { .. } | Step::Refuse { .. } | Step::Done) {
                        continue;
                    }
                    if matches!(step, Step::Initiate { .. }) {
                        assert!(
                            self.nodes.iter().all(|node| node.config.is_none()),
                            "a set would be made over another: {self:?}"
                        );
                    }
                    world.decided[operator] = Some(step);
                }
                Some(step) => {
                    next.push(world.clone()); // killed before the act
                    world.act(&step);
                }
            }
            next.push(world);
        }
        for ordinal in 0..self.nodes.len() {
            let mut world = self.clone();
            if !self.nodes[ordinal].up {
                world.nodes[ordinal].up = true;
                next.push(world);
                continue;
            }
            if self.kills == 0 {
                continue;
            }
            world.kills -= 1;
            world.nodes[ordinal].up = false;
            if self.primary == Some(ordinal) {
                world.primary = None;
            }
            // Losing the only copy is beyond any operator; it is left out.
            let copies = self.nodes.iter().filter(|n| n.config.is_some()).count();
            if self.volumes_to_lose > 0 && copies > 1 {
                let mut lost = world.clone();
                lost.volumes_to_lose -= 1;
                lost.nodes[ordinal].config = None;
                next.push(lost);
            }
            next.push(world);
        }
        next
    }

    /// No more faults: everything is up, one operator works.
    fn calm(mut self, wanted: &Wanted) -> Step {
        for node in &mut self.nodes {
            node.up = true;
        }
        for _ in 0..60 {
            for operator in 0..2 {
                if let Some(step) = self.decided[operator].take() {
                    self.act(&step);
                }
            }
            while let Some(world) = self.settle().into_iter().next() {
                self = world;
            }
            if let Some(world) = self.shrunk(wanted) {
                self = world;
            }
            let step = next_step(wanted, &self.look());
            if step == Step::Done {
                break;
            }
            self.decided[0] = Some(step);
        }
        assert_eq!(self.nodes.len(), wanted.members.len(), "pods are left over");
        next_step(wanted, &self.look())
    }
}

fn listed(config: &Config, ordinal: usize) -> bool {
    config.members.iter().any(|m| m.host == host(ordinal))
}

fn electable(config: &Config, ordinal: usize) -> bool {
    config.members.iter().any(|m| m.electable && m.host == host(ordinal))
}

fn explore(start: World, wanted: &Wanted) -> usize {
    let mut known = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(world) = open.pop_front() {
        assert!(world.sets_made <= 1, "a second set was made: {world:?}");
        assert_eq!(world.clone().calm(wanted), Step::Done, "stuck: {world:?}");
        for next in world.next(wanted) {
            if known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    known.len()
}

#[test]
fn whatever_dies_and_when_one_set_is_made_and_never_a_second() {
    for members in 1..=3 {
        let states = explore(World::empty(members), &wanted(members));
        println!("{members} members from nothing: {states} states");
    }
}

#[test]
fn whatever_dies_and_when_one_member_grows_to_three() {
    let mut start = World::empty(3);
    let mut config = config(1);
    config.election_timeout_millis = Some(10_000);
    start.nodes[0].config = Some(config);
    start.primary = Some(0);
    start.users = vec![UserState::Current; 3];
    start.kills = 1;
    let states = explore(start, &wanted(3));
    println!("from one member to three: {states} states");
}

#[test]
fn whatever_dies_and_when_three_members_become_one_and_five_three() {
    for (from, to, faults) in [(3, 1, 1), (5, 3, 0)] {
        for primary in 0..from {
            let mut start = World::empty(from);
            let config = config(from);
            start.nodes.iter_mut().for_each(|node| node.config = Some(config.clone()));
            start.primary = Some(primary);
            start.users = vec![UserState::Current; 3];
            (start.kills, start.volumes_to_lose) = (faults, faults);
            let states = explore(start, &wanted(to));
            println!("from {from} members to {to}, the primary is member {primary}: {states} states");
        }
    }
}
