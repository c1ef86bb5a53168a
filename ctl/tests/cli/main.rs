//! The real `ctl` against a scripted controller over mutual TLS: stdout, stderr and exit code together.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it breaks"
)]

mod answers;
mod person;
mod script;
mod stage;
mod terminal;

use std::{sync::atomic::Ordering, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use sternway_proto::v1;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

use crate::{
    script::{HOST_ID, ROLLOUT, Script},
    stage::{Stage, said},
};

const ROLLBACK: [&str; 4] = ["rollback", "--host", "web-1", "--yes"];

#[tokio::test]
async fn a_lost_answer_starts_nothing_twice_and_a_cut_stream_is_taken_up_again() {
    let stage = Stage::new(Script {
        lose_starts: 2,
        cut_watches: 1,
        ..Script::default()
    })
    .await;
    let said = stage.run(&ROLLBACK).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout
            .contains("✔ restored: docker/shop on web-1 went from #2 to #1")
    );
    assert!(
        said.stderr.contains("this starts nothing twice"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("attaching again"), "{}", said.stderr);
    assert_eq!(
        said.stderr.matches("started step 1/1").count(),
        1,
        "{}",
        said.stderr
    );
    let started = stage.script.started.lock().expect("whole").clone();
    assert_eq!(started.len(), 3);
    assert!(started.iter().all(|id| *id == started[0]), "{started:?}");
}

#[tokio::test]
async fn a_deployment_whose_answer_is_lost_is_recorded_again_under_the_same_id() {
    let stage = Stage::new(Script {
        lose_starts: 2,
        ..Script::default()
    })
    .await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let said = stage
        .run(&[
            "deployment",
            "record",
            "--digest",
            &digest,
            "--host",
            "web-1",
        ])
        .await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let twice = "records nothing twice";
    assert_eq!(said.stderr.matches(twice).count(), 2, "{}", said.stderr);
    let ids = stage.started();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(!ids[0].is_empty(), "{ids:?}");
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_revocation_and_a_mark_whose_answer_is_lost_are_asked_for_again() {
    let lost = |lose_starts| Script {
        lose_starts,
        ..Script::default()
    };
    let revoke = ["host", "revoke", "web-1", "--yes"];
    let stage = Stage::new(lost(2)).await;
    let said = stage.run(&revoke).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let again = "a host is revoked once, however often that is asked";
    assert_eq!(said.stderr.matches(again).count(), 2, "{}", said.stderr);
    let revoked = stage.script.revoked.lock().expect("whole").clone();
    assert_eq!(revoked, [HOST_ID; 3]);
    let said = Stage::new(lost(99)).await.run(&revoke).await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(
        said.stderr.contains("the host may be revoked"),
        "{}",
        said.stderr
    );

    // After the mark the word would mean another revision.
    let mark = ["revision", "mark", "bad", "previous", "--host", "web-1"];
    let stage = Stage::new(lost(2)).await;
    let said = stage.run(&mark).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let marked = stage.script.marked.lock().expect("whole").clone();
    let marked: Vec<&str> = marked.iter().map(|it| it.revision.as_str()).collect();
    assert_eq!(marked, vec!["a".repeat(64); 3]);
    let said = Stage::new(lost(99)).await.run(&mark).await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(
        said.stderr.contains("the revision may be marked"),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn a_plan_that_was_reviewed_is_the_one_that_is_carried_out() {
    let stage = Stage::new(Script::default()).await;
    let said = stage
        .run(&["rollback", "--host", "web-1", "--dry-run"])
        .await;
    assert_eq!(said.code, Some(20), "{}", said.stderr);
    assert!(
        said.stderr.contains("ctl rollback --plan plan --yes"),
        "{}",
        said.stderr
    );
    let said = stage
        .run(&["rollback", "--plan", "plan", "--yes", "-o", "json"])
        .await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout
            .starts_with("{\"version\":1,\"type\":\"rollout\""),
        "{}",
        said.stdout
    );
    let plans = stage.script.plans.lock().expect("whole").clone();
    assert_eq!(plans, ["plan"]);
    // It says all there is to say, and nobody can be shown it again.
    for wrong in [
        &["rollback", "--plan", "plan"][..],
        &["rollback", "--plan", "plan", "--yes", "--host", "web-1"],
        &["rollback", "--plan", "plan", "--yes", "--to", "1"],
        &["rollback", "--yes"],
    ] {
        assert_eq!(stage.run(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn what_the_controller_answers_is_not_taken_for_no_answer() {
    let full = Stage::new(Script {
        refuse_starts: (9, "store-full"),
        ..Script::default()
    })
    .await;
    let said = full.run(&ROLLBACK).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let told = "error: cannot start the rollback of web-1\n  because: the database is full\n  next: make room\n";
    assert!(said.stderr.ends_with(told), "{}", said.stderr);
    assert!(!said.stderr.contains("asking again"), "{}", said.stderr);
    assert_eq!(full.started().len(), 1);

    let late = Stage::new(Script {
        agent_late: "the agent is late",
        ..Script::default()
    })
    .await;
    let said = late.run(&ROLLBACK).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    insta::assert_snapshot!(said.stderr, @r"
    error: cannot plan a rollback of web-1
      because: the agent is late
      next: is it hanging?
    ");
}

#[tokio::test]
async fn a_controller_that_is_busy_is_asked_again_and_a_start_it_never_took_is_not_called_lost() {
    let stage = Stage::new(Script {
        refuse_starts: (1, "store-locked"),
        ..Script::default()
    })
    .await;
    let said = stage.run(&ROLLBACK).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(stage.started().len(), 2);
    assert!(said.stderr.contains("asking again"), "{}", said.stderr);
    assert!(!said.stderr.contains("no answer"), "{}", said.stderr);

    let stage = Stage::new(Script {
        refuse_starts: (99, "store-locked"),
        ..Script::default()
    })
    .await;
    let said = stage.run(&ROLLBACK).await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(!said.stderr.contains("may have been"), "{}", said.stderr);
}

#[tokio::test]
async fn the_exit_code_tells_how_it_ended() {
    for (ends, outcome, code) in [
        (v1::RolloutState::Undone, v1::Outcome::Undone, 10),
        (v1::RolloutState::NeedsHuman, v1::Outcome::NeedsHuman, 11),
        (v1::RolloutState::Expired, v1::Outcome::Expired, 12),
        (v1::RolloutState::Refused, v1::Outcome::Refused, 4),
    ] {
        let stage = Stage::new(Script {
            ends,
            outcome,
            ..Script::default()
        })
        .await;
        assert_eq!(stage.run(&ROLLBACK).await.code, Some(code), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_named_with_the_next_step() {
    let stage = Stage::new(Script::default()).await;
    let said = stage.run(&["rollback", "--host", "wbe-1"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    insta::assert_snapshot!(said.stderr, @r"
    error: cannot plan a rollback of wbe-1
      because: no host is named wbe-1
      next: did you mean web-1?
    ");
}

#[tokio::test]
async fn without_a_terminal_and_a_yes_nothing_is_started() {
    let stage = Stage::new(Script::default()).await;
    let said = stage.run(&["rollback", "--host", "web-1"]).await;
    assert_eq!(said.code, Some(4));
    assert!(said.stderr.contains("next: add --yes"), "{}", said.stderr);
    assert!(stage.script.started.lock().expect("whole").is_empty());
}

#[tokio::test]
async fn a_dry_run_stops_after_the_plan_and_a_blocker_refuses() {
    let stage = Stage::new(Script::default()).await;
    let said = stage
        .run(&["rollback", "--host", "web-1", "--dry-run", "-o", "json"])
        .await;
    assert_eq!(said.code, Some(20), "{}", said.stderr);
    let plan: serde_json::Value = serde_json::from_str(&said.stdout).expect("one line");
    assert_eq!(
        (plan["type"].as_str(), plan["plan"]["to_number"].as_u64()),
        (Some("plan"), Some(1))
    );
    let stage = Stage::new(Script {
        blocker: true,
        ..Script::default()
    })
    .await;
    let said = stage.run(&ROLLBACK).await;
    assert_eq!(said.code, Some(4));
    assert!(
        said.stderr
            .contains("because: the image is gone\n  next: push it again")
    );
    assert!(stage.script.started.lock().expect("whole").is_empty());
}

#[tokio::test]
async fn json_is_one_document_a_line_and_no_wait_prints_the_id() {
    let stage = Stage::new(Script::default()).await;
    let said = stage.run(&[&ROLLBACK[..], &["-o", "json"]].concat()).await;
    let kinds: Vec<String> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|value| value["type"].as_str().expect("a type").to_owned())
        .collect();
    let order = "order_event";
    assert_eq!(kinds, ["plan", "rollout", order, order, order, "rollout"]);
    let said = stage.run(&[&ROLLBACK[..], &["--no-wait"]].concat()).await;
    assert_eq!((said.code, said.stdout), (Some(0), format!("{ROLLOUT}\n")));
}

#[tokio::test]
async fn ctrl_c_lets_go_and_says_how_to_come_back() {
    let stage = Stage::new(Script {
        hangs: true,
        ..Script::default()
    })
    .await;
    let mut child = stage.command(&ROLLBACK).spawn().expect("starts");
    let pid =
        Pid::from_raw(i32::try_from(child.id().expect("runs")).expect("small")).expect("a pid");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut seen = String::new();
    let read = async {
        while let Some(line) = lines.next_line().await.expect("readable") {
            seen += &line;
            if line.contains("started step") {
                kill_process(pid, Signal::INT).expect("signalled");
            }
        }
    };
    timeout(Duration::from_secs(20), read)
        .await
        .expect("lets go in time");
    let status = child.wait().await.expect("ends");
    assert_eq!(status.code(), Some(6), "{seen}");
    assert!(
        seen.contains(&format!("`ctl rollout watch {ROLLOUT}`")),
        "{seen}"
    );
    let arguments = ["rollout", "watch", ROLLOUT, "--timeout", "200ms"];
    assert_eq!(stage.run(&arguments).await.code, Some(6));
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let stage = Stage::new(Script::default()).await;
    let mut child = stage
        .command(&["record", "export"])
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.next_line().await.expect("readable").is_some());
    drop(lines);
    let said = said(child.wait_with_output()).await;
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn an_expired_certificate_is_not_even_tried() {
    let stage = Stage::expired().await;
    let said = stage.run(&["host", "ls"]).await;
    assert_eq!(said.code, Some(4));
    assert!(
        said.stderr.contains("the certificate expired"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .contains("sternway-controller operator issue --operator alice --role ")
    );
    assert_eq!(stage.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_revoked_certificate_is_told_as_such_once_and_with_the_way_to_new_ones() {
    let stage = Stage::revoked().await;
    let new = "sternway-controller operator issue --operator alice --role ";
    for arguments in [
        &["host", "ls"][..],
        // Would be asked for again, if the answer were only lost.
        &["revision", "mark", "good", "1", "--host", "web-1"],
        &["rollout", "watch", "0198a1b2"],
        &["record", "export"],
    ] {
        let said = stage.run(arguments).await;
        assert_eq!(said.code, Some(4), "{arguments:?}: {}", said.stderr);
        let told =
            said.stderr.contains("your certificate was revoked") && said.stderr.contains(new);
        assert!(told, "{arguments:?}: {}", said.stderr);
        for wrong in ["fatal alert", "again", "that the controller runs"] {
            assert!(
                !said.stderr.contains(wrong),
                "{arguments:?}: {}",
                said.stderr
            );
        }
    }
}

#[tokio::test]
async fn who_is_revoked_while_a_rollout_runs_is_not_told_that_nothing_was_changed() {
    for arguments in [
        &[&ROLLBACK[..], &["-o", "json"]].concat()[..],
        &["rollout", "watch", ROLLOUT, "-o", "json"],
    ] {
        let stage = Stage::new(Script {
            hangs: true,
            ..Script::default()
        })
        .await;
        let mut child = stage.command(arguments).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let attached = async {
            while let Some(line) = lines.next_line().await.expect("readable") {
                if line.contains(r#""state":"started""#) {
                    return true;
                }
            }
            false
        };
        let attached = timeout(Duration::from_secs(30), attached).await;
        assert!(attached.expect("in time"), "{arguments:?}");
        stage.revoke();
        let said = said(child.wait_with_output()).await;
        assert_eq!(said.code, Some(3), "{arguments:?}: {}", said.stderr);
        for told in [
            "operator-revoked",
            "sternway-controller operator issue --operator alice --role ",
            &format!(
                "the rollout goes on without us; come back with `ctl rollout watch {ROLLOUT}`"
            ),
        ] {
            assert!(said.stderr.contains(told), "{arguments:?}: {}", said.stderr);
        }
    }
}

#[tokio::test]
async fn who_is_revoked_after_a_start_that_was_lost_is_told_that_it_may_stand() {
    let stage = Stage::new(Script {
        start_hangs: true,
        ..Script::default()
    })
    .await;
    let child = stage.command(&ROLLBACK).spawn().expect("starts");
    let asked = async {
        while stage.started().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), asked)
        .await
        .expect("in time");
    stage.revoke();
    let said = said(child.wait_with_output()).await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    for told in [
        "your certificate was revoked",
        "the rollback may have been started",
        "sternway-controller operator issue --operator alice --role ",
        "see with `ctl rollout ls` whether it was",
    ] {
        assert!(said.stderr.contains(told), "{}", said.stderr);
    }
}

#[tokio::test]
async fn nobody_listening_and_the_wrong_cluster_are_told_apart() {
    let stage = Stage::new(Script::default()).await;
    assert_eq!(stage.run(&["host", "ls"]).await.code, Some(0));
    let config = std::fs::read_to_string(stage.config()).expect("there");
    let swap = |key: &str, value: &str| {
        let lines = config.lines().map(|line| {
            if line.starts_with(key) {
                format!("{key} = \"{value}\"\n")
            } else {
                format!("{line}\n")
            }
        });
        std::fs::write(stage.config(), lines.collect::<String>()).expect("written");
    };
    swap("cluster", "00000000-0000-4000-8000-000000000000");
    let said = stage.run(&["host", "ls"]).await;
    assert_eq!(said.code, Some(4), "{}", said.stderr);
    assert!(
        said.stderr.contains("of the same cluster"),
        "{}",
        said.stderr
    );
    swap("controller", "127.0.0.1:1");
    let said = stage.run(&["host", "ls"]).await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(
        said.stderr.contains("Connection refused"),
        "{}",
        said.stderr
    );
}
