//! Decides what a consumer counts, inserts and acknowledges, from what it took and what was stored.
//! Rule: pure; one insert at a time, in order, of all windows that are full by then, and nothing is acknowledged before it is in the database or
//! among the dead letters.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;

use super::batch::{Batch, Summary};
use super::intake::Reading;
use super::marks::Marks;

/// Events that a publisher sends again at most: those it has unconfirmed (`publisher::speaker::WINDOW`), and as many of a second one.
const SENT_AGAIN: u64 = 2000;
/// Windows in one insert at most, and windows' worth of events that are taken ahead when windows are short. Each carries all marks of the company, which
/// may be a megabyte of documents where a thousand publishers came and went.
pub const TOGETHER: u32 = 20;

/// A window that is ready to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Number within the company.
    pub number: i64,
    /// What the document says.
    pub summary: Summary,
    /// Every event of the company up to and with this window.
    pub marks: Marks,
    /// Delivery tag of its last event.
    pub last_tag: u64,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the window that is being filled, or completed it.
    Counted,
    /// A window has it already.
    Skipped,
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
#[derive(Clone, Debug)]
pub struct Pipeline {
    batch: Batch,
    marks: Marks,
    recent: u64,
    next_number: i64,
    last_tag: u64,
    filled: VecDeque<Filled>,
    inserting: Option<u64>,
    stored: Option<u64>,
    /// Events of the windows that are being stored, or that are and wait for their acknowledgement.
    under_way: u32,
    diverting: BTreeSet<u64>,
    alone: VecDeque<u64>,
    skipped: Option<u64>,
}

impl Pipeline {
    /// Nothing taken yet; `next_number` and `marks` follow the newest stored window. `prefetch` bounds the events that may
    /// come again.
    #[must_use]
    pub fn new(size: NonZeroU32, prefetch: u16, next_number: i64, marks: Marks) -> Self {
        Self {
            batch: Batch::new(size),
            marks,
            recent: u64::from(prefetch) + SENT_AGAIN,
            next_number,
            last_tag: 0,
            filled: VecDeque::new(),
            inserting: None,
            stored: None,
            under_way: 0,
            diverting: BTreeSet::new(),
            alone: VecDeque::new(),
            skipped: None,
        }
    }

    /// An event was taken from the queue, `now`, in milliseconds since 1970.
    pub fn take(&mut self, tag: u64, reading: &Reading<'_>, now: i64) -> Taken {
        if reading.sequence.is_some_and(|sequence| !self.marks.insert(sequence, now)) {
            self.skip(tag);
            return Taken::Skipped;
        }
        self.last_tag = tag;
        if let Some(summary) = self.batch.push(reading, now) {
            self.fill(summary, now);
        }
        Taken::Counted
    }

    /// Closes the window that is being filled although it is short.
    pub fn flush(&mut self, now: i64) {
        if let Some(summary) = self.batch.close() {
            self.fill(summary, now);
        }
    }

    fn fill(&mut self, summary: Summary, now: i64) {
        self.marks.forget(now, self.recent);
        let (number, marks, last_tag) = (self.next_number, self.marks.clone(), self.last_tag);
        self.filled.push_back(Filled { number, summary, marks, last_tag });
        self.next_number += 1;
    }

    /// What is marked is in a stored window, or in one of ours that is acknowledged later, with a higher tag. So a skipped
    /// event can go at once: with all before it, when nothing before it is held, else alone.
    fn skip(&mut self, tag: u64) {
        let holds_nothing = self.batch.count() == 0
            && self.filled.is_empty()
            && self.inserting.is_none()
            && self.stored.is_none()
            && self.diverting.is_empty();
        if holds_nothing {
            self.skipped = Some(tag);
        } else {
            self.alone.push_back(tag);
        }
    }

    /// A message that is no event is on its way to the dead letters.
    pub fn divert(&mut self, tag: u64) {
        self.diverting.insert(tag);
    }

    /// The broker has confirmed the dead letter.
    pub fn diverted(&mut self, tag: u64) {
        if self.diverting.remove(&tag) {
            self.alone.push_back(tag);
        }
    }

    /// The next windows to insert, oldest first; none while an insert is under way. The one before it must be acknowledged first, so that an
    /// acknowledgement never covers a window that is not stored. One insert takes all that are full: where a majority takes long to
    /// answer, a window for each answer would be less than what arrives.
    pub fn next_insert(&mut self) -> Vec<Filled> {
        if self.inserting.is_some() || self.stored.is_some() {
            return Vec::new();
        }
        let filled: Vec<Filled> = self.filled.drain(..self.filled.len().min(TOGETHER as usize)).collect();
        self.inserting = filled.last().map(|last| last.last_tag);
        self.under_way = filled.iter().map(|filled| filled.summary.count).sum();
        filled
    }

