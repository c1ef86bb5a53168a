//! A target whose container was removed for good is forgotten after a while, and with it goes what was kept for
//! it; what is only away for a moment, and what others need, stays.

use std::time::Duration;

use sternway_tests::{shop::Image, stage::Stage, wait::until};

const SOON: Duration = Duration::from_mins(1);

/// Keepers of a target on the engine.
async fn keepers(stage: &Stage, local: &str) -> String {
    let target = format!("label=sternway.target={}", stage.scope.target(local));
    stage
        .scope
        .cli(&[
            "ps",
            "-aq",
            "--filter",
            "label=sternway.role=keeper",
            "--filter",
            &target,
        ])
        .await
}

async fn kept(stage: &Stage, local: &str) {
    until("a keeper", SOON, async || {
        let found = keepers(stage, local).await;
        (!found.is_empty()).then_some(()).ok_or("none")
    })
    .await;
}

fn restart(stage: &mut Stage, forget_after: &str) {
    stage.agent.kill();
    stage.agent.start_with(&[
        ("STERNWAY_AGENT__FORGET_AFTER", forget_after),
        ("STERNWAY_AGENT__READINESS_INTERVAL", "200ms"),
    ]);
}

#[tokio::test]
async fn a_target_that_is_gone_for_good_is_forgotten_with_what_was_kept_for_it() {
    let mut stage = Stage::new().await;
    let (own, shared) = (
        Image::good("v1").own(&stage.scope).await,
        Image::good("v2").shared().await,
    );
    stage.scope.run("job", &[], &own).await;
    stage.scope.run("shop", &[], &shared).await;
    stage.current("job", 1).await;
    stage.current("shop", 1).await;
    kept(&stage, "job").await;
    kept(&stage, "shop").await;
    stage
        .scope
        .cli(&["rm", "-f", &stage.scope.named("job")])
        .await;

    // For as long as it is remembered it can be restored.
    restart(&mut stage, "1h");
    until("the target to be gone", SOON, async || {
        let target = stage.target("job").await;
        (target["state"] == "gone")
            .then_some(())
            .ok_or(target.to_string())
    })
    .await;
    kept(&stage, "job").await;

    restart(&mut stage, "1s");
    until("the target to be forgotten", SOON, async || {
        let target = stage.target("job").await;
        target.is_null().then_some(()).ok_or(target.to_string())
    })
    .await;
    assert_eq!(keepers(&stage, "job").await, "");
    let _ = stage.scope.cli(&["rmi", &own]).await;
    let image = stage.scope.cli(&["images", "-q", &own]).await;
    assert_eq!(image, "", "nothing holds its image any more");
    kept(&stage, "shop").await;
    stage.current("shop", 1).await;

    // The name is free for another beginning.
    stage.scope.run("job", &[], &shared).await;
    stage.current("job", 1).await;
    kept(&stage, "job").await;
}
