//! A gate between an agent and its engine: it lets every call through, but holds one of a kind where a test asks
//! for it, so that a test can act at a known place of a restore, or lets its answer be lost: then the engine does what
//! it was asked, and nobody hears of it.

use std::{
    collections::BTreeSet,
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
    /// Changing calls whose answer was lost once; none: answers are not lost.
    lost: Mutex<Option<BTreeSet<String>>>,
}

/// Calls.
#[derive(Debug)]
enum Calls {
    /// Of that method, with that in their path.
    Like(&'static str, String),
    /// All that change a container or a network, less those that keep images.
    Changes,
}

#[derive(Debug)]
struct Armed {
    calls: Calls,
    /// Calls that fit and are let through first.
    skip: usize,
    fate: Fate,
}

/// What becomes of a call.
#[derive(Debug)]
enum Fate {
    Held {
        reached: watch::Sender<bool>,
        released: watch::Receiver<Release>,
        /// The engine has answered.
        answered: watch::Sender<bool>,
    },
    Lost(watch::Sender<bool>),
}

/// What is to be done with a held call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    NotYet,
    GoOn,
    /// As [`Release::GoOn`], and the engine hears that the agent is gone.
    Cut,
}

/// A call that is held, or will be.
#[derive(Debug)]
pub struct Held {
    what: String,
    reached: watch::Receiver<bool>,
    release: watch::Sender<Release>,
    answered: watch::Receiver<bool>,
}

/// A call whose answer is lost, or will be.
#[derive(Debug)]
pub struct Lost {
    what: String,
    gone: watch::Receiver<bool>,
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
            lost: Mutex::new(None),
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
        let calls = Calls::Like(method, part.to_owned());
        self.hold_calls(calls, skip, format!("{method} …{part}…"))
    }

    /// Holds a call that changes a container or a network, after that many of them. What keeps images does not count:
    /// that is no part of a restore.
    ///
    /// # Panics
    /// Another call is waited for already.
    pub fn hold_change(&self, skip: usize) -> Held {
        self.hold_calls(Calls::Changes, skip, format!("changing call {skip}"))
    }

    fn hold_calls(&self, calls: Calls, skip: usize, what: String) -> Held {
        let (reached, is_reached) = watch::channel(false);
        let (release, released) = watch::channel(Release::NotYet);
        let (answered, is_answered) = watch::channel(false);
        let fate = Fate::Held {
            reached,
            released,
            answered,
        };
        self.arm(Armed { calls, skip, fate });
        Held {
            what,
            reached: is_reached,
            release,
            answered: is_answered,
        }
    }

    /// Lets the answer to the next call of that method with `part` in its path be lost: the engine does what it is
    /// asked, and the connection ends instead.
    ///
    /// # Panics
    /// Another call is waited for already.
    pub fn lose(&self, method: &'static str, part: &str) -> Lost {
        let calls = Calls::Like(method, part.to_owned());
        self.lose_calls(calls, 0, &format!("{method} …{part}…"))
    }

    /// As [`Gate::lose`], of a call as in [`Gate::hold_change`].
    ///
    /// # Panics
    /// Another call is waited for already.
    pub fn lose_change(&self, skip: usize) -> Lost {
        self.lose_calls(Calls::Changes, skip, &format!("changing call {skip}"))
    }

    fn lose_calls(&self, calls: Calls, skip: usize, what: &str) -> Lost {
        let (lost, gone) = watch::channel(false);
        let fate = Fate::Lost(lost);
        self.arm(Armed { calls, skip, fate });
        Lost {
            what: format!("the answer to {what} to be lost"),
            gone,
        }
    }

    /// From now on the first answer to each changing call is lost; the same call again is answered.
    ///
    /// # Panics
    /// Never: the lock is not poisoned.
    pub fn lose_each_once(&self) {
        *self.state.lost.lock().expect("not poisoned") = Some(BTreeSet::new());
    }

    /// Answers come through again. Tells which ones were lost.
    ///
    /// # Panics
    /// Never: the lock is not poisoned.
    pub fn lose_none(&self) -> BTreeSet<String> {
        let lost = self.state.lost.lock().expect("not poisoned").take();
        lost.unwrap_or_default()
    }

    /// What was asked to be held or lost and did not come is let through.
    ///
    /// # Panics
    /// Never: the lock is not poisoned.
    pub fn disarm(&self) {
        drop(self.state.armed.lock().expect("not poisoned").take());
    }

    fn arm(&self, armed: Armed) {
        let mut slot = self.state.armed.lock().expect("not poisoned");
        assert!(slot.is_none(), "another call is waited for");
        *slot = Some(armed);
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

    /// Whether the call has come.
    pub fn is_reached(&self) -> bool {
        *self.reached.borrow()
    }

    /// Lets the call go on.
    pub fn release(self) {
        let _ = self.release.send(Release::GoOn);
    }

    /// Lets what a killed agent has sent of the call go on, and its end with it: the engine hears that nobody is there any
    /// more, as without the gate.
    pub fn cut(self) {
        let _ = self.release.send(Release::Cut);
    }

    /// Lets the call go on, and waits until the engine has done what it asks.
    ///
    /// # Panics
    /// It has not within a minute.
    pub async fn done(self) {
        let _ = self.release.send(Release::GoOn);
        until(&self.what, REACHED, async || {
            (*self.answered.borrow())
                .then_some(())
                .ok_or("the engine has not answered")
        })
        .await;
    }
}

