//! Who may join, once, and how a host is cut off.

use std::time::Duration;

use sternway_proto::{enrol, token::JoinToken};
use sternway_tests::{
    agent::Agent, controller::Controller, engine::Scope, stage::SETTLES, wait::until,
};
use tokio::task::JoinSet;

async fn token(controller: &Controller, arguments: &[&str]) -> JoinToken {
    let all = [&["host", "token"], arguments].concat();
    let said = controller.ctl().json(&all).await;
    let token = said["token"].as_str().expect("a token");
    token.parse().expect("whole")
}

#[tokio::test]
async fn of_a_hundred_that_use_a_token_at_once_one_joins() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let token = token(&controller, &["--name", "web-2"]).await;
    let mut joining = JoinSet::new();
    for _ in 0..100 {
        let token = token.clone();
        joining.spawn(async move { enrol::join(&token, None, "web-2", "0.0.0").await });
    }
    let mut joined = 0;
    while let Some(outcome) = joining.join_next().await {
        match outcome.expect("no panic") {
            Ok(_) => joined += 1,
            Err(error) => assert!(!error.to_string().contains("swj1_"), "{error}"),
        }
    }
    assert_eq!(joined, 1);
    let later = enrol::join(&token, None, "web-2", "0.0.0").await;
    assert!(later.is_err(), "used up");
}

#[tokio::test]
async fn an_expired_token_joins_nobody() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let token = token(&controller, &["--name", "web-2", "--valid-for", "1s"]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let refused = enrol::join(&token, None, "web-2", "0.0.0").await;
    assert!(
        matches!(refused, Err(enrol::JoinError::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_token_that_pins_another_authority_is_never_shown_to_this_one() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let mut token = token(&controller, &["--name", "web-2"]).await;
    token.pin = [0; 32];
    let refused = enrol::join(&token, None, "web-2", "0.0.0").await;
    assert!(
        matches!(refused, Err(enrol::JoinError::Connect(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_certificate_is_renewed_over_the_stream_before_it_ends() {
    let scope = Scope::new().await;
    let mut controller = Controller::new(&scope).await;
    controller.kill();
    controller.spawn(&[("STERNWAY_CONTROLLER__HOST_CERTIFICATE_LIFETIME", "6s")]);
    let ctl = controller.ctl();
    until("the controller", SETTLES, async || {
        let said = ctl.run(&["status"]).await;
        (said.code == 0).then_some(()).ok_or(said.stderr)
    })
    .await;
    let token = ctl.json(&["host", "token", "--name", "web-1"]).await;
    let mut agent = Agent::join(&scope, "web-1", token["token"].as_str().expect("a token"));
    let serial = |agent: &Agent| {
        let output = agent.command("status").output().expect("the agent starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = serial(&agent);
    agent.start();
    let mut seen = vec![first];
    // Longer than one certificate lives: without renewal the host would be gone.
    until("three certificates", SETTLES, async || {
        let now = serial(&agent);
        if !seen.contains(&now) {
            seen.push(now);
        }
        (seen.len() >= 4).then_some(()).ok_or(format!("{seen:#?}"))
    })
    .await;
    until("the host to be online", SETTLES, async || {
        let shown = ctl.json(&["host", "show", "web-1"]).await;
        let state = shown["host"]["state"].clone();
        (state == "online").then_some(()).ok_or(state.to_string())
    })
    .await;
}
