//! A template that cannot run, and what a user sees of it.
//! Rule: one pod is the price of a mistake, and its correction needs no other help.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{fixtures, wait_until, with_namespace};
use serde_json::json;

const PIPELINE: &str = "roll";
const COMPANIES: [&str; 1] = ["MSFT"];

#[tokio::test]
async fn a_template_that_cannot_run_stops_the_roll_at_its_first_pod_and_its_correction_goes_on() -> Result<()> {
    with_namespace("roll-broken", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["database"]["replicas"] = 3.into();
        space.apply_until_ready(&pipeline).await?;
        let before = space.uids(PIPELINE, "database").await?;
        pipeline["spec"]["database"]["template"] = json!({"image": "localhost/no-such-image:1"});
        space.apply(&pipeline).await?;
        wait_until("the status names the image that cannot be pulled", Duration::from_secs(90), async || {
            let condition = space.condition(PIPELINE, "DatabaseReady").await?;
            ensure!(condition.message.contains("cannot pull localhost/no-such-image:1"), "{}", condition.message);
            Ok(())
        })
        .await?;
        let stopped = space.uids(PIPELINE, "database").await?;
        let kept = before.values().filter(|uid| stopped.values().any(|now| now == *uid)).count();
        ensure!(kept == 2, "{kept} of 3 pods are those of before: {before:?} {stopped:?}");
        pipeline["spec"]["database"]["template"] = json!({"annotations": {"example.com/roll": "2"}});
        space.apply_until_ready(&pipeline).await?;
        let after = space.uids(PIPELINE, "database").await?;
        ensure!(after.values().all(|uid| !before.values().any(|old| old == uid)), "{before:?} {after:?}");
        Ok(())
    })
    .await
}
