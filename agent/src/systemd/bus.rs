//! The connection to the service manager.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::Mutex,
    task::AbortHandle,
    time::{Instant, interval, sleep, sleep_until, timeout, timeout_at},
};
use zbus::{Connection, connection, wire::OwnedObjectPath};

use super::{
    BusError, JobEnd, UnitName, UnitState, Work, WorkState,
    error::{NO_SUCH_JOB, UNIT_EXISTS},
    job::Jobs,
    proxy::{EverythingProxy, ManagerProxy},
    state::{Active, Properties, job_of},
};

/// How long an answer may take. Calls that begin jobs do not wait for them.
const CALL: Duration = Duration::from_secs(15);

/// How long loading all units anew may take, on a host that has many.
const RELOAD: Duration = Duration::from_secs(90);

/// How often is looked whether a job is still there whose end was not told.
const LOOK: Duration = Duration::from_secs(2);

/// How often, and after what time each, is looked whether a unit that was let go of is gone.
const LOOKS: u32 = 20;
const LEAVES: Duration = Duration::from_millis(100);

/// What is asked of a unit. Each replaces a job of it that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// The service manager of the host. Dials when it is needed, and again when the connection was lost.
#[derive(Debug)]
pub struct Bus {
    /// Where the bus is; none: the system's.
    address: Option<String>,
    session: Mutex<Option<Arc<Session>>>,
}

/// One connection.
#[derive(Debug)]
struct Session {
    manager: ManagerProxy<'static>,
    jobs: Arc<Jobs>,
    /// Listens to the ends of jobs.
    listener: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::system()
    }
}

impl Bus {
    /// The host's own.
    #[must_use]
    pub fn system() -> Self {
        Self {
            address: None,
            session: Mutex::default(),
        }
    }

