//! The real engine, and the scope of a test on it: unique names, labels on everything, and removal of all of
//! it when the scope ends, however the test ends.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bollard::{Docker, models::ContainerInspectResponse};
use tempfile::TempDir;

use crate::{binary, dockerd::Dockerd, wait::until};

/// On everything that a test makes; the value is the scope.
pub const SCOPE_LABEL: &str = "sternway.test.scope";
/// On everything that a run of the tests makes; the value is the run.
pub const RUN_LABEL: &str = "sternway.test.run";

/// On everything of a lab that a person plays with; the value is its name.
const LAB_LABEL: &str = "sternway.lab";

static SCOPES: AtomicU32 = AtomicU32::new(0);

/// The run that this process belongs to: what `make test` sets, so that it can remove what a killed test left.
pub fn run_id() -> String {
    std::env::var("STERNWAY_TEST_RUN").unwrap_or_else(|_| "by-hand".to_owned())
}

/// The labels of what a scope of that name makes in this run.
pub fn labels(scope: &str) -> HashMap<String, String> {
    HashMap::from([
        ("sternway.test".to_owned(), "1".to_owned()),
        (SCOPE_LABEL.to_owned(), scope.to_owned()),
        (RUN_LABEL.to_owned(), run_id()),
    ])
}

/// How long a call to the engine may take.
const CALL: Duration = Duration::from_mins(1);

fn new_name() -> String {
    let number = SCOPES.fetch_add(1, Ordering::Relaxed);
    format!("swt-{:x}-{number}", process::id())
}

/// Where a scope keeps its files.
#[derive(Debug)]
enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

/// What one test owns: a folder, a prefix for names, and everything on the engine that bears its label.
#[derive(Debug)]
pub struct Scope {
    name: String,
    docker: Docker,
    /// The engine of this scope alone; none: the machine's.
    own: Option<Dockerd>,
    folder: Folder,
    /// Unnamed volumes of what was run. They bear no label, and one that a restore carried over outlives all of its
    /// containers.
    volumes: Mutex<BTreeSet<String>>,
}

impl Scope {
    /// A scope for one test, and with it the certainty that an engine answers.
    ///
    /// # Panics
    /// No engine answers.
    pub async fn new() -> Self {
        let docker = Docker::connect_with_unix_defaults().expect("the engine's socket");
        Self::of(new_name(), docker, None).await
    }

    /// A scope with an engine of its own, which the test may stop, kill and hang. The calling thread moves into
    /// its network: see [`Dockerd::start`].
    ///
    /// # Panics
    /// The engine does not start.
    pub async fn with_own_engine() -> Self {
        let name = new_name();
        let own = Dockerd::start(&name).await;
        Self::on(name, own).await
    }

    /// As [`Scope::with_own_engine`]; its disk has so many MiB, and the test may fill it.
    ///
    /// # Panics
    /// The engine does not start.
    pub async fn with_own_engine_on_small_disk(mib: u32) -> Self {
        let name = new_name();
        let own = Dockerd::start_on_small_disk(&name, mib).await;
        Self::on(name, own).await
    }

    async fn on(name: String, own: Dockerd) -> Self {
        let socket = own.socket();
        let docker = Docker::connect_with_unix(
            &socket.to_string_lossy(),
            CALL.as_secs(),
            bollard::API_DEFAULT_VERSION,
        );
        Self::of(name, docker.expect("the engine's socket"), Some(own)).await
    }

