//! The broker of `e2e/servers` as the operator wants it.

use std::collections::BTreeSet;

use operator::broker::{Login, Wanted};
use wire::queue::QueueType;

/// With companies that no other test and no earlier run has.
pub fn wanted(symbols: &[&str]) -> Wanted {
    let address = std::env::var("STOCK_TEST_MANAGEMENT_URL")
        .unwrap_or_else(|_| panic!("STOCK_TEST_MANAGEMENT_URL is not set: run `make test`, it starts the servers"));
    let (login, host) = address.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let suffix = jiff::Timestamp::now().as_microsecond();
    Wanted {
        management_url: format!("http://{host}"),
        login: Login { user: user.to_owned(), password: password.to_owned() },
        users: Vec::new(),
        former: Vec::new(),
        nodes: vec!["rabbit@localhost".to_owned()],
        others: Vec::new(),
        formed: true,
        in_doubt: false,
        voting: BTreeSet::new(),
        queue_type: QueueType::Quorum,
        companies: symbols.iter().map(|symbol| format!("{symbol}-{suffix}")).collect(),
        removed: Vec::new(),
    }
}
