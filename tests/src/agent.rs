//! A real agent that looks after the containers of one scope and no others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{binary, engine::Scope, process::Process};

/// An agent; killed with its owner, its state gone with the scope.
#[derive(Debug)]
pub struct Agent {
    name: String,
    folder: PathBuf,
    config: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Joins with a token. It is not started yet.
    ///
    /// # Panics
    /// The join fails.
    pub fn join(scope: &Scope, name: &str, token: &str) -> Self {
        Self::join_with(scope, name, token, &scope.socket(), "")
    }

    /// As [`Agent::join`], with further settings, and with the engine behind that socket.
    ///
    /// # Panics
    /// The join fails.
    pub fn join_with(
        scope: &Scope,
        name: &str,
        token: &str,
        socket: &Path,
        settings: &str,
    ) -> Self {
        let folder = scope.folder().join(format!("agent-{name}"));
        fs::create_dir_all(&folder).expect("the agent's folder is made");
        let agent = Self {
            name: name.to_owned(),
            config: folder.join("agent.toml"),
            folder,
            process: None,
        };
        let text = format!(
            "data_dir = \"{}\"\n{settings}\n[docker]\nsocket = \"{}\"\ninclude = [\"{}-*\"]\n",
            agent.folder.join("state").display(),
            socket.display(),
            scope.name()
        );
        fs::write(&agent.config, text).expect("the agent's configuration is written");
        let output = agent
            .command("join")
            .arg(token)
            .output()
            .expect("the agent starts");
        assert!(
            output.status.success(),
            "join: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        agent
    }

    /// The binary with its configuration and one subcommand.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(binary::find("sternway-agent"));
        command.arg("--config").arg(&self.config).arg(subcommand);
        command
    }

    /// Starts it (again).
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with further environment variables, for instance a fault to inject.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.command("run");
        command.envs(environment.iter().copied());
        let name = format!("agent-{}", self.name);
        self.process = Some(Process::spawn(&name, &mut command, &self.folder));
    }

    /// Starts it by way of a program that becomes it: its last arguments are the agent's command line.
    pub fn start_by(&mut self, mut program: Command) {
        let agent = self.command("run");
        program.arg(agent.get_program()).args(agent.get_args());
        let name = format!("agent-{}", self.name);
        self.process = Some(Process::spawn(&name, &mut program, &self.folder));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The running process.
    ///
    /// # Panics
    /// It was never started, or is killed.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent was started")
    }

    /// Where its configuration and state lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
