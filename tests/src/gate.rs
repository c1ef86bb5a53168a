//! A gate between an agent and its engine: it lets every call through, but holds one of a kind where a test asks
//! for it, so that a test can act at a known place of a restore, or lets its answer be lost.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::{oneshot, watch},
};

use crate::wait::until;

/// A held call is reached within that time, also on a busy machine.
const REACHED: Duration = Duration::from_mins(1);
/// The longest first line of a call.
const LINE_BYTES: usize = 8 * 1024;

/// A gate; gone with its owner.
#[derive(Debug)]
pub struct Gate {
    socket: PathBuf,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    engine: PathBuf,
    /// What is to be held next; taken by the call that fits.
    armed: Mutex<Option<Armed>>,
}

#[derive(Debug)]
struct Armed {
    method: &'static str,
    /// Part of the path.
    part: String,
    /// Calls that fit and are let through first.
    skip: usize,
    reached: watch::Sender<bool>,
    released: watch::Receiver<bool>,
}

/// A call that is held, or will be.
#[derive(Debug)]
pub struct Held {
    what: String,
    reached: watch::Receiver<bool>,
    release: watch::Sender<bool>,
}

impl Gate {
    /// A gate in `folder` before the engine behind `engine`.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn new(engine: &Path, folder: &Path) -> Self {
        let socket = folder.join("gate.sock");
        let state = Arc::new(State {
            engine: engine.to_owned(),
            armed: Mutex::new(None),
        });
        let (stop, stopped) = oneshot::channel();
        // On a thread of its own: what a test does while it blocks must not hold the agent up.
        let (shared, place) = (Arc::clone(&state), socket.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&place).expect("the gate's socket is made")
        };
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(&listener, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            socket,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where the agent finds its engine.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Holds the next call of that method with `part` in its path, before the engine hears of it, until it is
    /// released.
    pub fn hold(&self, method: &'static str, part: &str) -> Held {
        self.hold_after(0, method, part)
    }

    /// As [`Gate::hold`], after that many calls of the same kind.
    ///
    /// # Panics
    /// Another call is waited for already.
    pub fn hold_after(&self, skip: usize, method: &'static str, part: &str) -> Held {
        let (reached, is_reached) = watch::channel(false);
        let (release, released) = watch::channel(false);
        let armed = Armed {
            method,
            part: part.to_owned(),
            skip,
            reached,
            released,
        };
        let before = self
            .state
            .armed
            .lock()
            .expect("not poisoned")
            .replace(armed);
        assert!(before.is_none(), "another call is waited for");
        Held {
            what: format!("{method} …{part}…"),
            reached: is_reached,
            release,
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

impl Held {
    /// Waits until the call has come.
    ///
    /// # Panics
    /// It does not come within a minute.
    pub async fn reached(&self) {
        until(&self.what, REACHED, async || {
            (*self.reached.borrow())
                .then_some(())
                .ok_or("it has not come")
        })
        .await;
    }

    /// Lets the call go on.
    pub fn release(self) {
        let _ = self.release.send(true);
    }
}

async fn serve(listener: &UnixListener, state: &Arc<State>) {
    let mut calls = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let state = Arc::clone(state);
                // A call that breaks off is the agent's to see.
                calls.spawn(async move { pass(stream, &state).await.ok() });
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

/// One connection: the agent makes one for each call.
async fn pass(mut agent: UnixStream, state: &State) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < LINE_BYTES {
        if agent.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default();
    if let Some(mut held) = state.take(line) {
        let _ = held.reached.send(true);
        // An owner that is gone releases, too.
        let _ = held.released.wait_for(|released| *released).await;
    }
    let mut engine = UnixStream::connect(&state.engine).await?;
    engine.write_all(&head).await?;
    copy_bidirectional(&mut agent, &mut engine).await.map(drop)
}

impl State {
    fn take(&self, line: &str) -> Option<Armed> {
        let mut armed = self.armed.lock().expect("not poisoned");
        let wanted = armed.as_mut()?;
        let path = line.split(' ').nth(1)?;
        if !line.starts_with(wanted.method) || !path.contains(&wanted.part) {
            return None;
        }
        if wanted.skip > 0 {
            wanted.skip -= 1;
            return None;
        }
        armed.take()
    }
}
