//! What the state of a unit means for a target.

use sternway_proto::v1::{Problem, TargetState};

use crate::systemd::{Active, Load, UnitName, UnitState};

/// A target's state, from a unit's.
pub(super) fn of(unit: &UnitState) -> TargetState {
    match (&unit.load, &unit.active) {
        (Load::NotFound, Active::Inactive) => TargetState::Gone,
        (_, Active::Active | Active::Reloading) => TargetState::Running,
        (_, Active::Activating) => TargetState::Restarting,
        _ => TargetState::Stopped,
    }
}

/// It does not run, and all is well: it ended by itself and is done, or waits for what starts it (a socket, a timer).
pub(super) fn idles(unit: &UnitState) -> bool {
    let done = unit.service_type == "oneshot" && !unit.invocation.is_empty();
    unit.active == Active::Inactive
        && matches!(unit.result.as_str(), "" | "success")
        && (done || !unit.triggered_by.is_empty())
}

/// Why it does not run, for a person.
pub(super) fn why_not(unit: &UnitState) -> String {
    let state = match &unit.active {
        Active::Active => "active",
        Active::Reloading => "reloading",
        Active::Inactive => "inactive",
        Active::Failed => "failed",
        Active::Activating => "still starting",
        Active::Deactivating => "still stopping",
        Active::Other(word) => word,
    };
    match unit.result.as_str() {
        "" | "success" if !unit.conditions_met && unit.active == Active::Inactive => {
            format!("{state}: a condition of it is not met")
        }
        "" | "success" => format!("{state} ({})", unit.sub),
        "exit-code" => format!("{state}: it exits with {}", unit.exit_status),
        "start-limit-hit" => format!("{state}: it was started too often (its start limit)"),
        "timeout" => format!("{state}: it was not ready in its time"),
        "signal" | "core-dump" => format!("{state}: ended by signal {}", unit.exit_status),
        other => format!("{state}: {other}"),
    }
}

/// Whether nothing can start it.
pub(super) fn masked(state: &UnitState, unit: &UnitName) -> Option<Problem> {
    (state.load == Load::Masked).then(|| {
        Problem::new(
            "unit-masked",
            format!("{unit} is masked: nothing starts it"),
            format!("`systemctl unmask {unit}` on the host, if it is to run"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: Active, result: &str) -> UnitState {
        UnitState {
            load: Load::Loaded,
            active,
            result: result.to_owned(),
            conditions_met: true,
            ..UnitState::default()
        }
    }

    #[test]
    fn a_unit_that_waits_or_is_done_is_well_and_one_that_was_stopped_is_not() {
        let stopped = unit(Active::Inactive, "success");
        assert!(!idles(&stopped));
        let waits = UnitState {
            triggered_by: vec!["x.timer".to_owned()],
            ..stopped.clone()
        };
        assert!(idles(&waits));
        let done = UnitState {
            service_type: "oneshot".to_owned(),
            invocation: "7".to_owned(),
            ..stopped.clone()
        };
        assert!(idles(&done));
        let never = UnitState {
            invocation: String::new(),
            ..done.clone()
        };
        assert!(!idles(&never));
        let failed = UnitState {
            result: "exit-code".to_owned(),
            ..done
        };
        assert!(!idles(&failed));
    }

    #[test]
    fn a_person_is_told_why_it_does_not_run() {
        let failed = |result: &str| why_not(&unit(Active::Failed, result));
        assert!(failed("start-limit-hit").contains("too often"));
        assert!(failed("timeout").contains("in its time"));
        assert!(failed("exit-code").contains("exits with 0"));
        assert!(failed("oom-kill").contains("oom-kill"));
        let skipped = UnitState {
            conditions_met: false,
            ..unit(Active::Inactive, "success")
        };
        assert!(why_not(&skipped).contains("condition"));
    }
}
