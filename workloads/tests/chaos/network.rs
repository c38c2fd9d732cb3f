//! Cuts one consumer off from one server, by an nft rule for the consumer's user: packets vanish, no connection is closed.
//! Rule: the rules stand in a table of their own, which goes with its owner, and which a killed run may have left.

use std::process::Command;

const TABLE: &str = "stock_chaos";

/// The table. Dropped, it is deleted and every cut with it.
pub struct Network;

impl Network {
    pub fn new() -> Self {
        nft(&format!(
            "table inet {TABLE} {{}}; delete table inet {TABLE}; \
             table inet {TABLE} {{ chain output {{ type filter hook output priority filter; policy accept; }}; }}"
        ));
        Self
    }

    /// From now on, nothing this user sends to these ports arrives.
    pub fn cut(&self, user: u32, ports: &[u16]) {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        nft(&format!("add rule inet {TABLE} output meta skuid {user} tcp dport {{ {} }} drop", ports.join(", ")));
    }

    pub fn heal(&self) {
        nft(&format!("flush chain inet {TABLE} output"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        nft(&format!("delete table inet {TABLE}"));
    }
}

fn nft(rules: &str) {
    let output = Command::new("nft").arg(rules).output().expect("nft is installed");
    assert!(output.status.success(), "nft {rules}: {} (it needs root)", String::from_utf8_lossy(&output.stderr));
}