    /// The one at that D-Bus address.
    #[must_use]
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: Some(address.into()),
            session: Mutex::default(),
        }
    }

    /// What a unit is now. One that does not exist is there with that load state.
    ///
    /// # Errors
    /// The service manager does not say.
    pub async fn state(&self, unit: &UnitName) -> Result<UnitState, BusError> {
        let session = self.session().await?;
        let what = format!("look at {unit}");
        let seen = self.answered(&what, Some(unit), CALL, session.properties(unit));
        Ok(UnitState::of(&seen.await?))
    }

    /// Has a job done and waits for its end, until the deadline; the job goes on behind it.
    ///
    /// # Errors
    /// It was not begun, or nobody says how it ended.
    pub async fn job(
        &self,
        verb: Verb,
        unit: &UnitName,
        deadline: Duration,
    ) -> Result<JobEnd, BusError> {
        let end = Instant::now() + deadline;
        let session = self.session().await?;
        let what = format!("{} {unit}", verb.word());
        let (name, mode) = (unit.as_str(), "replace");
        let begun = async {
            match verb {
                Verb::Start => session.manager.start_unit(name, mode).await,
                Verb::Stop => session.manager.stop_unit(name, mode).await,
                Verb::Restart => session.manager.restart_unit(name, mode).await,
            }
        };
        let job = self.answered(&what, Some(unit), CALL, begun).await?;
        self.ended(&session, &what, &job, end).await
    }

    /// The units that these patterns mean (`*`, `?`, `[…]`): those that are loaded, and those that have a file. Of
    /// templates there are only instances.
    ///
    /// # Errors
    /// The service manager does not say.
    pub async fn matching(&self, patterns: &[&str]) -> Result<BTreeSet<UnitName>, BusError> {
        if patterns.is_empty() {
            return Ok(BTreeSet::new());
        }
        let session = self.session().await?;
        let listed = session.manager.list_units_by_patterns(&[], patterns);
        let loaded = self.answered("list units", None, CALL, listed).await?;
        let listed = session.manager.list_unit_files_by_patterns(&[], patterns);
        let files = self.answered("list unit files", None, CALL, listed).await?;
        let loaded = loaded.into_iter().filter(|unit| unit.2 != "not-found");
        let names = loaded
            .map(|unit| unit.0)
            .chain(files.into_iter().map(|file| file.0));
        let name = |listed: String| listed.rsplit('/').next()?.parse().ok();
        Ok(names.filter_map(name).collect())
    }

    /// Has a unit started with the system, or not, as its `[Install]` section says; to be followed by a
    /// [`Self::reload`].
    ///
    /// # Errors
    /// The service manager does not say that it did.
    pub async fn enable(&self, unit: &UnitName, enabled: bool) -> Result<(), BusError> {
        let session = self.session().await?;
        let files = [unit.as_str()];
        if enabled {
            let what = format!("enable {unit}");
            let call = session.manager.enable_unit_files(&files, false, true);
            self.answered(&what, Some(unit), CALL, call).await.map(drop)
        } else {
            let what = format!("disable {unit}");
            let call = session.manager.disable_unit_files(&files, false);
            self.answered(&what, Some(unit), CALL, call).await.map(drop)
        }
    }

    /// Loads all units anew from their files.
    ///
    /// # Errors
    /// The service manager does not say that it did.
    pub async fn reload(&self) -> Result<(), BusError> {
        let session = self.session().await?;
        self.answered("reload its units", None, RELOAD, session.manager.reload())
            .await
    }

    /// A failed unit is as one that never ran, and its start limit begins anew: it counts starts by hand, too. One that is
    /// not loaded has nothing to reset.
    ///
    /// # Errors
    /// The service manager does not say that it did.
    pub async fn reset_failed(&self, unit: &UnitName) -> Result<(), BusError> {
        let session = self.session().await?;
        let what = format!("reset {unit}");
        let reset = session.manager.reset_failed_unit(unit.as_str());
        match self.answered(&what, Some(unit), CALL, reset).await {
            Err(BusError::NoSuchUnit { .. }) => Ok(()),
            other => other,
        }
    }

    /// Begins a work, unless it was begun before: then that one is it.
    ///
    /// # Errors
    /// It was not begun, or nobody says whether it was: the same call again finds out.
    pub async fn begin(&self, work: &Work) -> Result<(), BusError> {
        let session = self.session().await?;
        let what = format!("begin {}", work.unit);
        let (argv, name) = (work.argv(), work.unit.as_str());
        let mut looks = 0;
        loop {
            let properties = work.properties(&argv);
            let begun = session
                .manager
                .start_transient_unit(name, "fail", &properties, &[]);
            let refused = match self.answered(&what, Some(&work.unit), CALL, begun).await {
                Err(error) if error.is_refusal(UNIT_EXISTS) => error,
                other => return other.map(drop),
            };
            if self.work(&work.unit).await? != WorkState::Unknown {
                return Ok(());
            }
            // One that was let go of, and on its way out.
            looks += 1;
            if looks > LOOKS {
                return Err(refused);
            }
            sleep(LEAVES).await;
        }
    }

    /// How far a work has come.
    ///
    /// # Errors
    /// The service manager does not say.
    pub async fn work(&self, unit: &UnitName) -> Result<WorkState, BusError> {
        Ok(WorkState::of(&self.state(unit).await?))
    }

    /// Waits for the end of a work, until the deadline; it may still run then.
    ///
    /// # Errors
    /// The service manager does not say.
    pub async fn finished(
        &self,
        unit: &UnitName,
        deadline: Duration,
    ) -> Result<WorkState, BusError> {
        let end = Instant::now() + deadline;
        loop {
            let session = self.session().await?;
            let state = self.state(unit).await?;
            let work = WorkState::of(&state);
            if work != WorkState::Running || Instant::now() >= end {
                return Ok(work);
            }
            // Without a job it is being ended: a moment.
            let waited = session.jobs.wait_for(state.job);
            let next = end.min(Instant::now() + LOOK);
            let _ = timeout_at(next, waited).await;
        }
    }

    /// Lets go of a work, with what it said of its end; one that runs is ended.
    ///
    /// # Errors
    /// The service manager does not say that it did.
    pub async fn forget(&self, unit: &UnitName) -> Result<(), BusError> {
        let state = self.state(unit).await?;
        if state.active == Active::Failed {
            return self.reset_failed(unit).await;
        }
        match self.job(Verb::Stop, unit, CALL).await {
            Ok(_) | Err(BusError::NoSuchUnit { .. }) => {}
            Err(error) => return Err(error),
        }
        // One that was ended in its work has failed by that.
        match self.state(unit).await?.active {
            Active::Failed => self.reset_failed(unit).await,
            _ => Ok(()),
        }
    }

    /// The end of a job of that session, by what is told, else by what is there.
    async fn ended(
        &self,
        session: &Session,
        what: &str,
        job: &OwnedObjectPath,
        end: Instant,
    ) -> Result<JobEnd, BusError> {
        let number = job_of(job).ok_or_else(|| BusError::Unreadable {
            what: what.to_owned(),
            reason: format!("{} is no job", job.as_str()),
        })?;
        let unanswered = |reason: &str| BusError::Unanswered {
            what: what.to_owned(),
            reason: reason.to_owned(),
        };
        let mut told = session.jobs.wait_for(number);
        let mut look = interval(LOOK);
        look.tick().await;
        let mut gone = false;
        loop {
            tokio::select! {
                biased;
                end = &mut told => {
                    return end.map_err(|_| unanswered("the connection was lost before the job ended"));
                }
                () = sleep_until(end) => {
                    return Err(unanswered("the job did not end in its time"));
                }
                _ = look.tick() => {}
            }
            // Seen gone twice: its end would have been told in between.
            if gone {
                // Nor will that of any other.
                self.hang_up().await;
                return Err(unanswered("the job is gone, and its end was not told"));
            }
            let there = self.answered(what, None, CALL, session.manager.get_job(number));
            gone = there
                .await
                .is_err_and(|error| error.is_refusal(NO_SUCH_JOB));
        }
    }

    /// The connection itself.
    pub(super) async fn connection(&self) -> Result<Connection, BusError> {
        let session = self.session().await?;
        Ok(session.manager.inner().connection().clone())
    }

    /// What a call that is about no unit answers.
    pub(super) async fn answered_to<T>(
        &self,
        what: &str,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, BusError> {
        self.answered(what, None, CALL, call).await
    }

    /// What a call answers, in its time. A connection that does not answer is dialled anew by the next call.
    async fn answered<T>(
        &self,
        what: &str,
        unit: Option<&UnitName>,
        limit: Duration,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, BusError> {
        let answer = match timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| BusError::of(what, unit, error)),
            Err(_) => Err(BusError::Unanswered {
                what: what.to_owned(),
                reason: format!("no answer within {} s", limit.as_secs()),
            }),
        };
        if answer.as_ref().is_err_and(BusError::is_transient) {
            self.hang_up().await;
        }
        answer
    }

    /// The next call dials anew.
    async fn hang_up(&self) {
        *self.session.lock().await = None;
    }

    /// The connection, made where there is none. Others wait meanwhile, for no longer than one call.
    async fn session(&self) -> Result<Arc<Session>, BusError> {
        let dial = async {
            let mut session = self.session.lock().await;
            // One that was lost while nobody asked anything is no reason for a call to fail.
            if let Some(session) = session.as_ref().filter(|session| !session.is_closed()) {
                return Ok(session.clone());
            }
            let made = Arc::new(Session::open(self.address.as_deref()).await?);
            *session = Some(made.clone());
            Ok(made)
        };
        let unreachable = |reason: String| BusError::Unreachable { reason };
        timeout(CALL, dial)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", CALL.as_secs())))?
            .map_err(|error: zbus::Error| unreachable(error.to_string()))
    }
}

