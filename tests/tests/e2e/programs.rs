//! What programs rely on: exit codes and JSON documents.

use sternway_tests::{
    binary,
    ctl::Ctl,
    engine::Scope,
    port::Port,
    process::Process,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};
use tokio::process::Command;

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const ANSWER_IS_NO: i32 = 13;

#[tokio::test]
async fn exit_codes_tell_usage_from_an_unreachable_controller() {
    let mut stage = Stage::new().await;
    for wrong in [
        &["rollbak"][..],
        &["rollback"],
        &["rollback", "--host", HOST, "--swap", "lukewarm"],
    ] {
        let _ = stage.ctl.run(wrong).await.exits(USAGE);
    }
    stage.controller.kill();
    let said = stage.ctl.run(&["host", "ls"]).await.exits(UNREACHABLE);
    assert!(!said.stderr.is_empty(), "{said:?}");
    assert_eq!(said.stdout, "", "data only on stdout");
    let _ = Ctl::new("/nonexistent/ctl.toml")
        .run(&["host", "ls"])
        .await
        .exits(1)
        .complains("/nonexistent/ctl.toml");
}

/// The fields at the top of the document of a command, as the documentation's table has them.
fn documented(command: &str) -> Vec<String> {
    let docs = include_str!("../../../docs/ctl.md");
    let json = docs.split_once("## JSON").expect("a chapter").1;
    let names = |cell: &str| {
        let parts = cell.split('`').skip(1).step_by(2);
        parts
            .map(|part| part.split(':').next().unwrap_or(part).to_owned())
            .collect::<Vec<_>>()
    };
    json.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .find(|(commands, _)| names(commands).iter().any(|it| it == command))
        .map_or_else(Vec::new, |(_, document)| names(document))
}

#[tokio::test]
async fn every_command_has_the_json_that_is_documented() {
    let stage = Stage::new().await;
    let port = Port::lease();
    let publish = format!("127.0.0.1:{port}:8080");
    let flags = ["-p", publish.as_str()];
    let (v1, v2) = (
        Image::good("v1").shared().await,
        Image::good("v2").shared().await,
    );
    stage.scope.run("shop", &flags, &v1).await;
    stage.known_good("shop", 1).await;
    stage.scope.redeploy("shop", &flags, &v2).await;
    stage.known_good("shop", 2).await;
    let rollback = ["rollback", "--host", HOST, "--yes"];
    let _ = stage.ctl.run(&rollback).await.exits(0);
    let rollouts = stage.ctl.json(&["rollout", "ls"]).await;
    let rollout = rollouts["rollouts"][0]["id"].as_str().expect("an id");
    let digest = format!("sha256:{}", "0".repeat(64));

    for (arguments, plain) in [
        (&["host", "ls"][..], ""),
        (&["host", "show", HOST], ""),
        (&["host", "token"], ""),
        (&["target", "ls"], ""),
        (&["readiness"], ""),
        (
            &["target", "show", "--host", HOST],
            "deployments host host_state",
        ),
        (&["history", "--host", HOST], "deployments host host_state"),
        (&["diff", "--host", HOST, "1", "2"], ""),
        (&["revision", "mark", "good", "1", "--host", HOST], ""),
        (&["rollout", "ls"], ""),
        (&["rollout", "show", rollout], ""),
        (
            &["deployment", "record", "--host", HOST, "--digest", &digest],
            "id digest",
        ),
        (&["deployment", "check", &digest], ""),
        (&["record", "ls"], ""),
        (&["record", "verify"], ""),
        (&["config", "show"], ""),
        (&["status"], ""),
        (&["config", "path"], ""),
        (&["exit-codes"], ""),
    ] {
        let document = stage.ctl.json(arguments).await;
        assert_eq!(document["version"], 1, "{arguments:?}: {document:#}");
        // One command of two words, or of one.
        let command = arguments.get(..2).unwrap_or(arguments).join(" ");
        let mut fields = documented(&command);
        fields.extend(documented(arguments[0]));
        fields.extend(plain.split_whitespace().map(str::to_owned));
        assert!(!fields.is_empty(), "{command} is documented");
        for field in fields {
            assert!(
                document.get(&field).is_some(),
                "{command} has {field}: {document:#}"
            );
        }
    }
}

#[tokio::test]
async fn an_error_is_one_json_line_where_json_was_asked_for() {
    let mut stage = Stage::new().await;
    let show = ["host", "show", "nowhere", "-o", "json"];
    let failure = |said: &str| -> serde_json::Value {
        assert_eq!(said.lines().count(), 1, "{said}");
        serde_json::from_str(said).expect("JSON")
    };
    let said = stage.ctl.run(&show).await.exits(1);
    let error = failure(&said.stderr);
    assert_eq!(
        (error["type"].as_str(), error["exit_code"].as_i64()),
        (Some("error"), Some(1)),
        "{error}"
    );
    assert_eq!(error["code"], "host-unknown", "{error}");
    stage.controller.kill();
    let said = stage.ctl.run(&show).await.exits(UNREACHABLE);
    assert_eq!(failure(&said.stderr)["exit_code"], UNREACHABLE);
}

