//! A real registry on loopback, in which the engine pushes and from which it pulls.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::{engine::Scope, http, port::Port, process::Process, wait::until};

/// Who a closed registry lets in.
pub const USER: &str = "reader";
/// The password of [`USER`].
pub const PASSWORD: &str = "correct-horse";
/// bcrypt of [`PASSWORD`].
const HASH: &str = "$2b$04$2Zq1m9UxUdlaVqoaI107lO2pQfKBV3DUGyVaBuI2eSPYSLbcbKXFG";

/// A running registry; gone with its owner.
#[derive(Debug)]
pub struct Registry {
    port: Port,
    config: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Registry {
    /// Starts an empty registry.
    ///
    /// # Panics
    /// `docker-registry` is not installed or does not answer.
    pub async fn start(scope: &Scope) -> Self {
        Self::with(scope, "").await
    }

    /// Starts an empty registry that lets [`USER`] in with [`PASSWORD`], and nobody else.
    ///
    /// # Panics
    /// As [`Registry::start`].
    pub async fn closed(scope: &Scope) -> Self {
        let users = scope.folder().join("registry-users");
        fs::write(&users, format!("{USER}:{HASH}\n")).expect("the registry's users are written");
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
            users.display()
        );
        Self::with(scope, &auth).await
    }

    async fn with(scope: &Scope, more: &str) -> Self {
        let port = Port::lease();
        let folder = scope.folder().join("registry");
        let storage = folder.join("storage");
        fs::create_dir_all(&storage).expect("the registry's folder is made");
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
            storage.display()
        );
        fs::write(&config, text).expect("the registry's configuration is written");
        let mut registry = Self {
            port,
            config,
            folder,
            process: None,
        };
        registry.up().await;
        registry
    }

    /// Starts it again after [`Registry::down`], with what it held.
    pub async fn up(&mut self) {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&self.config);
        self.process = Some(Process::spawn("registry", &mut command, &self.folder));
        let address = self.address();
        until(
            "the registry",
            Duration::from_mins(1),
            async || match http::get(&address, "/v2/").await {
                Ok(answer) if matches!(answer.status, 200 | 401) => Ok(()),
                Ok(answer) => Err(format!("status {}", answer.status)),
                Err(error) => Err(error.to_string()),
            },
        )
        .await;
    }

    /// Stops it: nothing can be pulled from now on.
    pub fn down(&mut self) {
        self.process = None;
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The name of an image in it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }
}
