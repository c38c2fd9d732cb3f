//! Explores every order of deliveries, deaths, inserts, elections and acknowledgements of two consumers in a small world,
//! with the consumer's own decisions (`pipeline`, `marks`, `settlement`) in the middle.
//! Rule: in every state that can be reached, each event is safe somewhere and in at most one stored window.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::io::Write;
use std::num::NonZeroU32;
use std::rc::Rc;

use wire::EventType;
use wire::event::Sequence;
use workloads::consumer::intake::Reading;
use workloads::consumer::marks::Marks;
use workloads::consumer::pipeline::{Ack, Filled, Pipeline};
use workloads::consumer::settlement::{Settlement, settle};

/// Events per window.
const BATCH: u32 = 2;
/// Events a consumer holds at most.
const PREFETCH: usize = 4;

/// A protocol with a hole, to see that the exploration finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    None,
    /// A successor does not read the marks.
    NoMarks,
    /// A window's marks are of its own events alone. It takes two windows whose acknowledgements are lost to see that.
    ShortMarks,
    /// A window is acknowledged while its insert is under way.
    EarlyAck,
    /// The database lets a number be taken twice.
    NoFence,
    /// Whatever document has the number is taken for ours.
    BlindSettlement,
    /// What a majority does not have yet is read, although an election may take it back.
    DirtyRead,
    /// An insert of several windows goes on after an election has taken back its first ones.
    GoesOn,
}

/// How much may go wrong in one life of the world.
#[derive(Clone, Copy, Debug)]
struct Budget {
    begins: u8,
    deaths: u8,
    losses: u8,
    elections: u8,
    flushes: u8,
}

#[derive(Clone)]
struct Document {
    id: u8,
    number: i64,
    events: Vec<u64>,
    marks: Marks,
    /// Of its contents, which never change.
    fingerprint: u128,
}

#[derive(Clone)]
struct Consumer {
    pipeline: Pipeline,
    /// By delivery tag, what the broker holds for it.
    unacked: BTreeMap<u64, u64>,
    next_tag: u64,
    /// On their way to the broker, in order.
    acks: VecDeque<Ack>,
    /// Of the insert under way, those that are not known to be stored, oldest first.
    inserting: Vec<Rc<Document>>,
    /// Of all the above, and whether a window is ready: worked out when it changes, for most steps change no consumer.
    fingerprint: u128,
    may_insert: bool,
}

/// An insert on its way to the primary, or at work there: it writes one document after the other and ends at the first that is refused.
#[derive(Clone, Debug)]
struct Sent {
    documents: VecDeque<Rc<Document>>,
    begun: bool,
}

#[derive(Clone)]
struct World {
    /// Sequence numbers of the messages that wait, the next one first.
    queue: VecDeque<u64>,
    consumers: [Option<Rc<Consumer>>; 2],
    sent: Vec<Sent>,
    /// On the primary; the flag: on a majority.
    stored: Vec<(Rc<Document>, bool)>,
    left: Budget,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(usize),
    Deliver(usize),
    Insert(usize),
    /// The next document of an insert.
    Arrive(usize),
    Vanish(usize),
    Replicate,
    Elect,
    Told(usize),
    Resend {
        who: usize,
        waits: bool,
    },
    Settle(usize),
    Flush(usize),
    AckArrives(usize),
    /// Acknowledgements on their way are lost; those that make it before are steps of their own.
    /// The broker gives back what was held: in its old place, or behind everything else.
    Die {
        who: usize,
        behind: bool,
    },
}