#[tokio::test]
async fn what_ends_a_service_is_a_line_of_its_json_log() {
    let scope = Scope::new().await;
    let file = |name: &str, text: &str| {
        let path = scope.folder().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let nowhere = scope.folder().join("no-folder");
    let wrong_key = "log_format = \"json\"\ndaata_dir = \"/x\"\n";
    // Not enrolled, or no cluster: the settings are right, and the service cannot run.
    let nothing = format!(
        "log_format = \"json\"\nlog = \"off\"\ndata_dir = {:?}\n",
        nowhere.display().to_string()
    );
    for (program, missing) in [
        ("sternway-agent", "has not joined"),
        ("sternway-controller", "there is no cluster"),
    ] {
        for (text, said) in [(wrong_key, "did you mean `data_dir`?"), (&nothing, missing)] {
            let config = file(&format!("{program}.toml"), text);
            let output = Command::new(binary::find(program))
                .arg("--config")
                .arg(&config)
                .arg("run")
                .output()
                .await
                .expect("starts");
            assert!(!output.status.success(), "{program}");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(stderr.lines().count(), 1, "{program}: {stderr}");
            let line: serde_json::Value = serde_json::from_str(&stderr).expect("JSON");
            assert_eq!(line["level"], "ERROR", "{line}");
            let error = line["fields"]["error"].as_str().unwrap_or_default();
            assert!(error.contains(said), "{program}: {line}");
            // A person who asks gets text.
            let output = Command::new(binary::find(program))
                .arg("--config")
                .arg(file(&format!("{program}.toml"), wrong_key))
                .args(["config", "show"])
                .output()
                .await
                .expect("starts");
            assert!(output.stderr.starts_with(b"error: "), "{output:?}");
        }
    }
}

/// The log of a service that runs until it has logged that, and is then stopped.
async fn logged(scope: &Scope, command: &mut std::process::Command, until_it: &str) -> String {
    let folder = tempfile::tempdir_in(scope.folder()).expect("a folder");
    let mut process = Process::spawn("service", command, folder.path());
    until(until_it, SETTLES, async || {
        let log = process.log();
        log.contains(until_it).then_some(()).ok_or(log)
    })
    .await;
    let ended = process.terminate(SETTLES).await;
    assert!(ended.success(), "{ended}");
    process.log()
}

#[tokio::test]
async fn the_log_is_json_line_by_line_for_programs_and_text_for_people() {
    let mut stage = Stage::new().await;
    stage.agent.kill();
    stage.controller.kill();
    let filter = "sternway_agent=debug,sternway_controller=debug,info";
    let service = |mut command: std::process::Command, format: &str| {
        command.args(["--log", filter, "--log-format", format]);
        command
    };
    let mut commands = Vec::new();
    for format in ["json", "human"] {
        // Without a controller the agent says that it has no session.
        let agent = service(stage.agent.command("run"), format);
        commands.push((format, agent, "no session with"));
        let controller = service(stage.controller.command("run"), format);
        commands.push((format, controller, "listening on"));
    }
    for (format, mut command, told) in commands {
        let log = logged(&stage.scope, &mut command, told).await;
        assert!(log.lines().count() > 1, "{log}");
        for line in log.lines() {
            let parsed = serde_json::from_str::<serde_json::Value>(line);
            if format == "human" {
                assert!(parsed.is_err(), "{line}");
                continue;
            }
            let entry = parsed.unwrap_or_else(|error| panic!("{error}: {line}"));
            let time = entry["timestamp"].as_str().unwrap_or_default();
            assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
            let levels = ["ERROR", "WARN", "INFO", "DEBUG"];
            assert!(levels.iter().any(|it| entry["level"] == *it), "{line}");
            assert_ne!(
                entry["fields"]["message"].as_str().unwrap_or_default(),
                "",
                "{line}"
            );
        }
    }
}

#[tokio::test]
async fn the_record_names_who_did_what_and_holds() {
    let stage = Stage::new().await;
    let exported = stage.ctl.run(&["record", "export"]).await.exits(0).lines();
    assert!(!exported.is_empty());
    let numbers: Vec<u64> = exported
        .iter()
        .filter_map(|entry| entry["number"].as_u64())
        .collect();
    let gapless: Vec<u64> = (1..).take(exported.len()).collect();
    assert_eq!(numbers, gapless, "oldest first, without gaps");
    for pair in exported.windows(2) {
        assert_eq!(pair[1]["previous_hash"], pair[0]["hash"]);
    }
    let of_host = format!("host:{HOST}");
    assert!(
        exported
            .iter()
            .any(|entry| entry["subject"] == of_host.as_str()),
        "that {HOST} joined is on record: {exported:#?}"
    );
}

#[tokio::test]
async fn a_pipeline_learns_that_a_digest_is_marked_bad() {
    let stage = Stage::new().await;
    let port = Port::lease();
    let publish = format!("127.0.0.1:{port}:8080");
    let v1 = Image::good("v1").shared().await;
    stage.scope.run("shop", &["-p", &publish], &v1).await;
    stage.known_good("shop", 1).await;
    let id = stage.revision("shop", 1).await["image_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let _ = stage.ctl.run(&["deployment", "check", &id]).await.exits(0);
    let mark = [
        "revision", "mark", "bad", "1", "--host", HOST, "--reason", "leaks",
    ];
    let _ = stage.ctl.run(&mark).await.exits(0);
    let said = stage
        .ctl
        .run(&["deployment", "check", &id])
        .await
        .exits(ANSWER_IS_NO);
    assert!(said.stdout.contains("leaks"), "{said:?}");
}
