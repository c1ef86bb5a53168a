//! What a person sees: questions and their answers, progress, Ctrl-C. Each in a real terminal.

use std::{process::Stdio, sync::Arc, time::Duration};

use sternway_proto::v1;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    script::{HOST_ID, ROLLOUT, Script},
    stage::Stage,
    terminal::{CTRL_C, CTRL_D, DEADLINE, Terminal, without_sequences},
};

const ASK: [&str; 3] = ["rollback", "--host", "web-1"];
const YES: [&str; 4] = ["rollback", "--host", "web-1", "--yes"];
const QUESTION: &str = "Roll back? [y/N] ";
const NAME: &str = "Type its name to roll it back: ";
const PRODUCTION: &[(&str, &str)] = &[("env", "production")];

/// What an answer at a question leads to: the exit code, what was shown, how many rollbacks were started.
async fn answered(script: Script, question: &str, keys: &str) -> (Option<i32>, String, usize) {
    let stage = Stage::new(script).await;
    let mut terminal = Terminal::start(&stage, 100, &ASK);
    terminal.shows(question).await;
    terminal.types(keys);
    let (code, shown) = terminal.ends().await;
    (code, shown, stage.started().len())
}

#[tokio::test]
async fn the_plan_stands_above_the_question_and_yes_rolls_back() {
    for yes in ["y\n", "YES\n"] {
        let (code, shown, started) = answered(Script::default(), QUESTION, yes).await;
        assert_eq!((code, started), (Some(0), 1), "{shown}");
        let (plan, rest) = shown.split_once(QUESTION).expect("asked");
        assert!(
            plan.contains("Rollback of docker/shop on web-1: #2 → #1"),
            "{shown}"
        );
        assert!(rest.contains("✔ restored"), "{shown}");
    }
}

#[tokio::test]
async fn anything_but_yes_declines_and_changes_nothing() {
    for (what, keys) in [
        ("no", "n\n"),
        ("nothing", "\n"),
        ("something else", "yes please\n"),
        ("the end of the input", CTRL_D),
        ("Ctrl-C", CTRL_C),
    ] {
        let (code, shown, started) = answered(Script::default(), QUESTION, keys).await;
        assert_eq!((code, started), (Some(5), 0), "{what}: {shown}");
        assert!(
            shown.contains("declined; nothing was changed"),
            "{what}: {shown}"
        );
        let said = shown.lines().last().unwrap_or_default();
        assert!(
            without_sequences(said).starts_with("error: declined"),
            "a line of its own after {what}: {shown}"
        );
    }
}

#[tokio::test]
async fn production_wants_the_name_of_the_host() {
    let script = || Script {
        labels: PRODUCTION,
        ..Script::default()
    };
    let (code, shown, started) = answered(script(), NAME, "web-1\n").await;
    assert_eq!((code, started), (Some(0), 1), "{shown}");
    for (keys, said) in [
        ("web-2\n", "web-2 is not the name of the host"),
        ("y\n", "y is not the name of the host"),
        ("\n", "no name was typed"),
        (CTRL_D, "no name was typed"),
    ] {
        let (code, shown, started) = answered(script(), NAME, keys).await;
        assert_eq!((code, started), (Some(5), 0), "{keys:?}: {shown}");
        assert!(shown.contains(said), "{keys:?}: {shown}");
    }
}

const REVOKE: [&str; 3] = ["host", "revoke", "web-1"];
const CUT: &str = "Cut it off for good? It has to join again. [y/N] ";
const CUT_BY_NAME: &str = "Type its name to cut it off for good: ";

/// What an answer at the question of `host revoke` leads to, and who was revoked.
async fn revoked(script: Script, question: &str, keys: &str) -> (Option<i32>, String, Vec<String>) {
    let stage = Stage::new(script).await;
    let mut terminal = Terminal::start(&stage, 100, &REVOKE);
    terminal.shows(question).await;
    terminal.types(keys);
    let (code, shown) = terminal.ends().await;
    let revoked = stage.script.revoked.lock().expect("whole").clone();
    (code, shown, revoked)
}

