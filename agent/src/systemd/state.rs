//! What a unit is at one moment.

use std::{collections::HashMap, fmt, path::PathBuf, time::Duration};

use zbus::wire::{OwnedObjectPath, OwnedVariant, Variant};

/// The properties of a unit, of all its interfaces.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// Whether the service manager has read the unit's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Load {
    Loaded,
    /// There are none.
    #[default]
    NotFound,
    Masked,
    /// It could not, in systemd's word: `bad-setting`, `error`.
    Other(String),
}

/// What the unit is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Active {
    Active,
    Reloading,
    #[default]
    Inactive,
    Failed,
    Activating,
    Deactivating,
    /// Something else, in systemd's word: `maintenance`, `refreshing`.
    Other(String),
}

impl Load {
    fn of(word: &str) -> Self {
        match word {
            "loaded" => Self::Loaded,
            "not-found" => Self::NotFound,
            "masked" => Self::Masked,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl Active {
    fn of(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "reloading" => Self::Reloading,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            "activating" => Self::Activating,
            "deactivating" => Self::Deactivating,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A unit, as the service manager sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitState {
    pub load: Load,
    pub active: Active,
    /// In the words of its kind: `running`, `exited`, `auto-restart`, …
    pub sub: String,
    /// `enabled`, `disabled`, `static`, `masked`, …; empty: it has no file.
    pub enablement: String,
    /// The file it was loaded from.
    pub fragment: Option<PathBuf>,
    /// The files that change it, in the order in which they do.
    pub drop_ins: Vec<PathBuf>,
    /// A file of it bears a later time than when it was loaded. An older one that took its place, as a downgrade brings,
    /// does not show here: who changed files reloads in any case.
    pub needs_reload: bool,
    /// The conditions of its last start were met. One whose start ended well and that does not run says so here.
    pub conditions_met: bool,
    /// Changes with each start that was asked for, and each restart. Empty: it never ran.
    pub invocation: String,
    /// Restarts by itself since it was started last.
    pub restarts: u32,
    /// Why it failed: `success`, `exit-code`, `signal`, `timeout`, `start-limit-hit`, …
    pub result: String,
    /// Of the main process that ended last.
    pub exit_status: i32,
    /// `simple`, `notify`, `oneshot`, …
    pub service_type: String,
    /// What it starts.
    pub commands: Vec<Exec>,
    /// Files of environment variables, and whether each may be missing.
    pub environment_files: Vec<(PathBuf, bool)>,
    /// Units whose activity starts it: sockets, timers, paths.
    pub triggered_by: Vec<String>,
    /// How long its start and its stop may take; none: for ever.
    pub start_timeout: Option<Duration>,
    pub stop_timeout: Option<Duration>,
    /// Its main process, also one that has ended: some programs put another one in its place as they go on.
    pub main_pid: u32,
    /// When it became active last, and when its state changed last, microseconds of the host's clock since its boot.
    pub(crate) entered: u64,
    pub(crate) changed: u64,
    /// The job that is under way.
    pub(crate) job: u32,
}

/// A command line of a unit.
#[derive(Clone, PartialEq, Eq)]
pub struct Exec {
    pub program: PathBuf,
    /// With the name of the program first. They may hold secrets.
    pub arguments: Vec<String>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl UnitState {
    /// It is active, or becomes so.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(
            self.active,
            Active::Active | Active::Activating | Active::Reloading
        )
    }

    /// Changes with each start, restart and reload, and when another process takes the main one's place, as in an upgrade
    /// of nginx: what it does is what its files said then.
    #[must_use]
    pub fn instance(&self) -> String {
        if self.invocation.is_empty() {
            return String::new();
        }
        let begun = format!("{}:{}", self.invocation, self.main_pid);
        let reloaded = matches!(self.active, Active::Active | Active::Reloading)
            && self.changed > self.entered;
        if reloaded {
            format!("{begun}@{}", self.changed)
        } else {
            begun
        }
    }

    pub(super) fn of(all: &Properties) -> Self {
        Self {
            load: Load::of(&text(all, "LoadState")),
            active: Active::of(&text(all, "ActiveState")),
            sub: text(all, "SubState"),
            enablement: text(all, "UnitFileState"),
            fragment: Some(text(all, "FragmentPath"))
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            drop_ins: texts(all, "DropInPaths")
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            needs_reload: value(all, "NeedDaemonReload").unwrap_or_default(),
            conditions_met: value(all, "ConditionResult").unwrap_or_default(),
            invocation: hex::encode(bytes(all, "InvocationID")),
            restarts: value(all, "NRestarts").unwrap_or_default(),
            result: text(all, "Result"),
            exit_status: value(all, "ExecMainStatus").unwrap_or_default(),
            service_type: text(all, "Type"),
            commands: commands(all),
            environment_files: environment_files(all),
            triggered_by: texts(all, "TriggeredBy"),
            start_timeout: duration(all, "TimeoutStartUSec"),
            stop_timeout: duration(all, "TimeoutStopUSec"),
            main_pid: value(all, "ExecMainPID").unwrap_or_default(),
            entered: value(all, "ActiveEnterTimestampMonotonic").unwrap_or_default(),
            changed: value(all, "StateChangeTimestampMonotonic").unwrap_or_default(),
            job: job(all),
        }
    }
}

fn value<'a, T: TryFrom<&'a OwnedVariant>>(all: &'a Properties, name: &str) -> Option<T> {
    T::try_from(all.get(name)?).ok()
}

fn text(all: &Properties, name: &str) -> String {
    value::<&str>(all, name).unwrap_or_default().to_owned()
}

/// The members of an array.
fn members<'a>(all: &'a Properties, name: &str) -> Vec<&'a Variant<'a>> {
    let array = value::<&zbus::wire::Array<'_>>(all, name);
    array
        .map(|array| array.inner().iter().collect())
        .unwrap_or_default()
}

fn texts(all: &Properties, name: &str) -> Vec<String> {
    let text = |member: &Variant<'_>| Some(<&str>::try_from(member).ok()?.to_owned());
    members(all, name).into_iter().filter_map(text).collect()
}

fn bytes(all: &Properties, name: &str) -> Vec<u8> {
    let byte = |member: &Variant<'_>| u8::try_from(member).ok();
    members(all, name).into_iter().filter_map(byte).collect()
}

/// Microseconds; the largest number stands for no limit.
fn duration(all: &Properties, name: &str) -> Option<Duration> {
    let microseconds = value::<u64>(all, name).filter(|&number| number != u64::MAX)?;
    Some(Duration::from_micros(microseconds))
}

/// The fields of a structure.
fn fields<'a>(variant: &'a Variant<'a>) -> &'a [Variant<'a>] {
    match variant {
        Variant::Structure(structure) => structure.fields(),
        _ => &[],
    }
}

/// `a(sasbttttuii)`: the program, its arguments, and how it went, which is of no interest here.
fn commands(all: &Properties) -> Vec<Exec> {
    let command = |member: &Variant<'_>| {
        let [program, arguments, ..] = fields(member) else {
            return None;
        };
        let Variant::Array(arguments) = arguments else {
            return None;
        };
        let argument = |one: &Variant<'_>| Some(<&str>::try_from(one).ok()?.to_owned());
        Some(Exec {
            program: <&str>::try_from(program).ok()?.into(),
            arguments: arguments.inner().iter().filter_map(argument).collect(),
        })
    };
    members(all, "ExecStart")
        .into_iter()
        .filter_map(command)
        .collect()
}

/// `a(sb)`.
fn environment_files(all: &Properties) -> Vec<(PathBuf, bool)> {
    let file = |member: &Variant<'_>| match fields(member) {
        [path, optional, ..] => Some((
            <&str>::try_from(path).ok()?.into(),
            bool::try_from(optional).ok()?,
        )),
        _ => None,
    };
    members(all, "EnvironmentFiles")
        .into_iter()
        .filter_map(file)
        .collect()
}

/// `(uo)`: 0 where none is under way.
fn job(all: &Properties) -> u32 {
    let structure = value::<&zbus::wire::Structure<'_>>(all, "Job");
    let number = structure.and_then(|structure| structure.fields().first());
    number
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or_default()
}

/// The number at the end of a job's path.
pub(super) fn job_of(path: &OwnedObjectPath) -> Option<u32> {
    path.as_str().rsplit_once('/')?.1.parse().ok()
}
