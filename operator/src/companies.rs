//! What a status says of each company: its figures, and why its events do not flow; pure.
//! Rule: its own trouble comes before what it shares with all others, and one that flows waits for nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::crd::{CompanyStatus, StockPipeline, StockPipelineStatus};
use crate::error::Error;
use crate::leaving::{Leaving, Step};
use crate::names::{self, Part};
use crate::paused::others_publish;
use crate::plan::Company;
use crate::pods;
use crate::status::{Figures, Seen, Upstream, WORDS, refused, shortened};

/// The companies with their figures, and when those were read.
pub(crate) fn of(
    pipeline: &StockPipeline,
    old: &StockPipelineStatus,
    seen: &Seen,
    now: Timestamp,
    needs: [&Upstream; 2],
) -> (Vec<CompanyStatus>, Option<Time>) {
    let flows = Flows::new(pipeline, seen, now, needs);
    let old_of: BTreeMap<&str, &CompanyStatus> =
        old.companies.iter().map(|status| (status.symbol.as_str(), status)).collect();
    let staying = pipeline.spec.companies.iter().map(|company| (&company.symbol, None));
    let leaving = seen.leaving.iter().map(|leaving| (&leaving.company.symbol, Some(leaving)));
    let companies = staying.chain(leaving).map(|(symbol, leaving)| {
        let known = match &seen.figures {
            Some(figures) => figures.get(symbol).cloned().unwrap_or_default(),
            None => old_of.get(symbol.as_str()).map(|status| known(status)).unwrap_or_default(),
        };
        let Figures { queued, unacked, windows, last_price, last_window_at } = known;
        let slug = names::slug(symbol);
        let waiting_for = match leaving {
            None if pipeline.spec.paused => Some(paused(flows.waiting_for(symbol, &slug, false), seen, symbol)),
            None => flows.waiting_for(symbol, &slug, pipeline.spec.publisher.enabled),
            Some(leaving) => Some(on_its_way(leaving, &flows, seen)),
        };
        CompanyStatus {
            symbol: symbol.clone(),
            leaving: leaving.map(|leaving| leaving.company.written.on_remove),
            left: seen.left.get(symbol).copied(),
            waiting_for: waiting_for.map(|reason| shortened(&reason, WORDS)),
            slug,
            queued,
            unacked,
            windows,
            last_price,
            last_window_at: last_window_at.map(Time),
        }
    });
    let mut companies: Vec<CompanyStatus> = companies.collect();
    if seen.broker.is_none() {
        // A pass that asked nobody has no news of those that leave, nor of what is left.
        let leaves = |status: &&CompanyStatus| {
            status.leaving.is_some() && !companies.iter().any(|company| company.symbol == status.symbol)
        };
        let still: Vec<CompanyStatus> = old.companies.iter().filter(leaves).cloned().collect();
        for company in companies.iter_mut().filter(|_| pipeline.spec.paused) {
            company.left = old_of.get(company.symbol.as_str()).and_then(|status| status.left);
        }
        companies.extend(still);
    }
    let figures_at = if seen.figures.is_some() { Some(Time(now)) } else { old.figures_at.clone() };
    (companies, figures_at)
}

/// Why nothing of a company flows while the pipeline is paused: what hinders its queue from running empty, else the wish.
fn paused(obstacle: Option<String>, seen: &Seen, symbol: &str) -> String {
    let drained = seen.left.get(symbol) == Some(&0);
    let others = || others_publish(seen, symbol).map(str::to_owned);
    match obstacle.filter(|_| !drained).or_else(others) {
        Some(obstacle) => format!("paused, and not yet drained: {obstacle}"),
        None if drained => "paused: spec.paused is true".to_owned(),
        None => "paused: its queue is being drained".to_owned(),
    }
}

/// How far a removed company is, and what hinders it.
fn on_its_way(leaving: &Leaving, flows: &Flows, seen: &Seen) -> String {
    let Company { symbol, slug, .. } = &leaving.company;
    let others = || others_publish(seen, symbol).map(str::to_owned);
    match leaving.step {
        Step::Drain => match flows.waiting_for(symbol, slug, false).or_else(others) {
            Some(obstacle) => format!("removed, and not yet drained: {obstacle}"),
            None => "removed: its consumer goes on until every event is stored".to_owned(),
        },
        Step::Stop => "removed: its programs end before its queue goes".to_owned(),
        Step::Delete => match &flows.broker {
            broker if !broker.serves => format!("removed: its queue goes: {}: {}", broker.part.name(), broker.message),
            _ => "removed: its queue goes".to_owned(),
        },
    }
}