#[tokio::test]
async fn a_revocation_shows_the_host_and_what_is_done_there_and_asks() {
    let busy = || Script {
        restoring: ROLLOUT,
        ..Script::default()
    };
    let (code, shown, revoked_hosts) = revoked(busy(), CUT, "y\n").await;
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(
        revoked_hosts,
        [HOST_ID],
        "by its id: a name may be another's"
    );
    let (above, _) = shown.split_once(CUT).expect("asked");
    for part in [
        "controller",
        HOST_ID,
        "docker/shop is being restored by rollout",
        ROLLOUT,
    ] {
        assert!(above.contains(part), "{part:?}: {shown}");
    }
    for keys in ["n\n", CTRL_C] {
        let (code, shown, revoked_hosts) = revoked(busy(), CUT, keys).await;
        assert_eq!(
            (code, revoked_hosts.len()),
            (Some(5), 0),
            "{keys:?}: {shown}"
        );
        assert!(shown.contains("declined; nothing was changed"), "{shown}");
    }
}

#[tokio::test]
async fn a_revocation_in_production_wants_the_name_and_an_unknown_host_is_never_asked_about() {
    let production = || Script {
        labels: PRODUCTION,
        ..Script::default()
    };
    let (code, shown, revoked_hosts) = revoked(production(), CUT_BY_NAME, "web-1\n").await;
    assert_eq!((code, revoked_hosts.len()), (Some(0), 1), "{shown}");
    let (code, shown, revoked_hosts) = revoked(production(), CUT_BY_NAME, "y\n").await;
    assert_eq!((code, revoked_hosts.len()), (Some(5), 0), "{shown}");

    let stage = Stage::new(Script::default()).await;
    let (code, shown) = Terminal::start(&stage, 100, &["host", "revoke", "wbe-1"])
        .ends()
        .await;
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("did you mean web-1?"), "{shown}");
    assert!(!shown.contains("Cut it off"), "{shown}");
}

#[tokio::test]
async fn ctrl_c_detaches_and_says_how_to_come_back() {
    let stage = Stage::new(Script {
        hangs: true,
        ..Script::default()
    })
    .await;
    let mut terminal = Terminal::start(&stage, 100, &YES);
    terminal.shows("started: step 1/1, stop shop").await;
    terminal.types(CTRL_C);
    terminal
        .shows(&format!("`ctl rollout watch {ROLLOUT}`"))
        .await;
    let (code, shown) = terminal.ends().await;
    assert_eq!(code, Some(6), "{shown}");
    assert!(
        shown.contains("\x1b[2K"),
        "the bar is taken away: {shown:?}"
    );

    let mut terminal = Terminal::start(&stage, 100, &["rollout", "watch", ROLLOUT]);
    terminal.shows("started: step 1/1, stop shop").await;
    terminal.types(CTRL_C);
    let (code, shown) = terminal.ends().await;
    assert_eq!(code, Some(6), "{shown}");
}

#[tokio::test]
async fn the_second_ctrl_c_ends_at_once() {
    let stage = Stage::new(Script {
        start_hangs: true,
        ..Script::default()
    })
    .await;
    let mut terminal = Terminal::start(&stage, 100, &ASK);
    terminal.shows(QUESTION).await;
    terminal.types("y\n");
    // Only then the rollback may have been started, and the answer is waited for.
    asked_to_start(&stage).await;
    terminal.types(CTRL_C);
    terminal.shows("Ctrl-C again quits at once").await;
    terminal.types(CTRL_C);
    terminal.shows("ctl rollout ls").await;
    let (code, shown) = terminal.ends().await;
    assert_eq!(code, Some(6), "{shown}");
}

/// Waits until the controller was asked to start a rollback.
async fn asked_to_start(stage: &Stage) {
    let asked = async {
        while stage.started().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, asked).await.expect("asked in time");
}

