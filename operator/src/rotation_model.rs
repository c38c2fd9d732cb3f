//! The rotation explored exhaustively: two programs that start, end and are killed at any moment, an operator that dies at any moment, wishes
//! that come and change, a node that hands out a Secret late.
//! Rule: no program that runs holds a login that the server refuses; and left alone, everything ends with the newest users alone.

use std::collections::{HashSet, VecDeque};

use serde_json::json;

use super::*;
use crate::credentials::Credentials;

const PART: Part = Part::Broker;
/// Two wishes, one after the other.
const WISHES: u8 = 2;
/// Programs, each with a Deployment of its own.
const PROGRAMS: usize = 1;

/// A pod of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Runs {
    /// The generation its template was of.
    mark: u32,
    /// The generation of the login it holds.
    login: u32,
    /// It was asked to end.
    ends: bool,
}

/// A program: what its Deployment wants, and its pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Program {
    wanted: u32,
    pods: Vec<Runs>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    wish: u8,
    /// The Secret: wish that was heard, generation in use, whether the next one is written down.
    heard: u8,
    current: u32,
    next: bool,
    /// What a node may still hand out to a pod that starts.
    late: u32,
    /// Users at the server, as a set of bits: two of each generation.
    users: [u8; 4],
    programs: [Program; PROGRAMS],
    /// Somebody edited the password of the generation in use in the Secret while no operator ran.
    edited: bool,
    edits: u8,
}

impl World {
    fn new() -> Self {
        let program = Program { wanted: 0, pods: vec![Runs { mark: 0, login: 0, ends: false }] };
        let mut users = [0; 4];
        users[0] = 3;
        Self {
            wish: 0,
            heard: 0,
            current: 0,
            next: false,
            late: 0,
            users,
            programs: [program],
            edited: false,
            edits: 1,
        }
    }

    /// The Secret as the decision takes it.
    fn credentials(&self) -> PartCredentials {
        let mut credentials = Credentials::generate(None).broker;
        credentials.current = Generation::generate(PART, self.current);
        credentials.next = self.next.then(|| Generation::generate(PART, self.current + 1));
        credentials.wish = (self.heard > 0).then(|| self.heard.to_string());
        credentials
    }

    fn has(&self, generation: u32, all: bool) -> bool {
        let users = self.users.get(generation as usize).copied().unwrap_or(0);
        if all { users == 3 } else { users != 0 }
    }

    /// What the operator sees.
    fn seen(&self) -> Seen {
        let address = address_annotation(PART);
        let annotations = |mark: u32| if mark == 0 { json!({}) } else { json!({address: mark.to_string()}) };
        let labels = json!({names::COMPONENT: "publisher"});
        let deployment = |program: &Program| {
            let new = program.pods.iter().filter(|pod| pod.mark == program.wanted && !pod.ends).count();
            let all = program.pods.iter().filter(|pod| !pod.ends).count();
            serde_json::from_value(json!({
                "metadata": {"name": "demo-publisher", "labels": labels, "generation": 1},
                "spec": {"replicas": 1, "selector": {}, "template": {"metadata": {"annotations": annotations(program.wanted)}}},
                "status": {"observedGeneration": 1, "replicas": all, "updatedReplicas": new, "readyReplicas": all},
            }))
            .unwrap()
        };
        let pod = |pod: &Runs| {
            serde_json::from_value(
                json!({"metadata": {"name": "pod", "labels": labels, "annotations": annotations(pod.mark)}}),
            )
            .unwrap()
        };
        Seen {
            deployments: self.programs.iter().map(deployment).collect(),
            pods: self.programs.iter().flat_map(|program| &program.pods).map(pod).collect(),
            ..Seen::default()
        }
    }

    fn users(&self) -> Users {
        let before = self.current.checked_sub(1).is_some_and(|before| self.has(before, false));
        Users {
            next: self.next && self.has(self.current + 1, true),
            edited: self.edited,
            former: if before { self.credentials().current.former() } else { Vec::new() },
        }
    }

    fn step(&self, answers: bool) -> Step {
        let credentials = self.credentials();
        let wish = (self.wish > 0).then(|| self.wish.to_string());
        let waits = programs(&credentials, &self.seen());
        next_step(&credentials, wish.as_deref(), answers.then(|| self.users()).as_ref(), waits.as_deref())
    }

    /// What a step makes of the world; more than one where the operator may die within it.
    fn act(&self, step: &Step) -> Vec<World> {
        let mut after = self.clone();
        match step {
            Step::Rest | Step::Await(_) => return Vec::new(),
            Step::Prepare => {
                (after.next, after.heard) = (true, if self.wish > 0 { self.wish } else { self.heard });
            }
            Step::Switch => {
                (after.next, after.current, after.edited) = (false, self.current + 1, false);
                after.late = self.current;
            }
            Step::Retire => {
                let connected = self.programs.iter().flat_map(|program| &program.pods);
                if connected.into_iter().any(|pod| pod.login + 1 == self.current) {
                    return Vec::new();
                }
                let before = (self.current - 1) as usize;
                // No node is behind for as long as it takes all programs to move.
                after.late = self.current;
                let mut half = after.clone();
                half.users[before] &= 1;
                after.users[before] = 0;
                return vec![half, after];
            }
        }
        vec![after]
    }

