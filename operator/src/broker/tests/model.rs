//! Growing and shrinking explored exhaustively: every order of wishes, passes, crashes, lost volumes and old lists in a small world.
//! Rule: the decisions are the real ones; the broker and the cluster around them are as measured on RabbitMQ 4.0.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use super::*;
use crate::broker::membership;
use crate::claims::{Heard, Size};

const NODES: usize = 3;
const QUEUE: &str = "MSFT";

/// Nodes as a set of bits.
type Nodes = u8;

fn has(nodes: Nodes, ordinal: usize) -> bool {
    nodes & (1 << ordinal) != 0
}

fn upto(ordinals: usize) -> Nodes {
    (1 << ordinals) - 1
}

fn names(nodes: Nodes) -> Vec<String> {
    (0..NODES).filter(|ordinal| has(nodes, *ordinal)).map(name).collect()
}

fn ordinal_of(node: &str) -> usize {
    (0..NODES).find(|ordinal| name(*ordinal) == node).unwrap()
}

/// One more than the highest.
fn highest(nodes: Nodes) -> usize {
    (0..NODES).rev().find(|ordinal| has(nodes, *ordinal)).map_or(0, |ordinal| ordinal + 1)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    Began(usize),
    Stopped(usize),
    Looked(usize),
    Out(usize),
}

impl Job {
    fn ordinal(self) -> usize {
        match self {
            Job::Began(ordinal) | Job::Stopped(ordinal) | Job::Looked(ordinal) | Job::Out(ordinal) => ordinal,
        }
    }

    /// Whether it keeps the node's program from running.
    fn holds(self, ordinal: usize) -> bool {
        self.ordinal() == ordinal && !matches!(self, Job::Began(_))
    }
}

/// A queue: its replicas, those that vote, and the replicas that the list still shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Replicas {
    members: Nodes,
    voters: Nodes,
    shown: Nodes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    wish: usize,
    pods: usize,
    /// Those whose claim is bound; a new pod makes one, and one for a volume that is lost.
    claims: Nodes,
    /// Nodes with their data, in the cluster's eyes, and with a running program.
    volumes: Nodes,
    clustered: Nodes,
    up: Nodes,
    queues: [Option<Replicas>; 2],
    /// The wish under which the operator heard of the nodes, one more than the highest, the pods then, and the node that may leave.
    heard: Option<(usize, usize, usize, Option<usize>)>,
    job: Option<Job>,
    /// How many more of each may happen.
    wishes: u8,
    crashes: u8,
    losses: u8,
}

/// What a look shows of a world: the wish, the nodes of the cluster, those that run, and the queues.
type Visible = (usize, Nodes, Nodes, [Option<Replicas>; 2]);

/// What follows from a look: per change the queue, the node and whether it is added; one more than the highest node; who may leave.
struct Decision {
    changes: Vec<(usize, usize, bool)>,
    members: usize,
    may_leave: Option<usize>,
}

impl World {
    fn of(nodes: usize) -> Self {
        let all = upto(nodes);
        World {
            wish: nodes,
            pods: nodes,
            claims: all,
            volumes: all,
            clustered: all,
            up: all,
            queues: [Some(Replicas { members: all, voters: all, shown: all }), None],
            heard: None,
            job: None,
            wishes: 2,
            crashes: 1,
            losses: 1,
        }
    }

    /// A pod whose node waits for its turn, or whose program a Job has stopped, answers the others all the same.
    fn answers(&self, ordinal: usize) -> bool {
        let waits = ordinal < self.pods && !has(self.volumes, ordinal);
        has(self.up, ordinal) || waits || self.job.is_some_and(|job| job.holds(ordinal) && ordinal < self.pods)
    }

    /// A minority pauses itself.
    fn serves(&self) -> bool {
        let answering = (0..NODES).filter(|ordinal| has(self.clustered, *ordinal) && self.answers(*ordinal)).count();
        self.up != 0 && answering * 2 > self.clustered.count_ones() as usize
    }

    fn has_majority(&self, queue: &Replicas) -> bool {
        (queue.voters & self.up).count_ones() * 2 > queue.voters.count_ones()
    }

    fn wanted(&self) -> Wanted {
        let others = (self.wish..NODES).map(name).collect();
        // All of them voted once, so a list that looks right is believed.
        let voting = Self::names_of_queues().map(str::to_owned).into();
        Wanted { others, formed: true, voting, ..wanted(self.wish) }
    }

    fn names_of_queues() -> [&'static str; 2] {
        [QUEUE, "foreign"]
    }