/// What decides whether a company's events flow from its publisher through its queue to its consumer.
struct Flows<'a> {
    pipeline: &'a StockPipeline,
    seen: &'a Seen,
    now: Timestamp,
    broker: &'a Upstream,
    database: &'a Upstream,
    /// By component and slug.
    pods: BTreeMap<(&'a str, &'a str), Vec<&'a Pod>>,
    /// By component and slug.
    deployments: BTreeMap<(&'a str, &'a str), &'a Deployment>,
}

/// Component and slug of a company's child.
fn of_company<K: ResourceExt>(object: &K) -> Option<(&str, &str)> {
    let labels = object.labels();
    Some((labels.get(names::COMPONENT)?.as_str(), labels.get(names::COMPANY)?.as_str()))
}

impl<'a> Flows<'a> {
    fn new(pipeline: &'a StockPipeline, seen: &'a Seen, now: Timestamp, needs: [&'a Upstream; 2]) -> Self {
        let mut pods: BTreeMap<_, Vec<&Pod>> = BTreeMap::new();
        for pod in &seen.pods {
            if let Some(key) = of_company(pod) {
                pods.entry(key).or_default().push(pod);
            }
        }
        let deployments = seen.deployments.iter().filter_map(|deployment| Some((of_company(deployment)?, deployment)));
        let [broker, database] = needs;
        Self { pipeline, seen, now, broker, database, pods, deployments: deployments.collect() }
    }

    /// Why nothing flows: first what is the company's own, then what it shares with all others. One pod that is ready is enough: it
    /// has its connections, and of several consumers one works.
    fn waiting_for(&self, symbol: &str, slug: &str, publishes: bool) -> Option<String> {
        let publisher = publishes.then_some(Part::Publisher);
        let idle: Vec<Part> =
            publisher.into_iter().chain([Part::Consumer]).filter(|part| !self.is_ready(*part, slug)).collect();
        if let Some(own) = idle.iter().find_map(|part| self.obstacle(*part, slug)) {
            return Some(own);
        }
        let shared = |upstream: &Upstream| format!("{}: {}", upstream.part.name(), upstream.message);
        if self.broker.blocks || (!idle.is_empty() && !self.broker.serves) {
            return Some(shared(self.broker));
        }
        if let Some((members, online)) = self.without_majority(symbol) {
            return Some(format!(
                "queue: {online} of {members} replicas online, no majority: look at the pods of the broker"
            ));
        }
        if idle.contains(&Part::Consumer) && !self.database.serves {
            return Some(shared(self.database));
        }
        let part = *idle.first()?;
        let unready = pods::worst(self.pods_of(part, slug), self.now, pods::trouble);
        let starting = || pods::starting(self.pods_of(part, slug));
        Some(format!("{}: {}", part.name(), unready.unwrap_or_else(starting)))
    }

    fn is_ready(&self, part: Part, slug: &str) -> bool {
        let status = self.deployments.get(&(part.name(), slug)).and_then(|deployment| deployment.status.as_ref());
        status.and_then(|status| status.ready_replicas).unwrap_or(0) > 0
    }

    fn pods_of<'s>(&'s self, part: Part, slug: &'s str) -> impl Iterator<Item = &'s Pod> {
        self.pods.get(&(part.name(), slug)).into_iter().flatten().copied()
    }

    /// What keeps a company's own pods from running.
    fn obstacle(&self, part: Part, slug: &str) -> Option<String> {
        let name = names::company(&self.pipeline.name_any(), part, slug);
        let failed = || self.seen.errors.iter().find(|error| error.object() == Some(&name)).map(Error::to_string);
        let refused = || self.deployments.get(&(part.name(), slug)).and_then(|deployment| refused(deployment));
        let pods = pods::worst(self.pods_of(part, slug), self.now, pods::obstacle);
        let words = pods.or_else(failed).or_else(refused)?;
        Some(format!("{}: {words}", part.name()))
    }

    /// Replicas of its queue, and those online, when they are too few.
    fn without_majority(&self, symbol: &str) -> Option<(u32, u32)> {
        let queue = self.seen.queues.get(symbol)?;
        let (members, online) = (queue.members?, queue.online?);
        (online * 2 <= members).then_some((members, online))
    }
}

fn known(status: &CompanyStatus) -> Figures {
    Figures {
        queued: status.queued,
        unacked: status.unacked,
        windows: status.windows,
        last_price: status.last_price,
        last_window_at: status.last_window_at.as_ref().map(|time| time.0),
    }
}
