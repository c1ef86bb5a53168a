//! One host of the lab, and what a person does on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::{Generation, disk::Disk, journals, network::Network};
use crate::{binary, engine::Scope, stage::SETTLES, wait::until};

/// No command on a host takes longer; one that does hangs.
const COMMAND: Duration = Duration::from_mins(2);

/// From power on to a system that runs, also on a busy machine.
pub(super) const BOOT: Duration = Duration::from_mins(2);

/// The units of the product, as they are installed.
const AGENT: &str = "sternway-agent";
const CONTROLLER: &str = "sternway-controller";

/// What a host is to be like.
#[derive(Debug, Clone)]
pub(super) struct Blueprint {
    name: String,
    generation: Generation,
    engine: bool,
    disk: Option<u32>,
}

impl Blueprint {
    pub(super) fn new(name: &str, generation: Generation) -> Self {
        Self {
            name: name.to_owned(),
            generation,
            engine: false,
            disk: None,
        }
    }

    pub(super) fn with_engine(self) -> Self {
        Self {
            engine: true,
            ..self
        }
    }

    pub(super) fn on_small_disk(self, mib: u32) -> Self {
        Self {
            disk: Some(mib),
            ..self
        }
    }
}

/// What a command on a host said, and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    what: String,
    /// The exit code; -1 where a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    fn of(what: String, output: &Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        Self {
            what,
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Holds the exit code against success, and answers with stdout, trimmed.
    ///
    /// # Panics
    /// It ended otherwise: everything it said is shown.
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "{}\nstdout:\n{}\nstderr:\n{}",
            self.what, self.stdout, self.stderr
        );
        self.stdout
    }
}

/// A host. What can be done to it from outside is in [`faults`](super::faults).
#[derive(Debug)]
pub struct Host {
    name: String,
    generation: Generation,
    container: String,
    address: String,
    /// The file that is its disk, where it has one of its own.
    disk: Option<Disk>,
}

