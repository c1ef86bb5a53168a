//! Who may join, once, and how a host is cut off.

use std::time::Duration;

use sternway_proto::{enrol, token::JoinToken};
use sternway_tests::{
    agent::Agent, controller::Controller, engine::Scope, scripted::problem, stage::SETTLES,
    wait::until,
};
use tokio::task::JoinSet;

async fn token(controller: &Controller, arguments: &[&str]) -> JoinToken {
    let all = [&["host", "token"], arguments].concat();
    let said = controller.ctl().json(&all).await;
    let token = said["token"].as_str().expect("a token");
    token.parse().expect("whole")
}

/// Holds a refusal against its code, its reason, and what to do next; nothing of the token is in it.
fn refused(
    outcome: &Result<enrol::Joined, enrol::JoinError>,
    code: &str,
    message: &str,
    next: &str,
) {
    let Err(enrol::JoinError::Refused(status)) = outcome else {
        panic!("not refused: {outcome:?}");
    };
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    let problem = problem(status).expect("a problem");
    assert_eq!(
        (problem.code.as_str(), problem.message.as_str()),
        (code, message)
    );
    assert!(problem.next_step.starts_with(next), "{problem:?}");
    assert!(!format!("{status:?}").contains("swj1_"), "{status:?}");
}

const USED: (&str, &str, &str) = (
    "token-used",
    "the join token was used already",
    "each token is for one host.",
);

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
            lost => refused(&lost, USED.0, USED.1, USED.2),
        }
    }
    assert_eq!(joined, 1);
    let later = enrol::join(&token, None, "web-2", "0.0.0").await;
    refused(&later, USED.0, USED.1, USED.2);
    let hosts = controller.ctl().json(&["host", "ls"]).await;
    assert_eq!(hosts["hosts"].as_array().map(Vec::len), Some(1), "{hosts}");
}

#[tokio::test]
async fn an_expired_token_joins_nobody() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let token = token(&controller, &["--name", "web-2", "--valid-for", "1s"]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let late = enrol::join(&token, None, "web-2", "0.0.0").await;
    refused(
        &late,
        "token-expired",
        "the join token has expired",
        "make a new one with `ctl host token`",
    );
    let hosts = controller.ctl().json(&["host", "ls"]).await;
    assert_eq!(hosts["hosts"].as_array().map(Vec::len), Some(0), "{hosts}");
}

#[tokio::test]
async fn a_token_that_nobody_made_joins_nobody() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let mut token = token(&controller, &["--name", "web-2"]).await;
    token.secret = [7; 32];
    let invented = enrol::join(&token, None, "web-2", "0.0.0").await;
    refused(
        &invented,
        "token-unknown",
        "the join token is not known",
        "make a new one with `ctl host token`",
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
async fn at_the_listener_for_agents_it_is_said_that_this_is_not_for_joining() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let token = token(&controller, &["--name", "web-2"]).await;
    let config = controller.ctl().config();
    let address = config["controller"].as_str().expect("an address");
    let refused = enrol::join(&token, Some(address), "web-2", "0.0.0").await;
    assert!(
        matches!(&refused, Err(enrol::JoinError::NotForJoining { address: at }) if at == address),
        "{refused:?}"
    );
    // The token is as good as before.
    enrol::join(&token, None, "web-2", "0.0.0")
        .await
        .expect("joined");
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