    /// The rest of a pass: the users that have to be are made, one by one, and Deployments get what the Secret says.
    fn pass(&self) -> Vec<World> {
        let mut worlds = Vec::new();
        let next = self.next.then_some(self.current + 1);
        for generation in [Some(self.current), next].into_iter().flatten() {
            for user in [1, 2] {
                let mut after = self.clone();
                after.users[generation as usize] |= user;
                worlds.push(after);
            }
        }
        for program in 0..PROGRAMS {
            let mut after = self.clone();
            after.programs[program].wanted = self.current;
            worlds.push(after);
        }
        for answers in [true, false] {
            worlds.extend(self.act(&self.step(answers)));
        }
        worlds
    }

    /// What Kubernetes does; `calm`: nothing dies and no node is behind.
    fn kubernetes(&self, calm: bool) -> Vec<World> {
        let mut worlds = Vec::new();
        for index in 0..PROGRAMS {
            let program = &self.programs[index];
            let mut change = |edit: &dyn Fn(&mut Vec<Runs>)| {
                let mut after = self.clone();
                edit(&mut after.programs[index].pods);
                after.programs[index].pods.sort_unstable();
                worlds.push(after);
            };
            let new = |pod: &Runs| pod.mark == program.wanted && !pod.ends;
            if !program.pods.iter().any(new) && program.pods.len() < 2 {
                let logins =
                    if calm || self.late == self.current { vec![self.current] } else { vec![self.current, self.late] };
                for login in logins {
                    // One that was killed may be made once more by the set of the older template.
                    let none = program.pods.iter().all(|pod| pod.ends);
                    let older = (!calm && none).then(|| program.wanted.saturating_sub(1));
                    let marks: Vec<u32> = [program.wanted].into_iter().chain(older).collect();
                    for mark in marks {
                        change(&|pods| pods.push(Runs { mark, login, ends: false }));
                    }
                }
            }
            for (pod, runs) in program.pods.iter().enumerate() {
                if runs.ends {
                    change(&|pods| _ = pods.remove(pod));
                } else if !new(runs) && program.pods.iter().filter(|pod| !pod.ends).count() > 1 {
                    change(&|pods| pods[pod].ends = true);
                }
                if !calm {
                    // Killed, or its container begins again with what the Secret says now.
                    change(&|pods| _ = pods.remove(pod));
                    change(&|pods| pods[pod].login = self.current);
                }
            }
        }
        worlds
    }

    fn next(&self) -> Vec<World> {
        let mut worlds = self.pass();
        worlds.extend(self.kubernetes(false));
        if self.wish < WISHES {
            worlds.push(World { wish: self.wish + 1, ..self.clone() });
        }
        if self.late != self.current {
            worlds.push(World { late: self.current, ..self.clone() });
        }
        if self.edits > 0 && !self.edited {
            worlds.push(World { edited: true, edits: self.edits - 1, ..self.clone() });
        }
        worlds
    }

    /// No program holds a login that the server refuses.
    fn check(&self) {
        for pod in self.programs.iter().flat_map(|program| &program.pods) {
            assert!(self.has(pod.login, true), "{pod:?} is refused: {self:?}");
        }
    }

    /// Left alone it comes to rest, as it should be.
    fn settle(&self) {
        let mut world = World { late: self.current, ..self.clone() };
        // A pod that a late node gave the login of before holds it until it is started again, which the status asks for.
        for pod in world.programs.iter_mut().flat_map(|program| &mut program.pods) {
            if pod.mark == world.current {
                pod.login = world.current;
            }
        }
        for _ in 0..200 {
            let after = world.pass().into_iter().chain(world.kubernetes(true)).find(|after| *after != world);
            let Some(after) = after else { break };
            after.check();
            world = World { late: after.current, ..after };
        }
        assert_eq!(world.step(true), Step::Rest, "from {self:?}: {world:?}");
        assert!(world.wish == world.heard && !world.edited && !world.next, "from {self:?}: {world:?}");
        let alone = world.users.iter().filter(|users| **users != 0).count();
        assert!(alone == 1 && world.has(world.current, true), "from {self:?}: {world:?}");
        for program in &world.programs {
            assert_eq!(
                program.pods,
                [Runs { mark: world.current, login: world.current, ends: false }],
                "from {self:?}"
            );
        }
    }
}

#[test]
fn whatever_dies_and_when_no_program_is_refused_and_the_newest_users_remain_alone() {
    let mut known = HashSet::from([World::new()]);
    let mut open = VecDeque::from([World::new()]);
    while let Some(world) = open.pop_front() {
        world.check();
        world.settle();
        for next in world.next() {
            if next.users.len() > next.current as usize && known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    println!("{} worlds", known.len());
    assert!(known.len() > 1000);
}