impl Host {
    /// Makes it and powers it on.
    ///
    /// # Panics
    /// It does not come up.
    pub(super) async fn boot(
        scope: &Scope,
        network: &Network,
        number: usize,
        blueprint: &Blueprint,
    ) -> Self {
        let name = &blueprint.name;
        let address = network.address(number);
        let image = blueprint.generation.image().await;
        let disk = match blueprint.disk {
            Some(mib) => Some(Disk::make(scope, name, mib).await),
            None => None,
        };
        let mut flags: Vec<String> = [
            // As much as a machine gives: not `--privileged`, which asks for more than some have.
            "--cap-add=ALL",
            "--cap-drop=SYS_RESOURCE",
            "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined",
            // A private one would keep the host's own engine from starting containers.
            "--cgroupns=host",
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
            "--tmpfs=/run",
            "--tmpfs=/tmp",
            "--volume=/var/lib/docker",
            // What systemd takes for "power off".
            "--stop-signal=SIGRTMIN+3",
            "--pull=never",
        ]
        .map(str::to_owned)
        .into();
        flags.extend([
            format!("--hostname={name}"),
            format!("--network={}", network.name()),
            format!("--network-alias={name}"),
            format!("--ip={address}"),
        ]);
        if let Some(disk) = &disk {
            flags.push(format!("--volume={}:/var", disk.volume));
        }
        for program in [AGENT, CONTROLLER] {
            // As if installed; and gone with the host, a gigabyte the less to copy.
            let found = binary::find(program);
            flags.push(format!(
                "--volume={}:/usr/bin/{program}:ro",
                found.display()
            ));
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let container = scope.run(name, &flags, &image).await;
        let host = Self {
            name: name.clone(),
            generation: blueprint.generation,
            container,
            address,
            disk,
        };
        host.is_up().await;
        if blueprint.engine {
            host.start_engine().await;
        }
        host
    }

    /// Its containers get control groups below its own, so that they are paused and removed with it. The registries of a
    /// lab speak no TLS.
    async fn start_engine(&self) {
        let groups = self.run(&["cat", "/proc/1/cgroup"]).await.ok();
        let own = groups
            .lines()
            .find_map(|line| line.split_once(":pids:").or_else(|| line.split_once("0::")))
            .map(|(_, path)| path.trim_end_matches("/init.scope"));
        let own = own.unwrap_or_else(|| panic!("no control group of {}: {groups}", self.name));
        let settings = serde_json::json!({
            "cgroup-parent": format!("{own}/engine"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "insecure-registries": ["10.0.0.0/8"],
        });
        self.write("/etc/docker/daemon.json", settings.to_string())
            .await;
        self.enable("docker").await;
    }

    /// Waits until it has booted. A unit or two may have failed in a container.
    pub(super) async fn is_up(&self) {
        until(&format!("{} to be up", self.name), BOOT, async || {
            let said = self.run(&["systemctl", "is-system-running"]).await;
            match said.stdout.as_str() {
                "running" | "degraded" => Ok(()),
                _ => Err(format!("{} {}", said.stdout, said.stderr)),
            }
        })
        .await;
    }

    /// Its name, also in its network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is made of.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Its address, which it keeps across reboots.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of its own system bus, for a program of this machine.
    ///
    /// # Panics
    /// It has no power.
    pub async fn bus(&self) -> String {
        let pid = ["inspect", "--format", "{{.State.Pid}}", &self.container];
        let pid = self.docker(&pid, b"").await.ok();
        format!("unix:path=/proc/{pid}/root/run/dbus/system_bus_socket")
    }

    /// Its control groups on this machine, in every hierarchy.
    ///
    /// # Panics
    /// There are none to look at.
    pub async fn groups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let groups = self.run(&["cat", "/proc/1/cgroup"]).await.ok();
        let own = groups.lines().filter_map(|line| {
            // `9:name=systemd:/docker/ID/init.scope`, `0::/system.slice/docker-ID.scope/init.scope`
            let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
            let path = path.trim_end_matches("/init.scope").strip_prefix('/')?;
            let path = Some(path).filter(|path| path.contains(&self.container))?;
            Some(match hierarchy {
                "" if root.join("unified").is_dir() => root.join("unified").join(path),
                "" => root.join(path),
                named => root.join(named.trim_start_matches("name=")).join(path),
            })
        });
        own.filter(|group| group.is_dir()).collect()
    }

    /// The container that it is.
    pub(super) fn container(&self) -> &str {
        &self.container
    }

    /// Runs a command on it, as root.
    ///
    /// # Panics
    /// It hangs.
    pub async fn run(&self, command: &[&str]) -> Said {
        self.run_with(command, b"").await
    }

    /// As [`Self::run`], with that on its standard input.
    ///
    /// # Panics
    /// It hangs.
    pub async fn run_with(&self, command: &[&str], input: &[u8]) -> Said {
        let arguments = [&["exec", "-i", &self.container], command].concat();
        self.docker(&arguments, input).await
    }

    /// The machine's own `docker`, about this host.
    pub(super) async fn docker(&self, arguments: &[&str], input: &[u8]) -> Said {
        let what = format!("{}: docker {}", self.name, arguments.join(" "));
        let mut child = Command::new("docker")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the docker tool starts");
        let mut stdin = child.stdin.take().expect("piped");
        let talked = timeout(COMMAND, async {
            // A command that reads nothing closes it: that is no fault.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            child.wait_with_output().await
        });
        let output = talked.await.unwrap_or_else(|_| panic!("{what} hangs"));
        Said::of(what, &output.expect("its output is read"))
    }

    /// The command line by which this machine runs a program on it.
    pub fn by_way_of(&self) -> [&str; 3] {
        ["docker", "exec", &self.container]
    }

    /// Writes a file there, world-readable; its folder is made.
    ///
    /// # Panics
    /// It cannot be written.
    pub async fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let install = ["install", "-D", "-m", "644", "/dev/stdin", path];
        self.run_with(&install, content.as_ref()).await.ok();
    }