impl World {
    fn new(queue: &[u64], left: Budget) -> Self {
        Self {
            queue: queue.iter().copied().collect(),
            consumers: [None, None],
            sent: Vec::new(),
            stored: Vec::new(),
            left,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (who, consumer) in self.consumers.iter().enumerate() {
            let Some(consumer) = consumer else {
                if self.left.begins > 0 && !self.queue.is_empty() {
                    steps.push(Step::Begin(who));
                }
                continue;
            };
            if !self.queue.is_empty() && consumer.unacked.len() < PREFETCH {
                steps.push(Step::Deliver(who));
            }
            match consumer.inserting.first() {
                None => {
                    if consumer.may_insert {
                        steps.push(Step::Insert(who));
                    }
                }
                Some(first) => {
                    let majority_has = |ours: &Rc<Document>| {
                        self.stored.iter().any(|(stored, majority)| stored.id == ours.id && *majority)
                    };
                    if consumer.inserting.iter().all(majority_has) {
                        steps.push(Step::Told(who));
                    }
                    let taken = self.stored.iter().any(|(stored, _)| stored.number == first.number);
                    if taken {
                        steps.push(Step::Settle(who));
                    }
                    // Nobody waits for an answer for ever: what has not arrived is sent again, once also while it is still on its way.
                    let waits = self.sent.iter().any(|sent| sent.holds(first));
                    if !taken && (!waits || self.left.losses > 0) {
                        steps.push(Step::Resend { who, waits });
                    }
                }
            }
            if !consumer.acks.is_empty() {
                steps.push(Step::AckArrives(who));
            }
            if self.left.flushes > 0 && consumer.pipeline.pending() > 0 {
                steps.push(Step::Flush(who));
            }
            if self.left.deaths > 0 {
                steps.push(Step::Die { who, behind: false });
                if !consumer.unacked.is_empty() && !self.queue.is_empty() {
                    steps.push(Step::Die { who, behind: true });
                }
            }
        }
        for (index, sent) in self.sent.iter().enumerate() {
            steps.push(Step::Arrive(index));
            if self.left.losses > 0 && self.awaited(sent) {
                steps.push(Step::Vanish(index));
            }
        }
        if self.stored.iter().any(|(_, majority)| !majority) {
            steps.push(Step::Replicate);
            if self.left.elections > 0 {
                steps.push(Step::Elect);
            }
        }
        steps
    }

    fn after(&self, step: Step, hole: Hole) -> Self {
        let mut world = self.clone();
        match step {
            Step::Begin(who) => {
                world.left.begins -= 1;
                let newest = world
                    .stored
                    .iter()
                    .filter(|(_, majority)| *majority || hole == Hole::DirtyRead)
                    .map(|(document, _)| document)
                    .max_by_key(|document| document.number);
                let marks = newest.filter(|_| hole != Hole::NoMarks).map(|newest| newest.marks.clone());
                let number = newest.map_or(0, |newest| newest.number + 1);
                let size = NonZeroU32::new(BATCH).unwrap();
                let pipeline = Pipeline::new(size, PREFETCH as u16, number, marks.unwrap_or_default());
                world.consumers[who] = Some(Rc::new(Consumer::new(pipeline)));
            }
            Step::Deliver(who) => {
                let number = world.queue.pop_front().unwrap();
                world.change(who, |consumer| {
                    let tag = consumer.next_tag;
                    consumer.next_tag += 1;
                    consumer.unacked.insert(tag, number);
                    let sequence = Some(Sequence { source: "s", number });
                    let reading = Reading { event_type: EventType::Buy, price: 1.0, at: 0, sequence };
                    consumer.pipeline.take(tag, &reading, 0);
                    consumer.send_acks();
                });
            }
            Step::Insert(who) => {
                let ids = world.free_ids();
                let documents = world.change(who, |consumer| {
                    let filled = consumer.pipeline.next_insert().into_iter();
                    let documents = filled.zip(ids).map(|(filled, id)| Rc::new(Document::new(id, filled, hole)));
                    consumer.inserting = documents.collect();
                    let documents = consumer.inserting.clone();
                    if hole == Hole::EarlyAck {
                        consumer.inserted();
                    }
                    documents
                });
                world.sent.push(Sent::new(documents));
            }
            Step::Arrive(index) => {
                let sent = &mut world.sent[index];
                let document = sent.documents.pop_front().unwrap();
                sent.begun = true;
                let refused = world.stored.iter().any(|(stored, _)| {
                    stored.id == document.id || (stored.number == document.number && hole != Hole::NoFence)
                });
                if refused || sent.documents.is_empty() {
                    world.sent.remove(index);
                }
                if !refused {
                    world.stored.push((document, false));
                }
            }
            Step::Vanish(index) => {
                world.left.losses -= 1;
                world.sent.remove(index);
            }
            Step::Replicate => world.stored.iter_mut().find(|(_, majority)| !majority).unwrap().1 = true,
            Step::Elect => {
                world.left.elections -= 1;
                world.stored.retain(|(_, majority)| *majority);
                // A primary that steps down ends what it is at.
                if hole != Hole::GoesOn {
                    world.sent.retain(|sent| !sent.begun);
                }
            }
            Step::Told(who) => world.change(who, Consumer::inserted),
            Step::Resend { who, waits } => {
                world.left.losses -= u8::from(waits);
                let documents = world.consumers[who].as_ref().unwrap().inserting.clone();
                world.sent.push(Sent::new(documents));
            }
            Step::Settle(who) => {
                let ours = Rc::clone(&world.consumers[who].as_ref().unwrap().inserting[0]);
                let owner = world.stored.iter().find(|(stored, majority)| stored.number == ours.number && *majority);
                let owner = owner.map(|(stored, _)| if hole == Hole::BlindSettlement { ours.id } else { stored.id });
                match settle(&ours.id, owner.as_ref()) {
                    Settlement::Stored => world.change(who, Consumer::settled),
                    Settlement::Overtaken => world.end(who, false),
                    Settlement::Unknown => {}
                }
            }
            Step::Flush(who) => {
                world.left.flushes -= 1;
                world.change(who, |consumer| consumer.pipeline.flush(0));
            }
            Step::AckArrives(who) => world.change(who, Consumer::ack_arrives),
            Step::Die { who, behind } => {
                world.left.deaths -= 1;
                world.end(who, behind);
            }
        }
        world
    }

    fn change<T>(&mut self, who: usize, act: impl FnOnce(&mut Consumer) -> T) -> T {
        let consumer = Rc::make_mut(self.consumers[who].as_mut().unwrap());
        let outcome = act(consumer);
        consumer.changed();
        outcome
    }

    /// Whether somebody still waits for the outcome of this insert.
    fn awaited(&self, sent: &Sent) -> bool {
        self.consumers.iter().flatten().flat_map(|consumer| &consumer.inserting).any(|ours| sent.holds(ours))
    }

    /// Those that no document has, the smallest first, so that ids do not tell what was before: worlds that behave alike are equal.
    fn free_ids(&self) -> impl Iterator<Item = u8> + use<> {
        let inserting = self.consumers.iter().flatten().flat_map(|consumer| &consumer.inserting);
        let sent = self.sent.iter().flat_map(|sent| &sent.documents);
        let documents = inserting.chain(sent).chain(self.stored.iter().map(|(document, _)| document));
        let used: Vec<u8> = documents.map(|document| document.id).collect();
        (0..).filter(move |id| !used.contains(id))
    }

    /// The consumer's state is gone, with the acknowledgements on their way; what it held is the broker's again. What it sent may still arrive.
    fn end(&mut self, who: usize, behind: bool) {
        let gone = self.consumers[who].take().unwrap();
        if behind {
            self.queue.extend(gone.unacked.values());
        } else {
            gone.unacked.values().rev().for_each(|number| self.queue.push_front(*number));
        }
    }

    /// What is wrong with this state, if anything.
    fn broken(&self, events: &BTreeSet<u64>) -> Option<String> {
        let mut counted = BTreeSet::new();
        let kept = self.stored.iter().filter(|(_, majority)| *majority);
        for number in kept.flat_map(|(document, _)| &document.events) {
            if !counted.insert(*number) {
                return Some(format!("event {number} is counted twice"));
            }
        }
        let held = self.consumers.iter().flatten().flat_map(|consumer| consumer.unacked.values());
        let safe: BTreeSet<u64> = counted.iter().chain(&self.queue).chain(held).copied().collect();
        events.difference(&safe).next().map(|number| format!("event {number} is lost"))
    }

    fn fingerprint(&self) -> u128 {
        let Self { queue, consumers, sent, stored, left } = self;
        // Which consumer is which makes no difference.
        let mut consumers = consumers.each_ref().map(|consumer| consumer.as_ref().map(|consumer| consumer.fingerprint));
        consumers.sort_unstable();
        Fingerprint::of(format_args!("{queue:?}{consumers:?}{sent:?}{stored:?}{left:?}"))
    }
}

/// A hash of 128 bits, made while the text is: two states of some millions that share one are less likely than a fault of the machine.
struct Fingerprint(u128);

impl Fingerprint {
    fn of(text: fmt::Arguments<'_>) -> u128 {
        let mut fingerprint = Self(0);
        fmt::write(&mut fingerprint, text).unwrap();
        fingerprint.0
    }
}

impl fmt::Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let mixed =
                (self.0 ^ u128::from(u64::from_le_bytes(word))).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            self.0 = mixed ^ (mixed >> 64);
        }
        Ok(())
    }
}

