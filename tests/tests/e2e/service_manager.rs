//! Under a service manager: what both services tell it, how they end when it asks them to, and the units that it
//! runs them by.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Arc, Mutex},
    time::Duration,
};

use sternway_tests::{
    binary,
    process::Process,
    shop::Image,
    stage::{HOST, SETTLES, Stage},
    wait::until,
};
use tokio::{net::UnixDatagram, task::JoinHandle};

/// From SIGTERM to the end; by default systemd kills after 90 s.
const ENDS: Duration = Duration::from_secs(30);
/// In microseconds: half a second passes between two signs of life.
const WATCHDOG: &str = "1000000";

/// A service manager of one service.
struct Manager {
    socket: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
    listening: JoinHandle<()>,
}

impl Manager {
    fn new(folder: &Path, service: &str) -> Self {
        let socket = folder.join(format!("{service}.notify"));
        let listener = UnixDatagram::bind(&socket).expect("the socket is made");
        let told = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&told);
        // All the time: a service waits while its manager does not read.
        let listening = tokio::spawn(async move {
            let mut message = [0; 4096];
            while let Ok(read) = listener.recv(&mut message).await {
                let text = String::from_utf8_lossy(message.get(..read).unwrap_or_default());
                let lines = text.lines().map(str::to_owned);
                all.lock().expect("not poisoned").extend(lines);
            }
        });
        Self {
            socket,
            told,
            listening,
        }
    }

    fn environment(&self) -> [(&str, &str); 2] {
        let socket = self.socket.to_str().expect("a path in UTF-8");
        [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", WATCHDOG)]
    }

    fn count(&self, line: &str) -> usize {
        let told = self.told.lock().expect("not poisoned");
        told.iter().filter(|told| *told == line).count()
    }

    /// Waits until the service has said that so many times.
    async fn hears(&self, line: &str, times: usize) {
        until(line, SETTLES, async || {
            (self.count(line) >= times)
                .then_some(())
                .ok_or_else(|| format!("{:?}", self.told.lock().expect("not poisoned")))
        })
        .await;
    }

    async fn lives(&self) {
        self.hears("READY=1", 1).await;
        let before = self.count("WATCHDOG=1");
        self.hears("WATCHDOG=1", before + 2).await;
        assert_eq!(self.count("STOPPING=1"), 0);
    }

    async fn stops(&self, service: &mut Process) -> ExitStatus {
        let ended = service.terminate(ENDS).await;
        self.hears("STOPPING=1", 1).await;
        assert_eq!(self.count("READY=1"), 1);
        ended
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[tokio::test]
async fn a_service_manager_is_told_of_ready_alive_and_stopping_and_what_is_watched_runs_on() {
    let mut stage = Stage::new().await;
    let v1 = Image::good("v1").shared().await;
    let container = stage.scope.run("shop", &[], &v1).await;
    stage.known_good("shop", 1).await;
    stage.agent.kill();
    stage.controller.kill();

    let of_controller = Manager::new(stage.scope.folder(), "controller");
    stage.controller.spawn(&of_controller.environment());
    of_controller.hears("READY=1", 1).await;
    let _ = stage.ctl.run(&["status"]).await.exits(0);
    let of_agent = Manager::new(stage.scope.folder(), "agent");
    stage.agent.start_with(&of_agent.environment());
    stage.online().await;
    of_controller.lives().await;
    of_agent.lives().await;
    let controller = stage.controller.listen();
    let connected = format!("STATUS=looking after {HOST}, connected to {controller}");
    of_agent.hears(&connected, 1).await;

    // Each while it is connected with the other.
    let ended = of_agent.stops(stage.agent.process()).await;
    assert_eq!(ended.code(), Some(0), "the agent");
    stage.agent.start();
    stage.online().await;
    let ended = of_controller.stops(stage.controller.process()).await;
    assert_eq!(ended.code(), Some(0), "the controller");
    let running = ["inspect", "-f", "{{.Id}} {{.State.Running}}"];
    let name = stage.scope.named("shop");
    let running = stage.scope.cli(&[&running[..], &[&name]].concat()).await;
    assert_eq!(running, format!("{container} true"));
}

#[tokio::test]
async fn who_looks_at_the_service_of_a_host_that_is_cut_off_sees_it() {
    let mut stage = Stage::new().await;
    stage.agent.kill();
    let manager = Manager::new(stage.scope.folder(), "agent");
    let [socket, watchdog] = manager.environment();
    // Its log as systemd names a stream of the journal.
    let log = stage.agent.folder().join(format!("agent-{HOST}.log"));
    let file = fs::metadata(&log).expect("there is a log");
    let stream = format!("{}:{}", file.dev(), file.ino());
    let journal = ("JOURNAL_STREAM", stream.as_str());
    stage.agent.start_with(&[socket, watchdog, journal]);
    let controller = stage.controller.listen();
    let connected = format!("STATUS=looking after {HOST}, connected to {controller}");
    manager.hears(&connected, 1).await;
    stage.controller.kill();
    let alone = format!("STATUS=looking after {HOST}; no session with {controller}");
    manager.hears(&alone, 1).await;
    stage.controller.start().await;
    manager.hears(&connected, 2).await;
    let revoke = ["host", "revoke", HOST, "--yes"];
    let _ = stage.ctl.run(&revoke).await.exits(0);
    let cut = format!("STATUS=cut off: {HOST} was revoked at {controller}");
    manager.hears(&cut, 1).await;
    // As grave as the journal has to know it: journalctl -p err.
    let log = fs::read_to_string(log).expect("the log is read");
    let mut grave = log.lines().filter(|line| line.starts_with("<3>"));
    assert!(grave.any(|line| line.contains("was revoked")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("<6>")), "{log}");
    // What another program inherited of it is for a person.
    let mut status = stage.agent.command("status");
    status.arg("--nonsense").env("JOURNAL_STREAM", &stream);
    let said = status.output().expect("it starts").stderr;
    assert!(!String::from_utf8_lossy(&said).contains("<3>"));
}

/// What the tool has against a unit.
fn complaints(name: &str, unit: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, unit).expect("the unit is written");
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&path)
        .output()
        .expect("systemd-analyze starts: deploy/scripts/setup-tests installs it");
    // Other lines are about units of this machine.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_ours = said.lines().filter(|line| line.contains(name));
    of_ours.map(str::to_owned).collect()
}

#[test]
fn systemd_has_nothing_against_the_units() {
    for program in ["sternway-agent", "sternway-controller"] {
        let name = format!("{program}.service");
        let unit = fs::read_to_string(binary::script(&format!("deploy/systemd/{name}")));
        // It looks whether the program is there, which it is elsewhere on this machine.
        let unit = unit.expect("the unit is read").replace(
            &format!("/usr/bin/{program} "),
            &format!("{} ", binary::find(program).display()),
        );
        let found = complaints(&name, &unit);
        assert_eq!(found, Vec::<String>::new(), "{name}");
        for (right, wrong) in [
            ("WatchdogSec=30s", "WatchdogSec=soon"),
            ("RestrictRealtime=yes", "RestrictSurrealtime=yes"),
        ] {
            let broken = unit.replace(right, wrong);
            let found = complaints(&name, &broken);
            assert!(!found.is_empty(), "{name}: nothing against {wrong}");
        }
    }
}
