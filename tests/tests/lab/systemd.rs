//! The agent's way to the service manager, held to the real one of both generations.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, future::join_all};
use sternway_agent::systemd::{
    Active, Bus, BusError, JobEnd, Load, UnitName, Verb, Work, WorkState,
};
use sternway_tests::{
    lab::{Bare, Fleet, Host},
    stage::SETTLES,
    wait::until,
};
use tokio::time::timeout;

/// No job of these tests takes longer.
const JOB: Duration = Duration::from_mins(1);

/// Does that on a host of each generation.
async fn on_both(test: impl AsyncFn(&Host, &Bus)) {
    let Bare { hosts, scope } = Fleet::of_each_generation().bare().await;
    join_all(hosts.iter().map(async |host| {
        let bus = Bus::at(host.bus().await);
        test(host, &bus).await;
    }))
    .await;
    drop(hosts);
    drop(scope);
}

fn unit(name: &str) -> UnitName {
    name.parse().expect("a unit's name")
}

/// Installs a unit.
async fn install(host: &Host, bus: &Bus, name: &str, text: &str) -> UnitName {
    let path = format!("/etc/systemd/system/{name}");
    host.write(&path, text).await;
    bus.reload().await.expect("reloaded");
    unit(name)
}

/// Waits until the start of a unit is under way.
async fn is_starting(bus: &Bus, unit: &UnitName) {
    until("its start", SETTLES, async || {
        let state = bus.state(unit).await.expect("told");
        let starts = state.active == Active::Activating;
        starts.then_some(()).ok_or("not yet")
    })
    .await;
}

fn work(name: &str, program: &str, arguments: &[&str]) -> Work {
    Work {
        unit: unit(name),
        description: "a test".into(),
        program: program.into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        environment: Vec::new(),
        user: None,
        deadline: JOB,
        memory: None,
        tasks: None,
    }
}

#[tokio::test]
async fn a_unit_is_what_its_files_say_and_what_runs_of_it() {
    on_both(async |host, bus| {
        let nowhere = bus.state(&unit("nowhere.service")).await.expect("told");
        assert_eq!(nowhere.load, Load::NotFound);
        host.write("/etc/billing.env", "RATE=3\n").await;
        let text = "[Service]\nType=exec\nEnvironmentFile=-/etc/billing.local\n\
                    EnvironmentFile=/etc/billing.env\nTimeoutStopSec=7s\n\
                    ExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n";
        let billing = install(host, bus, "billing.service", text).await;
        let drop_in = "/etc/systemd/system/billing.service.d/nice.conf";
        host.write(drop_in, "[Service]\nNice=5\n").await;
        bus.reload().await.expect("reloaded");
        let end = bus.job(Verb::Start, &billing, JOB).await;
        assert_eq!(end, Ok(JobEnd::Done));
        let first = bus.state(&billing).await.expect("told");
        assert_eq!(
            (&first.load, &first.active),
            (&Load::Loaded, &Active::Active)
        );
        assert_eq!(first.enablement, "disabled");
        assert_eq!(
            first.fragment.as_deref(),
            Some("/etc/systemd/system/billing.service".as_ref())
        );
        assert_eq!(first.drop_ins, [std::path::PathBuf::from(drop_in)]);
        assert_eq!(
            first.environment_files,
            [
                ("/etc/billing.local".into(), true),
                ("/etc/billing.env".into(), false)
            ]
        );
        let command = first.commands.first().expect("a command");
        assert_eq!(command.program, std::path::Path::new("/bin/sleep"));
        assert_eq!(command.arguments, ["/bin/sleep", "1000"]);
        assert_eq!(first.service_type, "exec");
        assert_eq!(first.stop_timeout, Some(Duration::from_secs(7)));
        assert_eq!(first.invocation.len(), 32);
        assert!(!first.needs_reload);

        host.write(drop_in, "[Service]\nNice=6\n").await;
        let changed = bus.state(&billing).await.expect("told");
        assert!(changed.needs_reload, "{changed:#?}");
        let end = bus.job(Verb::Restart, &billing, JOB).await;
        assert_eq!(end, Ok(JobEnd::Done));
        let second = bus.state(&billing).await.expect("told");
        assert_ne!(second.invocation, first.invocation);
        assert_eq!(bus.job(Verb::Stop, &billing, JOB).await, Ok(JobEnd::Done));
        let stopped = bus.state(&billing).await.expect("told");
        assert_eq!(stopped.active, Active::Inactive);
        // Not loaded any more, maybe: there is nothing to reset.
        bus.reset_failed(&billing).await.expect("reset");

        // An older file in its place, as a downgrade brings, is not told.
        bus.reload().await.expect("reloaded");
        let older =
            format!("printf '[Service]\\nNice=7\\n' >{drop_in}; touch -d 2001-01-01 {drop_in}");
        host.run(&["sh", "-c", &older]).await.ok();
        assert!(!bus.state(&billing).await.expect("told").needs_reload);

        let idle = "[Unit]\nConditionPathExists=/nowhere\n[Service]\nExecStart=/bin/sleep 9\n";
        let idle = install(host, bus, "idle.service", idle).await;
        assert_eq!(bus.job(Verb::Start, &idle, JOB).await, Ok(JobEnd::Done));
        let state = bus.state(&idle).await.expect("told");
        assert!(!state.runs() && !state.conditions_met, "{state:#?}");
    })
    .await;
}

