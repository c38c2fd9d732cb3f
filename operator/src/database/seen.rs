//! What one look at the members of a replica set found.
//! Rule: plain data; a member that does not answer is a finding, never an error.

use std::collections::BTreeMap;

use super::decision::fresh_volume;

/// Everything the decision may know of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By `host:port`.
    pub members: BTreeMap<String, Member>,
    /// The users as the primary lists them; `None` while there is no primary.
    pub users: Option<BTreeMap<User, UserState>>,
}

/// What one member said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// No answer within the time limit.
    Unreachable {
        /// The driver's words.
        error: String,
    },
    /// It answered, and did not accept the key file as password.
    Refused {
        /// The driver's words.
        error: String,
    },
    /// It has a stored configuration and has not read it yet, so it would call itself uninitialised.
    Starting,
    /// It has no replica set configuration, neither in memory nor on disk.
    Uninitialised,
    /// It has one.
    Initialised(View),
}

/// The set as one of its members sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The member's own state.
    pub state: State,
    /// Election term it knows.
    pub term: i64,
    /// The configuration it holds.
    pub config: Config,
    /// Whether a majority holds that configuration, so that no election can undo it; only a primary knows.
    pub committed: bool,
    /// Whether it says that its data is too old to catch up from any other member.
    pub too_stale: bool,
}

/// The parts of a replica set configuration the decision needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Name of the set.
    pub set: String,
    /// `settings.replicaSetId`, in hexadecimal; empty when unknown.
    pub id: String,
    /// Grows with each change.
    pub version: i64,
    /// Term of the primary that wrote it.
    pub term: i64,
    /// Milliseconds.
    pub election_timeout_millis: Option<u64>,
    /// In the configuration's order.
    pub members: Vec<ConfigMember>,
}

/// One member in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigMember {
    /// `host:port`.
    pub host: String,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it may become primary: its priority is above 0.
    pub electable: bool,
    /// What forbids it to become primary, whatever its priority: mongod refuses one above 0 beside it.
    pub bar: Option<Bar>,
}

/// A setting, always made by hand, with which a member cannot become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bar {
    /// `arbiterOnly`.
    Arbiter,
    /// `buildIndexes: false`.
    NoIndexes,
    /// `hidden`.
    Hidden,
    /// `secondaryDelaySecs`, `slaveDelay` in old configurations.
    Delayed,
}

/// State of a member (MongoDB manual, "Replica Set Member States").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the manual's own words
pub enum State {
    Startup,
    Primary,
    Secondary,
    Recovering,
    Startup2,
    Unknown,
    Arbiter,
    Down,
    Rollback,
    Removed,
}

/// The users the operator makes, in this order: without the first, nobody could help by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum User {
    /// `root`: for a person, and for backup and restore.
    Administrator,
    /// `readWrite` on its one database, which includes indexes and change streams.
    Application,
    /// `clusterMonitor`: for exporters; reads figures, no documents.
    Monitoring,
}

/// A user on the server against the one wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserState {
    /// Not there.
    Missing,
    /// There, with other roles.
    Stale,
    /// There, with another password than the one it was made with.
    OtherPassword,
    /// As wanted.
    Current,
}

impl User {
    /// All of them, in the order they are made.
    pub const ALL: [Self; 3] = [Self::Administrator, Self::Application, Self::Monitoring];
}

impl Config {
    /// What mongod orders configurations by.
    fn age(&self) -> (i64, i64) {
        (self.term, self.version)
    }
}

impl Bar {
    /// What it does and how a person takes it away. The first two cannot be changed: mongod asks for a new member.
    pub fn remedy(self, host: &str) -> String {
        let remove =
            format!("take it out with rs.remove(\"{host}\"), and when it is added again {}", fresh_volume(host));
        match self {
            Self::Arbiter => format!("is an arbiter and holds no data: {remove}"),
            Self::NoIndexes => format!("is set to build no indexes, so it cannot become primary: {remove}"),
            Self::Hidden => {
                "is hidden, so it cannot become primary: set its hidden to false with rs.reconfig()".to_owned()
            }
            Self::Delayed => {
                "is delayed, so it cannot become primary: set its secondaryDelaySecs to 0 with rs.reconfig()".to_owned()
            }
        }
    }
}

impl State {
    /// From the number in `replSetGetStatus`.
    pub fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Startup,
            1 => Self::Primary,
            2 => Self::Secondary,
            3 => Self::Recovering,
            5 => Self::Startup2,
            7 => Self::Arbiter,
            8 => Self::Down,
            9 => Self::Rollback,
            10 => Self::Removed,
            _ => Self::Unknown,
        }
    }

    /// As mongod prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "STARTUP",
            Self::Primary => "PRIMARY",
            Self::Secondary => "SECONDARY",
            Self::Recovering => "RECOVERING",
            Self::Startup2 => "STARTUP2",
            Self::Unknown => "UNKNOWN",
            Self::Arbiter => "ARBITER",
            Self::Down => "DOWN",
            Self::Rollback => "ROLLBACK",
            Self::Removed => "REMOVED",
        }
    }
}

impl Member {
    /// One word for a table: the state, or why there is none.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "UNREACHABLE",
            Self::Refused { .. } => "REFUSED",
            Self::Starting => "STARTING",
            Self::Uninitialised => "UNINITIALISED",
            Self::Initialised(view) => view.state.name(),
        }
    }

    /// Whether it holds the data and serves it.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Initialised(view) if matches!(view.state, State::Primary | State::Secondary))
    }
}

impl Seen {
    /// The configuration of each member that has one.
    pub fn configs(&self) -> impl Iterator<Item = (&str, &Config)> {
        self.members.iter().filter_map(|(host, member)| match member {
            Member::Initialised(view) => Some((host.as_str(), &view.config)),
            _ => None,
        })
    }

    /// The newest configuration any member holds: by term, then by version, as mongod itself orders them.
    pub fn config(&self) -> Option<&Config> {
        self.configs().map(|(_, config)| config).max_by_key(|config| config.age())
    }

    /// The newest configuration, when the primary says that a majority holds it. Any other may be undone by the next election,
    /// and a member that it took out would be back.
    pub fn committed(&self) -> Option<&Config> {
        let Member::Initialised(view) = self.members.get(self.primary()?)? else { return None };
        let newest = self.config().is_some_and(|newest| newest.age() == view.config.age());
        (view.committed && newest).then_some(&view.config)
    }

    /// The primary; of two that claim it, the one of the newer term, since the other was voted out and has not heard.
    pub fn primary(&self) -> Option<&str> {
        self.members
            .iter()
            .filter_map(|(host, member)| match member {
                Member::Initialised(view) if view.state == State::Primary => Some((view.term, host.as_str())),
                _ => None,
            })
            .max()
            .map(|(_, host)| host)
    }

    /// Whether a member holds the data and serves it.
    pub fn serves(&self, host: &str) -> bool {
        self.members.get(host).is_some_and(Member::serves)
    }

    /// State of one member, when it has one.
    pub fn state(&self, host: &str) -> Option<State> {
        match self.members.get(host)? {
            Member::Initialised(view) => Some(view.state),
            _ => None,
        }
    }
}
