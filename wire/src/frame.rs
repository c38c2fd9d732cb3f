//! What a page receives: `{"type":"prices","prices":[{"_id":…,"company":…,"avgPrice":…},…]}`.
//! Rule: companies are sorted; readers ignore fields they do not know, so ours stand after theirs.

use serde::{Deserialize, Serialize};

use crate::Window;

/// The only kind of frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameType {
    /// The newest window of every company.
    #[default]
    Prices,
}

/// The newest window of every company, and who says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Always `prices`.
    #[serde(rename = "type")]
    pub kind: FrameType,
    /// One window per company, sorted by company.
    pub prices: Vec<Window>,
    /// Name of the pod that serves the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl Frame {
    /// Builds a frame; sorts the windows, so no caller can forget it.
    #[must_use]
    pub fn new(mut prices: Vec<Window>, pod: Option<String>) -> Self {
        prices.sort_by(|left, right| left.company.cmp(&right.company));
        Self { kind: FrameType::Prices, prices, pod }
    }
}
