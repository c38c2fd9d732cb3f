//! Decides the one next step that brings a replica set closer to what is wanted.
//! Rule: pure, and judged only by what was seen; a step that is repeated, late or half done must do no harm.

use std::path::PathBuf;

use super::removal;
use super::seen::{Config, ConfigMember, Member, Seen, State, User, UserState};

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
    /// File with the authorities of the members' certificates; none: they speak without TLS.
    pub trusted: Option<PathBuf>,
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

impl Wanted {
    /// Whether the operator may take this host out of the set. A member of any other name was added by hand: it stays, and its
    /// vote counts.
    pub(super) fn is_ours(&self, host: &String) -> bool {
        self.members.contains(host) || self.others.contains(host)
    }
}

/// The next step from `seen` to `wanted`. The order is: never harm a set that exists, then users, then members.
pub fn next_step(wanted: &Wanted, seen: &Seen) -> Step {
    let Some(first) = wanted.members.first() else {
        return Step::Refuse { reason: "no database member is wanted: ask for at least one".to_owned() };
    };
    if let Some(reason) = another_set(wanted, seen) {
        return Step::Refuse { reason };
    }
    let Some(config) = seen.config() else {
        return initiate(wanted, seen, first);
    };
    if !config.members.iter().any(|member| wanted.members.contains(&member.host)) {
        let reason = format!(
            "none of the wanted members is in replica set {}: did the members' names change? Put the old names back",
            wanted.set
        );
        return Step::Refuse { reason };
    }
    let Some(primary) = seen.primary() else {
        return Step::Wait {
            reason: format!("replica set {} has no primary: {}", wanted.set, why_no_primary(wanted, seen, config)),
        };
    };
    if let Some(step) = user_step(seen, primary) {
        return step;
    }
    let reconfigure = |change| Step::Reconfigure { on: primary.to_owned(), from_version: config.version, change };
    if let Some(change) = promotion(wanted, seen, config) {
        return reconfigure(change);
    }
    if let Some(step) = removal::next_step(wanted, seen, config, primary) {
        return step;
    }
    if let Some(change) = addition(wanted, seen, config).or_else(|| election_timeout(wanted, config)) {
        return reconfigure(change);
    }
    let waits = unready(wanted, &wanted.members, seen)
        .or_else(|| no_vote_left(wanted, config))
        .or_else(|| uncommitted(wanted, seen));
    match waits {
        Some(reason) => Step::Wait { reason },
        // The last one to be replaced hands over first, once.
        None if wanted.members.len() > 1 && wanted.outdated == [primary] => Step::StepDown { on: primary.to_owned() },
        None => Step::Done,
    }
}

/// The first of these members that does not serve as it should, with the remedy.
pub fn unready<'a>(wanted: &Wanted, hosts: impl IntoIterator<Item = &'a String>, seen: &Seen) -> Option<String> {
    hosts.into_iter().find_map(|host| trouble(wanted, host, seen))
}

/// Everyone without whom there may be no primary: a member that is leaving, or was added by hand, votes too.
fn why_no_primary(wanted: &Wanted, seen: &Seen, config: &Config) -> String {
    let voters = config.members.iter().filter(|member| member.votes && !wanted.members.contains(&member.host));
    let hosts = wanted.members.iter().chain(voters.map(|member| &member.host));
    let troubles: Vec<String> = hosts.filter_map(|host| trouble(wanted, host, seen)).collect();
    if troubles.is_empty() { "an election is under way".to_owned() } else { troubles.join("; ") }
}

fn trouble(wanted: &Wanted, host: &String, seen: &Seen) -> Option<String> {
    if !wanted.is_ours(host) {
        return (!seen.serves(host)).then(|| {
            format!(
                "member {host}, which was added by hand, does not serve: start it, or take it out with rs.remove(\"{host}\")"
            )
        });
    }
    let stays = wanted.members.contains(host);
    let bar = seen.config().and_then(|config| config.members.iter().find(|member| member.host == *host)?.bar);
    let text = match seen.members.get(host) {
        None => "is looked at next".to_owned(),
        Some(Member::Unreachable { error }) => format!("does not answer ({error}): look at its pod"),
        Some(Member::Refused { error }) => format!(
            "refuses the key file ({error}): its Secret was changed; \
             put the old key back or restart the pod to load the new one"
        ),
        Some(Member::Starting) => "is starting: it loads its replica set configuration".to_owned(),
        Some(Member::Uninitialised) => "is empty and waits for the set to contact it".to_owned(),
        Some(Member::Initialised(view)) => match (view.state, bar.filter(|_| stays)) {
            (State::Primary | State::Secondary, None) => return None,
            (State::Primary | State::Secondary | State::Arbiter, Some(bar)) => bar.remedy(host),
            (State::Removed, _) => "does not find itself in the set's configuration: \
                                    check that its name resolves to its pod, then restart the pod"
                .to_owned(),
            (_, _) if view.too_stale => format!("holds data too old to catch up from: {}", fresh_volume(host)),
            (State::Startup2, _) => "copies the data (STARTUP2), which takes as long as there is much of it".to_owned(),
            (State::Recovering, _) => "is catching up (RECOVERING)".to_owned(),
            (State::Rollback, _) => "takes back writes that no majority had (ROLLBACK)".to_owned(),
            (other, _) => format!("is {}: look at its pod", other.name()),
        },
    };
    let leaves = if stays { "" } else { ", which is to leave," };
    Some(format!("member {host}{leaves} {text}"))
}

