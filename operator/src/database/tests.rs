//! The decision on values a user could have, and on every state of a small world.
//! Rule: the world behaves as mongod does at its worst: stale looks, two operators, kills between any two acts.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, LazyLock};

use mongodb::bson::{doc, oid::ObjectId};

use super::decision::{Change, ELECTION_TIMEOUT_MILLIS, Step, Wanted, next_step};
use super::seen::{Bar, Config, ConfigMember, Member, Seen, State, User, UserState, View};
use super::{Account, Credentials, Report, connection_string, document, report, windows};

fn host(ordinal: usize) -> String {
    // Made once: the small worlds ask for millions.
    static HOSTS: LazyLock<Vec<String>> =
        LazyLock::new(|| (0..9).map(|ordinal| format!("demo-database-{ordinal}.demo-database:27017")).collect());
    HOSTS[ordinal].clone()
}

fn wanted(members: usize) -> Wanted {
    Wanted {
        set: "rs0".to_owned(),
        members: (0..members).map(host).collect(),
        outdated: Vec::new(),
        others: Vec::new(),
        database: "stockmarket".to_owned(),
        election_timeout_millis: ELECTION_TIMEOUT_MILLIS,
        trusted: None,
    }
}

/// `to` members are wanted, and the pods of `from` are there.
fn fewer(from: usize, to: usize) -> Wanted {
    Wanted { others: (to..from).map(host).collect(), ..wanted(to) }
}

fn config(members: usize) -> Config {
    Config {
        set: "rs0".to_owned(),
        id: "1".to_owned(),
        version: 1,
        term: 1,
        election_timeout_millis: Some(ELECTION_TIMEOUT_MILLIS),
        members: (0..members)
            .map(|ordinal| ConfigMember { host: host(ordinal), votes: true, electable: true, bar: None })
            .collect(),
    }
}

fn member(state: State, config: &Config) -> Member {
    Member::Initialised(View {
        state,
        term: 1,
        config: config.clone(),
        committed: state == State::Primary,
        too_stale: false,
    })
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
                    view.committed = *host == successor;
                    view.state = if view.committed { State::Primary } else { State::Secondary };
                }
            }
        }
        step => panic!("{step:?}"),
    }
}

