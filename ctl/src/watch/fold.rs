//! What is known of a rollout after the events so far. Replays (after a re-attach) change nothing.

use std::collections::BTreeMap;

use sternway_proto::v1::{self, order_event::Event, rollout_event::Event as RolloutEvent};

use crate::exit_code::ExitCode;

/// A rollout as its events tell it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Watch {
    pub(crate) rollout: v1::Rollout,
    orders: BTreeMap<String, OrderWatch>,
}

/// One order as its events tell it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OrderWatch {
    /// As the controller has it.
    pub(crate) order: v1::RolloutOrder,
    pub(crate) plan: v1::Plan,
    /// The last state of every step that was begun, by its position.
    pub(crate) steps: BTreeMap<u32, v1::StepChanged>,
    pub(crate) evidence: Vec<v1::Evidence>,
    pub(crate) finished: Option<v1::OrderFinished>,
    last_number: u64,
    first_ms: i64,
    last_ms: i64,
}

/// Something that was not known before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct News {
    pub(crate) order_id: String,
    /// Unix milliseconds.
    pub(crate) at_ms: i64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "lives for one line of progress")]
pub(crate) enum What {
    /// The controller's view of the order changed.
    Order,
    Event(Event),
}

/// What an event did to a [`Watch`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Applied {
    /// It told something that was not known: a program should see it.
    pub(crate) fresh: bool,
    pub(crate) news: Vec<News>,
}

impl Watch {
    /// A watch of a rollout as it is stored.
    pub(crate) fn new(rollout: v1::Rollout, now_ms: i64) -> Self {
        let mut watch = Self::default();
        watch.rollout_stored(rollout, now_ms);
        watch
    }

    /// Takes in an event. `now_ms` stamps what carries no time of its own.
    pub(crate) fn apply(&mut self, event: v1::RolloutEvent, now_ms: i64) -> Applied {
        match event.event {
            None => Applied::default(),
            Some(RolloutEvent::Rollout(rollout)) => self.rollout_stored(rollout, now_ms),
            Some(RolloutEvent::OrderEvent(event)) => self.order_event(event),
        }
    }

    /// Whether nothing more will come.
    pub(crate) fn over(&self) -> bool {
        !matches!(
            self.rollout.state(),
            v1::RolloutState::Running | v1::RolloutState::Unspecified
        )
    }

