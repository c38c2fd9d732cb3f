//! What can go wrong, and how it is brought about.
//! Rule: the seed alone decides which faults come, when, and for how long.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillPublisher,
    /// It is started again at once, as a container is.
    KillConsumer,
    /// It stays away until the standby has taken over, as when its node is gone.
    LoseConsumer,
    KillBroker,
    KillPrimary,
    /// SIGSTOP for longer than the lease: what wakes up then is a zombie.
    StopConsumer,
    /// SIGSTOP for longer than the broker's heartbeat too.
    StopConsumerLong,
    /// TCP mends it.
    CutBroker,
    /// For longer than the heartbeat: acknowledgements of stored windows never arrive, and the broker delivers their events again.
    CutBrokerLong,
    CutDatabase,
}

use Fault::*;

/// One round: every kind, and those that go fast twice.
pub const ROUND: [Fault; 13] = [
    KillPublisher,
    KillPublisher,
    KillConsumer,
    LoseConsumer,
    KillBroker,
    KillBroker,
    KillPrimary,
    KillPrimary,
    StopConsumer,
    StopConsumerLong,
    CutBroker,
    CutBrokerLong,
    CutDatabase,
];

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            KillPublisher => "kill -9 publisher",
            KillConsumer => "kill -9 active consumer",
            LoseConsumer => "lose active consumer",
            KillBroker => "kill -9 broker",
            KillPrimary => "kill -9 database primary",
            StopConsumer => "SIGSTOP active consumer",
            StopConsumerLong => "SIGSTOP active consumer, long",
            CutBroker => "cut active consumer and broker",
            CutBrokerLong => "cut active consumer and broker, long",
            CutDatabase => "cut active consumer and database",
        })
    }
}

/// Faults in an order of chance, round after round.
pub struct Dice {
    random: StdRng,
    round: Vec<Fault>,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), round: Vec::new() }
    }

    pub fn fault(&mut self) -> Fault {
        if self.round.is_empty() {
            self.round = ROUND.to_vec();
            self.round.shuffle(&mut self.random);
        }
        self.round.pop().unwrap()
    }

    /// Any moment will do: faults shall strike in all states.
    pub fn moment(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(0..1000))
    }

    /// How long a fault of this kind lasts.
    pub fn duration(&mut self, fault: Fault) -> Duration {
        let milliseconds = match fault {
            StopConsumerLong | CutBrokerLong => 22_000..24_000,
            StopConsumer | CutBroker | CutDatabase => 5_000..9_000,
            KillBroker => 0..2_000,
            KillPublisher | KillConsumer | LoseConsumer | KillPrimary => return Duration::ZERO,
        };
        Duration::from_millis(self.random.random_range(milliseconds))
    }

    pub fn choose(&mut self, count: usize) -> usize {
        self.random.random_range(0..count)
    }
}
