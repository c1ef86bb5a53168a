//! Whoever is not known keeps nobody out: connections that stall, on both listeners, by the hundred.

use std::time::Duration;

use sternway_proto::v1;
use sternway_tests::{
    controller::Controller,
    engine::Scope,
    scripted::{Host, inventory, problem},
    wait::until,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet};

/// Generous: the strangers are on the same machine and take their share of it.
const PATIENCE: Duration = Duration::from_mins(3);

/// Keeps so many connections open that never say a word; one that is cut is dialled again at once. They go with
/// the answer.
fn stalled(address: &str, count: usize) -> JoinSet<()> {
    let mut strangers = JoinSet::new();
    for _ in 0..count {
        let address = address.to_owned();
        strangers.spawn(async move {
            loop {
                if let Ok(mut tcp) = TcpStream::connect(&address).await {
                    let _ = tcp.read_u8().await;
                }
                // Not faster than an honest agent would: this is about places, not about processor time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    strangers
}

/// An operator makes a token, a machine joins with it, its agent goes online, and `ctl` sees it.
async fn works(controller: &Controller, name: &str) {
    let ctl = controller.ctl();
    let mut attempt = 0;
    let (name, host) = until("the join", PATIENCE, async || {
        // As a person: a join that lost its answer has used its token up.
        attempt += 1;
        let name = format!("{name}-{attempt}");
        let said = ctl
            .run(&["host", "token", "--name", &name, "-o", "json"])
            .await;
        if said.code != 0 {
            return Err(said.stderr);
        }
        let token = said.document()["token"].clone();
        match Host::join(token.as_str().expect("a token")).await {
            Ok(host) => Ok((name, host)),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await;
    let name = name.as_str();
    until("the session", PATIENCE, async || {
        host.client().await.map(drop)
    })
    .await;
    let session = host.session().await;
    session.say(inventory()).await;
    until("the host to be online", PATIENCE, async || {
        let said = ctl.run(&["host", "show", name, "-o", "json"]).await;
        if said.code != 0 {
            return Err(said.stderr);
        }
        let state = said.document()["host"]["state"].clone();
        (state == "online").then_some(()).ok_or(state.to_string())
    })
    .await;
}

#[tokio::test]
async fn six_hundred_stalled_connections_to_each_listener_keep_nobody_out() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let _main = stalled(&controller.listen(), 600);
    let _enrolment = stalled(&controller.enrolment(), 600);
    works(&controller, "web-1").await;
}

#[tokio::test]
async fn one_certificate_has_a_bounded_number_of_connections_and_is_told_so() {
    let scope = Scope::new().await;
    let controller = Controller::new(&scope).await;
    let mut held = Vec::new();
    let refusal = until("a refusal", PATIENCE, async || {
        let mut client = controller.ctl().client().await.map_err(|e| e.to_string())?;
        let answer = client.get_status(v1::GetStatusRequest {}).await;
        held.push(client);
        match answer {
            Ok(_) => Err(format!("{} connections", held.len())),
            Err(status) => problem(&status).map_err(|error| error.to_string()),
        }
    })
    .await;
    assert_eq!(refusal.code, "too-many-connections");
    assert!(held.len() > 60, "{} connections", held.len());
    // Others are not concerned, and the same one is heard again when it has closed some.
    let made = held[0]
        .create_join_token(v1::CreateJoinTokenRequest::default())
        .await
        .expect("the first connection still works");
    let host = Host::join(&made.into_inner().token).await.expect("joined");
    let _session = host.session().await;
    held.clear();
    until("an answer", PATIENCE, async || {
        let said = controller.ctl().run(&["status"]).await;
        (said.code == 0).then_some(()).ok_or(said.stderr)
    })
    .await;
}
