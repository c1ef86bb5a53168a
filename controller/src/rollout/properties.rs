//! Properties of an order's life under lost, repeated and reordered inputs.

use proptest::{collection::vec, prelude::*};
use sternway_proto::v1::{self, Outcome, Verdict, order_event::Event};

use super::order::{Applied, Input, Lost, Phase, Progress, Unsent, apply};

#[derive(Debug, Clone)]
enum Act {
    Sending,
    DeadlinePassed,
    Lost,
    HostRevoked,
    OperatorRevoked,
    RevisionBad,
    WaveStopped,
    Event(Box<v1::OrderEvent>),
}

impl Act {
    fn input(&self) -> Input<'_> {
        match self {
            Self::Sending => Input::Sending,
            Self::DeadlinePassed => Input::DeadlinePassed(Unsent::HostAway),
            Self::Lost => Input::Lost(Lost::HostAway),
            Self::HostRevoked => Input::HostRevoked,
            Self::OperatorRevoked => Input::OperatorRevoked,
            Self::RevisionBad => Input::RevisionBad {
                number: 3,
                reason: "500s".into(),
            },
            Self::WaveStopped => Input::WaveStopped,
            Self::Event(event) => Input::Agent(event),
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Accepted(v1::OrderAccepted {})),
        Just(Event::Step(v1::StepChanged::default())),
        (0..4i32, "standby|previous|replacement|current").prop_map(|(verdict, instance)| {
            Event::Evidence(v1::Evidence {
                verdict,
                instance,
                ..v1::Evidence::default()
            })
        }),
        (0..8i32).prop_map(|outcome| {
            Event::Finished(v1::OrderFinished {
                outcome,
                ..v1::OrderFinished::default()
            })
        }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Sending),
        1 => Just(Act::DeadlinePassed),
        1 => Just(Act::Lost),
        1 => Just(Act::HostRevoked),
        1 => Just(Act::OperatorRevoked),
        1 => Just(Act::RevisionBad),
        1 => Just(Act::WaveStopped),
        12 => (0..8u64, proptest::option::of(event())).prop_map(|(number, event)| {
            Act::Event(Box::new(v1::OrderEvent { number, event, ..v1::OrderEvent::default() }))
        }),
    ]
}

fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Queued => 0,
        Phase::Sent => 1,
        Phase::Accepted => 2,
        Phase::Finished(_) => 3,
    }
}

fn passed(event: &v1::OrderEvent) -> bool {
    matches!(&event.event, Some(Event::Evidence(e))
        if e.verdict() == Verdict::Passed && e.instance != "standby")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn an_order_only_moves_forward_ends_once_and_is_never_believed_without_evidence(
        acts in vec(act(), 0..40)
    ) {
        let mut progress = Progress::NEW;
        let mut stored: Vec<v1::OrderEvent> = Vec::new();
        let mut ends = 0;
        for act in &acts {
            let Applied::Changed(next) = apply(&progress, &act.input()) else { continue };
            let late = progress.lost && matches!(act, Act::Event(_));
            prop_assert!(!progress.is_finished() || late, "a finished order changed: {act:?}");
            prop_assert!(rank(&next.phase) >= rank(&progress.phase));
            if let Act::Event(event) = act {
                prop_assert_eq!(event.number, progress.last_event + 1, "stored with a gap or twice");
                prop_assert_eq!(next.last_event, event.number);
                stored.push((**event).clone());
            }
            if let Phase::Finished(end) = &next.phase {
                ends += u32::from(!next.lost);
                if matches!(end.outcome, Outcome::Restored | Outcome::Unchanged) {
                    prop_assert!(stored.iter().any(passed), "success without evidence");
                }
                prop_assert!(end.outcome != Outcome::Unspecified);
                if matches!(act, Act::DeadlinePassed | Act::OperatorRevoked | Act::RevisionBad) {
                    prop_assert_eq!(rank(&progress.phase), 0, "ended from here after it was sent");
                }
                if next.lost {
                    prop_assert_eq!(end.outcome, Outcome::NeedsHuman);
                    prop_assert!(rank(&progress.phase) > 0, "lost before it was sent");
                }
            }
            progress = next;
        }
        prop_assert!(ends <= 1);
    }

    #[test]
    fn repeating_every_input_changes_nothing_more(acts in vec(act(), 0..40)) {
        let run = |times: usize| {
            let mut progress = Progress::NEW;
            for act in &acts {
                for _ in 0..times {
                    if let Applied::Changed(next) = apply(&progress, &act.input()) {
                        progress = next;
                    }
                }
            }
            progress
        };
        prop_assert_eq!(run(1), run(3));
    }

    #[test]
    fn a_journal_that_is_sent_again_until_it_is_whole_always_ends_the_same(
        events in vec(event().prop_filter("ends last", |e| !matches!(e, Event::Finished(_))), 0..10),
        outcome in 1..7i32,
        losses in vec(vec(any::<bool>(), 12), 0..6),
    ) {
        let journal: Vec<v1::OrderEvent> = events
            .into_iter()
            .chain([Event::Finished(v1::OrderFinished { outcome, ..v1::OrderFinished::default() })])
            .zip(1..)
            .map(|(event, number)| v1::OrderEvent { number, event: Some(event), ..v1::OrderEvent::default() })
            .collect();
        let deliver = |rounds: &[Vec<bool>]| {
            let mut progress = Progress::NEW;
            for round in rounds.iter().chain([&vec![false; 12]]) {
                for (event, lost) in journal.iter().zip(round) {
                    if *lost { continue }
                    if let Applied::Changed(next) = apply(&progress, &Input::Agent(event)) {
                        progress = next;
                    }
                }
            }
            progress
        };
        let whole = deliver(&[]);
        prop_assert!(whole.is_finished());
        prop_assert_eq!(whole, deliver(&losses));
    }
}
