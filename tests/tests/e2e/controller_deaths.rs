//! `kill -9` of the controller around the commits of everything that a rollback that succeeds does not commit: one that
//! is undone, one that expires, a join, a revocation, a mark. What was acknowledged stands, and happened once. The host is
//! scripted: what runs there is another story.

use serde_json::Value;
use sternway_proto::{
    enrol::{self, JoinError},
    fault, v1,
};
use sternway_tests::{
    ctl::Ctl,
    dutiful::Agent,
    ground::Ground,
    scripted::{TARGET, WAIT, revision_id},
    wait::until,
};

/// A controller commits twice while it starts, before it listens.
const FIRST: u32 = 3;
/// No story commits more often than that: a run in which nobody dies ends the search.
const COMMITS: u32 = 40;

/// Does that under a fault of the controller, which is started again when it has died of it, and once more
/// afterwards. Whether it has died.
async fn dies(ground: &mut Ground, fault: &str, acts: impl Future<Output = ()>) -> bool {
    ground.controller.kill();
    ground.controller.spawn(&[("STERNWAY_FAULT", fault)]);
    let died = ground.survive(acts).await.is_some();
    ground.controller.kill();
    ground.controller.start().await;
    ground.holds(fault).await;
    died
}

/// Every fault around a commit, until two runs have had no death: what is stored in batches varies a little. After a
/// commit is as before the next one, but for who is told.
struct Faults {
    number: u32,
    deaths: u32,
    survived: u32,
}

impl Faults {
    fn new() -> Self {
        Self {
            number: FIRST,
            deaths: 0,
            survived: 0,
        }
    }

    /// The next one, unless the search is over.
    fn next(&mut self) -> Option<String> {
        if self.survived == 2 {
            return None;
        }
        assert!(
            self.number < FIRST + 2 * COMMITS,
            "the search comes to an end"
        );
        let commit = FIRST + (self.number - FIRST) / 2;
        let moment = ["before", "after"][(self.number - FIRST) as usize % 2];
        self.number += 1;
        Some(format!("commit:{commit}:{moment}"))
    }

    fn was(&mut self, died: bool) {
        self.deaths += u32::from(died);
        self.survived = if died { 0 } else { self.survived + 1 };
    }

    fn ended(&self, at_least: u32) {
        let deaths = self.deaths;
        assert!(
            deaths >= at_least,
            "it commits more often than {deaths} times"
        );
    }
}

/// Asks again until that ends with this exit code, as a person would.
async fn says(ctl: &Ctl, arguments: &[&str], code: i32) {
    until(&format!("ctl {}", arguments.join(" ")), WAIT, async || {
        let said = ctl.run(arguments).await;
        (said.code == code)
            .then_some(())
            .ok_or(format!("{}: {}", said.code, said.stderr))
    })
    .await;
}

/// Whether a join was refused because its token was used.
fn is_spent(why: &JoinError) -> bool {
    let JoinError::Refused(status) = why else {
        return false;
    };
    fault::from_status(status).is_some_and(|problem| problem.code == "token-used")
}

/// Rolls back once under each fault; each rollback ends in that state, is there once, and stands in the record so often.
async fn each_ends(
    ground: &mut Ground,
    further: &[&str],
    state: &str,
    recorded: &[(&str, usize)],
) -> Faults {
    let base = ["rollback", "--host", "web-1", "--to", "1"];
    let rollback = [&base[..], &["--yes", "--no-wait"], further].concat();
    let mut faults = Faults::new();
    let mut stood = 0;
    while let Some(fault) = faults.next() {
        let ctl = ground.ctl.clone();
        let acts = async {
            until(&format!("a rollback that is {state}"), WAIT, async || {
                let said = ctl.run(&["rollout", "ls", "-o", "json"]).await;
                let listed: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
                let Some(all) = listed["rollouts"].as_array() else {
                    return Err(said.stderr);
                };
                // What stands goes on by itself.
                if all.len() == stood {
                    return Err(ctl.run(&rollback).await.stderr);
                }
                let ended = all[0]["state"] == state;
                ended.then_some(()).ok_or(listed.to_string())
            })
            .await;
        };
        let died = dies(ground, &fault, acts).await;
        faults.was(died);
        let rollouts = ground.rollouts().await;
        assert_eq!(rollouts.len(), stood + 1, "{fault}: one rollback, once");
        stood = rollouts.len();
        let order = &rollouts[0]["waves"][0]["orders"][0];
        assert_eq!(order["outcome"], state, "{fault}: {order:#}");
        let subject = format!("order:{}", order["order_id"].as_str().expect("an id"));
        for (action, times) in recorded {
            let found = ground.recorded(action, &subject).await;
            assert_eq!(found, *times, "{fault}: {action}");
        }
    }
    faults
}

