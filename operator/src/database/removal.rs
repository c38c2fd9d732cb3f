//! Takes members out of a replica set, one small step at a time.
//! Rule: pure; only our own leave, nobody unless all who stay serve, nobody as primary, and no step costs the set its majority.

use super::decision::{Change, Step, Wanted, unready};
use super::seen::{Config, ConfigMember, Seen};

/// The next step towards a set without the members of ours that are no longer wanted; `None` when there are none of them.
///
/// The order keeps as many copies as long as possible: those who stay have their votes by now, those who leave may no longer
/// become primary, a primary among them steps down, and only then they leave.
pub(super) fn next_step(wanted: &Wanted, seen: &Seen, config: &Config, primary: &str) -> Option<Step> {
    let leaving: Vec<&ConfigMember> =
        config.members.iter().filter(|member| wanted.others.contains(&member.host)).collect();
    if leaving.is_empty() {
        return None;
    }
    let reconfigure = |change| Some(Step::Reconfigure { on: primary.to_owned(), from_version: config.version, change });
    let wait = |reason: String| Some(Step::Wait { reason });

    let staying = config.members.iter().map(|member| &member.host).filter(|host| wanted.members.contains(host));
    if let Some(reason) = unready(wanted, staying, seen) {
        return wait(format!("{} members stay until those that remain all serve: {reason}", leaving.len()));
    }
    if let Some(member) = leaving.iter().find(|member| member.electable && member.host != primary) {
        return reconfigure(Change::Retire(member.host.clone()));
    }
    if leaving.iter().any(|member| member.host == primary) {
        return Some(Step::StepDown { on: primary.to_owned() });
    }
    // Who does not serve leaves first, then who has no vote: neither costs the set anything.
    let next = leaving.iter().min_by_key(|member| (seen.serves(&member.host), member.votes))?;
    let left = || config.members.iter().filter(|member| member.votes && member.host != next.host);
    let serving = left().filter(|member| seen.serves(&member.host)).count();
    if serving * 2 <= left().count() {
        let reason = unready(wanted, left().map(|member| &member.host), seen).unwrap_or_default();
        return wait(format!("member {} stays until a majority of the others serves: {reason}", next.host));
    }
    reconfigure(Change::Remove(next.host.clone()))
}