    /// The windows under way are in the database.
    pub fn inserted(&mut self) {
        self.stored = self.inserting.take();
    }

    /// The next acknowledgement that may be sent. Those that go alone come first, for the broker closes the channel on a tag
    /// that a wider one has covered. A window's covers all before it, so it waits for dead letters under way there.
    pub fn next_ack(&mut self) -> Option<Ack> {
        if let Some(tag) = self.alone.pop_front() {
            return Some(Ack { tag, multiple: false });
        }
        if let Some(tag) = self.skipped.take() {
            return Some(Ack { tag, multiple: true });
        }
        let tag = self.stored.filter(|stored| self.diverting.first().is_none_or(|first| first > stored))?;
        self.stored = None;
        self.under_way = 0;
        Some(Ack { tag, multiple: true })
    }

    /// Whether an insert or its acknowledgement is still to come, for an orderly end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.inserting.is_none()
            && self.stored.is_none()
            && self.diverting.is_empty()
            && self.alone.is_empty()
            && self.skipped.is_none()
    }

    /// Messages taken and not acknowledged. Of a run of copies that are skipped one counts: they are acknowledged together and at once.
    #[must_use]
    pub fn held(&self) -> u64 {
        let filled: u64 = self.filled.iter().map(|filled| u64::from(filled.summary.count)).sum();
        let alone = self.diverting.len() + self.alone.len() + usize::from(self.skipped.is_some());
        u64::from(self.batch.count()) + filled + u64::from(self.under_way) + alone as u64
    }

    /// Events of the window that is being filled.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.batch.count()
    }

    /// When the first of them was taken, milliseconds since 1970.
    #[must_use]
    pub fn pending_since(&self) -> Option<i64> {
        self.batch.since()
    }

    /// What is known of the company's events.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use proptest::prelude::*;
    use wire::EventType;

    use super::*;
    use wire::event::Sequence;

    fn reading() -> Reading<'static> {
        Reading { event_type: EventType::Buy, price: 1.0, at: 0, sequence: None }
    }

    fn event(number: u64) -> Reading<'static> {
        Reading { sequence: Some(Sequence { source: "s", number }), ..reading() }
    }

    fn pipeline(size: u32) -> Pipeline {
        Pipeline::new(NonZeroU32::new(size).unwrap(), 10, 5, Marks::default())
    }

    fn numbers_and_tags(filled: &[Filled]) -> Vec<(i64, u64)> {
        filled.iter().map(|filled| (filled.number, filled.last_tag)).collect()
    }

    fn acks(pipeline: &mut Pipeline) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| pipeline.next_ack()).map(|ack| (ack.tag, ack.multiple)).collect()
    }

    #[test]
    fn inserts_go_one_at_a_time_in_order_and_an_ack_follows_only_its_own() {
        let mut pipeline = pipeline(2);
        let take = |pipeline: &mut Pipeline, tags: RangeInclusive<u64>| {
            tags.for_each(|tag| assert_eq!(pipeline.take(tag, &reading(), 0), Taken::Counted));
        };
        take(&mut pipeline, 1..=2);
        assert_eq!(numbers_and_tags(&pipeline.next_insert()), [(5, 2)]);
        take(&mut pipeline, 3..=7);
        assert_eq!(pipeline.next_insert(), [], "one at a time");
        assert_eq!(pipeline.next_ack(), None, "nothing is stored yet");
        pipeline.inserted();
        assert_eq!(pipeline.next_insert(), [], "the acknowledgement comes first");
        assert_eq!(pipeline.next_ack(), Some(Ack { tag: 2, multiple: true }));
        assert_eq!(pipeline.next_ack(), None);
        assert_eq!(numbers_and_tags(&pipeline.next_insert()), [(6, 4), (7, 6)], "all that are full by then");
        assert_eq!(pipeline.held(), 5);
        pipeline.inserted();
        assert_eq!(acks(&mut pipeline), [(6, true)]);
        assert_eq!(pipeline.held(), 1);
    }

    #[test]
    fn an_insert_holds_twenty_windows_at_most() {
        let mut pipeline = pipeline(1);
        (1..=21).for_each(|tag| assert_eq!(pipeline.take(tag, &reading(), 0), Taken::Counted));
        assert_eq!(pipeline.next_insert().len(), 20);
        pipeline.inserted();
        assert_eq!(acks(&mut pipeline), [(20, true)]);
        assert_eq!(pipeline.next_insert().len(), 1);
    }

    #[test]
    fn a_window_is_not_acknowledged_before_the_dead_letters_inside_it_are_confirmed() {
        let mut pipeline = pipeline(2);
        pipeline.take(1, &reading(), 0);
        pipeline.divert(2);
        pipeline.take(3, &reading(), 0);
        pipeline.divert(4);
        assert_eq!(pipeline.next_insert().len(), 1);
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

    #[test]
    fn an_event_that_is_marked_is_skipped_and_acknowledged_at_once() {
        let mut pipeline = pipeline(2);
        assert_eq!(pipeline.take(1, &event(0), 0), Taken::Counted);
        assert_eq!(pipeline.take(2, &event(0), 0), Taken::Skipped);
        assert_eq!(acks(&mut pipeline), [(2, false)], "alone, for the first copy is held");
        assert_eq!(pipeline.take(3, &event(1), 0), Taken::Counted);
        let filled = pipeline.next_insert().remove(0);
        assert_eq!((filled.summary.count, filled.last_tag), (2, 3));
        pipeline.inserted();
        assert_eq!(acks(&mut pipeline), [(3, true)]);
        let mut successor = Pipeline::new(NonZeroU32::new(2).unwrap(), 10, 6, filled.marks);
        assert_eq!([1, 2].map(|tag| successor.take(tag, &event(tag - 1), 0)), [Taken::Skipped; 2]);
        assert_eq!(acks(&mut successor), [(2, true)], "nothing else is held, so one acknowledgement does");
        assert_eq!(successor.take(3, &event(2), 0), Taken::Counted);
    }

    #[test]
    fn a_window_that_is_flushed_is_short_and_acknowledged_up_to_its_last_event() {
        let mut pipeline = pipeline(10);
        pipeline.flush(0);
        assert_eq!(pipeline.next_insert(), []);
        pipeline.take(1, &event(0), 5);
        pipeline.take(2, &event(0), 6);
        assert_eq!((pipeline.pending(), pipeline.pending_since()), (1, Some(5)));
        pipeline.flush(7);
        assert_eq!((pipeline.pending(), pipeline.pending_since()), (0, None));
        assert_eq!(pipeline.next_insert()[0].summary.count, 1);
        pipeline.inserted();
        assert_eq!(acks(&mut pipeline), [(2, false), (1, true)]);
        assert!(pipeline.is_settled());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Event,
        /// The event of this number again, when there was one.
        Again(prop::sample::Index),
        Flush,
        NotAnEvent,
        DeadLettered(prop::sample::Index),
        Inserted,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Event),
            1 => any::<prop::sample::Index>().prop_map(Step::Again),
            1 => Just(Step::Flush),
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
            let (mut events, mut under_way, mut tag, mut number) = (Vec::new(), Vec::<Filled>::new(), 0, 0);
            for step in steps {
                match step {
                    Step::Event => {
                        tag += 1;
                        unacked.insert(tag);
                        events.push(tag);
                        prop_assert_eq!(pipeline.take(tag, &event(number), 0), Taken::Counted);
                        number += 1;
                    }
                    // A copy is safe: the first one is stored, or held until it is.
                    Step::Again(index) if number > 0 => {
                        tag += 1;
                        unacked.insert(tag);
                        safe.insert(tag);
                        let again = event(index.index(number as usize) as u64);
                        prop_assert_eq!(pipeline.take(tag, &again, 0), Taken::Skipped);
                    }
                    Step::Flush => pipeline.flush(0),
                    Step::NotAnEvent => { tag += 1; unacked.insert(tag); diverting.push(tag); pipeline.divert(tag); }
                    Step::DeadLettered(index) if !diverting.is_empty() => {
                        let confirmed = diverting.remove(index.index(diverting.len()));
                        safe.insert(confirmed);
                        pipeline.diverted(confirmed);
                    }
                    Step::Inserted if !under_way.is_empty() => {
                        for filled in under_way.drain(..) {
                            prop_assert!((1..=size).contains(&filled.summary.count));
                            let stored: Vec<u64> = events.drain(..filled.summary.count as usize).collect();
                            prop_assert_eq!(stored.last(), Some(&filled.last_tag));
                            safe.extend(stored);
                        }
                        pipeline.inserted();
                    }
                    Step::Again(_) | Step::DeadLettered(_) | Step::Inserted => {}
                }
                while let Some(ack) = pipeline.next_ack() {
                    prop_assert!(unacked.contains(&ack.tag), "the broker closes the channel on an unknown tag");
                    let covered: Vec<u64> = if ack.multiple { unacked.range(..=ack.tag).copied().collect() } else { vec![ack.tag] };
                    for tag in covered {
                        prop_assert!(safe.contains(&tag), "tag {} is not safe", tag);
                        unacked.remove(&tag);
                    }
                }
                prop_assert_eq!(pipeline.held(), unacked.len() as u64);
                if under_way.is_empty() {
                    under_way = pipeline.next_insert();
                }
            }
        }
    }
}
