//! The demo, as `make demo` runs it, with the programs of the tests: it shows a rollback, and leaves nothing behind,
//! wherever it is stopped.

use std::{fs, os::unix::process::CommandExt as _, process::Command, time::Duration};

use rustix::process::Signal;
use sternway_tests::{binary, port::Port, process::Process, wait::until};
use tempfile::TempDir;

/// It waits for checks and a soak; the rest is for a busy machine.
const ENDS: Duration = Duration::from_mins(4);

struct Demo {
    name: String,
    process: Process,
    _folder: TempDir,
    _ports: [Port; 4],
}

impl Demo {
    fn start(case: &str) -> Self {
        let name = format!("swt-demo-{case}-{}", std::process::id());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Self::script("deploy/demo/run", &name);
        let programs = binary::find("ctl");
        command.env("DEMO_BIN", programs.parent().expect("a folder"));
        command.process_group(0);
        let ports = std::array::from_fn(|_| Port::lease());
        let names = ["PORT", "LISTEN", "LISTEN_ENROLMENT", "LISTEN_METRICS"];
        for (name, port) in names.into_iter().zip(&ports) {
            command.env(format!("DEMO_{name}"), port.to_string());
        }
        Self {
            process: Process::spawn("demo", &mut command, folder.path()),
            name,
            _folder: folder,
            _ports: ports,
        }
    }

    fn script(path: &str, name: &str) -> Command {
        let mut command = Command::new(binary::script(path));
        command.env("DEMO_NAME", name).env_remove("DEMO_KEEP");
        command
    }

    async fn says(&self, part: &str) {
        until(part, ENDS, async || {
            let said = self.process.log();
            said.contains(part).then_some(()).ok_or(said)
        })
        .await;
    }

    async fn exits(&mut self) -> Option<i32> {
        self.process.ended(ENDS).await.code()
    }

    fn left(&self) -> Vec<String> {
        let filter = format!("label=sternway.demo={}", self.name);
        let mut left = Vec::new();
        for list in [&["ps", "-aq"], &["images", "-q"]] {
            let listed = Command::new("docker")
                .args(list)
                .args(["--filter", &filter])
                .output();
            let listed = listed.expect("the docker tool starts").stdout;
            left.extend(String::from_utf8_lossy(&listed).lines().map(str::to_owned));
        }
        let state = format!("target/{}", self.name);
        if binary::workspace().join(&state).exists() {
            left.push(state.clone());
        }
        for process in fs::read_dir("/proc").expect("/proc").flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&state) {
                left.push(line);
            }
        }
        left
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.process.kill();
        let _ = Self::script("deploy/demo/down", &self.name).output();
    }
}

#[tokio::test]
async fn the_demo_rolls_back_and_leaves_nothing() {
    let mut demo = Demo::start("whole");
    let code = demo.exits().await;
    let said = demo.process.log();
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "(HTTP 500)",
        "✖ failed",
        "--reason 'version 2 answers 500'",
        "ctl readiness",
        "restored",
        "the record holds",
        "Done in",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(demo.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_nothing() {
    let mut demo = Demo::start("cut");
    demo.says("A broken version 2 over it").await;
    demo.process.signal_group(Signal::INT);
    let code = demo.exits().await;
    assert_eq!(code, Some(130), "{}", demo.process.log());
    assert_eq!(demo.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_demo_that_is_interrupted_in_its_rollback_does_not_say_that_it_goes_on() {
    let mut demo = Demo::start("back");
    demo.says("ctl rollback --host").await;
    demo.process.signal_group(Signal::INT);
    let code = demo.exits().await;
    let said = demo.process.log();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("demo: stopped; removing"), "{said}");
    assert!(!said.contains("goes on without us"), "{said}");
    assert_eq!(demo.left(), Vec::<String>::new());
}

#[test]
fn a_demo_whose_engine_does_not_answer_is_not_called_removed() {
    let name = format!("swt-demo-silent-{}", std::process::id());
    let state = binary::workspace().join("target").join(&name);
    fs::create_dir_all(&state).expect("made");
    let down = |engine: Option<&str>| {
        let mut script = Demo::script("deploy/demo/down", &name);
        script.envs(engine.map(|engine| ("DOCKER_HOST", engine)));
        script.output().expect("it starts")
    };
    let output = down(Some("unix:///nonexistent/docker.sock"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let kept = state.exists();
    let again = down(None);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("sternway.demo={name}")), "{said}");
    assert!(said.contains("again when the engine answers"), "{said}");
    assert!(kept, "nothing tells of what is left");
    assert!(again.status.success(), "{again:?}");
    assert!(!state.exists());
}

/// Redirects that lead to containers of the demo.
fn redirects(name: &str) -> Vec<String> {
    let filter = format!("label=sternway.demo={name}");
    let format = "{{.Label \"sternway.order\"}}";
    let orders = said(
        "docker",
        &["ps", "-a", "--filter", &filter, "--format", format],
    );
    let tables = said("nft", &["list", "tables"]);
    let order = |table: &str| Some(table.strip_prefix("table ip sternway_")?.trim().to_owned());
    let mut tables: Vec<String> = tables.lines().filter_map(order).collect();
    tables.retain(|order| orders.replace('-', "").contains(order.as_str()));
    tables
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_demo_that_is_interrupted_in_the_middle_of_a_swap_leaves_no_redirect() {
    let mut demo = Demo::start("mid");
    let redirects = until("the redirect", ENDS, async || {
        let found = redirects(&demo.name);
        let up = !found.is_empty();
        up.then_some(found).ok_or_else(|| demo.process.log())
    })
    .await;
    demo.process.signal_group(Signal::INT);
    let code = demo.exits().await;
    assert_eq!(code, Some(130), "{}", demo.process.log());
    assert_eq!(demo.left(), Vec::<String>::new());
    let tables = said("nft", &["list", "tables"]);
    for redirect in redirects {
        assert!(!tables.contains(&redirect), "{tables}");
    }
}
