//! Makes the database's members one replica set with its users, and looks after it.
//! Rule: look, decide, act, look again; the decision is pure ([`decision`]), the acts are safe to repeat ([`client`]).

pub mod client;
pub mod credentials;
pub mod decision;
mod document;
pub mod drain;
pub mod external;
mod removal;
pub mod rotation;
pub mod seen;
#[cfg(test)]
mod tests;
pub mod users;
pub mod windows;

use std::time::{Duration, Instant};

pub(crate) use credentials::encode;
pub use credentials::{Account, Credentials, connection_string};
use decision::{Change, Step, next_step, unready};
pub use decision::{ELECTION_TIMEOUT_MILLIS, Wanted};
use seen::{ConfigMember, Seen, User, UserState};

/// After this long a pass begins no further act. One slow look (2 s) leaves time for an act; with the longest act (5 s)
/// and the look after it, a pass stays within ten seconds.
const BEGIN_ACTS: Duration = Duration::from_millis(2500);
/// More acts than a whole bootstrap has: a limit against a decision that would go in circles.
const ACTS_MAX: usize = 8;

/// The database after a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every wanted member serves and nothing is left to do.
    pub ready: bool,
    /// Programs can write: there is a primary, and its users are as wanted.
    pub writable: bool,
    /// A user in use has another password than the one given: it stays as it is, for programs work with it.
    pub edited: bool,
    /// `host:port` of the primary.
    pub primary: Option<String>,
    /// Whether any one member may be taken away and the set goes on. A set of one stops with its member in any case.
    pub may_lose_a_member: bool,
    /// How many wanted members serve.
    pub members_ready: u32,
    /// In the order wanted.
    pub members: Vec<MemberReport>,
    /// `host:port` of all members of the set, wanted or not; `None` unless no election can change it any more.
    pub configured: Option<Vec<String>>,
    /// What is missing and what a person can do, in one sentence; `None` when `ready`.
    pub waiting_for: Option<String>,
    /// The wish would be unsafe or impossible: waiting does not help, a person has to change something.
    pub refused: bool,
}

/// One member after a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// `host:port`.
    pub host: String,
    /// As mongod names it (`PRIMARY`, `SECONDARY`, `STARTUP2`, …), or `UNREACHABLE`, `REFUSED`, `STARTING`, `UNINITIALISED`.
    pub state: &'static str,
    /// Whether it holds the data and serves it.
    pub serves: bool,
}

/// An act that a member refused or did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("database member {member} did not {act}: {message}: look at its log")]
pub struct DatabaseError {
    /// What was attempted.
    pub act: String,
    /// `host:port`.
    pub member: String,
    /// The server's error code, when it answered.
    pub code: Option<i32>,
    /// The server's or driver's words.
    pub message: String,
}

impl DatabaseError {
    /// Whether the next pass may well succeed: an election, a member that is starting, a name not yet in the DNS, two
    /// passes at once. Codes from mongod's `error_codes.yml`.
    pub fn passes(&self) -> bool {
        match self.code {
            None => true, // no answer
            Some(code) => matches!(
                code,
                50 | 64 // time limit, write concern timeout
                | 74 // NodeNotFound: the quorum check of an initiation or reconfiguration
                | 91 | 11600 | 11602 // shutting down, interrupted
                | 94 | 103 | 109 | 308 // the configuration is being changed
                | 262 // no other member has caught up within the time of a step-down
                | 189 | 10058 | 10107 | 13435 | 13436 // not the primary any more
            ),
        }
    }
}

/// One pass: looks at the members, does what can be done at once, and says what is left. Takes at most ten seconds and
/// never sleeps; when the report is not ready, call again a little later.
///
/// # Errors
/// A member refused an act for a reason that does not pass by itself.
pub async fn converge(wanted: &Wanted, credentials: &Credentials) -> Result<Report, DatabaseError> {
    let began = Instant::now();
    let mut acts = 0;
    loop {
        let seen = client::observe(wanted, credentials).await;
        let step = next_step(wanted, &seen);
        let is_act = !matches!(step, Step::Wait { .. } | Step::Refuse { .. } | Step::Done);
        if !is_act || acts == ACTS_MAX || began.elapsed() > BEGIN_ACTS {
            return Ok(report(wanted, &seen, &step));
        }
        match client::carry_out(&step, wanted, credentials).await {
            Ok(()) => acts += 1,
            Err(error) if error.passes() => {
                let step = Step::Wait {
                    reason: format!(
                        "database member {} did not {}: {}: it is tried again",
                        error.member, error.act, error.message
                    ),
                };
                return Ok(report(wanted, &seen, &step));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the set goes on without any one of its members: all wanted ones serve, and the voters bear the loss of one of those that do.
fn may_lose_a_member(wanted: &Wanted, seen: &Seen) -> bool {
    let voters: Vec<&ConfigMember> =
        seen.config().into_iter().flat_map(|config| &config.members).filter(|member| member.votes).collect();
    if wanted.members.len() == 1 && voters.len() <= 1 {
        return true;
    }
    let serving = voters.iter().filter(|member| seen.serves(&member.host));
    seen.primary().is_some()
        && wanted.members.iter().all(|host| seen.serves(host))
        && serving.clone().filter(|member| member.electable).count() > 1
        && serving.count().saturating_sub(1) * 2 > voters.len()
}

/// What a pass that saw `seen` and decided `step` has to say.
pub fn report(wanted: &Wanted, seen: &Seen, step: &Step) -> Report {
    let members: Vec<MemberReport> = wanted
        .members
        .iter()
        .map(|host| {
            let member = seen.members.get(host);
            MemberReport {
                host: host.clone(),
                state: member.map_or("UNKNOWN", seen::Member::word),
                serves: member.is_some_and(seen::Member::serves),
            }
        })
        .collect();
    let is = |user: &User, state| seen.users.as_ref().is_some_and(|users| users.get(user) == Some(&state));
    let users_work = User::ALL.iter().all(|user| is(user, UserState::Current) || is(user, UserState::OtherPassword));
    let waiting_for = match step {
        Step::Done => None,
        Step::Wait { reason } | Step::Refuse { reason } => Some(reason.clone()),
        Step::Initiate { .. } => Some(format!("replica set {} is being made", wanted.set)),
        Step::CreateUser { .. } | Step::UpdateUser { .. } => Some("the database's users are being made".to_owned()),
        Step::StepDown { on } => Some(format!("member {on} hands over the primary's part before it stops")),
        Step::Reconfigure { change: Change::Retire(host) | Change::Remove(host), .. } => {
            Some(format!("member {host} is leaving replica set {}", wanted.set))
        }
        Step::Reconfigure { .. } => Some(
            unready(wanted, &wanted.members, seen)
                .unwrap_or_else(|| format!("replica set {} is being changed", wanted.set)),
        ),
    };
    Report {
        ready: waiting_for.is_none(),
        writable: seen.primary().is_some() && users_work,
        edited: User::ALL.iter().any(|user| is(user, UserState::OtherPassword)),
        primary: seen.primary().map(str::to_owned),
        may_lose_a_member: may_lose_a_member(wanted, seen),
        members_ready: members.iter().map(|member| u32::from(member.serves)).sum(),
        members,
        // In a refused state it may be another set's.
        configured: seen
            .committed()
            .filter(|_| !matches!(step, Step::Refuse { .. }))
            .map(|config| config.members.iter().map(|member| member.host.clone()).collect()),
        waiting_for,
        refused: matches!(step, Step::Refuse { .. }),
    }
}
