//! The real `ctl`, as a person or a program runs it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use sternway_proto::{
    channel,
    tls::{ClientTls, Credentials, read_certificates},
    v1::operator_service_client::OperatorServiceClient,
};
use tokio::{process::Command, time::timeout};
use tonic::transport::Channel;

use crate::binary;

/// No command of a test takes longer; one that does hangs.
const DEADLINE: Duration = Duration::from_secs(150);

/// `ctl` with one operator's credentials.
#[derive(Debug, Clone)]
pub struct Ctl {
    config: PathBuf,
}

/// What a run of `ctl` said, and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    arguments: String,
    /// The exit code; -1 where a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ctl {
    /// With the operator's configuration in that file.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self {
            config: config.into(),
        }
    }

    /// Its configuration.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn config(&self) -> toml::Table {
        let text = std::fs::read_to_string(&self.config).expect("the configuration is there");
        text.parse().expect("it is TOML")
    }

    /// The command, for callers that want its streams. Nothing of the caller's own configuration reaches it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::find("ctl"));
        command
            .args(arguments)
            .env("STERNWAY_CONFIG", &self.config)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The operator's API itself, with the same credentials: for what `ctl` is too slow for.
    ///
    /// # Errors
    /// The configuration or the credentials cannot be read, or the controller is not reached.
    pub async fn client(&self) -> anyhow::Result<OperatorServiceClient<Channel>> {
        Ok(OperatorServiceClient::new(self.channel().await?))
    }

    /// The connection under it.
    ///
    /// # Errors
    /// As [`Ctl::client`].
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        self.channel_to(None).await
    }

    /// The same credentials on a connection to another listener of the controller.
    ///
    /// # Errors
    /// As [`Ctl::client`].
    pub async fn channel_to(&self, address: Option<&str>) -> anyhow::Result<Channel> {
        let table: toml::Table = std::fs::read_to_string(&self.config)?.parse()?;
        let text = |key: &str| {
            let value = table.get(key).and_then(toml::Value::as_str);
            value.with_context(|| format!("{key} is missing"))
        };
        let folder = self.config.parent().context("a file lies in a folder")?;
        let credentials = Credentials::read(
            &folder.join(text("certificate")?),
            &folder.join(text("key")?),
        )?;
        let trust = read_certificates(&folder.join(text("trust")?))?;
        let tls = ClientTls::new(credentials, &trust, text("cluster")?.parse()?)?;
        let address = match address {
            Some(address) => address,
            None => text("controller")?,
        };
        Ok(channel::connect(address, &tls).await?)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It hangs.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        let output = timeout(DEADLINE, self.command(arguments).output())
            .await
            .unwrap_or_else(|_| panic!("ctl {} hangs", arguments.join(" ")))
            .expect("ctl starts");
        Said {
            arguments: arguments.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it with `-o json`, expects success, and answers with its document.
    ///
    /// # Panics
    /// It fails or says no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let all = [arguments, &["-o", "json"]].concat();
        self.run(&all).await.exits(0).document()
    }
}

impl Said {
    /// Holds the exit code against the expected one.
    ///
    /// # Panics
    /// It ended otherwise: everything it said is shown.
    #[must_use]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "ctl {} exits with {code}\nstdout:\n{}\nstderr:\n{}",
            self.arguments, self.stdout, self.stderr
        );
        self
    }

    /// Holds stderr against a text that must be part of it.
    ///
    /// # Panics
    /// It is not.
    #[must_use]
    pub fn complains(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "ctl {} says {text:?} on stderr\nstdout:\n{}\nstderr:\n{}",
            self.arguments,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Stdout as one JSON document.
    ///
    /// # Panics
    /// It is none.
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("ctl {}: {error}: {}", self.arguments, self.stdout))
    }

    /// Stdout as one JSON document a line.
    ///
    /// # Panics
    /// A line is none.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("ctl {}: {error}: {line}", self.arguments))
        };
        self.stdout.lines().map(parse).collect()
    }
}
