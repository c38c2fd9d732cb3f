//! Two operators and one lease on a real API server.
//! Rule: every test has a lease of its own, so that the tests run side by side and again.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use operator::lease::{Leadership, Timing, hold_with};

#[path = "servers/kubernetes.rs"]
mod kubernetes;

const TIMING: Timing = Timing {
    duration: Duration::from_secs(3),
    renew_every: Duration::from_millis(300),
    give_up_after: Duration::from_secs(2),
    look_every: Duration::from_millis(100),
};

/// A lease that no other test and no earlier run knows.
fn name(test: &str) -> String {
    format!("{test}-{}-{}", std::process::id(), jiff::Timestamp::now().as_microsecond())
}

async fn hold(client: &Client, name: &str, identity: &str) -> Leadership {
    hold_with(client.clone(), "default", name, identity, TIMING).await
}

async fn holder(client: &Client, name: &str) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    leases.get(name).await.unwrap().spec.unwrap().holder_identity
}

async fn remove(client: &Client, name: &str) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    leases.delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn of_two_candidates_one_holds_and_a_clean_stop_hands_over_at_once() {
    let (client, name) = (kubernetes::client().await, name("hand-over"));
    let a = hold(&client, &name, "a").await;
    let mut b = Box::pin(hold(&client, &name, "b"));
    // Longer than the duration: the renewals keep it.
    assert!(tokio::time::timeout(TIMING.duration + TIMING.renew_every * 2, &mut b).await.is_err());
    assert_eq!(holder(&client, &name).await.as_deref(), Some("a"));
    assert!(!a.lost().is_cancelled());

    a.release().await;
    let began = Instant::now();
    let b = b.await;
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    assert_eq!(holder(&client, &name).await.as_deref(), Some("b"));
    b.release().await;
    assert_eq!(holder(&client, &name).await.as_deref(), Some(""));
    remove(&client, &name).await;
}

#[tokio::test]
async fn of_many_candidates_at_once_exactly_one_holds() {
    let (client, name) = (kubernetes::client().await, name("race"));
    let identities: Vec<String> = (0..8).map(|number| format!("candidate-{number}")).collect();
    let attempts = identities.iter().map(|identity| {
        let attempt = hold(&client, &name, identity);
        tokio::time::timeout(Duration::from_secs(2), attempt)
    });
    let holders: Vec<_> = futures::future::join_all(attempts).await.into_iter().flatten().collect();
    assert_eq!(holders.len(), 1);
    for leadership in holders {
        leadership.release().await;
    }
    remove(&client, &name).await;
}

#[tokio::test]
async fn a_killed_holder_is_followed_after_the_duration_and_not_before() {
    let (client, name) = (kubernetes::client().await, name("killed"));
    // A runtime of its own, dropped in the middle: nothing is given back, as after kill -9.
    let lease = name.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { hold(&kubernetes::client().await, &lease, "killed").await });
    })
    .join()
    .unwrap();
    let began = Instant::now();
    let successor = hold(&client, &name, "successor").await;
    let waited = began.elapsed();
    assert!(waited >= TIMING.duration, "took it after {waited:?}");
    assert!(waited < TIMING.duration + Duration::from_secs(2), "took it after {waited:?}");
    successor.release().await;
    remove(&client, &name).await;
}

#[tokio::test]
async fn a_holder_whose_lease_was_taken_learns_it_at_its_next_renewal() {
    let (client, name) = (kubernetes::client().await, name("taken"));
    let leadership = hold(&client, &name, "a").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    loop {
        let mut lease = leases.get(&name).await.unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("usurper".to_owned());
        // A renewal in between makes this a conflict.
        if leases.replace(&name, &PostParams::default(), &lease).await.is_ok() {
            break;
        }
    }
    tokio::time::timeout(TIMING.give_up_after, leadership.lost().cancelled()).await.unwrap();
    leadership.release().await;
    assert_eq!(holder(&client, &name).await.as_deref(), Some("usurper"));
    remove(&client, &name).await;
}
