//! An engine of a test's own, which can be stopped, killed, hung and started again while everybody else's on this
//! machine runs on. It lives in namespaces of its own (network and mounts), by which all that it started is found
//! again and ended with it. Processes are the machine's: an agent looks at those of containers.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tempfile::TempDir;

use crate::{http, process::Process, wait::until};

/// From its start to its first answer: some seconds on an idle machine.
const START: Duration = Duration::from_mins(2);
/// Between two looks at what is ending.
const LOOK: Duration = Duration::from_millis(10);
/// From a request to stop to its end: it stops its containers first.
const STOP: Duration = Duration::from_mins(2);

/// An engine; all of it is gone with its owner.
#[derive(Debug)]
pub struct Dockerd {
    name: String,
    // In this order: the engine, then the namespaces, then the folder.
    daemon: Option<Process>,
    namespaces: Namespaces,
    folder: TempDir,
}

/// Held open by a process that does nothing.
#[derive(Debug)]
struct Namespaces {
    holder: Process,
}

impl Dockerd {
    /// Starts one. From here on the calling thread, and all that it starts, live in the engine's network: what
    /// the engine publishes on 127.0.0.1 can be reached from there, and nothing of the machine's network can. So
    /// it is the first thing a test does, on a runtime of one thread.
    ///
    /// # Panics
    /// Not allowed to (root is needed), or it does not start.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, None).await
    }

    /// As [`Dockerd::start`]; all that it keeps lies on a disk of so many MiB, of memory.
    ///
    /// # Panics
    /// As [`Dockerd::start`].
    pub async fn start_on_small_disk(name: &str, mib: u32) -> Self {
        Self::start_with(name, Some(mib)).await
    }

    async fn start_with(name: &str, disk_mib: Option<u32>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-engine-"))
            .tempdir()
            .expect("a folder for the engine");
        let namespaces = Namespaces::new(folder.path()).await;
        namespaces.enter();
        let mut engine = Self {
            name: name.to_owned(),
            daemon: None,
            namespaces,
            folder,
        };
        if let Some(mib) = disk_mib {
            let data = engine.data();
            fs::create_dir(&data).expect("the folder is made");
            let size = format!("size={mib}m,mode=710");
            let data = data.to_string_lossy();
            engine
                .namespaces
                .run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &data]);
        }
        engine.up().await;
        engine
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What takes the room on its disk, as this process sees it: the disk is mounted for the engine alone.
    fn filler(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.namespaces.holder.id());
        let data = self.data();
        let inside = data.strip_prefix("/").expect("an absolute path");
        Path::new(&root).join(inside).join("filler")
    }

    /// Takes all the room on its disk.
    ///
    /// # Panics
    /// It has no small disk.
    pub fn fill(&self) {
        let path = self.filler();
        let mounted = self.namespaces.mounted(&self.data());
        assert!(mounted, "the engine has a disk of its own");
        let mut file = fs::File::create(path).expect("the filler is made");
        // In small pieces at last, so that not a page is left.
        for size in [1024 * 1024, 64 * 1024, 4096, 1] {
            while io::Write::write_all(&mut file, &vec![7; size]).is_ok() {}
        }
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// It was not taken.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the filler is there");
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Starts it again, on what it had.
    ///
    /// # Panics
    /// It does not answer within a minute.
    pub async fn up(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.namespaces.holder.id()))
            .args(["--net", "--mount", "--", "dockerd"])
            .args(["--log-level", "warn"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg("--cgroup-parent")
            .arg(format!("/{}", self.name))
            .arg("--data-root")
            .arg(self.data())
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("docker.pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .env("PATH", path());
        self.daemon = Some(Process::spawn("dockerd", &mut command, self.folder.path()));
        let socket = self.socket();
        until("the engine", START, async || {
            let asked = socket.clone();
            let answered = tokio::task::spawn_blocking(move || ping(&asked)).await;
            match answered.expect("asking does not panic") {
                Ok(text) if text.contains(" 200 ") => Ok(()),
                Ok(text) => Err(text),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Stops it as a package upgrade does: its containers are stopped with it.
    ///
    /// # Panics
    /// It does not end within a minute.
    pub async fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.terminate(STOP).await;
        }
    }

    /// `kill -9`: its containers run on until it is started again.
    pub fn kill(&mut self) {
        drop(self.daemon.take());
        // Its number may be another process's by then, and the engine would wait for that.
        let _ = fs::remove_file(self.folder.path().join("exec/containerd/containerd.pid"));
    }

    /// It takes connections and answers nothing, until [`Dockerd::wake`].
    pub fn hang(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(Signal::STOP);
        }
    }

    /// It goes on where it hung.
    pub fn wake(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(Signal::CONT);
        }
    }

    /// All its processes: those in its mounts, and those in its containers.
    fn processes(&self) -> Vec<Pid> {
        let holder = self.namespaces.holder.id();
        let own = Namespaces::mounts(holder);
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let inside =
            ids.filter(|id| *id != holder && own.is_some() && Namespaces::mounts(*id) == own);
        let contained = cgroups(&self.name)
            .into_iter()
            .flat_map(|group| members(&group));
        inside
            .chain(contained)
            .filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .collect()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // First what starts others, then all that are left.
        drop(self.daemon.take());
        for _ in 0..1_000 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for id in left {
                // It may be gone already, which is as good.
                let _ = kill_process(id, Signal::KILL);
            }
            pause();
        }
        for group in cgroups(&self.name) {
            remove_cgroup(&group);
        }
    }
}

