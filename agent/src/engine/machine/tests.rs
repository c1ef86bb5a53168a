use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use sternway_proto::name::RevisionId;

use super::*;
use crate::engine::step::Done;

const UNTIL: i64 = 1_000;

fn step(id: &str, commits: bool) -> Step {
    Step {
        id: id.to_owned(),
        description: format!("do {id}"),
        payload: Value::Null,
        timeout: Duration::from_secs(1),
        commits,
    }
}

fn accepted() -> Event {
    Event::Accepted {
        order: vec![1],
        not_after_ms: 500,
    }
}

fn planned() -> Event {
    Event::Planned {
        plan: Box::default(),
        steps: vec![
            step("a", false),
            step("b", false),
            step("c", true),
            step("d", false),
        ],
        result: RevisionId::of(b"to"),
        with: Vec::new(),
        ran: true,
        until_ms: UNTIL,
    }
}

fn failure(transient: bool) -> StepError {
    StepError {
        code: "broken".into(),
        message: "it broke".into(),
        next_step: String::new(),
        transient,
    }
}

fn forward(count: usize) -> Vec<Event> {
    let mut events = vec![accepted(), planned()];
    for index in 0..count {
        events.push(Event::StepStarted { index });
        events.push(Event::StepSucceeded {
            index,
            done: Done::said("ok"),
        });
    }
    events
}

fn run(events: &[Event]) -> Run {
    Run::replay(events).expect("legal")
}

#[test]
fn the_happy_path_reads_from_top_to_bottom() {
    let mut run = run(&[accepted()]);
    assert_eq!(run.next(0), Action::Plan);
    run.record(&planned()).expect("legal");
    for index in 0..4 {
        assert_eq!(run.next(0), Action::Apply { index, attempt: 1 });
        run.record(&Event::StepStarted { index }).expect("legal");
        let done = Done::said("ok");
        run.record(&Event::StepSucceeded { index, done })
            .expect("legal");
    }
    let Action::Finish { outcome, problem } = run.next(0) else {
        panic!("not finished");
    };
    assert_eq!((outcome, problem.clone()), (Finish::Restored, None));
    run.record(&Event::Finished {
        outcome,
        problem,
        running: None,
    })
    .expect("legal");
    assert_eq!(run.next(0), Action::Nothing);
    assert_eq!(run.outcome(), Some(Finish::Restored));
}

#[test]
fn what_differs_from_what_was_ordered_is_told_at_the_end() {
    let mut events = forward(3);
    events.push(Event::StepStarted { index: 3 });
    events.push(Event::StepSucceeded {
        index: 3,
        done: Done {
            message: "ok".into(),
            output: json!({(DIFFERS): "host.Memory"}),
        },
    });
    let Action::Finish { outcome, problem } = run(&events).next(0) else {
        panic!("not finished");
    };
    let problem = problem.expect("it is told");
    assert_eq!(
        (outcome, problem.code.as_str()),
        (Finish::Restored, "restored-otherwise")
    );
    assert!(problem.message.contains("host.Memory"), "{problem:?}");
}

#[test]
fn a_step_that_was_started_and_never_heard_of_again_is_applied_again() {
    let mut events = forward(1);
    events.push(Event::StepStarted { index: 1 });
    events.push(Event::Recovered);
    assert_eq!(
        run(&events).next(0),
        Action::Apply {
            index: 1,
            attempt: 2
        }
    );
}

#[test]
fn a_failure_before_the_commit_turns_back_and_undoes_in_reverse() {
    let mut events = forward(1);
    events.push(Event::StepStarted { index: 1 });
    events.push(Event::StepFailed {
        index: 1,
        error: failure(false),
    });
    let reason = failure(false);
    assert_eq!(
        run(&events).next(0),
        Action::TurnBack {
            reason: reason.clone()
        }
    );
    events.push(Event::TurnedBack { reason });
    for index in [1, 0] {
        assert_eq!(run(&events).next(0), Action::Undo { index, attempt: 1 });
        events.push(Event::UndoStarted { index });
        events.push(Event::Undone {
            index,
            done: Done::said("undone"),
        });
    }
    assert_eq!(run(&events).next(0), Action::Confirm);
    let mut lost = events.clone();
    lost.push(Event::Confirmed {
        message: "nothing runs".into(),
        as_before: false,
    });
    assert_eq!(run(&lost).next(0), Action::Rescue);
    events.push(Event::Confirmed {
        message: "runs".into(),
        as_before: true,
    });
    assert!(matches!(
        run(&events).next(0),
        Action::Finish {
            outcome: Finish::Undone,
            problem: Some(_)
        }
    ));
}

