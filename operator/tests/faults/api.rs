//! The API server refuses, does not answer, loses answers, closes watches and lets them lag behind.
//! Rule: the pipeline becomes whole all the same, its status says what is wrong while it lasts, and afterwards nobody writes in circles.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::{join, join_all};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use crate::relay::{Disturbance, Fault};
use crate::world::{Picture, World, differences, say, until};

/// That the operator watches.
const KINDS: usize = 11;

/// What an undisturbed operator makes of the pipeline after it was changed once.
async fn undisturbed() -> Picture {
    let world = World::new().await;
    let operator = world.operator();
    world.create(json!({})).await;
    operator.settles(&world).await;
    change(&world).await;
    operator.settles(&world).await;
    operator.stop().await;
    let picture = world.picture().await;
    world.end().await;
    picture
}

async fn change(world: &World) {
    let change = json!({"companies": [{"symbol": "TSLA"}], "edge": {"replicas": 2}, "consumer": {"replicas": 2}});
    world.change(&change).await;
}

/// Creates and changes a pipeline while requests fail, then lets them succeed.
async fn comes_through(disturbance: Disturbance) -> (Disturbance, Picture) {
    let began = Instant::now();
    let world = World::new().await;
    let operator = world.operator_under(disturbance);
    world.create(json!({})).await;
    let whole = |company: &'static str, edges: i32| {
        let world = &world;
        async move {
            until(&format!("the children are there under {disturbance:?}"), || async {
                let deployments = world.api::<Deployment>();
                let edge = deployments.get_opt("demo-edge").await.unwrap()?;
                let consumer = deployments.get_opt(&format!("demo-consumer-{company}")).await.unwrap();
                (consumer.is_some() && edge.spec?.replicas == Some(edges)).then_some(())
            })
            .await;
        }
    };
    whole("msft", 1).await;
    let credentials = world.credentials().await;
    change(&world).await;
    whole("tsla", 2).await;
    // Only the company's that left: what is merely old news was not taken for a wish.
    let of_the_company = |write: &String| write.ends_with("-msft");
    let deletes: BTreeSet<String> =
        operator.relay.writes().into_iter().filter(|write| write.starts_with("DELETE")).collect();
    assert!(deletes.iter().all(of_the_company), "{disturbance:?}: {deletes:?}");
    if let Disturbance::WatchesEnd(_) = disturbance {
        let again = 10 * KINDS;
        until("the watches have ended ten times", || async { (operator.relay.watches() > again).then_some(()) }).await;
    }
    operator.relay.disturb(Disturbance::None);
    operator.settles(&world).await;
    let picture = world.picture().await;
    assert!(world.credentials().await == credentials, "{disturbance:?}: the credentials have changed");
    operator.stop().await;
    world.end().await;
    say(&format!("{disturbance:?}: {:.0?}", began.elapsed()));
    (disturbance, picture)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_becomes_whole_while_requests_fail_and_is_quiet_afterwards() {
    let one_in = |requests, fault| Disturbance::OneIn { requests, fault };
    let disturbances = [
        one_in(4, Fault::Status(409)),
        one_in(4, Fault::TooMany),
        one_in(4, Fault::Status(500)),
        one_in(4, Fault::Status(503)),
        one_in(4, Fault::Cut),
        one_in(4, Fault::CutAfter),
        one_in(8, Fault::CutAfter),
        one_in(8, Fault::Status(500)),
        Disturbance::WatchesEnd(Duration::from_secs(1)),
        Disturbance::WatchesLag(Duration::from_secs(3)),
        Disturbance::WatchesLag(Duration::from_secs(7)),
    ];
    let (should, pictures) = join(undisturbed(), join_all(disturbances.map(comes_through))).await;
    for (disturbance, picture) in pictures {
        let differences = differences(&picture, &should);
        assert!(differences.is_empty(), "{disturbance:?}: {differences:#?}");
    }
}

/// The first condition's reason and words.
async fn ready(world: &World) -> Option<(String, String)> {
    let ready = world.pipeline().await?.status?.conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.reason, ready.message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_what_the_api_server_refuses_as_long_as_it_does() {
    let cases = [Fault::Status(409), Fault::Status(500), Fault::TooMany, Fault::Status(503), Fault::Cut];
    join_all(cases.map(|fault| async move {
        let world = World::new().await;
        let operator =
            world.operator_under(Disturbance::Matching { method: "PATCH", path: "/deployments/demo-edge", fault });
        world.create(json!({})).await;
        until(&format!("the status tells of {fault:?}"), || async {
            let (said, message) = ready(&world).await?;
            (said == "KubernetesError" && message.contains("apply Deployment demo-edge")).then_some(())
        })
        .await;
        // One refusal keeps no other object away.
        assert!(world.api::<Deployment>().get_opt("demo-liveview").await.unwrap().is_some());
        operator.relay.disturb(Disturbance::None);
        until(&format!("the status tells that {fault:?} is over"), || async {
            (ready(&world).await?.0 == "PartsNotReady").then_some(())
        })
        .await;
        assert!(world.api::<Deployment>().get_opt("demo-edge").await.unwrap().is_some());
        operator.settles(&world).await;
        operator.stop().await;
        world.end().await;
    }))
    .await;
}

/// As an admission webhook does that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_request_ends_the_pass_and_is_told_of() {
    let world = World::new().await;
    let operator = world.operator_under(Disturbance::Matching {
        method: "PATCH",
        path: "/deployments/demo-edge",
        fault: Fault::Silence,
    });
    world.create(json!({})).await;
    until("the status tells that the pass was given up", || async {
        (ready(&world).await?.0 == "TookTooLong").then_some(())
    })
    .await;
    operator.relay.disturb(Disturbance::None);
    until("the status tells that it is over", || async { (ready(&world).await?.0 == "PartsNotReady").then_some(()) })
        .await;
    operator.settles(&world).await;
    operator.stop().await;
    world.end().await;
}
