//! The three members of `e2e/servers` as the operator wants them, and their users.

use operator::database::{Account, Credentials, ELECTION_TIMEOUT_MILLIS, Wanted};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`, it starts the servers"))
}

fn account(name: &str, password: &str) -> Account {
    Account { name: name.to_owned(), password: password.to_owned() }
}

pub fn wanted() -> (Wanted, Credentials) {
    let wanted = Wanted {
        set: "rs0".to_owned(),
        members: variable("STOCK_TEST_MONGODB_MEMBERS").split(',').map(str::to_owned).collect(),
        others: Vec::new(),
        database: "stockmarket".to_owned(),
        outdated: Vec::new(),
        election_timeout_millis: ELECTION_TIMEOUT_MILLIS,
        trusted: None,
    };
    let credentials = Credentials {
        key: std::fs::read_to_string(variable("STOCK_TEST_MONGODB_KEYFILE")).unwrap(),
        administrator: account("administrator", "only for tests /1"),
        application: account("application", "only@for:tests/2"),
        monitoring: account("monitoring", "only for tests 3"),
    };
    (wanted, credentials)
}