    /// Copies a folder of it to this machine.
    ///
    /// # Panics
    /// It cannot be copied.
    pub(super) async fn copy_out(&self, from: &str, to: &Path) {
        let from = format!("{}:{from}", self.container);
        let to = to.to_string_lossy();
        self.docker(&["cp", &from, &to], b"").await.ok();
    }

    /// Gives its engine an image that this machine's has.
    ///
    /// # Panics
    /// One of them fails.
    pub async fn load(&self, image: &str) {
        let mut save = Command::new("docker")
            .args(["save", image])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the docker tool starts");
        let saved: Stdio = save
            .stdout
            .take()
            .and_then(|saved| saved.try_into().ok())
            .expect("piped");
        let load = Command::new("docker")
            .args(["exec", "-i", &self.container, "docker", "load", "--quiet"])
            .stdin(saved)
            .kill_on_drop(true)
            .output();
        let what = format!("{}: docker load {image}", self.name);
        let output = timeout(COMMAND, load)
            .await
            .unwrap_or_else(|_| panic!("{what} hangs"))
            .expect("the docker tool starts");
        Said::of(what, &output).ok();
        let saved = save.wait().await.expect("it ends");
        assert!(saved.success(), "docker save {image}: {saved}");
    }

    /// Installs the controller, as the README says, with the first operator's credentials in that folder.
    pub(super) async fn install_controller(&self, operator: &str) {
        let settings = format!(
            "advertise = \"{}:7443\"\nheartbeat_interval = \"1s\"\n",
            self.address
        );
        self.write("/etc/sternway/controller.toml", settings).await;
        self.install_unit(CONTROLLER).await;
        let init = [
            CONTROLLER,
            "--config",
            "/etc/sternway/controller.toml",
            "init",
            "--operator",
            "tester",
            "--operator-dir",
            operator,
        ];
        self.run(&init).await.ok();
        self.enable(CONTROLLER).await;
    }

    /// Installs the agent, as the README says.
    pub(super) async fn install_agent(&self, token: &str) {
        let settings = fs::read(binary::script("deploy/config/agent.toml"));
        let settings = settings.expect("the example configuration is there");
        self.write("/etc/sternway/agent.toml", settings).await;
        self.install_unit(AGENT).await;
        let join = [AGENT, "--config", "/etc/sternway/agent.toml", "join", "-"];
        self.run_with(&join, token.as_bytes()).await.ok();
        self.enable(AGENT).await;
    }

    async fn install_unit(&self, name: &str) {
        let unit = format!("deploy/systemd/{name}.service");
        let unit = fs::read(binary::script(&unit)).expect("the unit is there");
        let path = format!("/etc/systemd/system/{name}.service");
        self.write(&path, unit).await;
    }

    async fn enable(&self, unit: &str) {
        self.run(&["systemctl", "daemon-reload"]).await.ok();
        self.run(&["systemctl", "enable", "--now", unit]).await.ok();
    }

    /// What its journal has of a unit since it was made, across reboots.
    pub async fn journal(&self, unit: &str) -> String {
        let command = ["journalctl", "--no-pager", "--output=cat", "--unit", unit];
        self.run(&command).await.ok()
    }

    /// Waits until a unit is in this state: `active`, `failed`.
    pub async fn unit_is(&self, unit: &str, wanted: &str) {
        let what = format!("{unit} of {} to be {wanted}", self.name);
        until(&what, SETTLES, async || {
            let said = self.run(&["systemctl", "is-active", unit]).await;
            (said.stdout == wanted).then_some(()).ok_or(said.stdout)
        })
        .await;
    }

    /// The disk of its own.
    ///
    /// # Panics
    /// It has none.
    pub(super) fn disk(&self) -> &Disk {
        let disk = self.disk.as_ref();
        disk.unwrap_or_else(|| panic!("{} was not made with a small disk", self.name))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            journals::print(&self.name, &self.container);
        }
    }
}