#[tokio::test]
async fn a_start_that_fails_says_how() {
    on_both(async |host, bus| {
        let fails = "[Service]\nType=oneshot\nExecStart=/bin/false\n";
        let fails = install(host, bus, "fails.service", fails).await;
        assert_eq!(bus.job(Verb::Start, &fails, JOB).await, Ok(JobEnd::Failed));
        let state = bus.state(&fails).await.expect("told");
        assert_eq!(
            (state.active, state.result.as_str()),
            (Active::Failed, "exit-code")
        );
        assert_eq!(state.exit_status, 1);

        let never = "[Service]\nType=notify\nTimeoutStartSec=1s\nExecStart=/bin/sleep 1000\n";
        let never = install(host, bus, "never.service", never).await;
        assert_eq!(bus.job(Verb::Start, &never, JOB).await, Ok(JobEnd::Failed));
        let state = bus.state(&never).await.expect("told");
        assert_eq!(
            (state.active, state.result.as_str()),
            (Active::Failed, "timeout")
        );

        let needs = "[Unit]\nRequires=fails.service\nAfter=fails.service\n\
                     [Service]\nExecStart=/bin/sleep 1000\n";
        let needs = install(host, bus, "needs.service", needs).await;
        assert_eq!(
            bus.job(Verb::Start, &needs, JOB).await,
            Ok(JobEnd::Dependency)
        );

        let masked = unit("masked.service");
        host.run(&["systemctl", "mask", masked.as_str()]).await.ok();
        let refused = bus.job(Verb::Start, &masked, JOB).await;
        assert_eq!(
            refused,
            Err(BusError::Masked {
                unit: masked.clone()
            })
        );
        assert_eq!(bus.state(&masked).await.expect("told").load, Load::Masked);

        let nowhere = unit("nowhere.service");
        let refused = bus.job(Verb::Start, &nowhere, JOB).await;
        assert_eq!(refused, Err(BusError::NoSuchUnit { unit: nowhere }));
    })
    .await;
}

#[tokio::test]
async fn a_unit_that_crashed_into_its_start_limit_starts_after_a_reset() {
    on_both(async |host, bus| {
        host.write("/var/lib/ill", "").await;
        let text = "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=1h\n\
                    [Service]\nRestart=always\nRestartSec=10ms\n\
                    ExecStart=/bin/sh -c 'test ! -e /var/lib/ill && exec sleep 1000'\n";
        let loops = install(host, bus, "loops.service", text).await;
        let _ = bus.job(Verb::Start, &loops, JOB).await;
        until("the start limit", SETTLES, async || {
            let state = bus.state(&loops).await.expect("told");
            (state.active == Active::Failed)
                .then_some(())
                .ok_or(format!("{state:?}"))
        })
        .await;
        host.run(&["rm", "/var/lib/ill"]).await.ok();
        // It would start now, and systemd does not let it.
        assert_eq!(bus.job(Verb::Start, &loops, JOB).await, Ok(JobEnd::Failed));
        bus.reset_failed(&loops).await.expect("reset");
        assert_eq!(bus.job(Verb::Start, &loops, JOB).await, Ok(JobEnd::Done));
        assert!(bus.state(&loops).await.expect("told").runs());
    })
    .await;
}

#[tokio::test]
async fn a_job_that_is_replaced_or_takes_too_long_is_told_as_that() {
    on_both(async |host, bus| {
        let slow = "[Service]\nType=oneshot\nTimeoutStartSec=1h\nExecStart=/bin/sleep 1000\n";
        let slow = install(host, bus, "slow.service", slow).await;
        let begun = Instant::now();
        let late = bus
            .job(Verb::Start, &slow, Duration::from_millis(500))
            .await;
        assert!(matches!(late, Err(BusError::Unanswered { .. })), "{late:?}");
        assert!(begun.elapsed() < JOB);
        let waits = bus.job(Verb::Start, &slow, JOB);
        let stops = async {
            is_starting(bus, &slow).await;
            bus.job(Verb::Stop, &slow, JOB).await
        };
        let (started, stopped) = tokio::join!(waits, stops);
        assert_eq!((started, stopped), (Ok(JobEnd::Canceled), Ok(JobEnd::Done)));
    })
    .await;
}