#[tokio::test]
async fn a_bar_goes_forward_over_the_steps_and_back_in_an_undo() {
    // A narrow terminal has no room for the bar itself, and keeps the numbers.
    for (columns, full, empty) in [(100, "━━━━", "────"), (60, "━━━━", "────"), (40, "", "")]
    {
        let pace = Arc::new(Semaphore::new(0));
        let stage = Stage::new(Script {
            undoes: true,
            pace: Some(pace.clone()),
            ends: v1::RolloutState::Undone,
            outcome: v1::Outcome::Undone,
            ..Script::default()
        })
        .await;
        let watch = ["rollout", "watch", ROLLOUT];
        let mut terminal = Terminal::start(&stage, columns, &watch);
        for (events, position, bar) in [
            // The plan and the first step begun; the first done and the second begun; the undo of the first begun.
            (2, "0/2 started: step 1", empty),
            (2, "1/2 started: step 2", full),
            (4, "0/2 undoing: step 1", empty),
        ] {
            pace.add_permits(events);
            if !bar.is_empty() {
                terminal.shows(bar).await;
            }
            terminal.shows(position).await;
        }
        pace.add_permits(3);
        let (code, shown) = terminal.ends().await;
        assert_eq!(code, Some(10), "{shown}");
        let widest = shown
            .split(['\r', '\n'])
            .map(without_sequences)
            .filter(|line| line.trim_end().ends_with("s)"))
            .map(|line| line.chars().count())
            .max();
        assert!(
            widest.is_some() && widest <= Some(columns.into()),
            "{columns}, {widest:?}: {shown:?}"
        );
    }
}

#[tokio::test]
async fn progress_is_coloured_on_a_terminal_only() {
    let stage = Stage::new(Script::default()).await;
    let (code, shown) = Terminal::start(&stage, 100, &YES).ends().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("\x1b[32m✔ done\x1b[0m step 1/1"), "{shown}");
    assert!(shown.contains("\x1b[32m✔ restored"), "{shown}");

    let said = stage.run(&YES).await;
    let both = format!("{}{}", said.stdout, said.stderr);
    assert!(!both.contains('\x1b'), "{both:?}");
    assert!(both.contains("✔ done step 1/1, stop shop"), "{both}");
}

#[tokio::test]
async fn no_color_is_honoured_in_a_terminal() {
    let stage = Stage::new(Script::default()).await;
    let flag = [&YES[..], &["--no-color"]].concat();
    let by_flag = Terminal::start(&stage, 100, &flag);
    let by_environment = Terminal::start_with(&stage, 100, &YES, |command| {
        command.env("NO_COLOR", "1");
    });
    for terminal in [by_flag, by_environment] {
        let (code, shown) = terminal.ends().await;
        assert_eq!(code, Some(0), "{shown}");
        let coloured = shown.split("\x1b[").skip(1).any(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
                .starts_with('m')
        });
        assert!(!coloured, "{shown:?}");
        assert!(shown.contains("✔ done step 1/1"), "{shown}");
    }
}

#[tokio::test]
async fn a_dumb_terminal_gets_plain_lines() {
    let stage = Stage::new(Script::default()).await;
    let terminal = Terminal::start_with(&stage, 100, &YES, |command| {
        command.env("TERM", "dumb");
    });
    let (code, shown) = terminal.ends().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert!(shown.contains("started step 1/1, stop shop"), "{shown}");
}

#[tokio::test]
async fn data_in_a_pipe_stays_plain_beside_a_terminal() {
    let stage = Stage::new(Script::default()).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let out = Stdio::from(file.reopen().expect("opens"));
    let arguments = [&YES[..], &["-o", "json"]].concat();
    let terminal = Terminal::start_with(&stage, 100, &arguments, |command| {
        command.stdout(out);
    });
    let (code, shown) = terminal.ends().await;
    assert_eq!(code, Some(0), "{shown}");
    let data = std::fs::read_to_string(file.path()).expect("read");
    for line in data.lines() {
        let _: serde_json::Value = serde_json::from_str(line).expect("JSON");
    }
    assert!(
        data.contains("order_event") && !data.contains('\x1b'),
        "{data}"
    );
}