impl Lost {
    /// Whether it was.
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Waits until it was.
    ///
    /// # Panics
    /// It does not come within a minute.
    pub async fn gone(&self) {
        until(&self.what, REACHED, async || {
            (*self.gone.borrow()).then_some(()).ok_or("it has not come")
        })
        .await;
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
    let fate = state.take(line);
    let unheard = state.is_lost(line);
    let connect = async || {
        let mut engine = UnixStream::connect(&state.engine).await?;
        engine.write_all(&head).await?;
        std::io::Result::Ok(engine)
    };
    match fate {
        Some(Fate::Held {
            reached,
            mut released,
            answered,
        }) => {
            let _ = reached.send(true);
            // An owner that is gone releases, too.
            let released = released.wait_for(|it| *it != Release::NotYet).await;
            let cut = released.is_ok_and(|it| *it == Release::Cut);
            let mut engine = connect().await?;
            if cut {
                return tokio::io::copy(&mut agent, &mut engine).await.map(drop);
            }
            let first = first_of_answer(&mut agent, &mut engine).await;
            let _ = answered.send(true);
            agent.write_all(&first?).await?;
            copy_bidirectional(&mut agent, &mut engine).await.map(drop)
        }
        Some(Fate::Lost(lost)) => {
            let mut engine = connect().await?;
            first_of_answer(&mut agent, &mut engine).await?;
            drop(agent);
            let _ = lost.send(true);
            Ok(())
        }
        None if unheard => {
            let mut engine = connect().await?;
            first_of_answer(&mut agent, &mut engine).await.map(drop)
        }
        None => {
            let mut engine = connect().await?;
            copy_bidirectional(&mut agent, &mut engine).await.map(drop)
        }
    }
}

/// The beginning of the engine's answer, which comes when it has done what it was asked. The agent may be gone by then:
/// the engine does not hear of that, and goes on.
async fn first_of_answer(
    agent: &mut UnixStream,
    engine: &mut UnixStream,
) -> std::io::Result<Vec<u8>> {
    let (mut asked, mut answer) = (Vec::new(), Vec::new());
    let mut agent_is_there = true;
    loop {
        tokio::select! {
            read = engine.read_buf(&mut answer) => {
                read?;
                return Ok(answer);
            }
            read = agent.read_buf(&mut asked), if agent_is_there => {
                // A killed one resets the connection.
                agent_is_there = matches!(read, Ok(bytes) if bytes > 0);
                engine.write_all(&asked).await?;
                asked.clear();
            }
        }
    }
}

/// Whether a call changes something.
fn changes(line: &str) -> bool {
    ["POST ", "DELETE ", "PUT "]
        .iter()
        .any(|method| line.starts_with(method))
}

impl State {
    fn take(&self, line: &str) -> Option<Fate> {
        let mut armed = self.armed.lock().expect("not poisoned");
        let wanted = armed.as_mut()?;
        let path = line.split(' ').nth(1)?;
        let fits = match &wanted.calls {
            Calls::Like(method, part) => line.starts_with(method) && path.contains(part),
            Calls::Changes => {
                changes(line) && !path.contains("/images/") && !path.contains("sternway-keeper")
            }
        };
        if !fits {
            return None;
        }
        if wanted.skip > 0 {
            wanted.skip -= 1;
            return None;
        }
        armed.take().map(|armed| armed.fate)
    }

    /// Whether the answer to this call is to be lost, and was not before.
    fn is_lost(&self, line: &str) -> bool {
        let mut lost = self.lost.lock().expect("not poisoned");
        let Some(lost) = lost.as_mut() else {
            return false;
        };
        changes(line) && lost.insert(line.to_owned())
    }
}