    /// The exit code that tells the truth of it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.rollout.state() {
            v1::RolloutState::Succeeded => ExitCode::Done,
            v1::RolloutState::Undone => ExitCode::Undone,
            v1::RolloutState::Refused => ExitCode::Refused,
            v1::RolloutState::Expired => ExitCode::Expired,
            v1::RolloutState::NeedsHuman => ExitCode::NeedsHuman,
            v1::RolloutState::Running => ExitCode::StillRunning,
            v1::RolloutState::Unspecified => ExitCode::Error,
        }
    }

    /// The orders that wait for their host.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &v1::RolloutOrder> {
        self.orders()
            .map(|it| &it.order)
            .filter(|it| it.state() == v1::OrderState::Queued && !it.host_online)
    }

    /// The orders in the order of the waves.
    pub(crate) fn orders(&self) -> impl Iterator<Item = &OrderWatch> {
        let orders = self.rollout.waves.iter().flat_map(|wave| &wave.orders);
        orders.filter_map(|order| self.orders.get(&order.order_id))
    }

    /// An order of this rollout.
    pub(crate) fn order(&self, order_id: &str) -> Option<&OrderWatch> {
        self.orders.get(order_id)
    }

    /// How many steps stand done at this moment, and of how many: an undo takes the first back, step by step. Zero of
    /// zero before there is a plan.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let orders = self.orders().map(OrderWatch::progress);
        orders.fold((0, 0), |(done, all), (it, of)| (done + it, all + of))
    }

    fn rollout_stored(&mut self, rollout: v1::Rollout, now_ms: i64) -> Applied {
        let mut news = Vec::new();
        for order in rollout.waves.iter().flat_map(|wave| &wave.orders) {
            let known = self.orders.entry(order.order_id.clone()).or_default();
            let state = |it: &v1::RolloutOrder| (it.state, it.host_online);
            // That it was taken, and how it ended, an order says itself, by its events.
            let said = match order.state() {
                v1::OrderState::Finished => true,
                v1::OrderState::Accepted => order.host_online && known.order.host_online,
                _ => false,
            };
            if state(&known.order) != state(order) && !said {
                news.push(News {
                    order_id: order.order_id.clone(),
                    at_ms: now_ms,
                    what: What::Order,
                });
            }
            // The plan of the journal is the one that is carried out; the stored one may be older.
            if let Some(plan) = &order.plan
                && known.plan.target.is_empty()
            {
                known.plan = plan.clone();
            }
            known.order = order.clone();
        }
        let fresh = self.rollout != rollout;
        self.rollout = rollout;
        Applied { fresh, news }
    }

    fn order_event(&mut self, event: v1::OrderEvent) -> Applied {
        let order = self.orders.entry(event.order_id.clone()).or_default();
        if event.number <= order.last_number {
            return Applied::default();
        }
        order.last_number = event.number;
        if order.first_ms == 0 {
            order.first_ms = event.at_ms;
        }
        order.last_ms = event.at_ms;
        let Some(what) = event.event else {
            return Applied {
                fresh: true,
                news: Vec::new(),
            };
        };
        order.take(&what);
        Applied {
            fresh: true,
            news: vec![News {
                order_id: event.order_id,
                at_ms: event.at_ms,
                what: What::Event(what),
            }],
        }
    }
}