impl Sent {
    fn new(documents: Vec<Rc<Document>>) -> Self {
        Self { documents: documents.into(), begun: false }
    }

    fn holds(&self, document: &Document) -> bool {
        self.documents.iter().any(|sent| sent.id == document.id)
    }
}

impl Document {
    fn new(id: u8, filled: Filled, hole: Hole) -> Self {
        let Filled { number, summary, mut marks, .. } = filled;
        let ranges = summary.sequences.values().flat_map(|ranges| ranges.iter());
        let events: Vec<u64> = ranges.flat_map(|(first, last)| first..=last).collect();
        if hole == Hole::ShortMarks {
            marks = Marks::default();
            events.iter().for_each(|number| assert!(marks.insert(Sequence { source: "s", number: *number }, 0)));
        }
        let fingerprint = Fingerprint::of(format_args!("{id} {number} {events:?} {marks:?}"));
        Self { id, number, events, marks, fingerprint }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}", self.fingerprint)
    }
}

impl Consumer {
    fn new(pipeline: Pipeline) -> Self {
        let (unacked, acks) = (BTreeMap::new(), VecDeque::new());
        let mut consumer =
            Self { pipeline, unacked, next_tag: 1, acks, inserting: Vec::new(), fingerprint: 0, may_insert: false };
        consumer.changed();
        consumer
    }