/// How a member of ours gets its data anew.
pub(super) fn fresh_volume(host: &str) -> String {
    let pod = host.split(['.', ':']).next().unwrap_or(host);
    format!("delete the claim data-{pod} and the pod {pod}, and it copies all data anew")
}

/// A member of another set, by name or by identity: whatever was done next could mix two sets' data.
fn another_set(wanted: &Wanted, seen: &Seen) -> Option<String> {
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
            unready(wanted, not_empty, seen).unwrap_or_else(|| "a member is starting".to_owned())
        ),
    }
}

fn user_step(seen: &Seen, primary: &str) -> Option<Step> {
    let Some(users) = &seen.users else {
        return Some(Step::Wait {
            reason: format!("the primary {primary} did not list its users, and is asked again"),
        });
    };
    User::ALL.into_iter().find_map(|user| {
        let on = primary.to_owned();
        match users.get(&user).copied().unwrap_or(UserState::Missing) {
            UserState::Missing => Some(Step::CreateUser { on, user }),
            UserState::Stale => Some(Step::UpdateUser { on, user }),
            // Programs work with the old one: they are moved to another user (see `crate::rotation`).
            UserState::OtherPassword | UserState::Current => None,
        }
    })
}

/// The next wanted member that gets its vote, or may become primary again.
fn promotion(wanted: &Wanted, seen: &Seen, config: &Config) -> Option<Change> {
    let ours = || config.members.iter().filter(|member| wanted.members.contains(&member.host));
    let ready = || ours().filter(|member| member.bar.is_none() && seen.serves(&member.host));
    // Whoever was to leave and now stays becomes electable again; that changes no vote.
    let returns = ready().find(|member| member.votes && !member.electable);
    let next = returns.or_else(|| {
        let newcomers = ready().filter(|member| !member.votes);
        let votes = ours().filter(|member| member.votes).count();
        let room = voters_wanted(wanted.members.len()).saturating_sub(votes).min(votes_left(config));
        // An even number of voters bears no more failures than the odd one below it, so a single newcomer waits for its pair,
        // unless others wait for it to take their place.
        let pairs = votes.is_multiple_of(2) || (room > 1 && newcomers.clone().count() > 1);
        let replaces = config.members.iter().any(|member| wanted.others.contains(&member.host));
        newcomers.into_iter().next().filter(|_| room > 0 && (pairs || replaces))
    });
    next.map(|member| Change::Promote(member.host.clone()))
}

fn votes_left(config: &Config) -> usize {
    VOTERS_MAX.saturating_sub(config.members.iter().filter(|member| member.votes).count())
}

/// The next wanted member that joins. One newcomer at a time copies the data; the next waits until it is done.
fn addition(wanted: &Wanted, seen: &Seen, config: &Config) -> Option<Change> {
    let host = wanted.members.iter().find(|host| config.members.iter().all(|member| member.host != **host))?;
    let copies =
        |member: &ConfigMember| wanted.members.contains(&member.host) && !member.votes && !seen.serves(&member.host);
    let answers = matches!(seen.members.get(host), Some(Member::Uninitialised | Member::Initialised(_)));
    (answers && !config.members.iter().any(copies)).then(|| Change::Add(host.clone()))
}

fn election_timeout(wanted: &Wanted, config: &Config) -> Option<Change> {
    (config.election_timeout_millis != Some(wanted.election_timeout_millis))
        .then_some(Change::ElectionTimeout(wanted.election_timeout_millis))
}

/// Members added by hand hold votes that wanted ones need.
fn no_vote_left(wanted: &Wanted, config: &Config) -> Option<String> {
    let without = config.members.iter().filter(|member| wanted.members.contains(&member.host) && !member.votes);
    let short = without.count() > wanted.members.len() - voters_wanted(wanted.members.len());
    let strangers: Vec<&str> = config
        .members
        .iter()
        .filter(|member| member.votes && !wanted.is_ours(&member.host))
        .map(|member| member.host.as_str())
        .collect();
    (short && votes_left(config) == 0 && !strangers.is_empty()).then(|| {
        format!(
            "a wanted member has no vote, because a set has {VOTERS_MAX} and members added by hand hold some ({}): \
             take them out with rs.remove()",
            strangers.join(", ")
        )
    })
}

/// Pods and volumes beyond those wanted are kept until no election can bring their members back.
fn uncommitted(wanted: &Wanted, seen: &Seen) -> Option<String> {
    (!wanted.others.is_empty() && seen.committed().is_none()).then(|| {
        format!("the newest configuration of replica set {} is not on a majority of its members yet", wanted.set)
    })
}

/// How many of `members` vote: an odd number, at most seven.
pub(super) fn voters_wanted(members: usize) -> usize {
    let most = members.min(VOTERS_MAX);
    if most.is_multiple_of(2) { most.saturating_sub(1) } else { most }
}
