//! Decides what a consumer may insert and what it may acknowledge, from what it took and what was stored.
//! Rule: pure; one insert at a time, in order, and nothing is acknowledged before it is in the database or among the dead letters.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;

use super::batch::{Batch, Summary};
use super::intake::Reading;

/// A window that is ready to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Number within the company.
    pub number: i64,
    /// What the document says.
    pub summary: Summary,
    /// Delivery tag of its last event.
    pub last_tag: u64,
}

/// An acknowledgement that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Delivery tag.
    pub tag: u64,
    /// Whether it covers everything before it too.
    pub multiple: bool,
}

/// The state of one consumer on one channel; a new channel starts a new one.
#[derive(Debug)]
pub struct Pipeline {
    batch: Batch,
    next_number: i64,
    filled: VecDeque<Filled>,
    inserting: Option<u64>,
    stored: Option<u64>,
    diverting: BTreeSet<u64>,
    diverted: VecDeque<u64>,
}

impl Pipeline {
    /// Nothing taken yet; `next_number` follows the newest stored window.
    #[must_use]
    pub fn new(size: NonZeroU32, next_number: i64) -> Self {
        Self {
            batch: Batch::new(size),
            next_number,
            filled: VecDeque::new(),
            inserting: None,
            stored: None,
            diverting: BTreeSet::new(),
            diverted: VecDeque::new(),
        }
    }

    /// An event was taken from the queue.
    pub fn take(&mut self, tag: u64, reading: &Reading<'_>) {
        if let Some(summary) = self.batch.push(reading) {
            self.filled.push_back(Filled { number: self.next_number, summary, last_tag: tag });
            self.next_number += 1;
        }
    }

    /// A message that is no event is on its way to the dead letters.
    pub fn divert(&mut self, tag: u64) {
        self.diverting.insert(tag);
    }

    /// The broker has confirmed the dead letter.
    pub fn diverted(&mut self, tag: u64) {
        if self.diverting.remove(&tag) {
            self.diverted.push_back(tag);
        }
    }

    /// The next window to insert, unless one is under way. The one before it must be acknowledged first, so that at most
    /// two windows are ever held.
    pub fn next_insert(&mut self) -> Option<Filled> {
        if self.inserting.is_some() || self.stored.is_some() {
            return None;
        }
        let filled = self.filled.pop_front()?;
        self.inserting = Some(filled.last_tag);
        Some(filled)
    }

    /// The window under way is in the database.
    pub fn inserted(&mut self) {
        self.stored = self.inserting.take();
    }

    /// The next acknowledgement that may be sent. Dead letters go one by one: their number is small, and a queue that holds
    /// nothing else must not wait for a window. A window's covers all before it, so it waits for dead letters under way there.
    pub fn next_ack(&mut self) -> Option<Ack> {
        if let Some(tag) = self.diverted.pop_front() {
            return Some(Ack { tag, multiple: false });
        }
        let tag = self.stored.filter(|stored| self.diverting.first().is_none_or(|first| first > stored))?;
        self.stored = None;
        Some(Ack { tag, multiple: true })
    }

    /// Whether an insert or its acknowledgement is still to come, for an orderly end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.inserting.is_none() && self.stored.is_none() && self.diverting.is_empty() && self.diverted.is_empty()
    }

    /// Events of the window that is being filled.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.batch.count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::EventType;

    use super::*;

    fn reading() -> Reading<'static> {
        Reading { event_type: EventType::Buy, price: 1.0, at: 0, sequence: None }
    }

    fn pipeline(size: u32) -> Pipeline {
        Pipeline::new(NonZeroU32::new(size).unwrap(), 5)
    }

    #[test]
    fn inserts_go_one_at_a_time_in_order_and_an_ack_follows_only_its_own() {
        let mut pipeline = pipeline(2);
        (1..=4).for_each(|tag| pipeline.take(tag, &reading()));
        let first = pipeline.next_insert().unwrap();
        assert_eq!((first.number, first.last_tag), (5, 2));
        assert_eq!(pipeline.next_insert(), None, "one at a time");
        assert_eq!(pipeline.next_ack(), None, "nothing is stored yet");
        pipeline.inserted();
        assert_eq!(pipeline.next_ack(), Some(Ack { tag: 2, multiple: true }));
        assert_eq!(pipeline.next_ack(), None);
        let second = pipeline.next_insert().unwrap();
        assert_eq!((second.number, second.last_tag), (6, 4));
    }

    #[test]
    fn a_window_is_not_acknowledged_before_the_dead_letters_inside_it_are_confirmed() {
        let mut pipeline = pipeline(2);
        pipeline.take(1, &reading());
        pipeline.divert(2);
        pipeline.take(3, &reading());
        pipeline.divert(4);
        pipeline.next_insert().unwrap();
        pipeline.inserted();
        assert_eq!(pipeline.next_ack(), None);
        pipeline.diverted(2);
        assert_eq!(
            pipeline.next_ack(),
            Some(Ack { tag: 2, multiple: false }),
            "alone, and before the ack that covers it"
        );
        assert_eq!(
            pipeline.next_ack(),
            Some(Ack { tag: 3, multiple: true }),
            "the one behind the window does not matter"
        );
        assert!(!pipeline.is_settled());
        pipeline.diverted(4);
        assert_eq!(pipeline.next_ack(), Some(Ack { tag: 4, multiple: false }));
        assert!(pipeline.is_settled());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Event,
        NotAnEvent,
        DeadLettered(prop::sample::Index),
        Inserted,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Event),
            1 => Just(Step::NotAnEvent),
            1 => any::<prop::sample::Index>().prop_map(Step::DeadLettered),
            1 => Just(Step::Inserted),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        // The broker's side is played here: each tag is acknowledged once, and only when it is safe somewhere.
        #[test]
        fn no_tag_is_acknowledged_twice_or_before_it_is_safe(size in 1_u32..5, steps in steps()) {
            let mut pipeline = pipeline(size);
            let (mut unacked, mut safe, mut diverting) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
            let (mut events, mut under_way, mut tag) = (Vec::new(), None::<Filled>, 0);
            for step in steps {
                match step {
                    Step::Event => { tag += 1; unacked.insert(tag); events.push(tag); pipeline.take(tag, &reading()); }
                    Step::NotAnEvent => { tag += 1; unacked.insert(tag); diverting.push(tag); pipeline.divert(tag); }
                    Step::DeadLettered(index) if !diverting.is_empty() => {
                        let confirmed = diverting.remove(index.index(diverting.len()));
                        safe.insert(confirmed);
                        pipeline.diverted(confirmed);
                    }
                    Step::Inserted => if let Some(filled) = under_way.take() {
                        prop_assert_eq!(filled.summary.count, size);
                        let stored: Vec<u64> = events.drain(..size as usize).collect();
                        prop_assert_eq!(stored.last(), Some(&filled.last_tag));
                        safe.extend(stored);
                        pipeline.inserted();
                    },
                    Step::DeadLettered(_) => {}
                }
                while let Some(ack) = pipeline.next_ack() {
                    prop_assert!(unacked.contains(&ack.tag), "the broker closes the channel on an unknown tag");
                    let covered: Vec<u64> = if ack.multiple { unacked.range(..=ack.tag).copied().collect() } else { vec![ack.tag] };
                    for tag in covered {
                        prop_assert!(safe.contains(&tag), "tag {} is not safe", tag);
                        unacked.remove(&tag);
                    }
                }
                if under_way.is_none() {
                    under_way = pipeline.next_insert();
                }
            }
        }
    }
}
