//! What programs and shells take from single answers: an exit code that says no, lines to go on from, completions.

use sternway_proto::v1;

use crate::{script::Script, stage::Stage};

const NO: Option<i32> = Some(13);

#[tokio::test]
async fn readiness_says_no_where_a_target_is_not_ready_and_why() {
    for (ready, code) in [
        (v1::ReadinessVerdict::Ready, Some(0)),
        (v1::ReadinessVerdict::NoPredecessor, Some(0)),
        (v1::ReadinessVerdict::NotReady, NO),
    ] {
        let stage = Stage::new(Script {
            ready,
            ..Script::default()
        })
        .await;
        let said = stage.run(&["readiness"]).await;
        assert_eq!(said.code, code, "{ready:?}: {}{}", said.stdout, said.stderr);
        assert!(said.stdout.contains("docker/shop"), "{}", said.stdout);
        let why = said.stdout.contains("the image is gone");
        assert_eq!(why, code == NO, "{}", said.stdout);
        let said = stage.run(&["readiness", "-o", "json"]).await;
        assert_eq!(said.code, code, "{ready:?}: {}{}", said.stdout, said.stderr);
    }
}

#[tokio::test]
async fn readiness_of_a_host_that_is_away_is_unknown_and_no_yes() {
    let stage = Stage::new(Script {
        host_state: v1::HostState::Offline,
        ready: v1::ReadinessVerdict::Ready,
        ..Script::default()
    })
    .await;
    let said = stage.run(&["readiness"]).await;
    assert_eq!(said.code, NO, "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("? unknown"), "{}", said.stdout);
    assert!(
        said.stdout.contains("it said ready then"),
        "{}",
        said.stdout
    );
    let said = stage.run(&["readiness", "-o", "json"]).await;
    assert_eq!(said.code, NO, "{}", said.stderr);
    let document: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    let readiness = &document["targets"][0]["readiness"];
    assert_eq!(readiness["verdict"], "unknown", "{document}");
    assert_eq!(readiness["last_verdict"], "ready", "{document}");
}

#[tokio::test]
async fn a_broken_record_is_a_no_and_told_with_its_place() {
    let whole = Stage::new(Script::default()).await;
    let said = whole.run(&["record", "verify"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    let broken = Stage::new(Script {
        broken_at: 7,
        ..Script::default()
    })
    .await;
    let said = broken.run(&["record", "verify"]).await;
    assert_eq!(said.code, NO, "{}{}", said.stdout, said.stderr);
    for part in ["7", "its hash does not fit"] {
        assert!(said.stdout.contains(part), "{}", said.stdout);
    }
    let said = broken.run(&["record", "verify", "-o", "json"]).await;
    assert_eq!(said.code, NO, "{}", said.stderr);
    let document: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(document["holds"], false, "{document}");
    assert_eq!(document["broken_at"], 7, "{document}");
}

#[tokio::test]
async fn an_export_begins_at_the_number_it_is_asked_to_begin_at() {
    let stage = Stage::new(Script::default()).await;
    let said = stage.run(&["record", "export", "--from", "99998"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let numbers: Vec<u64> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter_map(|entry| entry["number"].as_u64())
        .collect();
    assert_eq!(numbers, [99_998, 99_999, 100_000]);
}

#[tokio::test]
async fn a_mark_can_be_taken_away_again() {
    let stage = Stage::new(Script::default()).await;
    for (mark, asked) in [
        ("bad", v1::Mark::Bad),
        ("good", v1::Mark::Good),
        ("none", v1::Mark::Unspecified),
    ] {
        let arguments = ["revision", "mark", mark, "#1", "--host", "web-1"];
        let said = stage.run(&arguments).await;
        assert_eq!(said.code, Some(0), "{mark}: {}", said.stderr);
        let last = stage.script.marked.lock().expect("whole").pop();
        let last = last.expect("asked");
        assert_eq!(
            (last.mark(), last.revision.as_str(), last.target.as_str()),
            (asked, "#1", "")
        );
        let said = stage.run(&[&arguments[..], &["-o", "json"]].concat()).await;
        let document: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
        let told = (mark != "none").then_some(mark);
        assert_eq!(document["revision"]["mark"].as_str(), told, "{document}");
        assert_eq!(document["target"], "docker/shop", "{document}");
    }
}

#[tokio::test]
async fn an_answer_that_was_thinned_is_told_as_that() {
    for thinned in [true, false] {
        let stage = Stage::new(Script {
            thinned,
            ..Script::default()
        })
        .await;
        for command in [
            &["host", "ls"][..],
            &["target", "ls"],
            &["history", "--host", "web-1"],
        ] {
            let said = stage.run(command).await;
            assert_eq!(said.code, Some(0), "{command:?}: {}", said.stderr);
            let told = said.stderr.contains("details are left out");
            assert_eq!(told, thinned, "{command:?}: {}", said.stderr);
            let said = stage.run(&[command, &["-o", "json"]].concat()).await;
            let document: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
            assert_eq!(document["thinned"], thinned, "{command:?}: {document}");
        }
    }
}

#[tokio::test]
async fn completions_of_every_shell_name_the_commands() {
    let stage = Stage::new(Script::default()).await;
    for shell in ["bash", "zsh", "fish"] {
        let said = stage.run(&["completions", shell]).await;
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{shell}");
        for command in [
            "host",
            "target",
            "history",
            "diff",
            "rollback",
            "rollout",
            "revision",
            "deployment",
            "record",
            "readiness",
            "status",
            "completions",
            "config",
            "exit-codes",
            "--dry-run",
            "--host",
        ] {
            let option = command.trim_start_matches("--");
            let named = match shell {
                "fish" => said.stdout.contains(option),
                _ => said.stdout.contains(command),
            };
            assert!(named, "{shell} completes {command}");
        }
    }
    let said = stage.run(&["completions", "tcsh"]).await;
    assert_eq!(said.code, Some(2), "{}", said.stderr);
}