    async fn of(name: String, docker: Docker, own: Option<Dockerd>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&name)
            .tempdir()
            .expect("a temporary folder");
        Self::in_folder(name, docker, own, Folder::Temporary(folder)).await
    }

    async fn in_folder(name: String, docker: Docker, own: Option<Dockerd>, folder: Folder) -> Self {
        let docker = docker.with_timeout(CALL);
        if let Err(error) = docker.ping().await {
            panic!("no Docker engine answers ({error}): run deploy/scripts/setup-tests");
        }
        Self {
            name,
            docker,
            own,
            folder,
            volumes: Mutex::default(),
        }
    }

    /// A lab for a person, which outlives this process: `deploy/lab/down` removes what bears its label on the engine.
    ///
    /// # Panics
    /// No engine answers.
    pub async fn for_a_person(name: &str, folder: PathBuf) -> Self {
        let docker = Docker::connect_with_unix_defaults().expect("the engine's socket");
        Self::in_folder(name.to_owned(), docker, None, Folder::Kept(folder)).await
    }

    /// The engine of this scope alone.
    ///
    /// # Panics
    /// It uses the machine's.
    pub fn own_engine(&mut self) -> &mut Dockerd {
        self.own.as_mut().expect("the scope has an own engine")
    }

    /// The socket of the engine.
    pub fn socket(&self) -> PathBuf {
        self.own.as_ref().map_or_else(
            || Path::new("/var/run/docker.sock").to_owned(),
            Dockerd::socket,
        )
    }

    /// A program that is to talk to the engine of this scope.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(own) = &self.own {
            command.env("DOCKER_HOST", format!("unix://{}", own.socket().display()));
        }
        command
    }

    /// The prefix of all names of this scope.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of this scope, removed with it.
    pub fn folder(&self) -> &Path {
        match &self.folder {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(folder) => folder,
        }
    }

    /// The engine.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// A name on the engine: `SCOPE-LOCAL`.
    pub fn named(&self, local: &str) -> String {
        format!("{}-{local}", self.name)
    }

    /// The target of a container of this scope: `docker/SCOPE-LOCAL`.
    pub fn target(&self, local: &str) -> String {
        format!("docker/{}", self.named(local))
    }

    /// The labels that everything on the engine must bear.
    pub fn labels(&self) -> HashMap<String, String> {
        if let Folder::Kept(_) = self.folder {
            return HashMap::from([(LAB_LABEL.to_owned(), self.name.clone())]);
        }
        labels(&self.name)
    }

    fn label_arguments(&self) -> Vec<String> {
        self.labels()
            .into_iter()
            .flat_map(|(key, value)| ["--label".to_owned(), format!("{key}={value}")])
            .collect()
    }

    /// `docker run -d --name SCOPE-LOCAL FLAGS IMAGE`, as a person deploys. Answers with the container's id.
    ///
    /// # Panics
    /// The engine refuses.
    pub async fn run(&self, local: &str, flags: &[&str], image: &str) -> String {
        let mut arguments = vec![
            "run".to_owned(),
            "-d".to_owned(),
            "--name".to_owned(),
            self.named(local),
        ];
        arguments.extend(self.label_arguments());
        arguments.extend(flags.iter().map(ToString::to_string));
        arguments.push(image.to_owned());
        let id = self.cli_owned(arguments).await;
        self.note_volumes(&id).await;
        id
    }

    async fn note_volumes(&self, id: &str) {
        // One that removes itself may be gone already, its volumes with it.
        let found = self.docker.inspect_container(id, None).await;
        let mounts = found.ok().and_then(|found| found.mounts);
        let names = mounts.into_iter().flatten().filter_map(|mount| mount.name);
        let unnamed = |name: &String| name.len() == 64;
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.extend(names.filter(unnamed));
    }

    /// What runbooks do: `docker stop; docker rm; docker run`.
    ///
    /// # Panics
    /// The engine refuses.
    pub async fn redeploy(&self, local: &str, flags: &[&str], image: &str) -> String {
        self.cli(&["stop", &self.named(local)]).await;
        self.gone(local).await;
        self.run(local, flags, image).await
    }

    /// Removes a container that is stopped; one that was started with `--rm` removes itself.
    async fn gone(&self, local: &str) {
        let name = self.named(local);
        until(&format!("{name} to be gone"), CALL, async || {
            if self.inspect(local).await.is_none() {
                return Ok(());
            }
            let removed = self.docker.remove_container(&name, None).await;
            Err(format!("{removed:?}"))
        })
        .await;
    }

    /// Makes a network of this scope: `docker network create FLAGS SCOPE-LOCAL`.
    pub async fn network(&self, local: &str, flags: &[&str]) -> String {
        done(self.create("network", local, flags).await)
    }

    /// As [`Scope::network`].
    ///
    /// # Errors
    /// What the engine says against it.
    pub async fn try_network(&self, local: &str, flags: &[&str]) -> Result<String, String> {
        self.create("network", local, flags).await
    }

    /// Makes a named volume of this scope.
    pub async fn volume(&self, local: &str) -> String {
        self.volume_with(local, &[]).await
    }

    /// Makes a named volume of this scope: `docker volume create FLAGS SCOPE-LOCAL`.
    pub async fn volume_with(&self, local: &str, flags: &[&str]) -> String {
        done(self.create("volume", local, flags).await)
    }

    async fn create(&self, what: &str, local: &str, flags: &[&str]) -> Result<String, String> {
        let name = self.named(local);
        let mut arguments = vec![what.to_owned(), "create".to_owned()];
        arguments.extend(self.label_arguments());
        arguments.extend(flags.iter().map(ToString::to_string));
        arguments.push(name.clone());
        self.try_cli(arguments).await?;
        Ok(name)
    }

    /// Runs the `docker` tool and answers with its output, trimmed.
    ///
    /// # Panics
    /// It fails.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        self.cli_owned(arguments.iter().map(ToString::to_string).collect())
            .await
    }

    async fn cli_owned(&self, arguments: Vec<String>) -> String {
        done(self.try_cli(arguments).await)
    }

    async fn try_cli(&self, arguments: Vec<String>) -> Result<String, String> {
        let output = tokio::process::Command::from(self.command("docker"))
            .args(&arguments)
            .kill_on_drop(true)
            .output()
            .await
            .expect("the docker tool starts");
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let (asked, said) = (arguments.join(" "), text(&output.stderr));
        Err(format!("docker {asked} failed: {said}"))
    }

    /// The inspection of a container of this scope; `None` where nothing bears the name.
    ///
    /// # Panics
    /// The engine fails in another way.
    pub async fn inspect(&self, local: &str) -> Option<ContainerInspectResponse> {
        use bollard::errors::Error::DockerResponseServerError;
        match self
            .docker
            .inspect_container(&self.named(local), None)
            .await
        {
            Ok(found) => Some(found),
            Err(DockerResponseServerError {
                status_code: 404, ..
            }) => None,
            Err(error) => panic!("cannot inspect {}: {error}", self.named(local)),
        }
    }

    /// Waits until a container of this scope is healthy (or runs, where it has no health check).
    ///
    /// # Panics
    /// It is not within the deadline.
    pub async fn healthy(&self, local: &str, deadline: Duration) {
        until(
            &format!("{} to be healthy", self.named(local)),
            deadline,
            async || {
                let found = self.inspect(local).await.ok_or("it is not there")?;
                let state = found.state.ok_or("it has no state")?;
                let health = state.health.and_then(|health| health.status);
                let running = state.running.unwrap_or(false);
                match health.map(|status| status.to_string()).as_deref() {
                    None | Some("" | "none" | "healthy") if running => Ok(()),
                    other => Err(format!("running: {running}, health: {other:?}")),
                }
            },
        )
        .await;
    }

    /// The names of all containers of this scope, running or not, sorted.
    pub async fn containers(&self) -> Vec<String> {
        let filter = format!("label={SCOPE_LABEL}={}", self.name);
        let listed = self
            .cli(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"])
            .await;
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

fn done(answer: Result<String, String>) -> String {
    answer.unwrap_or_else(|refused| panic!("{refused}"))
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.own.is_some() {
            // All of it goes with its engine.
            return;
        }
        if let Folder::Kept(_) = self.folder {
            return;
        }
        // Blocking, in a child: it works in a panic, and outside and inside of any runtime.
        let cleaned = Command::new(binary::script("deploy/scripts/clean-tests"))
            .args(["--scope", &self.name])
            .output();
        match cleaned {
            Ok(output) if output.status.success() => {}
            Ok(output) if !std::thread::panicking() => panic!(
                "the scope {} was not cleaned: {}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) if !std::thread::panicking() => panic!("clean-tests: {error}"),
            _ => {}
        }
        let volumes = self.volumes.get_mut();
        let volumes = std::mem::take(volumes.unwrap_or_else(PoisonError::into_inner));
        if !volumes.is_empty() {
            // Those that went with their containers are as good as removed.
            let mut remove = Command::new("docker");
            let _ = remove.args(["volume", "rm", "-f"]).args(volumes).output();
        }
    }
}