impl Session {
    async fn open(address: Option<&str>) -> zbus::Result<Self> {
        let builder = match address {
            Some(address) => connection::Builder::address(address),
            None => connection::Builder::system(),
        };
        let connection: Connection = builder.build().await?;
        let manager = ManagerProxy::new(&connection).await?;
        // Before the first job is asked for, so that no end is missed.
        let mut removed = manager.receive_job_removed().await?;
        manager.subscribe().await?;
        let jobs = Arc::new(Jobs::default());
        let listens = jobs.clone();
        // Always at it: a stream that nobody reads would hold up every answer behind it.
        let listener = tokio::spawn(async move {
            while let Some(signal) = removed.next().await {
                if let Ok(removed) = signal.args() {
                    listens.ended(removed.id, &JobEnd::of(&removed.result));
                }
            }
            listens.close();
        });
        Ok(Self {
            manager,
            jobs,
            listener: listener.abort_handle(),
        })
    }

    fn is_closed(&self) -> bool {
        self.listener.is_finished()
    }

    /// All properties of a unit, of every interface that it has.
    async fn properties(&self, unit: &UnitName) -> zbus::Result<Properties> {
        let path = self.manager.load_unit(unit.as_str()).await?;
        let object = EverythingProxy::builder(self.manager.inner().connection())
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let mut all: HashMap<_, _> = object.get_all("org.freedesktop.systemd1.Unit").await?;
        if unit.kind() == "service" {
            all.extend(object.get_all("org.freedesktop.systemd1.Service").await?);
        }
        Ok(all)
    }
}
