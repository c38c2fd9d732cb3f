//! Companies that were taken out of the resource and are not yet gone: what they were, and how far they are; pure.
//! Rule: the consumers' Deployment is the memory; it goes last, when nothing of the company is left, so any step can be repeated. Of one that somebody
//! else deleted before that, the status remembers enough to go on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::broker::{DeleteQueue, Removed};
use crate::crd::{self, CompanyStatus, OnRemove, StockPipelineSpec};
use crate::names::{self, Part};
use crate::plan::{Company, Plan};
use crate::pods::is_over;
use crate::rest::Rest;
use crate::status::Seen;

/// A company that is on its way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaving {
    /// What it was.
    pub company: Company,
    /// How far it is.
    pub step: Step,
}

/// How far a company is on its way out. Its publisher goes before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its consumers work until nothing is left.
    Drain,
    /// Its consumers end: they would make the queue anew.
    Stop,
    /// Its queue goes.
    Delete,
}

impl Leaving {
    /// Its consumers.
    pub fn consumers(&self) -> i32 {
        if self.step == Step::Drain { self.company.consumers } else { 0 }
    }

    /// What the broker has to do about it.
    pub fn removed(&self) -> Removed {
        let delete = match (self.step, self.company.written.on_remove) {
            (Step::Drain | Step::Stop, _) => None,
            (Step::Delete, OnRemove::Delete) => Some(DeleteQueue::WithContent),
            (Step::Delete, _) => Some(DeleteQueue::WhenEmpty),
        };
        Removed { company: self.company.symbol.clone(), delete }
    }
}

/// What is known of the companies from earlier passes.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What is left of their events.
    pub rest: Rest,
    /// Those on their way out that had no queue.
    pub absent: BTreeSet<String>,
    /// Those of which nothing was left to delete; remembered when they are out, for the status may still name them if it could not be written.
    pub gone: BTreeSet<String>,
}

impl Known {
    /// Adds what a pass has seen.
    pub fn after(before: &Self, plan: &Plan, seen: &Seen, now: Timestamp) -> Self {
        let leaving = plan.leaving.iter().map(|leaving| &leaving.company.symbol);
        let of_interest = |symbol: &String| {
            let staying = plan.companies.iter().map(|company| &company.symbol);
            staying.chain(leaving.clone()).any(|known| known == symbol)
        };
        let out = before.gone.iter().filter(|symbol| !of_interest(symbol));
        let gone = seen.gone.iter().chain(out).cloned().collect();
        let paused = plan.companies.iter().filter(|_| plan.paused).map(|company| &company.symbol);
        // An event of a publisher that still runs would come after the look.
        let stopped = leaving.clone().chain(paused).filter(|symbol| !has_pods(symbol, Part::Publisher, &seen.pods));
        Self {
            rest: before.rest.after(&stopped.cloned().collect(), &seen.queues, now),
            absent: seen.absent.clone(),
            gone,
        }
    }
}

/// The annotation [`names::WRITTEN`]: the company without what only its publisher needs, so that a new rate touches the publisher alone.
pub fn written(company: &crd::Company) -> String {
    let company = crd::Company { rate: None, price: None, ..company.clone() };
    // A struct of texts and numbers always becomes JSON.
    serde_json::to_string(&company).unwrap_or_default()
}

/// The companies on their way out: those with consumers here that the resource no longer names, and those that were on their way `before` and have
/// lost theirs. `pods` are the pipeline's.
pub fn companies(
    pipeline: &str,
    spec: &StockPipelineSpec,
    before: &[CompanyStatus],
    (deployments, pods): (&[Deployment], &[Pod]),
    known: &Known,
    now: Timestamp,
) -> Vec<Leaving> {
    let consumers = deployments.iter().filter(|deployment| names::is_of(*deployment, Part::Consumer));
    let of_consumers = consumers.filter_map(|deployment| {
        let written = remembered(deployment)?;
        let name = names::company(pipeline, Part::Consumer, &names::slug(&written.symbol));
        let stopped = deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(0);
        (deployment.name_any() == name).then_some((written, stopped))
    });
    let mut found: Vec<(crd::Company, bool)> = of_consumers.collect();
    for status in before {
        let Some(on_remove) = status.leaving else { continue };
        if found.iter().all(|(written, _)| written.symbol != status.symbol) {
            // Where nothing was left, its consumers may have gone because it was through: they are not made anew to find that out.
            found.push((crd::Company { on_remove, ..crd::Company::named(&status.symbol) }, status.left == Some(0)));
        }
    }
    let mut leaving: Vec<Leaving> = found
        .into_iter()
        .filter_map(|(written, stopped)| {
            let symbol = &written.symbol;
            let stays = spec.companies.iter().any(|company| company.symbol == *symbol);
            if stays || written.on_remove == OnRemove::Retain {
                return None;
            }
            let seen = SeenOf {
                left: known.rest.of(symbol, now),
                absent: known.absent.contains(symbol),
                gone: known.gone.contains(symbol),
                has_pods: [Part::Publisher, Part::Consumer].iter().any(|part| has_pods(symbol, *part, pods)),
                stopped,
            };
            let step = step(written.on_remove, &seen)?;
            Some(Leaving { company: Company::new(spec, &written), step })
        })
        .collect();
    leaving.sort_by(|one, other| one.company.symbol.cmp(&other.company.symbol));
    leaving
}