#[tokio::test]
async fn never_lost_a_rollback_that_is_undone_while_its_controller_is_killed_is_told_once_as_that()
{
    let mut ground = Ground::new().await;
    let host = ground.join("web-1").await;
    let agent = Agent::start(host, v1::Outcome::Undone);
    ground.known("web-1").await;
    let recorded = [
        ("order.created", 1),
        ("order.accepted", 1),
        ("evidence.seen", 1),
        ("order.finished", 1),
    ];
    let faults = each_ends(&mut ground, &[], "undone", &recorded).await;
    let (carried_out, ordered) = (agent.carried_out(), ground.rollouts().await);
    assert_eq!(carried_out.len(), ordered.len(), "each order once");
    faults.ended(8);
}

#[tokio::test]
async fn never_lost_an_order_that_expires_while_its_controller_is_killed_expires_once() {
    let mut ground = Ground::new().await;
    let host = ground.join("web-1").await;
    drop(ground.session("web-1", &host).await);
    let recorded = [
        ("order.created", 1),
        ("order.sent", 0),
        ("order.finished", 1),
    ];
    let soon = ["--deadline", "1s"];
    let faults = each_ends(&mut ground, &soon, "expired", &recorded).await;
    faults.ended(4);
}

#[tokio::test]
async fn never_lost_a_join_while_the_controller_is_killed_makes_one_host_of_one_token() {
    let mut ground = Ground::new().await;
    let mut faults = Faults::new();
    while let Some(fault) = faults.next() {
        let name = fault.replace(':', "-");
        let token = ground.token(&name).await;
        let acts = async {
            until("a join", WAIT, async || {
                match enrol::join(&token, None, "machine", "0.0.0").await {
                    Ok(_) => Ok(()),
                    // Its answer was lost: the token is spent, and says so.
                    Err(why) if is_spent(&why) => Ok(()),
                    Err(other) => Err(other.to_string()),
                }
            })
            .await;
        };
        let died = dies(&mut ground, &fault, acts).await;
        faults.was(died);
        assert_eq!(ground.hosts(&name).await.len(), 1, "{fault}");
        let subject = format!("host:{name}");
        for action in ["host.joined", "certificate.issued"] {
            let recorded = ground.recorded(action, &subject).await;
            assert_eq!(recorded, 1, "{fault}: {action}");
        }
        let again = enrol::join(&token, None, "machine", "0.0.0").await;
        assert!(again.is_err_and(|why| is_spent(&why)), "{fault}");
    }
    faults.ended(2);
}

#[tokio::test]
async fn never_lost_a_revocation_that_was_acknowledged_holds_however_its_controller_is_killed() {
    let mut ground = Ground::new().await;
    let mut faults = Faults::new();
    while let Some(fault) = faults.next() {
        let name = fault.replace(':', "-");
        let host = ground.join(&name).await;
        let ctl = ground.ctl.clone();
        let revoke = ["host", "revoke", &name, "--yes"];
        let died = dies(&mut ground, &fault, says(&ctl, &revoke, 0)).await;
        faults.was(died);
        let hosts = ground.hosts(&name).await;
        assert_eq!(hosts.len(), 1, "{fault}");
        assert_eq!(hosts[0]["state"], "revoked", "{fault}");
        let recorded = ground
            .recorded("host.revoked", &format!("host:{name}"))
            .await;
        assert_eq!(recorded, 1, "{fault}");
        assert!(host.try_session().await.is_err(), "{fault}: it is let in");
    }
    faults.ended(2);
}

#[tokio::test]
async fn never_lost_a_mark_that_was_acknowledged_stands_however_its_controller_is_killed() {
    let mut ground = Ground::new().await;
    let host = ground.join("web-1").await;
    drop(ground.session("web-1", &host).await);
    let digest = format!("sha256:{}", revision_id(1));
    let mut faults = Faults::new();
    while let Some(fault) = faults.next() {
        let ctl = ground.ctl.clone();
        let mark = [
            "revision", "mark", "bad", "1", "--host", "web-1", "--target", TARGET,
        ];
        let died = dies(&mut ground, &fault, says(&ctl, &mark, 0)).await;
        faults.was(died);
        let checked = ground
            .ctl
            .run(&["deployment", "check", &digest, "-o", "json"])
            .await;
        assert_eq!(checked.document()["bad"], true, "{fault}: {checked:?}");
        let taken = ["revision", "mark", "none", "1", "--host", "web-1"];
        let _ = ground.ctl.run(&taken).await.exits(0);
    }
    faults.ended(2);
}
