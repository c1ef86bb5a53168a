//! Work in a transient unit of its own: outside of the agent's control group and sandbox, so that an agent that dies
//! neither ends nor repeats it. The unit's name says whose work it is; it stays, with its result, until it is let go of.

use std::{fmt, path::PathBuf, time::Duration};

use zbus::wire::Variant;

use super::{
    UnitName, UnitState,
    proxy::Command,
    state::{Active, Load},
};

/// From the order to end to the signal that cannot be ignored.
const STOP: Duration = Duration::from_secs(10);

/// How a command line is run: `$WORD` in it is a word as any other.
const AS_IT_IS: [&str; 1] = ["no-env-expand"];

/// What is to be done.
#[derive(Clone, PartialEq, Eq)]
pub struct Work {
    /// The unit, a service. A second one of that name is not begun: what there is counts.
    pub unit: UnitName,
    /// For a person who looks at the host's units.
    pub description: String,
    /// The program, by its whole path.
    pub program: PathBuf,
    /// Its arguments, without the name, by their word: nothing in them is expanded. No secret: every user of the host can
    /// ask the service manager for them.
    pub arguments: Vec<String>,
    /// `NAME=value`. No secret, likewise.
    pub environment: Vec<String>,
    /// The user it runs as; none: root.
    pub user: Option<String>,
    /// It is ended then, with all its processes.
    pub deadline: Duration,
    /// Memory of all its processes, bytes, and how many there may be; none: no limit.
    pub memory: Option<u64>,
    pub tasks: Option<u64>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("unit", &self.unit)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// How far a work has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkState {
    /// No unit of that name: it was never begun, or let go of, or the host was restarted since, or somebody has reset what
    /// failed. It is no proof that nothing was done: what must be known writes down its own end.
    Unknown,
    Running,
    /// It ended, with exit status 0.
    Succeeded,
    /// It ended otherwise: why, in systemd's word (`exit-code`, `signal`, `timeout`, `oom-kill`, …), and its exit status
    /// or signal.
    Failed {
        result: String,
        status: i32,
    },
}

impl WorkState {
    /// What a unit says of the work that it is.
    pub(super) fn of(unit: &UnitState) -> Self {
        match (&unit.load, &unit.active) {
            // It waits for its turn.
            (_, Active::Inactive) if unit.job != 0 => Self::Running,
            (Load::NotFound, _) | (_, Active::Inactive) => Self::Unknown,
            (_, Active::Active) => Self::Succeeded,
            (_, Active::Failed) => Self::Failed {
                result: unit.result.clone(),
                status: unit.exit_status,
            },
            _ => Self::Running,
        }
    }
}

impl Work {
    /// The command line as systemd takes it, with the program's name first.
    pub(super) fn argv(&self) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        [program]
            .into_iter()
            .chain(self.arguments.clone())
            .collect()
    }

    /// The properties of its unit. `argv` as [`Self::argv`].
    pub(super) fn properties<'a>(&'a self, argv: &'a [String]) -> Vec<(&'static str, Variant<'a>)> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let program = argv.first().map_or("", String::as_str);
        let command: Command<'_> = (program, argv, &AS_IT_IS);
        let mut all = vec![
            ("Description", self.description.as_str().into()),
            // It is "active" when it has ended well, and stays so: an end is not missed.
            ("Type", "oneshot".into()),
            ("RemainAfterExit", true.into()),
            ("ExecStartEx", vec![command].into()),
            ("TimeoutStartUSec", micros(self.deadline).into()),
            ("TimeoutStopUSec", micros(STOP).into()),
            ("Environment", self.environment.clone().into()),
            // What is in memory is not written down by it.
            ("LimitCORE", 0u64.into()),
        ];
        if let Some(user) = &self.user {
            all.push(("User", user.as_str().into()));
        }
        if let Some(bytes) = self.memory {
            all.push(("MemoryMax", bytes.into()));
        }
        if let Some(count) = self.tasks {
            all.push(("TasksMax", count.into()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(load: Load, active: Active) -> UnitState {
        UnitState {
            load,
            active,
            result: "exit-code".into(),
            exit_status: 3,
            ..UnitState::default()
        }
    }

    #[test]
    fn the_state_of_a_work_is_that_of_its_unit() {
        let failed = WorkState::Failed {
            result: "exit-code".into(),
            status: 3,
        };
        for (load, active, state) in [
            (Load::NotFound, Active::Inactive, WorkState::Unknown),
            (Load::Loaded, Active::Inactive, WorkState::Unknown),
            (Load::Loaded, Active::Activating, WorkState::Running),
            (Load::Loaded, Active::Deactivating, WorkState::Running),
            (Load::Loaded, Active::Active, WorkState::Succeeded),
            (Load::Loaded, Active::Failed, failed),
        ] {
            assert_eq!(WorkState::of(&unit(load, active)), state);
        }
        let queued = UnitState {
            job: 7,
            ..unit(Load::Loaded, Active::Inactive)
        };
        assert_eq!(WorkState::of(&queued), WorkState::Running);
    }
}