/// Whether a publisher or consumer of a company runs or may still run. A pod that was evicted stays as an object for ever and does neither.
pub(crate) fn has_pods(symbol: &str, part: Part, pods: &[Pod]) -> bool {
    let slug = names::slug(symbol);
    let is_of = |pod: &Pod| names::is_of(pod, part) && pod.labels().get(names::COMPANY) == Some(&slug);
    pods.iter().any(|pod| is_of(pod) && !is_over(pod))
}

/// The company that a Deployment of consumers is of. One of an older operator, or one that somebody edited, is drained.
fn remembered(deployment: &Deployment) -> Option<crd::Company> {
    let annotations = deployment.annotations();
    let symbol = annotations.get(names::SYMBOL)?;
    let written = annotations.get(names::WRITTEN).and_then(|text| serde_json::from_str::<crd::Company>(text).ok());
    let written = written.filter(|company| company.symbol == *symbol).unwrap_or_else(|| crd::Company::named(symbol));
    symbol.parse::<wire::Symbol>().is_ok().then_some(written)
}

/// What is seen of a company on its way out.
#[derive(Clone, Copy, Default)]
struct SeenOf {
    /// Events certainly left.
    left: Option<i64>,
    /// It has no queue.
    absent: bool,
    /// Nothing is left to delete.
    gone: bool,
    /// A program of it may still run.
    has_pods: bool,
    /// It wants no consumers any more.
    stopped: bool,
}

