//! Runs a program to its end and no longer than it may: for work that has a process, or a thread, of its own to wait in.

use std::{
    ffi::OsString,
    io::{self, Read, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;

/// How much of what a program says is kept, bytes: the end of it. No package lists more files than this has room for.
const LARGEST: usize = 16 * 1024 * 1024;

/// Between two looks at whether it has ended.
const TICK: Duration = Duration::from_millis(10);

/// From the signal that cannot be ignored to the end of it.
const DIES: Duration = Duration::from_secs(10);

/// What it said last comes out after its end. What it began may hold its output for as long as it likes.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a program did not end by itself.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("{program} cannot be run")]
    Program {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    /// It was killed, with what it had begun.
    #[error("{program} did not end within {} s and was killed", limit.as_secs())]
    Late {
        program: &'static str,
        limit: Duration,
    },
}

/// A program to be run, with nothing of this process's environment.
#[derive(Debug)]
pub(super) struct Run {
    program: &'static str,
    command: Command,
    input: Vec<u8>,
}

/// How it ended, and the end of what it said.
#[derive(Debug)]
pub(super) struct Ended {
    /// None: by a signal.
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Ended {
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    pub(super) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Run {
    pub(super) fn new(
        program: &'static str,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments.into_iter().map(Into::into))
            .env_clear()
            .envs([
                ("LC_ALL", "C.UTF-8"),
                (
                    "PATH",
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                ),
                ("HOME", "/root"),
                ("TERM", "dumb"),
            ])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that it can be ended with what it began.
            .process_group(0);
        Self {
            program,
            command,
            input: Vec::new(),
        }
    }

    pub(super) fn env(mut self, all: &[(&str, &str)]) -> Self {
        self.command.envs(all.iter().copied());
        self
    }

    /// Where it may write what it needs for a moment.
    pub(super) fn scratch(mut self, folder: &Path) -> Self {
        self.command.env("TMPDIR", folder);
        self
    }

    pub(super) fn input(self, input: impl Into<Vec<u8>>) -> Self {
        Self {
            input: input.into(),
            ..self
        }
    }

    /// # Errors
    /// It cannot be run, or was killed because it did not end.
    pub(super) fn until_it_ends(mut self, limit: Duration) -> Result<Ended, RunError> {
        let program = self.program;
        let broken = |source| RunError::Program { program, source };
        let mut child = self.command.spawn().map_err(broken)?;
        let (done, hears) = mpsc::channel();
        let stdout = listen(child.stdout.take(), done.clone());
        let stderr = listen(child.stderr.take(), done);
        let (stdin, input) = (child.stdin.take(), self.input);
        // One that does not read must not keep it from being watched.
        thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(&input);
            }
        });
        let Some(status) = wait(&mut child, limit).map_err(broken)? else {
            kill(&mut child).map_err(broken)?;
            return Err(RunError::Late { program, limit });
        };
        let until = Instant::now() + LAST_WORDS;
        for _ in 0..2 {
            let left = until.saturating_duration_since(Instant::now());
            if hears.recv_timeout(left).is_err() {
                break;
            }
        }
        let [stdout, stderr] = [stdout, stderr].map(|said| std::mem::take(&mut *lock(&said)));
        Ok(Ended {
            code: status.code(),
            stdout,
            stderr,
        })
    }
}

/// Waits until it has ended; none: it has not, in that time.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        pause(TICK);
    }
}

/// Ends it, and what it began.
fn kill(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // It has not been waited for: the number is still its own.
        kill_process_group(group, Signal::KILL)?;
    }
    wait(child, DIES).map(drop)
}

/// The end of what comes out, as it comes.
fn listen(from: Option<impl Read + Send + 'static>, done: mpsc::Sender<()>) -> Arc<Mutex<Vec<u8>>> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let hears = said.clone();
    thread::spawn(move || {
        let (mut from, mut block) = (from, vec![0; 64 * 1024]);
        while let Some(from) = &mut from {
            let read = match from.read(&mut block) {
                Ok(read) => block.get(..read).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if read.is_empty() {
                break;
            }
            let mut said = lock(&hears);
            said.extend_from_slice(read);
            // Not with every block: what stays is moved.
            if said.len() > 2 * LARGEST {
                shorten(&mut said);
            }
        }
        shorten(&mut lock(&hears));
        // Nobody may listen any more.
        let _ = done.send(());
    });
    said
}

fn shorten(said: &mut Vec<u8>) {
    let surplus = said.len().saturating_sub(LARGEST);
    said.drain(..surplus);
}

fn lock(said: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever runs this has a process or a thread of its own to wait in"
)]
pub(super) fn pause(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Run {
        Run::new("sh", ["-c", script])
    }

    #[test]
    fn what_it_said_and_how_it_ended_is_told() {
        let ended = sh("cat; echo no >&2; exit 3")
            .input("yes")
            .until_it_ends(SOON);
        let ended = ended.expect("it ends");
        assert_eq!(ended.code, Some(3));
        assert_eq!(
            (ended.stdout(), ended.stderr()),
            ("yes".into(), "no\n".into())
        );
    }

    #[test]
    fn it_has_the_environment_that_it_is_given() {
        let ended = Run::new("env", [""; 0]).env(&[("RATE", "1")]);
        let said = ended.until_it_ends(SOON).expect("it ends").stdout();
        let mut names: Vec<_> = said
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        names.sort_unstable();
        let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH", "RATE", "TERM"]);
    }

    #[test]
    fn it_is_killed_with_what_it_began_and_does_not_wait_for_a_daemon() {
        let began = Instant::now();
        let late = sh("sleep 100 & echo $!; wait").until_it_ends(Duration::from_millis(200));
        assert!(matches!(late, Err(RunError::Late { .. })), "{late:?}");
        let daemon = sh("sleep 5 & echo done")
            .until_it_ends(SOON)
            .expect("it ends");
        assert_eq!(daemon.stdout(), "done\n");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn of_one_that_talks_without_end_the_end_is_kept() {
        let ended = sh("head -c 50000000 /dev/zero; echo end").until_it_ends(SOON);
        let ended = ended.expect("it ends");
        assert_eq!(ended.stdout.len(), LARGEST);
        assert!(ended.stdout.ends_with(b"end\n"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let missing = Run::new("no-such-program", [""; 0]).until_it_ends(SOON);
        assert!(
            matches!(missing, Err(RunError::Program { .. })),
            "{missing:?}"
        );
    }
}
