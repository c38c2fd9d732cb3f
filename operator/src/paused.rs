//! What the condition `Paused` says: whether every event is in a stored window, or what is left of which company; pure.
//! Rule: what is left is a figure or not said at all, and who waits for an empty queue learns what keeps it from that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::broker::QueueReport;
use crate::crd::CompanyStatus;
use crate::leaving;
use crate::names::{self, Part};
use crate::pods::is_over;
use crate::status::{self, Seen, reason};

/// The condition's type. It is there while `spec.paused` is.
pub(crate) const CONDITION: &str = "Paused";
/// Companies that a message names.
const NAMED: usize = 3;

/// The condition of a pipeline that is to be paused. `companies` are what the status says of them.
pub(crate) fn condition(seen: &Seen, companies: &[CompanyStatus]) -> Condition {
    let publishers = seen.pods.iter().filter(|pod| names::is_of(*pod, Part::Publisher) && !is_over(pod)).count();
    let staying: Vec<&CompanyStatus> = companies.iter().filter(|company| company.leaving.is_none()).collect();
    let undrained: Vec<&&CompanyStatus> = staying.iter().filter(|company| company.left != Some(0)).collect();
    if publishers == 0 && undrained.is_empty() {
        let message = "publishers are stopped, queues are empty: every event is in a stored window".into();
        return status::condition(CONDITION, true, reason::PAUSED, message);
    }
    let mut message = match publishers {
        0 => format!("{} of {} companies are drained", staying.len() - undrained.len(), staying.len()),
        _ => format!("{publishers} publishers are stopping"),
    };
    if publishers == 0 {
        let named: Vec<String> = undrained.iter().take(NAMED).map(|company| left_of(company, seen)).collect();
        message = format!("{message}; {}", named.join("; "));
        if undrained.len() > NAMED {
            message = format!("{message}; and {} more", undrained.len() - NAMED);
        }
    }
    status::condition(CONDITION, false, reason::DRAINING, message)
}

/// What is left of a company, as far as it is known, and what keeps it there.
fn left_of(company: &CompanyStatus, seen: &Seen) -> String {
    // AMQP, which tells no type either, is all there is to ask.
    let is_untold = |queue: &QueueReport| queue.queue_type.is_none() && queue.unacknowledged.is_none();
    let held_by_others = seen.queues.get(&company.symbol).is_some_and(is_untold);
    let left = match company.left {
        Some(left) => format!("{left} events left"),
        None if held_by_others => "what its consumers hold is not known: another program's is attached, or ours is of an older image and does not \
             say: stop the other, or name the broker's management interface in broker.external"
            .to_owned(),
        None => "not yet certain what is left".to_owned(),
    };
    match others_publish(seen, &company.symbol) {
        Some(others) => format!("{}: {left}: {others}", company.symbol),
        None => format!("{}: {left}", company.symbol),
    }
}

/// Why a queue that our publisher has left does not run empty.
pub(crate) fn others_publish(seen: &Seen, symbol: &str) -> Option<&'static str> {
    let published = seen.queues.get(symbol).is_some_and(|queue| queue.published);
    (published && !leaving::has_pods(symbol, Part::Publisher, &seen.pods)).then_some(
        "another program publishes to its queue, which nobody here can stop: its events go on being averaged and stored",
    )
}