#[tokio::test]
async fn a_table_fits_the_terminal_it_is_shown_in() {
    let stage = Stage::new(Script {
        labels: &[
            ("env", "staging"),
            ("role", "a-rather-long-role-that-has-no-place-here"),
        ],
        ..Script::default()
    })
    .await;
    for columns in [60, 100] {
        let (code, shown) = Terminal::start(&stage, columns, &["host", "ls"])
            .ends()
            .await;
        assert_eq!(code, Some(0), "{shown}");
        let plain = without_sequences(&shown);
        let longest = plain.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(columns.into()), "{columns}: {plain}");
        assert!(plain.contains("web-1"), "{plain}");
    }
}

#[tokio::test]
async fn a_line_of_progress_is_cut_at_the_edge_of_its_terminal_and_nowhere_else() {
    let stage = Stage::new(Script::default()).await;
    let (code, shown) = Terminal::start(&stage, 40, &["rollout", "watch", ROLLOUT])
        .ends()
        .await;
    assert_eq!(code, Some(0), "{shown}");
    let plain = without_sequences(&shown);
    let cut: Vec<&str> = plain.lines().filter(|line| line.ends_with('…')).collect();
    assert!(!cut.is_empty(), "{plain}");
    for line in cut {
        // The bar was there before, and is painted over.
        let length = line.chars().count();
        let seen: String = line.chars().skip(length.saturating_sub(40)).collect();
        let time = seen
            .get(..8)
            .is_some_and(|time| time.matches(':').count() == 2);
        assert!(time, "40 columns from the time to the edge: {seen:?}");
    }
    let said = stage.run(&["rollout", "watch", ROLLOUT]).await;
    assert!(!said.stderr.contains('…'), "{}", said.stderr);
    assert!(
        said.stderr.contains("step 1/1, stop shop"),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn an_undone_rollback_is_red_and_says_so() {
    let stage = Stage::new(Script {
        ends: v1::RolloutState::Undone,
        outcome: v1::Outcome::Undone,
        ..Script::default()
    })
    .await;
    let (code, shown) = Terminal::start(&stage, 100, &YES).ends().await;
    assert_eq!(code, Some(10), "{shown}");
    assert!(shown.contains("\x1b[31m✖ undone"), "{shown:?}");
}

#[tokio::test]
async fn an_order_for_a_host_that_is_away_waits_and_says_until_when() {
    let stage = Stage::new(Script {
        hangs: true,
        // 2100-01-01T00:00:05Z
        offline_until_ms: 4_102_444_805_000,
        ..Script::default()
    })
    .await;
    let mut terminal = Terminal::start(&stage, 200, &YES);
    terminal
        .shows("web-1 is offline: the order waits until 2100-01-01 00:00:05 UTC")
        .await;
    terminal.shows("Ctrl-C leaves it waiting").await;
    terminal.types(CTRL_C);
    terminal
        .shows("The order waits for web-1 until 2100-01-01 00:00:05 UTC")
        .await;
    let (code, shown) = terminal.ends().await;
    assert_eq!(code, Some(6), "{shown}");
}

#[tokio::test]
async fn a_token_comes_with_the_command_that_uses_it_and_only_once_in_a_pipe() {
    let stage = Stage::new(Script::default()).await;
    let (code, shown) = Terminal::start(&stage, 100, &["host", "token"])
        .ends()
        .await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("  sternway-agent join swj1_token\r\n"),
        "{shown}"
    );

    let said = stage.run(&["host", "token"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "swj1_token\n"));
    assert!(
        said.stderr.contains("sternway-agent join -"),
        "{}",
        said.stderr
    );
    assert!(!said.stderr.contains("swj1_token"), "{}", said.stderr);
    let said = stage.run(&["host", "token", "-o", "json"]).await;
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));

    let of_earlier = ["host", "token", "-o", "json", "--name", "web-0"];
    let said = stage.run(&of_earlier).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("--label env=production"),
        "{}",
        said.stderr
    );
    let said = stage
        .run(&[&of_earlier[..], &["--label", "env=production"]].concat())
        .await;
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}
