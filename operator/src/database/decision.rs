//! Decides the one next step that brings a replica set closer to what is wanted.
//! Rule: pure, and judged only by what was seen; a step that is repeated, late or half done must do no harm.

use std::collections::BTreeMap;

use super::removal;
use super::seen::{Config, Member, Seen, State, User, UserState};

/// Default of `electionTimeoutMillis`. Measured with three members: a killed primary costs 11 s without writes with
/// mongod's own 10 000 and 2.7 to 3.0 s with 2000; below that, a pause of a busy node already costs an election.
pub const ELECTION_TIMEOUT_MILLIS: u64 = 2000;

/// Most members of a set that may vote (MongoDB manual, "Replica Set Members": at most 7).
const VOTERS_MAX: usize = 7;

/// What the replica set has to be. An empty `members` never leads to an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the set, as in mongod's `--replSet`.
    pub set: String,
    /// `host:port` of each member, by ordinal; each must be resolvable from every member.
    pub members: Vec<String>,
    /// Further members whose pods or volumes exist: they may hold data, and leave once they are out of the set.
    pub others: Vec<String>,
    /// Members whose pods are still to be replaced.
    pub outdated: Vec<String>,
    /// The one database the application user may read and write.
    pub database: String,
    /// Milliseconds without a word from the primary before the others elect a new one.
    pub election_timeout_millis: u64,
}

/// One act on the database, or the reason for none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing can be done until the world moves.
    Wait {
        /// What is waited for and what a person can do.
        reason: String,
    },
    /// What is wanted would be unsafe; nothing is done.
    Refuse {
        /// Why, and what a person can do.
        reason: String,
    },
    /// Makes the set of all wanted members.
    Initiate {
        /// Always the first wanted member, so that two operators at once still make one set.
        on: String,
    },
    /// Makes a user that does not exist.
    CreateUser {
        /// The primary.
        on: String,
        /// Which one.
        user: User,
    },
    /// Gives a user its password and roles again.
    UpdateUser {
        /// The primary.
        on: String,
        /// Which one.
        user: User,
    },
    /// Changes the set's configuration in one point.
    Reconfigure {
        /// The primary.
        on: String,
        /// Version of the configuration the decision was made on; the act is void on any other.
        from_version: i64,
        /// The one point.
        change: Change,
    },
    /// Hands the primary's part to another member. Never forced: without one that has caught up it stays where it is.
    StepDown {
        /// The primary.
        on: String,
    },
    /// Everything is as wanted.
    Done,
}

/// One change of a replica set configuration: mongod lets the votes of one member change at a time
/// (MongoDB manual, "`replSetReconfig`").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A new member, without vote and never primary until it holds the data.
    Add(String),
    /// A member that holds the data gets its vote and may become primary.
    Promote(String),
    /// A member that is to leave keeps its vote and may not become primary.
    Retire(String),
    /// A member leaves.
    Remove(String),
    /// The election timeout, in milliseconds.
    ElectionTimeout(u64),
}

/// The next step from `seen` to `wanted`. The order is: never harm a set that exists, then users, then members.
pub fn next_step(wanted: &Wanted, seen: &Seen) -> Step {
    let Some(first) = wanted.members.first() else {
        return Step::Refuse { reason: "no database member is wanted: ask for at least one".to_owned() };
    };
    if let Some(reason) = foreign(wanted, seen) {
        return Step::Refuse { reason };
    }
    let Some(config) = seen.config() else {
        return initiate(wanted, seen, first);
    };
    let Some(primary) = seen.primary() else {
        return Step::Wait {
            reason: format!(
                "replica set {} has no primary: {}",
                wanted.set,
                unready(&wanted.members, seen).unwrap_or_else(|| "an election is under way".to_owned())
            ),
        };
    };
    if let Some(step) = user_step(seen, primary) {
        return step;
    }
    if let Some(step) = removal::next_step(wanted, seen, config, primary) {
        return step;
    }
    if let Some(change) = change(wanted, seen, config) {
        return Step::Reconfigure { on: primary.to_owned(), from_version: config.version, change };
    }
    match unready(&wanted.members, seen) {
        Some(reason) => Step::Wait { reason },
        // The last one to be replaced hands over first, once.
        None if wanted.members.len() > 1 && wanted.outdated == [primary] => Step::StepDown { on: primary.to_owned() },
        None => Step::Done,
    }
}