    fn changed(&mut self) {
        let Self { pipeline, unacked, next_tag, acks, inserting, .. } = self;
        self.fingerprint = Fingerprint::of(format_args!("{pipeline:?}{unacked:?}{next_tag}{acks:?}{inserting:?}"));
        self.may_insert = !pipeline.clone().next_insert().is_empty();
    }

    /// The first of the documents is known to be stored.
    fn settled(&mut self) {
        self.inserting.remove(0);
        if self.inserting.is_empty() {
            self.inserted();
        }
    }

    fn inserted(&mut self) {
        self.inserting.clear();
        self.pipeline.inserted();
        self.send_acks();
    }

    fn send_acks(&mut self) {
        self.acks.extend(std::iter::from_fn(|| self.pipeline.next_ack()));
    }

    /// The broker's side of the next acknowledgement: it closes the channel on a tag it does not wait for.
    fn ack_arrives(&mut self) {
        let ack = self.acks.pop_front().unwrap();
        assert!(self.unacked.contains_key(&ack.tag), "tag {} is not outstanding", ack.tag);
        if ack.multiple {
            self.unacked = self.unacked.split_off(&(ack.tag + 1));
        } else {
            self.unacked.remove(&ack.tag);
        }
    }
}

/// Visits every state, breadth first; gives their number, or the shortest way to a broken one.
fn explore(queue: &[u64], budget: Budget, hole: Hole) -> Result<usize, String> {
    let events: BTreeSet<u64> = queue.iter().copied().collect();
    let start = World::new(queue, budget);
    let mut seen = HashSet::from([start.fingerprint()]);
    let mut ways: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut next = VecDeque::from([(start, 0)]);
    while let Some((world, way)) = next.pop_front() {
        for step in world.steps() {
            let after = world.after(step, hole);
            if !seen.insert(after.fingerprint()) {
                continue;
            }
            ways.push((way, Some(step)));
            if let Some(broken) = after.broken(&events) {
                let mut path = Vec::new();
                let mut at = ways.len() - 1;
                while let (before, Some(step)) = ways[at] {
                    path.push(format!("{step:?}"));
                    at = before;
                }
                path.reverse();
                return Err(format!("{broken} after {}", path.join(", ")));
            }
            next.push_back((after, ways.len() - 1));
        }
    }
    Ok(seen.len())
}