#[test]
fn a_transient_failure_has_a_budget() {
    let mut events = forward(0);
    for attempt in 1..=APPLY_ATTEMPTS {
        assert_eq!(run(&events).next(0), Action::Apply { index: 0, attempt });
        events.push(Event::StepStarted { index: 0 });
        events.push(Event::StepFailed {
            index: 0,
            error: failure(true),
        });
    }
    assert!(matches!(run(&events).next(0), Action::TurnBack { .. }));
}

#[test]
fn behind_the_commit_nothing_is_undone() {
    let mut events = forward(3);
    events.push(Event::StepStarted { index: 3 });
    events.push(Event::StepFailed {
        index: 3,
        error: failure(false),
    });
    let Action::Finish { outcome, problem } = run(&events).next(UNTIL + 1) else {
        panic!("not finished");
    };
    assert_eq!(outcome, Finish::Restored);
    assert_eq!(problem.expect("said").code, "left-untidy");
    assert!(
        run(&events)
            .record(&Event::TurnedBack {
                reason: failure(false)
            })
            .is_err()
    );
}

#[test]
fn past_its_time_a_restore_is_undone_and_an_order_that_was_not_begun_expires() {
    assert!(matches!(
        run(&forward(1)).next(UNTIL),
        Action::TurnBack { .. }
    ));
    assert!(matches!(
        run(&[accepted()]).next(500),
        Action::Finish {
            outcome: Finish::Expired,
            ..
        }
    ));
}

#[test]
fn an_undo_that_fails_for_good_ends_in_a_rescue_and_needs_a_human() {
    let mut events = forward(1);
    events.push(Event::TurnedBack {
        reason: failure(false),
    });
    for attempt in 1..=UNDO_ATTEMPTS {
        assert_eq!(run(&events).next(0), Action::Undo { index: 0, attempt });
        events.push(Event::UndoStarted { index: 0 });
        events.push(Event::UndoFailed {
            index: 0,
            error: failure(false),
        });
    }
    assert_eq!(run(&events).next(0), Action::Rescue);
    events.push(Event::Rescued {
        result: Ok(Done::said("old runs")),
    });
    let Action::Finish { outcome, problem } = run(&events).next(0) else {
        panic!("not finished");
    };
    assert_eq!(outcome, Finish::NeedsHuman);
    assert!(problem.expect("said").message.contains("old runs"));
}

#[test]
fn what_another_deployed_and_serves_is_said_first_and_calmly() {
    let mut events = forward(1);
    events.push(Event::TurnedBack {
        reason: failure(false),
    });
    events.push(Event::UndoStarted { index: 0 });
    events.push(Event::Undone {
        index: 0,
        done: Done::said("left alone"),
    });
    events.push(Event::Confirmed {
        message: String::new(),
        as_before: false,
    });
    events.push(Event::Rescued {
        result: Ok(Done {
            message: "shop is served by v3".to_owned(),
            output: serde_json::json!({(SERVED_BY_ANOTHER): true}),
        }),
    });
    let Action::Finish { outcome, problem } = run(&events).next(0) else {
        panic!("not finished");
    };
    assert_eq!(outcome, Finish::NeedsHuman);
    let problem = problem.expect("said");
    assert_eq!(problem.code, "changed-meanwhile");
    assert!(
        problem.message.starts_with("shop is served by v3; nothing"),
        "{problem:?}"
    );
}

#[test]
fn recoveries_have_a_budget_forward_and_backward() {
    let mut events = forward(1);
    for _ in 0..=FORWARD_RECOVERIES {
        events.push(Event::Recovered);
    }
    let Action::TurnBack { reason } = run(&events).next(0) else {
        panic!("not turned back");
    };
    events.push(Event::TurnedBack { reason });
    assert!(matches!(run(&events).next(0), Action::Undo { .. }));
    for _ in 0..=RECOVERIES - FORWARD_RECOVERIES {
        events.push(Event::Recovered);
    }
    assert_eq!(run(&events).next(0), Action::Rescue);
}