/// The next step; `None`: nothing is left to do. What is not known changes nothing, so a queue without figures neither goes nor gets
/// consumers again.
fn step(how: OnRemove, seen: &SeenOf) -> Option<Step> {
    let SeenOf { left, absent, gone, has_pods, stopped } = *seen;
    if gone && !has_pods {
        return None;
    }
    let drained = match (how, left) {
        _ if absent => Some(true),
        (OnRemove::Drain, left) => left.map(|left| left == 0),
        _ => Some(true),
    };
    Some(match drained {
        Some(false) => Step::Drain,
        None if stopped => Step::Stop,
        None => Step::Drain,
        Some(true) if has_pods => Step::Stop,
        Some(true) => Step::Delete,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: OnRemove = OnRemove::Drain;
    const DELETE: OnRemove = OnRemove::Delete;

    fn running() -> SeenOf {
        SeenOf { has_pods: true, ..SeenOf::default() }
    }

    fn stopped() -> SeenOf {
        SeenOf { stopped: true, ..SeenOf::default() }
    }

    #[test]
    fn a_drained_company_keeps_its_consumers_until_nothing_is_left_and_its_queue_until_they_are_gone() {
        assert_eq!(step(DRAIN, &running()), Some(Step::Drain), "not yet known");
        assert_eq!(step(DRAIN, &SeenOf { left: Some(7), ..running() }), Some(Step::Drain));
        assert_eq!(step(DRAIN, &SeenOf { left: Some(0), ..running() }), Some(Step::Stop));
        assert_eq!(step(DRAIN, &SeenOf { left: Some(0), has_pods: true, ..stopped() }), Some(Step::Stop));
        assert_eq!(step(DRAIN, &SeenOf { left: Some(0), ..stopped() }), Some(Step::Delete));
        assert_eq!(step(DRAIN, &SeenOf { absent: true, ..stopped() }), Some(Step::Delete), "its dead letters");
        assert_eq!(step(DRAIN, &SeenOf { absent: true, gone: true, ..stopped() }), None);
    }

    #[test]
    fn a_queue_that_another_program_fills_again_gets_its_consumers_back() {
        assert_eq!(step(DRAIN, &stopped()), Some(Step::Stop), "it changed: wait until it is certain");
        assert_eq!(step(DRAIN, &SeenOf { left: Some(3), ..stopped() }), Some(Step::Drain));
    }

    #[test]
    fn an_operator_that_just_started_neither_starts_what_was_stopped_nor_deletes_what_it_does_not_know() {
        assert_eq!(step(DRAIN, &stopped()), Some(Step::Stop));
        assert_eq!(step(DRAIN, &SeenOf { has_pods: true, ..stopped() }), Some(Step::Stop));
    }

    #[test]
    fn a_company_to_be_deleted_waits_for_nothing_but_its_own_programs() {
        assert_eq!(step(DELETE, &SeenOf { left: Some(7), ..running() }), Some(Step::Stop));
        assert_eq!(step(DELETE, &stopped()), Some(Step::Delete));
        assert_eq!(step(DELETE, &SeenOf { absent: true, gone: true, ..stopped() }), None);
    }

    #[test]
    fn a_company_without_a_queue_whose_programs_run_is_not_gone() {
        let seen = SeenOf { absent: true, gone: true, ..running() };
        assert_eq!(step(DRAIN, &seen), Some(Step::Stop), "they may make it anew");
    }

    #[test]
    fn a_consumer_that_its_node_evicted_long_ago_keeps_no_company_on_its_way_out() {
        let mut pod = Pod::default();
        let labels = names::labels(&names::selector("demo", Part::Consumer));
        pod.labels_mut().extend(labels);
        pod.labels_mut().insert(names::COMPANY.into(), names::slug("MSFT"));
        assert!(has_pods("MSFT", Part::Consumer, std::slice::from_ref(&pod)));
        pod.status.get_or_insert_default().phase = Some("Failed".into());
        assert!(!has_pods("MSFT", Part::Consumer, &[pod]));
    }

    #[test]
    fn a_company_whose_consumers_somebody_deleted_goes_on_leaving_and_one_that_is_through_does_not_come_back() {
        let spec: StockPipelineSpec = serde_json::from_str(r#"{"companies": [{"symbol": "AAPL"}]}"#).unwrap();
        let status =
            |symbol: &str, leaving| CompanyStatus { symbol: symbol.into(), leaving, ..CompanyStatus::default() };
        let before = [status("AAPL", None), status("MSFT", Some(DRAIN)), status("TSLA", None)];
        let leaving = |known: &Known| companies("demo", &spec, &before, (&[], &[]), known, Timestamp::UNIX_EPOCH);
        let [msft] = &leaving(&Known::default())[..] else { panic!("one is on its way") };
        assert_eq!((msft.company.symbol.as_str(), msft.step), ("MSFT", Step::Drain));
        let drained = [CompanyStatus { left: Some(0), ..before[1].clone() }];
        let [msft] = &companies("demo", &spec, &drained, (&[], &[]), &Known::default(), Timestamp::UNIX_EPOCH)[..]
        else {
            panic!("it is not known to be through")
        };
        assert_eq!((msft.step, msft.consumers()), (Step::Stop, 0), "no consumer makes its queue anew");
        let through = BTreeSet::from(["MSFT".to_owned()]);
        assert_eq!(leaving(&Known { gone: through.clone(), absent: through, ..Known::default() }), []);
    }

    #[test]
    fn what_a_company_was_comes_back_from_its_consumers() {
        let company = crd::Company {
            rate: Some(5),
            consumers: Some(2),
            batch_size: Some(10),
            on_remove: OnRemove::Delete,
            ..crd::Company::named("BRK.B")
        };
        let mut deployment = Deployment::default();
        let annotations = deployment.annotations_mut();
        annotations.insert(names::SYMBOL.into(), "BRK.B".into());
        assert_eq!(remembered(&deployment), Some(crd::Company::named("BRK.B")), "of an older operator");
        deployment.annotations_mut().insert(names::WRITTEN.into(), written(&company));
        assert_eq!(remembered(&deployment), Some(crd::Company { rate: None, ..company }));
        deployment.annotations_mut().insert(names::WRITTEN.into(), "{".into());
        assert_eq!(remembered(&deployment), Some(crd::Company::named("BRK.B")));
    }
}