    fn look(&self) -> Seen {
        let queue = |(name, replicas): (&str, Replicas)| {
            let list = Queue {
                name: name.to_owned(),
                queue_type: Some("quorum".to_owned()),
                members: Some(names(replicas.shown)),
                online: Some(names(replicas.shown & self.up)),
                ..Queue::default()
            };
            let closer = Queue {
                members: Some(names(replicas.members)),
                online: Some(names(replicas.members & self.up)),
                voters: Some(names(replicas.voters)),
                ..list.clone()
            };
            let queue = if membership::needs_a_closer_look(&self.wanted(), &list) { closer } else { list };
            (name.to_owned(), queue)
        };
        Seen {
            nodes: (0..NODES)
                .filter(|ordinal| has(self.clustered, *ordinal))
                .map(|ordinal| node(ordinal, has(self.up, ordinal)))
                .collect(),
            queues: Self::names_of_queues()
                .into_iter()
                .zip(self.queues)
                .filter_map(|(name, queue)| Some((name, queue?)))
                .map(queue)
                .collect(),
            ..Seen::default()
        }
    }

    /// What the operator decides in this world. Few worlds differ for it, so each of those is looked at once.
    fn decision(&self) -> Rc<Decision> {
        thread_local!(static DECISIONS: RefCell<HashMap<Visible, Rc<Decision>>> = RefCell::default());
        let visible = (self.wish, self.clustered, self.up, self.queues);
        DECISIONS
            .with(|decisions| decisions.borrow_mut().entry(visible).or_insert_with(|| Rc::new(self.decide())).clone())
    }

    fn decide(&self) -> Decision {
        let (wanted, seen) = (self.wanted(), self.look());
        let index = |queue: &str| Self::names_of_queues().iter().position(|name| *name == queue).unwrap();
        let changes = membership::next_changes(&wanted, &seen).into_iter().map(|step| match step {
            Step::AddMember { queue, node } => (index(&queue), ordinal_of(&node), true),
            Step::DeleteMember { queue, node } => (index(&queue), ordinal_of(&node), false),
            other => panic!("{other:?}"),
        });
        let changes = changes.collect();
        let report = report(&wanted, &seen);
        let known = report.nodes.unwrap_or_default();
        Decision {
            changes,
            members: known.iter().map(|node| ordinal_of(node) + 1).max().unwrap_or(0),
            may_leave: report.may_leave.map(|node| ordinal_of(&node)),
        }
    }

    /// The operator asks the broker: with or without acting on what it sees.
    fn ask(mut self, acts: bool) -> Self {
        if !self.serves() {
            return self;
        }
        let decision = self.decision();
        for (index, node, grows) in decision.changes.iter().copied().filter(|_| acts) {
            let replicas = self.queues[index].unwrap();
            if self.has_majority(&replicas) {
                let bit = 1 << node;
                let members = if grows { replicas.members | bit } else { replicas.members & !bit };
                self.queues[index] = Some(Replicas { members, voters: replicas.voters & members, ..replicas });
            }
        }
        self.heard = Some((self.wish, decision.members, self.pods, decision.may_leave));
        self
    }

    /// The operator applies what follows from what it heard; `remembers` is not, when it was too long ago or its process is new.
    fn apply(mut self, remembers: bool) -> Self {
        self.heard = self.heard.filter(|(wish, ..)| remembers && *wish == self.wish);
        let heard = self.heard.map(|(_, members, pods, _)| Heard { members: members as i32, pods: pods as i32 });
        let size = Size::new(self.wish as i32, heard, highest(self.claims) as i32);
        self.pods = size.pods as usize;
        self.up &= upto(self.pods);
        let free = size.free_from.unwrap_or(NODES as i32) as usize;
        self.claims = (self.claims | upto(self.pods)) & upto(free);
        self.volumes &= self.claims;
        let leaves = self.heard.and_then(|(.., leaves)| leaves);
        if self.job.map(Job::ordinal) != leaves {
            // What the old Job has stopped starts again when it is taken away (see `start`).
            self.job = leaves.map(Job::Began);
        }
        self
    }

    fn work(mut self) -> Self {
        let Some(job) = self.job else { return self };
        let ordinal = job.ordinal();
        self.job = Some(match job {
            Job::Began(_) => {
                self.up &= !(1 << ordinal);
                Job::Stopped(ordinal)
            }
            Job::Stopped(_) if self.queues.iter().flatten().any(|queue| has(queue.members, ordinal)) => {
                Job::Began(ordinal)
            }
            Job::Stopped(_) => Job::Looked(ordinal),
            Job::Looked(_) if self.serves() => {
                self.clustered &= !(1 << ordinal);
                Job::Out(ordinal)
            }
            Job::Looked(_) => job,
            Job::Out(_) => {
                self.volumes &= !(1 << ordinal);
                job
            }
        });
        self
    }

