//! A real controller with a data folder of its own.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use rustix::process::Signal;

use crate::{binary, ctl::Ctl, engine::Scope, port::Port, process::Process, wait::until};

/// From its start to its first answer, also on a busy machine.
const START: Duration = Duration::from_secs(90);

/// From the order to stop to its end, likewise.
const END: Duration = Duration::from_mins(1);

/// A controller; killed with its owner, its data gone with the scope.
#[derive(Debug)]
pub struct Controller {
    folder: PathBuf,
    config: PathBuf,
    listen: Port,
    enrolment: Port,
    metrics: Port,
    process: Option<Process>,
}

impl Controller {
    /// A new cluster with its first operator, running.
    ///
    /// # Panics
    /// It does not come up.
    pub async fn new(scope: &Scope) -> Self {
        let folder = scope.folder().join("controller");
        fs::create_dir_all(&folder).expect("the controller's folder is made");
        let mut controller = Self {
            config: folder.join("controller.toml"),
            folder,
            listen: Port::lease(),
            enrolment: Port::lease(),
            metrics: Port::lease(),
            process: None,
        };
        controller.write_config();
        controller.init();
        controller.start().await;
        controller
    }

    fn write_config(&self) {
        let text = format!(
            "data_dir = \"{}\"\nlisten = \"127.0.0.1:{}\"\nlisten_enrolment = \"127.0.0.1:{}\"\n\
             listen_metrics = \"127.0.0.1:{}\"\nheartbeat_interval = \"1s\"\n",
            self.folder.join("data").display(),
            self.listen,
            self.enrolment,
            self.metrics
        );
        fs::write(&self.config, text).expect("the controller's configuration is written");
    }

    fn init(&self) {
        let output = self
            .command("init")
            .args(["--operator", "tester", "--operator-dir"])
            .arg(self.folder.join("operator"))
            .output()
            .expect("the controller starts");
        assert!(
            output.status.success(),
            "init: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The binary with its configuration and one subcommand.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(binary::find("sternway-controller"));
        command.arg("--config").arg(&self.config).arg(subcommand);
        command
    }

    /// Makes credentials for a further operator.
    ///
    /// # Panics
    /// They are refused.
    pub fn operator(&self, name: &str, role: &str) -> Ctl {
        let folder = self.folder.join(name);
        let output = self
            .command("operator")
            .args(["issue", "--operator", name, "--role", role])
            .arg("--operator-dir")
            .arg(&folder)
            .output()
            .expect("the controller's binary starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "operator issue: {said}");
        Ctl::new(folder.join("ctl.toml"))
    }

    /// Starts it (again) and waits until `ctl` reaches it.
    ///
    /// # Panics
    /// It does not come up.
    pub async fn start(&mut self) {
        self.spawn::<&str>(&[]);
        self.serves().await;
    }

    /// Waits until `ctl` reaches it.
    ///
    /// # Panics
    /// It does not come up.
    pub async fn serves(&self) {
        let ctl = self.ctl();
        until("the controller", START, async || {
            let said = ctl.run(&["status"]).await;
            (said.code == 0).then_some(()).ok_or(said.stderr)
        })
        .await;
    }

    /// Starts it (again) with further environment variables, for instance a fault to inject, and does not
    /// wait: it may be meant to die.
    pub fn spawn<V: AsRef<OsStr>>(&mut self, environment: &[(&str, V)]) {
        let mut command = self.command("run");
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        self.process = Some(Process::spawn("controller", &mut command, &self.folder));
    }

    /// Stops it as a service manager does, and waits until it has ended.
    ///
    /// # Panics
    /// It does not end.
    pub async fn stop(&mut self) -> ExitStatus {
        let process = self.process();
        process.signal(Signal::TERM);
        until("the controller's end", END, async || {
            process.status().ok_or("it runs")
        })
        .await
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The running process.
    ///
    /// # Panics
    /// It is killed.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the controller was started")
    }

    /// `ctl` with the first operator's credentials.
    pub fn ctl(&self) -> Ctl {
        Ctl::new(self.folder.join("operator/ctl.toml"))
    }

    /// Where its data lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `127.0.0.1:PORT` for agents and operators.
    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.listen)
    }

    /// `127.0.0.1:PORT` of the enrolment.
    pub fn enrolment(&self) -> String {
        format!("127.0.0.1:{}", self.enrolment)
    }

    /// `127.0.0.1:PORT` of the metrics.
    pub fn metrics(&self) -> String {
        format!("127.0.0.1:{}", self.metrics)
    }
}