impl Namespaces {
    async fn new(folder: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "sleep", "86400"]);
        let made = Self {
            holder: Process::spawn("namespaces", &mut command, folder),
        };
        // The program that it becomes is the sign that they are made.
        let program = format!("/proc/{}/cmdline", made.holder.id());
        until("the namespaces", START, async || {
            match fs::read_to_string(&program) {
                Ok(text) if text.starts_with("sleep\0") => Ok(()),
                Ok(text) => Err(text),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        made.run(&["ip", "link", "set", "lo", "up"]);
        made
    }

    /// Runs a command in them.
    fn run(&self, command: &[&str]) {
        let output = Command::new("nsenter")
            .arg(format!("--target={}", self.holder.id()))
            .args(["--net", "--mount", "--"])
            .args(command)
            .env("PATH", path())
            .output()
            .expect("nsenter is installed (util-linux)");
        assert!(
            output.status.success(),
            "{}: {}",
            command.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }

    /// Whether something is mounted there, in them.
    fn mounted(&self, place: &Path) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.holder.id()));
        let place = place.to_string_lossy();
        let at = |line: &str| line.split(' ').nth(1) == Some(&place);
        mounts.unwrap_or_default().lines().any(at)
    }

    fn enter(&self) {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        let network = fs::File::open(&path).expect("the network namespace is there");
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("the network namespace is entered (root is needed)");
    }

    /// Whose mounts a process sees; none: it is gone.
    fn mounts(id: u32) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{id}/ns/mnt")).ok()
    }
}

/// Between two looks of what ends a value, where nothing can be awaited.
#[expect(
    clippy::disallowed_methods,
    reason = "a drop cannot await; each of its loops is bounded"
)]
fn pause() {
    thread::sleep(LOOK);
}

/// Where a shell of root's finds the engine, `iptables` and `ip`.
fn path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/sbin:/sbin")
}

/// The first line of the answer. Blocking, bounded.
fn ping(socket: &Path) -> io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(http::ANSWER_TIMEOUT))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned())
}

/// The control groups of that name, of each hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = hierarchies.map(|entry| entry.path().join(name)).collect();
    found.push(root.join(name));
    found.retain(|path| path.is_dir());
    found
}

/// The processes of a control group and of those in it.
fn members(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for inner in inner(group) {
        found.extend(members(&inner));
    }
    found
}

/// Removes a control group with those in it. The kernel lets go of a killed process a little later.
fn remove_cgroup(group: &Path) {
    for inner in inner(group) {
        remove_cgroup(&inner);
    }
    for _ in 0..500 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => pause(),
            _ => return,
        }
    }
}

fn inner(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
