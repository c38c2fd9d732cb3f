//! What a page receives: `{"type":"prices","prices":[{"_id":…,"company":…,"avgPrice":…},…]}`.
//! Rule: companies are sorted; readers ignore fields they do not know, so ours stand after theirs. Only who asks for `changes`
//! gets that kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Window;

/// The kinds of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameType {
    /// The newest window of every company: what is not in it is gone.
    #[default]
    Prices,
    /// The windows that changed since the frame before: what is not in it is as it was.
    Changes,
}

/// The newest windows, and who says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frame {
    /// `prices` or, for who asked for it, `changes`.
    #[serde(rename = "type")]
    pub kind: FrameType,
    /// At most one window per company, sorted by company.
    pub prices: Vec<Window>,
    /// Name of the pod that serves the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Where this frame stands: with it as `since`, a reader gets what came after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Companies whose consumer holds no lease, and since when (RFC 3339; empty when nobody knows). All of them, in every frame.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unattended: BTreeMap<String, String>,
    /// When the database answered last, RFC 3339; only while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_silent_since: Option<String>,
}

impl Frame {
    /// Builds a whole frame; sorts the windows, so no caller can forget it.
    #[must_use]
    pub fn new(mut prices: Vec<Window>, pod: Option<String>) -> Self {
        prices.sort_by(|left, right| left.company.cmp(&right.company));
        Self { prices, pod, ..Self::default() }
    }
}
