//! The operator dies again and again in the middle of what it does to three real members, each life a little longer than the one before.
//! Rule: the lives together leave what one undisturbed life leaves.
//!
//! The members know each other by their own addresses, so no relay can count the acts here; the moments are those of a clock. Every order
//! of acts, crashes and stale looks is explored in `database/tests.rs`.

use std::time::{Duration, Instant};

use operator::database::decision::{Step, next_step};
use operator::database::seen::Config;
use operator::database::{Credentials, Wanted, client, converge};
use tokio::time::{sleep, timeout};

use crate::replica_set;
use crate::world::say;

/// By so much each life is longer than the one before.
const LONGER: Duration = Duration::from_millis(25);

async fn undisturbed(wanted: &Wanted, credentials: &Credentials) -> Config {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !converge(wanted, credentials).await.unwrap().ready {
        assert!(Instant::now() < deadline, "the members do not become as wanted");
        sleep(Duration::from_millis(100)).await;
    }
    config(wanted, credentials).await
}

/// Without what counts the changes.
async fn config(wanted: &Wanted, credentials: &Credentials) -> Config {
    let seen = client::observe(wanted, credentials).await;
    assert_eq!(next_step(wanted, &seen), Step::Done);
    Config { version: 0, term: 0, ..seen.config().unwrap().clone() }
}

/// Returns how often the operator died.
async fn dying(wanted: &Wanted, credentials: &Credentials) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(90);
    for deaths in 0.. {
        match timeout(LONGER * (deaths + 1), converge(wanted, credentials)).await {
            Ok(report) if report.as_ref().unwrap().ready => return deaths,
            _ => assert!(Instant::now() < deadline, "{deaths} lives were not enough"),
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_moment_the_operator_leaves_the_database_as_it_should_be() {
    let began = Instant::now();
    let (three, credentials) = replica_set::wanted();
    let one = Wanted { members: three.members[..1].to_vec(), others: three.members[1..].to_vec(), ..three.clone() };
    let patient = Wanted { election_timeout_millis: 3000, ..three.clone() };
    let mut renewed = credentials.clone();
    renewed.application.password = "another one for tests".to_owned();
    let cases = [(&one, &credentials), (&three, &credentials), (&patient, &renewed), (&three, &credentials)];

    let mut should = Vec::new();
    undisturbed(&three, &credentials).await;
    for (wanted, credentials) in cases {
        should.push(undisturbed(wanted, credentials).await);
    }
    let mut deaths = 0;
    for ((wanted, credentials), should) in cases.into_iter().zip(should) {
        deaths += dying(wanted, credentials).await;
        assert_eq!(config(wanted, credentials).await, should);
    }
    say(&format!("database: {deaths} deaths in {:.0?}", began.elapsed()));
}
