//! What a source has said and not yet heard back: events keep their sequence number until the broker confirms them.
//! Rule: pure; nothing leaves the outbox but by a confirm, whatever happens to connections.

use std::collections::BTreeMap;

/// One event that is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Number within the source: 0, 1, 2, …
    pub sequence: u64,
    /// The message.
    pub body: Vec<u8>,
    /// When it was made, milliseconds since 1970.
    pub at: u64,
}

/// The unconfirmed events of one source.
#[derive(Debug)]
pub struct Outbox {
    source: String,
    next: u64,
    limit: usize,
    unconfirmed: BTreeMap<u64, Pending>,
    refused: BTreeMap<u64, Pending>,
}

impl Outbox {
    /// An empty outbox of a new source that holds at most `limit` events.
    #[must_use]
    pub fn new(source: String, limit: usize) -> Self {
        Self { source, next: 0, limit, unconfirmed: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// Name of the source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How many events the source has made.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.next
    }

    /// How many more events fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.unconfirmed.len() + self.refused.len())
    }

    /// How many events wait for their confirm.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unconfirmed.len() + self.refused.len()
    }

    /// Whether every event is confirmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the broker gave some back.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Gives the event its number and remembers it.
    pub fn add(&mut self, body: Vec<u8>, at: u64) -> Pending {
        let pending = Pending { sequence: self.next, body, at };
        self.next += 1;
        self.unconfirmed.insert(pending.sequence, pending.clone());
        pending
    }

    /// The broker has the event; whether it was still waiting.
    pub fn confirm(&mut self, sequence: u64) -> bool {
        self.unconfirmed.remove(&sequence).is_some()
    }

    /// The broker does not have the event: it waits to be sent again. Its confirm may come before or after this.
    pub fn refuse(&mut self, pending: Pending) {
        self.unconfirmed.remove(&pending.sequence);
        self.refused.insert(pending.sequence, pending);
    }

    /// The event as it waits, if it does.
    #[must_use]
    pub fn get(&self, sequence: u64) -> Option<&Pending> {
        self.unconfirmed.get(&sequence)
    }

    /// What the broker gave back, in order; it counts as sent from now on.
    pub fn take_refused(&mut self) -> Vec<Pending> {
        let refused: Vec<Pending> = std::mem::take(&mut self.refused).into_values().collect();
        self.unconfirmed.extend(refused.iter().map(|pending| (pending.sequence, pending.clone())));
        refused
    }

    /// Everything that is not confirmed, in order, to be sent over a new connection.
    pub fn take_all(&mut self) -> Vec<Pending> {
        self.refused.append(&mut self.unconfirmed);
        self.take_refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(events: u64) -> Outbox {
        let mut outbox = Outbox::new("source".into(), 10);
        for at in 0..events {
            outbox.add(vec![at as u8], at);
        }
        outbox
    }

    fn numbers(pending: &[Pending]) -> Vec<u64> {
        pending.iter().map(|pending| pending.sequence).collect()
    }

    #[test]
    fn a_lost_connection_sends_the_unconfirmed_again_in_order_with_their_old_numbers() {
        let mut outbox = outbox(6);
        assert!([0, 1, 4].iter().all(|sequence| outbox.confirm(*sequence)));
        let refused = outbox.get(5).cloned().unwrap();
        outbox.refuse(refused);
        assert_eq!(numbers(&outbox.take_all()), [2, 3, 5]);
        assert_eq!(outbox.add(vec![], 9).sequence, 6);
    }

    #[test]
    fn a_returned_event_stays_even_when_its_confirm_came_first() {
        let mut outbox = outbox(2);
        let returned = outbox.get(1).cloned().unwrap();
        outbox.confirm(0);
        outbox.confirm(1);
        outbox.refuse(returned);
        assert!(!outbox.confirm(1), "the confirm of a returned event confirms nothing");
        assert_eq!(numbers(&outbox.take_refused()), [1]);
        assert_eq!((outbox.len(), outbox.has_refused()), (1, false));
        assert!(outbox.confirm(1));
        assert!(outbox.is_empty());
    }

    #[test]
    fn refused_events_take_room_like_any_other() {
        let mut outbox = outbox(10);
        assert_eq!(outbox.room(), 0);
        let first = outbox.get(0).cloned().unwrap();
        outbox.refuse(first);
        assert_eq!(outbox.room(), 0);
        outbox.confirm(1);
        assert_eq!(outbox.room(), 1);
    }
}
