//! The real `ctl` in a pseudo terminal of its own, as a person sits in front of it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Stdio,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

use crate::stage::Stage;

/// For what has to appear, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// What Ctrl-C and Ctrl-D send.
pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";

/// A terminal with `ctl` in it. What it shows is kept whole; a search goes on behind the last match.
pub(crate) struct Terminal {
    keyboard: File,
    screen: mpsc::UnboundedReceiver<Vec<u8>>,
    shown: Vec<u8>,
    searched: usize,
    child: Child,
}

impl Terminal {
    /// Starts `ctl` as the leader of a session whose controlling terminal is a new one.
    pub(crate) fn start(stage: &Stage, columns: u16, arguments: &[&str]) -> Self {
        Self::start_with(stage, columns, arguments, |_| {})
    }

    /// The same, with a last touch to the command: another stdout, another environment.
    pub(crate) fn start_with(
        stage: &Stage,
        columns: u16,
        arguments: &[&str],
        touch: impl FnOnce(&mut Command),
    ) -> Self {
        let (master, slave) = pair(columns);
        let end = || Stdio::from(slave.try_clone().expect("another descriptor"));
        let mut command = stage.command_under("setsid", &["--ctty"], arguments);
        command
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        touch(&mut command);
        let child = command.spawn().expect("starts");
        // The last descriptors of the other end outside the child: with it the terminal ends.
        drop((command, slave));
        Self {
            screen: read_all(master.try_clone().expect("another descriptor")),
            keyboard: master,
            shown: Vec::new(),
            searched: 0,
            child,
        }
    }

    /// Waits until a text appears behind what was waited for before.
    pub(crate) async fn shows(&mut self, text: &str) {
        while !self.find(text) {
            let more = timeout(DEADLINE, self.screen.recv()).await;
            let Ok(Some(more)) = more else {
                panic!("{text:?} does not appear: {}", self.text());
            };
            self.shown.extend(more);
        }
    }

    /// Presses keys.
    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("somebody reads");
    }

    /// Waits for the end: the exit code, and everything that was shown.
    pub(crate) async fn ends(mut self) -> (Option<i32>, String) {
        while let Some(more) = timeout(DEADLINE, self.screen.recv())
            .await
            .unwrap_or_else(|_| panic!("it does not end: {}", self.text()))
        {
            self.shown.extend(more);
        }
        let status = timeout(DEADLINE, self.child.wait()).await;
        let status = status.expect("ends in time").expect("waited for");
        (status.code(), self.text())
    }

    fn find(&mut self, text: &str) -> bool {
        let behind = self.shown.get(self.searched..).unwrap_or_default();
        let found = behind
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        if let Some(at) = found {
            self.searched += at + text.len();
        }
        found.is_some()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

/// A text as the terminal would show it at rest: without the sequences that colour, move and erase.
pub(crate) fn without_sequences(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            // CSI: up to its final letter.
            let _ = characters.find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

fn pair(columns: u16) -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pseudo terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name");
    // Never the controlling terminal of the test itself.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty()).expect("opens");
    let size = Winsize {
        ws_row: 40,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).expect("sized");
    (master.into(), slave)
}

/// Everything that is written to the terminal, until its last writer has gone (an error, on Linux).
fn read_all(mut master: File) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = master.read(&mut buffer) {
            let Some(read) = buffer.get(..length) else {
                return;
            };
            if sender.send(read.to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
