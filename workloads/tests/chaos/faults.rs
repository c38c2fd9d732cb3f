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
    /// SIGTERM; the next one starts at once, as in a rollout.
    EndPublisher,
    /// It is started again at once, as a container is.
    KillConsumer,
    /// It stays away until the standby has taken over, as when its node is gone.
    LoseConsumer,
    KillBroker,
    /// SIGSTOP: its connections stay open and nobody answers.
    StopBroker,
    KillPrimary,
    /// SIGSTOP for longer than an election takes: what wakes up believes to be the primary still.
    StopPrimary,
    /// SIGSTOP for longer than the lease: what wakes up then is a zombie.
    StopConsumer,
    /// SIGSTOP for longer than the broker's heartbeat too.
    StopConsumerLong,
    /// TCP mends it.
    CutBroker,
    /// For longer than the heartbeat: acknowledgements of stored windows never arrive, and the broker delivers their events again.
    CutBrokerLong,
    CutDatabase,
    /// For longer than a consumer tries to learn what became of an insert, or to renew its lease.
    CutDatabaseLong,
}

use Fault::*;

/// One round: every kind.
pub const ROUND: [Fault; 14] = [
    KillPublisher,
    EndPublisher,
    KillConsumer,
    LoseConsumer,
    KillBroker,
    StopBroker,
    KillPrimary,
    StopPrimary,
    StopConsumer,
    StopConsumerLong,
    CutBroker,
    CutBrokerLong,
    CutDatabase,
    CutDatabaseLong,
];

/// What is struck. Two faults at once strike different parts, so that each is what its name says.
#[derive(PartialEq, Eq)]
enum Part {
    Publisher,
    Consumer,
    Broker,
    Database,
}

impl Fault {
    fn part(self) -> Part {
        match self {
            KillPublisher | EndPublisher => Part::Publisher,
            KillBroker | StopBroker => Part::Broker,
            KillPrimary | StopPrimary => Part::Database,
            KillConsumer | LoseConsumer | StopConsumer | StopConsumerLong => Part::Consumer,
            CutBroker | CutBrokerLong | CutDatabase | CutDatabaseLong => Part::Consumer,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            KillPublisher => "kill -9 publisher",
            EndPublisher => "SIGTERM publisher",
            KillConsumer => "kill -9 active consumer",
            LoseConsumer => "lose active consumer",
            KillBroker => "kill -9 broker",
            StopBroker => "SIGSTOP broker",
            StopPrimary => "SIGSTOP database primary",
            KillPrimary => "kill -9 database primary",
            StopConsumer => "SIGSTOP active consumer",
            StopConsumerLong => "SIGSTOP active consumer, long",
            CutBroker => "cut active consumer and broker",
            CutBrokerLong => "cut active consumer and broker, long",
            CutDatabase => "cut active consumer and database",
            CutDatabaseLong => "cut active consumer and database, long",
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

    /// Two of different parts.
    pub fn pair(&mut self) -> [Fault; 2] {
        let first = self.fault();
        let others: Vec<Fault> = ROUND.into_iter().filter(|fault| fault.part() != first.part()).collect();
        [first, others[self.choose(others.len())]]
    }

    /// Any moment will do: faults shall strike in all states.
    pub fn moment(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(0..1000))
    }

    /// How long a fault of this kind lasts.
    pub fn duration(&mut self, fault: Fault) -> Duration {
        let milliseconds = match fault {
            StopConsumerLong | CutBrokerLong | CutDatabaseLong => 21_000..22_000,
            StopConsumer | CutBroker | CutDatabase => 5_000..7_000,
            StopBroker | StopPrimary => 5_000..6_000,
            KillBroker => 0..2_000,
            KillPublisher | EndPublisher | KillConsumer | LoseConsumer | KillPrimary => return Duration::ZERO,
        };
        Duration::from_millis(self.random.random_range(milliseconds))
    }

    pub fn choose(&mut self, count: usize) -> usize {
        self.random.random_range(0..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_every_kind_and_a_seed_gives_the_same_faults_again() {
        let faults = |seed| -> Vec<Fault> {
            let mut dice = Dice::new(seed);
            ROUND.iter().map(|_| dice.fault()).collect()
        };
        let mut round = faults(7);
        assert_eq!(round, faults(7));
        assert_ne!(round, faults(8));
        round.sort_unstable();
        round.dedup();
        assert_eq!(round.len(), ROUND.len());
    }

    #[test]
    fn two_faults_at_once_strike_different_parts() {
        let mut dice = Dice::new(1);
        for _ in 0..100 {
            let [first, second] = dice.pair();
            assert!(first.part() != second.part(), "{first} and {second}");
        }
    }
}
