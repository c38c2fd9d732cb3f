//! Looks at what runs inside the pods: asks the broker and the database, and lets each take its next step.
//! Rule: bounded in time, side by side, and a failure is something seen, never the end of the pass.

use jiff::Timestamp;
use kube::ResourceExt;

use crate::broker;
use crate::claims;
use crate::database::{self, windows};
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::roll;
use crate::status::{BrokerNodes, Figures, Seen, System};

/// Asks broker and database and fills in what they say; the companies' figures only when `figures` says so.
pub async fn systems(http: &reqwest::Client, plan: &Plan, figures: bool, now: Timestamp, seen: &mut Seen) {
    let outdated = |part| seen.set(part).map(|set| roll::outdated(set, &seen.pods, None, now)).unwrap_or_default();
    let broker_wanted = plan.broker_wanted(!outdated(Part::Broker).is_empty());
    let set = names::part(&plan.name, Part::Database);
    let outdated: Vec<i32> =
        outdated(Part::Database).iter().filter_map(|pod| claims::ordinal(&set, &pod.name_any())).collect();
    let database_wanted = plan.database_wanted(&outdated);
    let database_credentials = plan.database_credentials();
    let (broker, database) = futures::join!(
        broker::converge(http, &broker_wanted),
        database::converge(&database_wanted, &database_credentials),
    );
    match broker {
        Ok(report) => {
            seen.may_lose_one.broker = Some(report.may_lose_a_node);
            seen.broker_nodes = report.nodes.as_ref().map(|nodes| BrokerNodes {
                upto: nodes.iter().filter_map(|node| plan.broker_ordinal(node)).max().map_or(0, |highest| highest + 1),
                leaves: report.may_leave.as_ref().and_then(|node| plan.broker_ordinal(node)),
                formed: report.formed,
            });
            let ready = i32::try_from(report.nodes_running).unwrap_or(i32::MAX);
            seen.broker = Some(System { ready, waiting_for: report.waiting_for, trouble: report.alarm });
            seen.queues = report.queues;
        }
        Err(error) => seen.broker = Some(System { ready: 0, waiting_for: Some(error.to_string()), trouble: true }),
    }
    let mut primary = None;
    match database {
        Ok(report) => {
            let ready = i32::try_from(report.members_ready).unwrap_or(i32::MAX);
            seen.database = Some(System { ready, waiting_for: report.waiting_for, trouble: report.refused });
            seen.database_members = report.configured.map(|hosts| plan.database_members_upto(&hosts));
            seen.may_lose_one.database = Some(report.may_lose_a_member);
            primary = report.primary.filter(|_| report.writable);
        }
        Err(error) => seen.database = Some(System { ready: 0, waiting_for: Some(error.to_string()), trouble: true }),
    }
    seen.primary.clone_from(&primary);
    if figures && primary.is_some() {
        let symbols: Vec<String> = plan.companies.iter().map(|company| company.symbol.clone()).collect();
        let latest = windows::latest_windows(
            &plan.database_url(),
            wire::env::default::MONGODB_DB,
            wire::env::default::MONGODB_COLLECTION,
            &symbols,
        )
        .await
        .inspect_err(|error| tracing::warn!(%error, "cannot read the newest windows"))
        .unwrap_or_default();
        seen.figures = Some(
            symbols
                .into_iter()
                .map(|symbol| {
                    let (queue, window) = (seen.queues.get(&symbol), latest.get(&symbol));
                    let figures = Figures {
                        queued: queue.and_then(|queue| queue.ready),
                        unacked: queue.and_then(|queue| queue.unacknowledged),
                        windows: window.and_then(|window| window.windows),
                        last_price: window.map(|window| window.price),
                        last_window_at: window.map(|window| window.at),
                    };
                    (symbol, figures)
                })
                .collect(),
        );
    }
}