#[test]
fn plans_the_fold_could_not_rely_on_are_refused() {
    for steps in [
        vec![],
        vec![step("a", false), step("a", false)],
        vec![step("a", true), step("b", true)],
    ] {
        let Event::Planned {
            plan,
            result,
            until_ms,
            ..
        } = planned()
        else {
            panic!("planned");
        };
        let event = Event::Planned {
            plan,
            steps,
            result,
            with: Vec::new(),
            ran: true,
            until_ms,
        };
        assert!(run(&[accepted()]).record(&event).is_err());
    }
}

/// How the world answers an action.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Ok,
    Fails,
    FailsForNow,
    /// The agent dies before it can write the result.
    Dies,
    /// It takes so long that the time is up.
    TakesLong,
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        4 => Just(Answer::Ok),
        1 => Just(Answer::Fails),
        1 => Just(Answer::FailsForNow),
        2 => Just(Answer::Dies),
        1 => Just(Answer::TakesLong),
    ];
    prop::collection::vec(answer, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever fails or dies, an order reaches exactly one end in a bounded number of lines, every
    /// prefix of its journal replays to the same state, and it is Restored if and only if the commit
    /// succeeded.
    #[test]
    fn every_history_ends_and_every_prefix_replays(answers in answers()) {
        let mut answers = answers.into_iter();
        let mut events = vec![accepted(), planned()];
        let mut now = 0;
        let mut live = run(&events);
        loop {
            prop_assert!(events.len() < 200, "too many lines: {events:?}");
            let mut write = |live: &mut Run, event: Event| {
                live.record(&event).expect("the machine's own advice is legal");
                events.push(event);
                assert_eq!(&Run::replay(&events).expect("replays"), live);
            };
            let answer = match live.next(now) {
                Action::Apply { index, .. } => {
                    write(&mut live, Event::StepStarted { index });
                    let answer = answers.next().unwrap_or(Answer::Ok);
                    match answer {
                        Answer::Ok | Answer::TakesLong => {
                            write(&mut live, Event::StepSucceeded { index, done: Done::said("") });
                        }
                        Answer::Fails | Answer::FailsForNow => {
                            let error = failure(matches!(answer, Answer::FailsForNow));
                            write(&mut live, Event::StepFailed { index, error });
                        }
                        Answer::Dies => write(&mut live, Event::Recovered),
                    }
                    answer
                }
                Action::Undo { index, .. } => {
                    write(&mut live, Event::UndoStarted { index });
                    let answer = answers.next().unwrap_or(Answer::Ok);
                    match answer {
                        Answer::Ok | Answer::TakesLong => {
                            write(&mut live, Event::Undone { index, done: Done::said("") });
                        }
                        Answer::Fails | Answer::FailsForNow => {
                            write(&mut live, Event::UndoFailed { index, error: failure(false) });
                        }
                        Answer::Dies => write(&mut live, Event::Recovered),
                    }
                    answer
                }
                Action::TurnBack { reason } => {
                    write(&mut live, Event::TurnedBack { reason });
                    Answer::Ok
                }
                Action::Confirm => {
                    write(&mut live, Event::Confirmed { message: String::new(), as_before: true });
                    Answer::Ok
                }
                Action::Rescue => {
                    write(&mut live, Event::Rescued { result: Err(failure(false)) });
                    Answer::Ok
                }
                Action::Finish { outcome, problem } => {
                    write(&mut live, Event::Finished { outcome, problem, running: None });
                    break;
                }
                Action::Plan | Action::Nothing => panic!("nothing left to plan"),
            };
            if matches!(answer, Answer::TakesLong) {
                now += UNTIL;
            }
        }
        let committed = events
            .iter()
            .any(|event| matches!(event, Event::StepSucceeded { index: 2, .. }));
        prop_assert_eq!(live.outcome() == Some(Finish::Restored), committed);
        let again = Event::Finished { outcome: Finish::Restored, problem: None, running: None };
        prop_assert!(live.record(&again).is_err(), "two ends");
    }
}