const CALM: Budget = Budget { begins: 3, deaths: 0, losses: 0, elections: 0, flushes: 0 };

/// In order; sent twice by its publisher; with one that was nacked and comes late.
const QUEUES: [(&str, &[u64]); 3] =
    [("in order", &[0, 1, 2, 3]), ("one sent twice", &[0, 1, 0, 2]), ("one comes late", &[0, 2, 3, 1])];

#[test]
fn no_order_of_deaths_elections_and_unknown_outcomes_loses_an_event_or_counts_one_twice() {
    let budgets = [
        ("two deaths", Budget { deaths: 2, ..CALM }),
        ("a death and an election", Budget { deaths: 1, elections: 1, ..CALM }),
        ("a death and an unknown outcome", Budget { deaths: 1, losses: 1, ..CALM }),
        ("an election and an unknown outcome", Budget { losses: 1, elections: 1, ..CALM }),
    ];
    // With a short window three events are enough for two.
    let short = Budget { flushes: 1, ..CALM };
    let short_windows = [
        ("a short window and two deaths", Budget { deaths: 2, ..short }),
        ("a short window, a death and an election", Budget { deaths: 1, elections: 1, ..short }),
        ("a short window, a death and an unknown outcome", Budget { deaths: 1, losses: 1, ..short }),
    ];
    let cases = QUEUES.iter().flat_map(|(order, queue)| budgets.map(|(what, budget)| (*order, *queue, what, budget)));
    let short_cases = short_windows.map(|(what, budget)| ("in order", &[0, 1, 2][..], what, budget));
    let mut all = 0;
    for (order, queue, what, budget) in cases.chain(short_cases) {
        let states = explore(queue, budget, Hole::None).unwrap_or_else(|broken| panic!("{order}, {what}: {broken}"));
        // Not `println!`, which the test runner keeps to itself.
        writeln!(std::io::stderr(), "model of two consumers, events {order}, {what}: {states} states").unwrap();
        all += states;
    }
    writeln!(std::io::stderr(), "model of two consumers: {all} states in all, none broken").unwrap();
    assert!(all > 10_000, "the world has shrunk to {all} states");
}

#[test]
fn every_hole_in_the_protocol_is_found() {
    let budget = Budget { begins: 3, deaths: 1, losses: 0, elections: 1, flushes: 0 };
    for hole in [
        Hole::NoMarks,
        Hole::ShortMarks,
        Hole::EarlyAck,
        Hole::NoFence,
        Hole::BlindSettlement,
        Hole::DirtyRead,
        Hole::GoesOn,
    ] {
        let found = explore(&[0, 1, 2, 3], budget, hole);
        assert!(found.is_err(), "{hole:?} does no harm in {found:?} states");
        writeln!(std::io::stderr(), "a protocol with {hole:?}: {}", found.unwrap_err()).unwrap();
    }
}