#[tokio::test]
async fn never_twice_a_work_outlives_who_began_it_and_is_not_begun_again() {
    on_both(async |host, bus| {
        let script = "echo begun >> /var/lib/works; sleep 2; exit 7";
        let work = work("sternway-work-1.service", "/bin/sh", &["-c", script]);
        assert_eq!(bus.work(&work.unit).await, Ok(WorkState::Unknown));
        bus.begin(&work).await.expect("begun");
        // Who began it dies, and the next one begins it again.
        let next = Bus::at(host.bus().await);
        next.begin(&work).await.expect("adopted");
        assert_eq!(next.work(&work.unit).await, Ok(WorkState::Running));
        let failed = WorkState::Failed {
            result: "exit-code".into(),
            status: 7,
        };
        assert_eq!(next.finished(&work.unit, JOB).await, Ok(failed.clone()));
        next.begin(&work).await.expect("adopted");
        assert_eq!(next.finished(&work.unit, JOB).await, Ok(failed));
        assert_eq!(host.run(&["cat", "/var/lib/works"]).await.ok(), "begun");
        next.forget(&work.unit).await.expect("forgotten");
        assert_eq!(bus.work(&work.unit).await, Ok(WorkState::Unknown));
        bus.begin(&work).await.expect("begun anew");
        let _ = bus.finished(&work.unit, JOB).await;
        assert_eq!(
            host.run(&["cat", "/var/lib/works"]).await.ok(),
            "begun\nbegun"
        );
    })
    .await;
}

#[tokio::test]
async fn a_work_ends_well_or_at_its_limits() {
    on_both(async |host, bus| {
        // Words are words, whatever a shell or systemd would make of them.
        let script = "test \"$(id -un) $WORD\" = \"nobody a b\" && test \"$0\" = '${HOME}' \
                      && test \"$1\" = '$WORD' && test \"$2\" = '$$' && test \"$3\" = '%n' && test $# = 3";
        let arguments = ["-c", script, "${HOME}", "$WORD", "$$", "%n"];
        let well = Work {
            user: Some("nobody".into()),
            environment: vec!["WORD=a b".into()],
            ..work("well.service", "/bin/sh", &arguments)
        };
        let late = Work {
            deadline: Duration::from_millis(500),
            ..work("late.service", "/bin/sleep", &["1000"])
        };
        let forks = Work {
            tasks: Some(3),
            ..work(
                "forks.service",
                "/bin/sh",
                &["-ec", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & wait"],
            )
        };
        let missing = work("missing.service", "/nowhere/program", &[]);
        for work in [&well, &late, &forks, &missing] {
            bus.begin(work).await.expect("begun");
        }
        assert_eq!(
            bus.finished(&well.unit, JOB).await,
            Ok(WorkState::Succeeded)
        );
        let ended = bus.finished(&late.unit, JOB).await;
        assert!(
            matches!(&ended, Ok(WorkState::Failed { result, .. }) if result == "timeout"),
            "{ended:?}"
        );
        let ended = bus.finished(&forks.unit, JOB).await;
        assert!(matches!(ended, Ok(WorkState::Failed { .. })), "{ended:?}");
        let ended = bus.finished(&missing.unit, JOB).await;
        let no_program = WorkState::Failed {
            result: "exit-code".into(),
            status: 203,
        };
        assert_eq!(ended, Ok(no_program));
        // One that runs is ended when it is let go of.
        let long = work("long.service", "/bin/sleep", &["1000"]);
        bus.begin(&long).await.expect("begun");
        bus.forget(&long.unit).await.expect("forgotten");
        assert_eq!(bus.work(&long.unit).await, Ok(WorkState::Unknown));
        let left = host.run(&["pgrep", "-f", "sleep 1000"]).await;
        assert_eq!(left.stdout, "", "nothing of it is left");
    })
    .await;
}

#[tokio::test]
async fn a_bus_that_is_lost_in_a_job_is_told_and_dialled_anew() {
    on_both(async |host, bus| {
        let slow = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 3\n";
        let slow = install(host, bus, "slow.service", slow).await;
        let waits = bus.job(Verb::Start, &slow, JOB);
        let cuts = async {
            is_starting(bus, &slow).await;
            host.run(&["systemctl", "kill", "--signal=KILL", "dbus.service"])
                .await
                .ok();
        };
        let (lost, ()) = tokio::join!(waits, cuts);
        assert!(lost.as_ref().is_err_and(BusError::is_transient), "{lost:?}");
        // The unit says what became of it.
        until("its end", SETTLES, async || match bus.state(&slow).await {
            Ok(state) if state.active == Active::Active => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(bus.job(Verb::Stop, &slow, JOB).await, Ok(JobEnd::Done));
    })
    .await;
}

#[tokio::test]
async fn what_changes_is_told() {
    on_both(async |host, bus| {
        let text = "[Service]\nExecStart=/bin/sleep 1000\n";
        let sleeps = install(host, bus, "sleeps.service", text).await;
        let mut changes = std::pin::pin!(bus.changes().await.expect("told"));
        let mut is_told = async |what: &str| {
            let mut told = std::pin::pin!(async {
                while let Some(unit) = changes.next().await {
                    if unit == sleeps {
                        return true;
                    }
                }
                false
            });
            let told = timeout(SETTLES, &mut told).await;
            assert_eq!(told, Ok(true), "{what}");
        };
        host.run(&["systemctl", "start", sleeps.as_str()])
            .await
            .ok();
        is_told("a start by hand").await;
        host.run(&["systemctl", "restart", sleeps.as_str()])
            .await
            .ok();
        is_told("a restart").await;
    })
    .await;
}
