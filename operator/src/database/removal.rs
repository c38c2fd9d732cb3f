//! Takes members out of a replica set, one small step at a time.
//! Rule: pure; nobody leaves unless all who stay serve, nobody leaves as primary, and no step costs the set its majority.

use super::decision::{Change, Step, Wanted, unready};
use super::seen::{Config, ConfigMember, Seen};

/// The next step towards a set without the members that are not wanted; `None` when there are none of them.
///
/// The order keeps as many copies as long as possible: those who stay get their votes, those who leave may no longer become
/// primary, a primary among them steps down, and only then they leave.
pub(super) fn next_step(wanted: &Wanted, seen: &Seen, config: &Config, primary: &str) -> Option<Step> {
    let stays = |member: &&ConfigMember| wanted.members.contains(&member.host);
    let (staying, leaving): (Vec<_>, Vec<_>) = config.members.iter().partition(stays);
    if leaving.is_empty() {
        return None;
    }
    if staying.is_empty() {
        let reason = format!(
            "none of the wanted members is in replica set {}: did the members' names change? Put the old names back",
            wanted.set
        );
        return Some(Step::Refuse { reason });
    }
    let reconfigure = |change| Some(Step::Reconfigure { on: primary.to_owned(), from_version: config.version, change });
    let wait = |reason: String| Some(Step::Wait { reason });

    if let Some(reason) = unready(staying.iter().map(|member| &member.host), seen) {
        return wait(format!("{} members stay until those that remain all serve: {reason}", leaving.len()));
    }
    let full = |member: &ConfigMember| member.votes && member.electable;
    if let Some(member) = staying.iter().find(|member| !full(member) && member.host != primary) {
        return reconfigure(Change::Promote(member.host.clone()));
    }
    if let Some(member) = leaving.iter().find(|member| member.electable && member.host != primary) {
        return reconfigure(Change::Retire(member.host.clone()));
    }
    if leaving.iter().any(|member| member.host == primary) {
        return Some(Step::StepDown { on: primary.to_owned() });
    }
    // Who does not serve leaves first, then who has no vote: neither costs the set anything.
    let next = leaving.iter().min_by_key(|member| (seen.serves(&member.host), member.votes))?;
    let left = config.members.iter().filter(|member| member.votes && member.host != next.host);
    let serving = left.clone().filter(|member| seen.serves(&member.host)).count();
    if serving * 2 <= left.count() {
        return wait(format!(
            "member {} stays until a majority of the others serves: look at the pods of the members that do not",
            next.host
        ));
    }
    reconfigure(Change::Remove(next.host.clone()))
}