/// The first of these members that does not serve, with the remedy.
pub fn unready<'a>(hosts: impl IntoIterator<Item = &'a String>, seen: &Seen) -> Option<String> {
    hosts.into_iter().find_map(|host| match seen.members.get(host) {
        None => Some(format!("member {host} was not looked at yet")),
        Some(Member::Unreachable { error }) => {
            Some(format!("member {host} does not answer ({error}): look at its pod"))
        }
        Some(Member::Refused { error }) => Some(format!(
            "member {host} refuses the key file ({error}): its Secret was changed; \
                 put the old key back or restart the pod to load the new one"
        )),
        Some(Member::Starting) => Some(format!("member {host} is loading its replica set configuration")),
        Some(Member::Uninitialised) => Some(format!("member {host} is empty and waits for the set to contact it")),
        Some(Member::Initialised(view)) => match view.state {
            State::Primary | State::Secondary => None,
            State::Removed => Some(format!(
                "member {host} does not find itself in the set's configuration: \
                     check that its name resolves to its pod, then restart the pod"
            )),
            other => Some(format!("member {host} is {}", other.name())),
        },
    })
}

/// A member of another set, by name or by identity: whatever was done next could mix two sets' data.
fn foreign(wanted: &Wanted, seen: &Seen) -> Option<String> {
    let ours = seen.config()?;
    for (host, config) in seen.configs() {
        if config.set != wanted.set {
            return Some(format!(
                "member {host} belongs to replica set {}, not {}: give it an empty volume or its old name back",
                config.set, wanted.set
            ));
        }
        if config.id != ours.id {
            return Some(format!(
                "member {host} belongs to another replica set of the same name {}: \
                 give the member with the unwanted data an empty volume",
                wanted.set
            ));
        }
    }
    None
}

/// A set is made only when every wanted member says it has none: one that is silent may hold the data.
fn initiate(wanted: &Wanted, seen: &Seen, first: &str) -> Step {
    let all = || wanted.members.iter().chain(&wanted.others);
    let all_empty = all().all(|host| seen.members.get(host) == Some(&Member::Uninitialised));
    if all_empty {
        return Step::Initiate { on: first.to_owned() };
    }
    let not_empty = all().filter(|host| seen.members.get(*host) != Some(&Member::Uninitialised));
    Step::Wait {
        reason: format!(
            "replica set {} is made when all {} members answer: {}",
            wanted.set,
            all().count(),
            unready(not_empty, seen).unwrap_or_else(|| "a member is starting".to_owned())
        ),
    }
}

fn user_step(seen: &Seen, primary: &str) -> Option<Step> {
    let Some(users) = &seen.users else {
        return Some(Step::Wait { reason: format!("the primary {primary} did not list its users") });
    };
    User::ALL.into_iter().find_map(|user| {
        let on = primary.to_owned();
        match users.get(&user).copied().unwrap_or(UserState::Missing) {
            UserState::Missing => Some(Step::CreateUser { on, user }),
            UserState::Stale => Some(Step::UpdateUser { on, user }),
            UserState::Current => None,
        }
    })
}

/// The next single change of the configuration, or none.
fn change(wanted: &Wanted, seen: &Seen, config: &Config) -> Option<Change> {
    // Whoever was to leave and now stays becomes electable again; that changes no vote.
    let retired = config.members.iter().find(|member| {
        member.votes && !member.electable && wanted.members.contains(&member.host) && seen.serves(&member.host)
    });
    if let Some(member) = retired {
        return Some(Change::Promote(member.host.clone()));
    }
    let listed: BTreeMap<&str, bool> =
        config.members.iter().map(|member| (member.host.as_str(), member.votes)).collect();
    let voters = listed.values().filter(|votes| **votes).count();
    let ready_to_vote =
        listed.iter().filter(|(host, votes)| !**votes && seen.state(host) == Some(State::Secondary)).count();
    // An even number of voters bears no more failures than the odd one below it, so a single newcomer waits for its pair.
    let room = voters_wanted(wanted.members.len()).saturating_sub(voters);
    if room > 0
        && ready_to_vote > 0
        && ((voters + 1) % 2 == 1 || (ready_to_vote > 1 && room > 1))
        && let Some(host) = wanted
            .members
            .iter()
            .find(|host| listed.get(host.as_str()) == Some(&false) && seen.state(host) == Some(State::Secondary))
    {
        return Some(Change::Promote(host.clone()));
    }
    if let Some(host) = wanted.members.iter().find(|host| !listed.contains_key(host.as_str())) {
        // One newcomer at a time copies the data; the next waits until it is done.
        let copying = config.members.iter().any(|member| {
            !member.votes && !matches!(seen.state(&member.host), Some(State::Secondary | State::Primary))
        });
        let answers = matches!(seen.members.get(host), Some(Member::Uninitialised | Member::Initialised(_)));
        if answers && !copying {
            return Some(Change::Add(host.clone()));
        }
    }
    (config.election_timeout_millis != Some(wanted.election_timeout_millis))
        .then_some(Change::ElectionTimeout(wanted.election_timeout_millis))
}

/// How many of `members` vote: an odd number, at most seven.
pub(super) fn voters_wanted(members: usize) -> usize {
    let most = members.min(VOTERS_MAX);
    if most.is_multiple_of(2) { most.saturating_sub(1) } else { most }
}