impl OrderWatch {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Accepted(_) | Event::Recovered(_) | Event::Note(_) => {}
            Event::Planned(plan) => self.plan = plan.clone(),
            Event::Step(step) => {
                self.steps.insert(step.index, step.clone());
            }
            Event::Evidence(evidence) => self.evidence.push(evidence.clone()),
            Event::Finished(finished) => self.finished = Some(finished.clone()),
        }
    }

    fn progress(&self) -> (u64, u64) {
        // One that is in motion, forwards or backwards, is not.
        let stands = |step: &&v1::StepChanged| step.state() == v1::StepState::Succeeded;
        let done = self.steps.values().filter(stands).count();
        let all = self.plan.steps.len().max(done);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        (count(done), count(all))
    }

    /// Whether a step has gone beyond that event: its end was told.
    pub(crate) fn is_past(&self, event: &v1::StepChanged) -> bool {
        let begins = matches!(
            event.state(),
            v1::StepState::Started | v1::StepState::UndoStarted
        );
        begins
            && self
                .steps
                .get(&event.index)
                .is_some_and(|last| last.state() != event.state())
    }

    /// The last evidence of each check, in the order in which they were first made.
    pub(crate) fn last_evidence(&self) -> Vec<v1::Evidence> {
        let mut last: Vec<v1::Evidence> = Vec::new();
        for it in &self.evidence {
            let same = |other: &&mut v1::Evidence| {
                (&other.check, &other.subject, &other.instance)
                    == (&it.check, &it.subject, &it.instance)
            };
            match last.iter_mut().find(same) {
                Some(other) => *other = it.clone(),
                None => last.push(it.clone()),
            }
        }
        last
    }

    /// How it ended; unspecified while it has not.
    pub(crate) fn outcome(&self) -> v1::Outcome {
        match &self.finished {
            Some(finished) => finished.outcome(),
            None => self.order.outcome(),
        }
    }

    /// Why it ended that way.
    pub(crate) fn problem(&self) -> Option<&v1::Problem> {
        let finished = self.finished.as_ref().and_then(|it| it.problem.as_ref());
        finished.or(self.order.problem.as_ref())
    }

    /// The revision that runs now, empty where nobody said.
    pub(crate) fn running_revision(&self) -> &str {
        let finished = self.finished.as_ref().map_or("", |it| &it.running_revision);
        if finished.is_empty() {
            &self.order.running_revision
        } else {
            finished
        }
    }

    /// From the order's first event to its last, on the host's clock.
    pub(crate) fn took_ms(&self) -> i64 {
        self.last_ms.saturating_sub(self.first_ms)
    }

    /// The step that is being applied or undone.
    pub(crate) fn active_step(&self) -> Option<&v1::StepChanged> {
        let active = |step: &&v1::StepChanged| {
            matches!(
                step.state(),
                v1::StepState::Started | v1::StepState::UndoStarted
            )
        };
        self.steps.values().rev().find(active)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rollout(state: v1::RolloutState, order: v1::OrderState) -> v1::Rollout {
        let plan = crate::render::plan::tests::planned().plan;
        v1::Rollout {
            id: "0198a1b2-0000-7000-8000-000000000001".into(),
            state: state.into(),
            operator: "alice".into(),
            reason: "500s".into(),
            created_ms: 1_000,
            finished_ms: 0,
            waves: vec![v1::Wave {
                orders: vec![v1::RolloutOrder {
                    order_id: "o1".into(),
                    host_name: "web-1".into(),
                    target: "docker/shop".into(),
                    state: order.into(),
                    host_online: true,
                    plan,
                    not_after_ms: 601_000,
                    ..Default::default()
                }],
            }],
        }
    }

    pub(crate) fn stored(rollout: v1::Rollout) -> v1::RolloutEvent {
        v1::RolloutEvent {
            event: Some(RolloutEvent::Rollout(rollout)),
        }
    }

    pub(crate) fn happened(number: u64, event: Event) -> v1::RolloutEvent {
        v1::RolloutEvent {
            event: Some(RolloutEvent::OrderEvent(v1::OrderEvent {
                order_id: "o1".into(),
                number,
                at_ms: 1_000 + i64::try_from(number).expect("small") * 500,
                event: Some(event),
            })),
        }
    }

    pub(crate) fn step(index: u32, state: v1::StepState, message: &str) -> Event {
        Event::Step(v1::StepChanged {
            index,
            step: "docker.stop-old".into(),
            state: state.into(),
            message: message.into(),
        })
    }

    pub(crate) fn evidence(verdict: v1::Verdict) -> Event {
        Event::Evidence(v1::Evidence {
            check: "http".into(),
            subject: "http://172.17.0.3:8080/health".into(),
            expected: "200".into(),
            observed: "200 \x1b[2J".into(),
            attempts: 2,
            duration_ms: 350,
            verdict: verdict.into(),
            instance: "replacement".into(),
            at_ms: 3_000,
        })
    }

    pub(crate) fn finished(outcome: v1::Outcome, problem: Option<v1::Problem>) -> Event {
        Event::Finished(v1::OrderFinished {
            outcome: outcome.into(),
            problem,
            running_revision: match outcome {
                v1::Outcome::Restored | v1::Outcome::Unchanged => "a".repeat(64),
                v1::Outcome::Undone => "b".repeat(64),
                _ => String::new(),
            },
        })
    }

    /// A rollout that succeeds, as the controller tells it.
    pub(crate) fn success() -> Vec<v1::RolloutEvent> {
        vec![
            stored(rollout(v1::RolloutState::Running, v1::OrderState::Queued)),
            happened(1, Event::Accepted(v1::OrderAccepted {})),
            happened(2, step(1, v1::StepState::Started, "")),
            happened(3, step(1, v1::StepState::Succeeded, "stopped in 0.2 s")),
            happened(4, evidence(v1::Verdict::Passed)),
            happened(5, finished(v1::Outcome::Restored, None)),
            stored(rollout(
                v1::RolloutState::Succeeded,
                v1::OrderState::Finished,
            )),
        ]
    }

    #[test]
    fn progress_counts_the_steps_that_stand_and_goes_back_in_an_undo() {
        let mut watch = Watch::default();
        assert_eq!(watch.progress(), (0, 0));
        watch.apply(success().remove(0), 0);
        let seen: Vec<(u64, u64)> = [
            (0, v1::StepState::Started),
            (0, v1::StepState::Succeeded),
            (1, v1::StepState::Started),
            (1, v1::StepState::Failed),
            (1, v1::StepState::UndoStarted),
            (1, v1::StepState::Undone),
            (0, v1::StepState::UndoStarted),
            (0, v1::StepState::Undone),
        ]
        .into_iter()
        .zip(1..)
        .map(|((index, state), number)| {
            watch.apply(happened(number, step(index, state, "")), 0);
            watch.progress()
        })
        .collect();
        let wanted = [0, 1, 1, 1, 1, 1, 0, 0];
        assert_eq!(seen, wanted.map(|done| (done, 2)));
    }

    #[test]
    fn a_replay_tells_nothing_new() {
        let mut watch = Watch::default();
        for event in success() {
            assert!(watch.apply(event, 9_000).fresh);
        }
        assert!(watch.over());
        assert_eq!(watch.exit_code(), ExitCode::Done);
        let before = watch.clone();
        let again = success().pop().expect("not empty");
        for event in success().into_iter().skip(1).chain([again]) {
            assert_eq!(watch.apply(event, 9_000), Applied::default());
        }
        assert_eq!(watch, before);
    }

    #[test]
    fn a_cut_stream_goes_on_where_it_was() {
        let events = success();
        for cut in 0..events.len() {
            let mut watch = Watch::default();
            let replay = events.iter().take(cut).chain(&events);
            let numbers: Vec<i64> = replay
                .flat_map(|event| watch.apply(event.clone(), 0).news)
                .filter(|news| matches!(news.what, What::Event(_)))
                .map(|news| news.at_ms)
                .collect();
            assert_eq!(numbers, [1_500, 2_000, 2_500, 3_000, 3_500], "cut at {cut}");
            let order = watch.order("o1").expect("known");
            assert_eq!(order.evidence.len(), 1);
            assert_eq!(order.took_ms(), 2_000);
        }
    }

    #[test]
    fn what_an_order_says_itself_is_not_said_twice() {
        let accepted = |host_online| {
            let mut rollout = rollout(v1::RolloutState::Running, v1::OrderState::Accepted);
            rollout.waves[0].orders[0].host_online = host_online;
            stored(rollout)
        };
        let mut watch = Watch::default();
        let told: Vec<usize> = [
            stored(rollout(v1::RolloutState::Running, v1::OrderState::Sent)),
            accepted(true),
            happened(1, Event::Accepted(v1::OrderAccepted {})),
            accepted(false),
            accepted(true),
        ]
        .into_iter()
        .map(|event| watch.apply(event, 0).news.len())
        .collect();
        assert_eq!(told, [1, 0, 1, 1, 1]);
    }

    #[test]
    fn of_a_check_that_was_made_again_the_last_evidence_counts() {
        let mut watch = Watch::default();
        watch.apply(success().remove(0), 0);
        watch.apply(happened(1, evidence(v1::Verdict::Failed)), 0);
        watch.apply(happened(2, evidence(v1::Verdict::Passed)), 0);
        let last = watch.order("o1").expect("known").last_evidence();
        assert_eq!(last.len(), 1);
        assert_eq!(last[0].verdict(), v1::Verdict::Passed);
    }

    #[test]
    fn every_state_of_a_rollout_has_its_exit_code() {
        let code = |state| Watch::new(rollout(state, v1::OrderState::Finished), 0).exit_code();
        assert_eq!(code(v1::RolloutState::Undone), ExitCode::Undone);
        assert_eq!(code(v1::RolloutState::Refused), ExitCode::Refused);
        assert_eq!(code(v1::RolloutState::Expired), ExitCode::Expired);
        assert_eq!(code(v1::RolloutState::NeedsHuman), ExitCode::NeedsHuman);
        assert_eq!(code(v1::RolloutState::Running), ExitCode::StillRunning);
    }
}