    /// A node starts; `listed` is the wish that its pod's files show, which may be the one before. What `start.sh` decided by them is what
    /// the server does, whatever they show by then.
    fn start(mut self, ordinal: usize, listed: usize) -> Self {
        let bit = 1 << ordinal;
        if ordinal >= self.pods || has(self.up, ordinal) || self.job.is_some_and(|job| job.holds(ordinal)) {
            return self;
        }
        let other = self.up & !bit != 0 && self.serves();
        if has(self.volumes, ordinal) {
            if has(self.clustered, ordinal) {
                self.up |= bit;
            } else if other {
                // It has left, and nobody took its data away yet.
                self.volumes &= !bit;
            }
            return self;
        }
        let only = listed == 1 && self.pods == 1;
        if ordinal >= listed || !(other || only) {
            return self;
        }
        if has(self.clustered, ordinal) {
            for index in 0..self.queues.len() {
                if let Some(queue) = self.queues[index].filter(|queue| self.has_majority(queue)) {
                    let (members, voters) = (queue.members & !bit, queue.voters & !bit);
                    self.queues[index] = Some(Replicas { members, voters, ..queue });
                }
            }
            if self.queues.iter().flatten().any(|queue| queue.members & bit != 0) {
                return self;
            }
        }
        (self.clustered, self.volumes, self.up) = (self.clustered | bit, self.volumes | bit, self.up | bit);
        self
    }

    fn catch_up(mut self) -> Self {
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queues[index].filter(|queue| self.has_majority(queue)) {
                self.queues[index] = Some(Replicas { voters: queue.voters | (queue.members & self.up), ..queue });
            }
        }
        self
    }

    fn refresh(mut self) -> Self {
        for queue in self.queues.iter_mut().flatten() {
            queue.shown = queue.members;
        }
        self
    }

    /// A lost volume is a fault that we promise to bear only while every queue has a majority without it.
    fn bears_the_loss_of(&self, ordinal: usize) -> bool {
        let rest = self.volumes & !(1 << ordinal);
        let bears = |queue: &Replicas| (queue.voters & rest).count_ones() * 2 > queue.voters.count_ones();
        has(self.volumes, ordinal) && self.queues.iter().flatten().all(bears) && self.clustered & rest != 0
    }

    fn next(self) -> Vec<Self> {
        let mut worlds = vec![
            self.ask(true),
            self.ask(false),
            self.apply(true),
            self.apply(false),
            self.work(),
            self.catch_up(),
            self.refresh(),
        ];
        for ordinal in 0..NODES {
            worlds.extend([1, 3].map(|listed| self.start(ordinal, listed)));
            if self.crashes > 0 && has(self.up, ordinal) {
                worlds.push(World { up: self.up & !(1 << ordinal), crashes: self.crashes - 1, ..self });
            }
            if self.losses > 0 && self.bears_the_loss_of(ordinal) {
                let bit = 1 << ordinal;
                worlds.push(World {
                    up: self.up & !bit,
                    volumes: self.volumes & !bit,
                    losses: self.losses - 1,
                    ..self
                });
            }
        }
        if self.wishes > 0 {
            worlds.push(World { wish: if self.wish == 1 { 3 } else { 1 }, wishes: self.wishes - 1, ..self });
        }
        if self.queues[1].is_none() && self.serves() {
            let members = self.up & self.clustered;
            let made = Replicas { members, voters: members, shown: members };
            worlds.push(World { queues: [self.queues[0], Some(made)], ..self });
        }
        worlds
    }

    /// No message may be lost: each queue keeps a majority of its voters with their data, all of them in the cluster.
    fn check(&self) {
        for queue in self.queues.iter().flatten() {
            let kept = queue.voters & self.volumes & self.clustered;
            assert!(
                kept.count_ones() * 2 > queue.voters.count_ones(),
                "a queue has lost its majority for good: {self:?}"
            );
        }
        assert_eq!(self.up & !self.volumes, 0, "{self:?}");
    }

    /// Without further trouble the world becomes as wished; `arriving` are worlds of which that is known.
    fn arrives(mut self, arriving: &mut HashSet<Self>) -> bool {
        let mut path = Vec::new();
        for _ in 0..40 {
            if arriving.contains(&self) {
                arriving.extend(path);
                return true;
            }
            path.push(self);
            self = self.refresh().catch_up().ask(true).apply(true).work();
            // What no longer answers is forgotten after a while.
            self = if self.serves() { self } else { self.apply(false) };
            self = (0..NODES).fold(self, |world, ordinal| world.start(ordinal, world.wish));
            let all = upto(self.wish);
            let as_wished = |queue: &Replicas| queue.members == all && queue.voters == all;
            if self.pods == self.wish
                && [self.clustered, self.up, self.volumes] == [all; 3]
                && self.queues.iter().flatten().all(as_wished)
            {
                arriving.extend(path);
                return true;
            }
        }
        false
    }
}

fn explore(start: World) -> usize {
    let mut arriving = HashSet::new();
    let (mut known, mut open) = (HashSet::from([start]), VecDeque::from([start]));
    while let Some(world) = open.pop_front() {
        world.check();
        assert!(world.arrives(&mut arriving), "it never becomes as wished: {world:?}");
        open.extend(world.next().into_iter().filter(|next| known.insert(*next)));
    }
    known.len()
}

#[test]
fn whatever_dies_while_one_node_becomes_three_and_one_again_nothing_is_lost_and_the_wish_is_reached() {
    println!("{} states explored", explore(World::of(1)));
}

#[test]
fn whatever_dies_while_three_nodes_become_one_and_three_again_nothing_is_lost_and_the_wish_is_reached() {
    println!("{} states explored", explore(World::of(3)));
}