fn change_members(members: &mut Vec<ConfigMember>, change: &Change) {
    match change {
        Change::Add(host) => {
            members.push(ConfigMember { host: host.clone(), votes: false, electable: false, bar: None });
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
    let (wanted, mut seen) = (fewer(3, 1), healthy(3));
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
        match next_step(&fewer(5, 3), &seen) {
            Step::Wait { reason } => {
                assert!(reason.starts_with("2 members stay") && reason.contains(&host(2)), "{reason}");
            }
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
    match next_step(&fewer(5, 3), &seen) {
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
    let wanted = fewer(3, 1);
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
    let mut retired = config(3);
    retired.members[1..].iter_mut().for_each(|member| member.electable = false);
    let members = [State::Primary, State::Secondary, State::Secondary].map(|state| member(state, &retired));
    assert!(!may(&fewer(3, 1), &seen(members.into(), UserState::Current)), "nobody else may become primary");
}

/// What a set without a wish of its own says it waits for.
fn waits(wanted: &Wanted, seen: &Seen) -> String {
    match next_step(wanted, seen) {
        Step::Wait { reason } => reason,
        step => panic!("{step:?}"),
    }
}

/// A healthy set, and one more member that a person added, with a vote.
fn healthy_and_a_stranger(members: usize, stranger: Option<State>) -> Seen {
    let mut config = config(members);
    config.members.push(ConfigMember { host: STRANGER.to_owned(), votes: true, electable: true, bar: None });
    let mut seen = healthy(members);
    for member in seen.members.values_mut() {
        if let Member::Initialised(view) = member {
            view.config = config.clone();
        }
    }
    seen.members.insert(STRANGER.to_owned(), stranger.map_or_else(down, |state| member(state, &config)));
    seen
}

const STRANGER: &str = "laptop.example:27017";

#[test]
fn a_member_added_by_hand_stays_and_its_vote_counts() {
    assert_eq!(next_step(&wanted(3), &healthy_and_a_stranger(3, Some(State::Secondary))), Step::Done);
    // Everybody of ours leaves but one, and the stranger is still there.
    let mut seen = healthy_and_a_stranger(3, Some(State::Secondary));
    loop {
        let step = next_step(&fewer(3, 1), &seen);
        if step == Step::Done {
            break;
        }
        apply(&mut seen, &step);
    }
    let hosts: Vec<String> = seen.config().unwrap().members.iter().map(|member| member.host.clone()).collect();
    assert_eq!(hosts, [host(0), STRANGER.to_owned()]);
    // One that is down would leave its set without a majority when only one of ours were left.
    let mut seen = healthy_and_a_stranger(3, None);
    let reason = loop {
        match next_step(&fewer(3, 1), &seen) {
            Step::Wait { reason } => break reason,
            step => apply(&mut seen, &step),
        }
    };
    assert!(reason.contains(&format!("rs.remove(\"{STRANGER}\")")), "{reason}");
    assert_eq!(seen.config().unwrap().members.len(), 3, "one of ours left, and two of three still serve");
}

#[test]
fn members_added_by_hand_that_hold_the_last_votes_are_named() {
    let mut config = config(7);
    (config.members[6].votes, config.members[6].electable) = (false, false);
    config.members.push(ConfigMember { host: STRANGER.to_owned(), votes: true, electable: true, bar: None });
    let mut seen = healthy(7);
    for ordinal in 0..7 {
        let state = if ordinal == 0 { State::Primary } else { State::Secondary };
        seen.members.insert(host(ordinal), member(state, &config));
    }
    let reason = waits(&wanted(7), &seen);
    assert!(reason.contains(STRANGER) && reason.contains("rs.remove"), "{reason}");
}

#[test]
fn a_set_of_other_names_is_refused() {
    let config = config(3);
    let mut seen = healthy(3);
    for ordinal in 4..7 {
        let state = if ordinal == 4 { State::Primary } else { State::Secondary };
        seen.members.insert(host(ordinal), member(state, &config));
    }
    let renamed = Wanted { members: (4..7).map(host).collect(), ..wanted(3) };
    assert!(matches!(next_step(&renamed, &seen), Step::Refuse { .. }));
}

#[test]
fn a_member_that_cannot_become_primary_is_left_so_and_the_remedy_is_said() {
    for (bar, remedy) in
        [(Bar::Hidden, "hidden to false"), (Bar::Delayed, "secondaryDelaySecs to 0"), (Bar::NoIndexes, "rs.remove")]
    {
        for votes in [false, true] {
            let mut config = config(3);
            config.members[2] = ConfigMember { host: host(2), votes, electable: false, bar: Some(bar) };
            let members = [State::Primary, State::Secondary, State::Secondary].map(|state| member(state, &config));
            let seen = seen(members.into(), UserState::Current);
            let reason = waits(&wanted(3), &seen);
            assert!(reason.contains(&host(2)) && reason.contains(remedy), "{reason}");
            // Nobody leaves for one that may not lead.
            assert!(
                waits(&Wanted { members: vec![host(2)], others: vec![host(0), host(1)], ..wanted(3) }, &seen)
                    .contains(remedy)
            );
        }
    }
}

#[test]
fn what_bars_a_member_is_read_from_its_configuration() {
    let of = |member| {
        let answer = doc! {"config": {"_id": "rs0", "version": 1, "members": [member]}};
        document::config(&answer).members[0].bar
    };
    assert_eq!(of(doc! {"host": host(0)}), None);
    assert_eq!(of(doc! {"host": host(0), "hidden": false, "buildIndexes": true, "secondaryDelaySecs": 0_i64}), None);
    assert_eq!(of(doc! {"host": host(0), "hidden": true}), Some(Bar::Hidden));
    assert_eq!(of(doc! {"host": host(0), "secondaryDelaySecs": 60_i64}), Some(Bar::Delayed));
    assert_eq!(of(doc! {"host": host(0), "buildIndexes": false, "hidden": true}), Some(Bar::NoIndexes));
    assert_eq!(of(doc! {"host": host(0), "arbiterOnly": true}), Some(Bar::Arbiter));
}

#[test]
fn who_belongs_to_the_set_is_unknown_while_an_election_could_change_it() {
    let configured = |seen: &Seen| report(&wanted(3), seen, &next_step(&wanted(3), seen)).configured;
    let mut seen = healthy(3);
    assert_eq!(configured(&seen), Some(wanted(3).members));
    // Another member holds a newer one: the primary does not know yet that it is none.
    let newer = Config { term: 2, ..config(3) };
    seen.members.insert(host(2), member(State::Secondary, &newer));
    assert_eq!(configured(&seen), None);
    let mut seen = healthy(3);
    let Some(Member::Initialised(view)) = seen.members.get_mut(&host(0)) else { panic!() };
    view.committed = false;
    assert_eq!(configured(&seen), None);
    assert!(waits(&fewer(5, 3), &seen).contains("not on a majority"));
}

#[test]
fn without_a_primary_every_voter_that_does_not_serve_is_named() {
    let config = config(5);
    let mut seen = healthy(5);
    for ordinal in 0..2 {
        seen.members.insert(host(ordinal), member(State::Secondary, &config));
    }
    for ordinal in 2..5 {
        seen.members.insert(host(ordinal), down());
    }
    seen.users = None;
    let reason = waits(&fewer(5, 3), &seen);
    assert!(reason.contains(&format!("member {} does not answer", host(2))), "{reason}");
    for leaving in 3..5 {
        assert!(reason.contains(&format!("member {}, which is to leave, does not answer", host(leaving))), "{reason}");
    }
}

#[test]
fn a_member_that_is_too_stale_to_catch_up_is_named_with_its_claim_and_pod() {
    let mut seen = healthy(3);
    let stale = View { state: State::Recovering, term: 1, config: config(3), committed: false, too_stale: true };
    seen.members.insert(host(2), Member::Initialised(stale));
    let reason = waits(&wanted(3), &seen);
    assert!(reason.contains("delete the claim data-demo-database-2 and the pod demo-database-2"), "{reason}");
    seen.members.insert(host(2), member(State::Recovering, &config(3)));
    assert!(!waits(&wanted(3), &seen).contains("claim"), "it may be on its way to catch up");
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
    let newer = View { state: State::Primary, term: 2, config: config(3), committed: false, too_stale: false };
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

/// Most members of a small world.
const MOST: usize = 5;

/// Pods and volumes by ordinal, two operators (an old leader may not know yet that it is none), a person who may change their mind,
/// and the faults still to come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// From `pods` on there is no pod, and a configuration is that of a volume left over.
    nodes: [Node; MOST],
    pods: usize,
    wanted: usize,
    /// The other wish a person may have, once.
    change_of_mind: Option<usize>,
    /// How many pods the members need, as the operator heard it last under this wish; it acts on it in a later pass.
    heard: Option<usize>,
    primary: Option<usize>,
    /// Who may not become primary for a while.
    stepped_down: Option<usize>,
    users: [UserState; 3],
    operators: usize,
    /// What each operator has decided on an earlier state of the world and not done yet.
    decided: [Option<Arc<Step>>; 2],
    /// The newest configuration that a majority ever held under its primary.
    committed: Option<Held>,
    sets_made: u8,
    kills: u8,
    /// Elections without need: a primary that was not heard for a moment.
    elections: u8,
    volumes_to_lose: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    up: bool,
    config: Option<Held>,
}

/// A configuration in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    set: u8,
    term: u8,
    version: u8,
    timed: bool,
    roles: [Option<Role>; MOST],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Newcomer,
    Retired,
    Full,
}

impl Held {
    fn of(members: usize) -> Self {
        let role = |ordinal| (ordinal < members).then_some(Role::Full);
        Self { set: 1, term: 1, version: 1, timed: true, roles: std::array::from_fn(role) }
    }

    fn age(&self) -> (u8, u8) {
        (self.term, self.version)
    }

    fn lists(&self, ordinal: usize) -> bool {
        self.roles[ordinal].is_some()
    }

    /// Whether a majority of the voters is such.
    fn majority(&self, is_such: impl Fn(usize) -> bool) -> bool {
        let voters = |ordinal: &usize| matches!(self.roles[*ordinal], Some(Role::Retired | Role::Full));
        let such = (0..MOST).filter(voters).filter(|ordinal| is_such(*ordinal)).count();
        such * 2 > (0..MOST).filter(voters).count()
    }

    fn config(&self) -> Config {
        let member = |(ordinal, role): (usize, &Option<Role>)| {
            let role = (*role)?;
            let (votes, electable) = (role != Role::Newcomer, role == Role::Full);
            Some(ConfigMember { host: host(ordinal), votes, electable, bar: None })
        };
        Config {
            id: self.set.to_string(),
            term: i64::from(self.term),
            version: i64::from(self.version),
            election_timeout_millis: self.timed.then_some(ELECTION_TIMEOUT_MILLIS),
            members: self.roles.iter().enumerate().filter_map(member).collect(),
            ..config(0)
        }
    }

    fn change(&mut self, change: &Change) {
        self.version += 1;
        match change {
            Change::Add(host) => self.roles[ordinal(host)] = Some(Role::Newcomer),
            Change::Promote(host) => self.roles[ordinal(host)] = Some(Role::Full),
            Change::Retire(host) => self.roles[ordinal(host)] = Some(Role::Retired),
            Change::Remove(host) => self.roles[ordinal(host)] = None,
            Change::ElectionTimeout(_) => self.timed = true,
        }
    }
}

/// One more than the highest ordinal that is such.
fn upto(is_such: impl Fn(usize) -> bool) -> usize {
    (0..MOST).rev().find(|ordinal| is_such(*ordinal)).map_or(0, |highest| highest + 1)
}

fn ordinal(text: &str) -> usize {
    (0..MOST).find(|ordinal| host(*ordinal) == text).unwrap()
}

impl World {
    fn empty(members: usize) -> Self {
        let node = |ordinal| Node { up: ordinal < members, config: None };
        Self {
            nodes: std::array::from_fn(node),
            pods: members,
            wanted: members,
            change_of_mind: None,
            heard: None,
            primary: None,
            stepped_down: None,
            users: [UserState::Missing; 3],
            operators: 2,
            decided: [None, None],
            committed: None,
            sets_made: 0,
            kills: 2,
            elections: 0,
            volumes_to_lose: 1,
        }
    }

    /// A set of `members` without faults to come.
    fn healthy(members: usize, primary: usize) -> Self {
        let mut world = Self::empty(members);
        for node in &mut world.nodes[..members] {
            node.config = Some(Held::of(members));
        }
        world.primary = Some(primary);
        world.users = [UserState::Current; 3];
        world.committed = Some(Held::of(members));
        (world.kills, world.volumes_to_lose) = (0, 0);
        world
    }

    fn wanted(&self) -> Wanted {
        fewer(self.pods, self.wanted)
    }

    fn leads(&self) -> Option<(usize, Held)> {
        let primary = self.primary?;
        Some((primary, self.nodes[primary].config?))
    }

    /// As the primary says it: by those it hears.
    fn is_committed(&self, held: &Held) -> bool {
        held.majority(|other| self.nodes[other].up && self.nodes[other].config == Some(*held))
    }

    fn look(&self) -> Seen {
        let view = |(ordinal, node): (usize, &Node)| {
            let found = match &node.config {
                _ if !node.up => down(),
                None => Member::Uninitialised,
                Some(held) => {
                    let leads = self.primary == Some(ordinal);
                    let state = match held.lists(ordinal) {
                        true if leads => State::Primary,
                        true => State::Secondary,
                        false => State::Removed,
                    };
                    let (term, committed) = (i64::from(held.term), leads && self.is_committed(held));
                    Member::Initialised(View { state, term, config: held.config(), committed, too_stale: false })
                }
            };
            (host(ordinal), found)
        };
        let users = User::ALL.into_iter().zip(self.users);
        Seen {
            members: self.nodes.iter().enumerate().map(view).collect(),
            users: self.primary.map(|_| users.collect()),
        }
    }

    fn decide(&self) -> (Step, Report) {
        let (wanted, seen) = (self.wanted(), self.look());
        let step = next_step(&wanted, &seen);
        let report = report(&wanted, &seen, &step);
        (step, report)
    }

    /// What mongod does with an act, including its own checks.
    fn act(&mut self, step: &Step) {
        let primary = |on: &str| self.leads().filter(|(primary, _)| host(*primary) == on);
        match step {
            Step::Wait { .. } | Step::Refuse { .. } | Step::Done => {}
            Step::StepDown { on } => {
                let Some((primary, held)) = primary(on) else { return };
                let caught_up = |other: usize| {
                    let node = &self.nodes[other];
                    other != primary && node.up && node.config == Some(held) && held.roles[other] == Some(Role::Full)
                };
                if (0..MOST).any(caught_up) {
                    self.primary = None;
                    self.stepped_down = Some(primary);
                }
            }
            Step::Initiate { on } => {
                assert_eq!(*on, host(0));
                let quorum_check = self.nodes[..self.wanted].iter().all(|node| node.up && node.config.is_none());
                if quorum_check {
                    self.sets_made += 1;
                    self.nodes[0].config = Some(Held { set: self.sets_made, ..Held::of(self.wanted) });
                    self.users = [UserState::Missing; 3];
                }
            }
            Step::CreateUser { on, user } | Step::UpdateUser { on, user } => {
                if primary(on).is_some() {
                    self.users[*user as usize] = UserState::Current;
                }
            }
            Step::Reconfigure { on, from_version, change } => {
                let Some((primary, mut held)) = primary(on) else { return };
                if i64::from(held.version) != *from_version || !self.is_committed(&held) {
                    return;
                }
                held.change(change);
                assert_eq!(held.roles[primary], Some(Role::Full), "the primary would not be electable: {change:?}");
                if held.majority(|other| self.nodes[other].up) {
                    self.nodes[primary].config = Some(held);
                }
            }
        }
    }

    /// Elections, and configurations on their way.
    fn settle(&self) -> Vec<World> {
        let mut next = Vec::new();
        let alive = || (0..MOST).filter(|ordinal| self.nodes[*ordinal].up);
        for candidate in alive() {
            let Some(held) = self.nodes[candidate].config else { continue };
            // Votes come from those who hold nothing newer, and from no others.
            let elected = self.primary != Some(candidate)
                && (self.primary.is_none() || self.elections > 0)
                && self.stepped_down != Some(candidate)
                && held.roles[candidate] == Some(Role::Full)
                && held.majority(|voter| {
                    self.nodes[voter].up && self.nodes[voter].config.is_some_and(|other| other.age() <= held.age())
                });
            if elected {
                assert!(
                    Some(held.age()) >= self.committed.map(|newest| newest.age()),
                    "{candidate} undoes what a majority held: {self:?}"
                );
                let gone = |other: usize| other >= self.pods && self.nodes[other].config.is_none();
                let lost = (0..MOST).find(|other| held.lists(*other) && gone(*other));
                assert_eq!(lost, None, "a member is back whose volume was deleted: {self:?}");
                let newest = self.nodes.iter().filter_map(|node| node.config).map(|other| other.term).max();
                let mut world = self.clone();
                world.elections -= u8::from(self.primary.is_some());
                world.primary = Some(candidate);
                world.stepped_down = None;
                world.nodes[candidate].config = Some(Held { term: newest.unwrap_or(0) + 1, ..held });
                next.push(world);
            }
            if self.primary == Some(candidate) && !held.majority(|other| self.nodes[other].up) {
                next.push(World { primary: None, ..self.clone() });
            }
            // Heartbeats carry the newer configuration between two of whom one lists the other. While there is a primary they all could
            // have it from there, so other ways are only more worlds.
            for target in alive().filter(|_| self.primary.is_none_or(|primary| primary == candidate)) {
                let know = match self.nodes[target].config {
                    None => held.lists(target),
                    Some(other) => {
                        other.age() < held.age()
                            && (held.lists(target) || other.lists(candidate))
                            && other.set == held.set
                    }
                };
                if know {
                    let mut world = self.clone();
                    world.nodes[target].config = Some(held);
                    world.primary = self.primary.filter(|primary| *primary != target);
                    next.push(world);
                }
            }
        }
        next
    }

    /// The operator remembers who belongs to the set.
    fn hear(&self, report: &Report) -> Option<World> {
        let hosts = report.configured.as_ref()?;
        let heard = Some(upto(|ordinal| hosts.contains(&host(ordinal))));
        (self.heard != heard).then(|| World { heard, ..self.clone() })
    }

    /// The operator adds pods, takes away those of members that are out, and then their volumes.
    fn resize(&self) -> Option<World> {
        let claimed = upto(|ordinal| ordinal < self.pods || self.nodes[ordinal].config.is_some());
        let pods = self.wanted.max(self.heard.unwrap_or(claimed));
        let mut world = World { pods, ..self.clone() };
        for ordinal in 0..MOST {
            let node = &mut world.nodes[ordinal];
            node.up = (node.up && ordinal < pods) || (self.pods..pods).contains(&ordinal);
            if self.heard.is_some() && ordinal >= pods.max(self.pods) {
                let needed = node.config.is_some() && self.committed.is_some_and(|newest| newest.lists(ordinal));
                assert!(!needed, "the volume of member {ordinal} would be deleted: {self:?}");
                node.config = None;
            }
        }
        (world != *self).then_some(world)
    }

    /// Forgets what makes no difference, so that there are few worlds: of terms only the order counts, and operators have no name.
    fn normal(mut self) -> Self {
        if let Some((_, held)) = self.leads()
            && held.majority(|other| self.nodes[other].config == Some(held))
        {
            self.committed = Some(held);
        }
        let held = self.nodes.iter_mut().map(|node| &mut node.config).chain([&mut self.committed]);
        let mut held: Vec<&mut Held> = held.filter_map(Option::as_mut).collect();
        held.sort_unstable_by_key(|held| held.term);
        let (mut before, mut rank) = (0, 0);
        for held in held {
            rank += u8::from(held.term != before);
            before = std::mem::replace(&mut held.term, rank);
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.decided.sort_by_cached_key(|step| step.as_ref().map(|step| hasher.hash_one(step)));
        self
    }

    /// Every state that may follow this one.
    fn next(&self) -> Vec<World> {
        let mut next = self.settle();
        let (step, report) = self.decide();
        next.extend(self.hear(&report));
        next.extend(self.resize());
        if let Some(wanted) = self.change_of_mind {
            next.push(World { wanted, change_of_mind: None, heard: None, ..self.clone() });
        }
        for operator in 2 - self.operators..2 {
            let mut world = self.clone();
            match world.decided[operator].take() {
                None => {
                    if matches!(step, Step::Wait { .. } | Step::Refuse { .. } | Step::Done) {
                        continue;
                    }
                    if matches!(step, Step::Initiate { .. }) {
                        assert!(
                            self.nodes.iter().all(|node| node.config.is_none()),
                            "a set would be made over another: {self:?}"
                        );
                    }
                    world.decided[operator] = Some(Arc::new(step.clone()));
                }
                Some(step) => {
                    next.push(world.clone()); // killed before the act
                    world.act(&step);
                }
            }
            next.push(world);
        }
        for ordinal in 0..self.pods {
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
            world.primary = self.primary.filter(|primary| *primary != ordinal);
            if self.volumes_to_lose > 0 && self.bears_the_loss_of(ordinal) {
                let mut lost = world.clone();
                lost.volumes_to_lose -= 1;
                lost.nodes[ordinal].config = None;
                next.push(lost);
            }
            next.push(world);
        }
        next.into_iter().map(World::normal).collect()
    }

    /// Losing the only copy, or what a majority agreed on, is beyond any operator; it is left out.
    fn bears_the_loss_of(&self, ordinal: usize) -> bool {
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != ordinal);
        match self.committed {
            None => others.any(|(_, node)| node.config.is_some()),
            Some(newest) => {
                let holds = |other: &Held| other.age() >= newest.age();
                newest.majority(|other| other != ordinal && self.nodes[other].config.as_ref().is_some_and(holds))
            }
        }
    }

    /// No more faults: everything is up, one operator works. What was found to become calm is remembered.
    fn calm(&self, calm: &mut HashSet<World>) {
        let mut world = World { elections: 0, change_of_mind: None, kills: 0, volumes_to_lose: 0, ..self.clone() };
        let pods = world.pods;
        world.nodes[..pods].iter_mut().for_each(|node| node.up = true);
        for _ in 0..60 {
            world = world.normal();
            if !calm.insert(world.clone()) {
                return;
            }
            for step in std::mem::take(&mut world.decided).into_iter().flatten() {
                world.act(&step);
            }
            while let Some(next) = world.settle().pop() {
                world = next.normal();
            }
            world.stepped_down = None;
            let (mut step, mut report) = world.decide();
            while let Some(next) = world.hear(&report).or_else(|| world.resize()) {
                world = next;
                (step, report) = world.decide();
            }
            if step == Step::Done {
                let left = world.nodes[world.wanted..].iter().any(|node| node.config.is_some());
                assert!(
                    world.pods == world.wanted && !left,
                    "pods or volumes are left over: {self:?} became {world:?}"
                );
                return;
            }
            world.decided[0] = Some(Arc::new(step));
        }
        panic!("stuck: {self:?} became {world:?}");
    }
}

fn explore(start: World) -> usize {
    let start = start.normal();
    let mut known = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    let mut calm = HashSet::new();
    while let Some(world) = open.pop_front() {
        assert!(world.sets_made <= 1, "a second set was made: {world:?}");
        world.calm(&mut calm);
        for next in world.next() {
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
        let kills = if members == 3 { 1 } else { 2 };
        let states = explore(World { kills, ..World::empty(members) });
        println!("{members} members from nothing: {states} states");
    }
}

#[test]
fn whatever_dies_and_when_one_member_grows_to_three() {
    let mut start = World { wanted: 3, kills: 1, volumes_to_lose: 1, ..World::healthy(1, 0) };
    start.nodes[0].config.as_mut().unwrap().timed = false;
    println!("from one member to three: {} states", explore(start));
}

#[test]
fn whatever_dies_and_when_three_members_become_one() {
    for primary in 0..3 {
        let start = World { wanted: 1, kills: 1, volumes_to_lose: 1, ..World::healthy(3, primary) };
        println!("from 3 members to 1, the primary is member {primary}: {} states", explore(start));
    }
}

#[test]
fn whoever_wins_an_election_meanwhile_no_member_is_back_whose_volume_was_deleted() {
    // From five on there are two who stay, so that the one can undo what the other has not spread yet.
    for (members, wanted, operators, kills) in [(3, 1, 1, 1), (5, 3, 1, 0)] {
        let start = World { wanted, operators, kills, elections: 1, ..World::healthy(members, 0) };
        println!("from {members} members to {wanted} with an election without need: {} states", explore(start));
    }
}

#[test]
fn in_whatever_order_five_members_become_three() {
    for primary in [0, 4] {
        let start = World { wanted: 3, operators: 1, ..World::healthy(5, primary) };
        println!("from 5 members to 3, the primary is member {primary}: {} states", explore(start));
    }
}

#[test]
fn whenever_a_person_changes_their_mind_volumes_left_over_do_no_harm() {
    let start = World { wanted: 1, change_of_mind: Some(3), kills: 1, operators: 1, ..World::healthy(3, 2) };
    println!("from 3 members to 1 and to 3 again: {} states", explore(start));
}
