//! Queues: their names, types and arguments, and the reasons a message ends among the dead letters.
//! Rule: the only declare argument is `x-queue-type`; any other brings a 406 on programs that declare the queue plainly.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Symbol;

/// The only argument a queue is declared with.
pub const TYPE_ARGUMENT: &str = "x-queue-type";
/// Header of a dead letter: why it is one, a label of [`Reason`].
pub const REASON_HEADER: &str = "x-reason";
/// Header of a dead letter: the queue it was taken from.
pub const QUEUE_HEADER: &str = "x-queue";
/// What the name of a dead letter's header begins with that holds what the message had and its copy must not: RabbitMQ acts by it.
pub const ORIGINAL_PREFIX: &str = "x-original-";
/// Header of a dead letter: the message's properties had so many bytes that its own headers do not fit into a frame beside ours, and are left out.
pub const LEFT_OUT_HEADER: &str = "x-headers-left-out";
/// Largest batch: the prefetch is at least twice the batch, and AMQP counts it in 16 bits.
pub const MAX_BATCH_SIZE: u32 = (u16::MAX / 2) as u32;

/// Name of a company's queue: the symbol exactly as written.
#[must_use]
pub fn name(company: &Symbol) -> &str {
    company.as_str()
}

/// Name of a company's dead-letter queue. No symbol holds a slash, so it can never be the queue of another company.
#[must_use]
pub fn dead_letters(company: &Symbol) -> String {
    format!("{company}/dead-letters")
}

/// Type a queue is declared with. Both kinds are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// Replicated on a majority of the brokers.
    #[default]
    Quorum,
    /// On one broker.
    Classic,
}

impl QueueType {
    /// The value of [`TYPE_ARGUMENT`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

impl FromStr for QueueType {
    type Err = String;

    /// # Errors
    /// When the text is neither `quorum` nor `classic`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quorum" => Ok(Self::Quorum),
            "classic" => Ok(Self::Classic),
            _ => Err(format!("queue type {text:?} is unknown: use quorum or classic")),
        }
    }
}

/// Why a message is a dead letter. A closed set: it is a metric label too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The body is not JSON.
    NotJson,
    /// The body is JSON, but not an event.
    NotAnEvent,
    /// The body is an event of another company.
    WrongCompany,
}

impl Reason {
    /// All of them, for metrics that start at 0.
    pub const ALL: [Self; 3] = [Self::NotJson, Self::NotAnEvent, Self::WrongCompany];

    /// The value of [`REASON_HEADER`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotAnEvent => "not_an_event",
            Self::WrongCompany => "wrong_company",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
