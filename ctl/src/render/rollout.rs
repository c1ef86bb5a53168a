//! Rollouts for people: the list, the lines of progress, and how it ended.

use sternway_proto::{
    name::{HostName, TargetName},
    v1::{self, order_event::Event},
};

use super::{Sign, pairs, problem, target, verdict};
use crate::{
    json::rollout::order_state,
    table::{Rows, plain},
    text::{
        Tone, View, clean, clip, duration, paint, relative, relative_and_absolute, revision_name,
        time_of_day,
    },
    watch::fold::{News, OrderWatch, Watch, What},
};

/// The sign of a rollout's state.
pub(crate) fn state(state: v1::RolloutState) -> Sign {
    match state {
        v1::RolloutState::Unspecified => Sign::new("?", "unknown", Tone::Dim),
        v1::RolloutState::Running => Sign::new("◌", "running", Tone::Warn),
        v1::RolloutState::Succeeded => Sign::new("✔", "succeeded", Tone::Good),
        v1::RolloutState::Undone => Sign::new("✖", "undone", Tone::Bad),
        v1::RolloutState::Refused => Sign::new("✖", "refused", Tone::Bad),
        v1::RolloutState::Expired => Sign::new("✖", "expired", Tone::Bad),
        v1::RolloutState::NeedsHuman => Sign::new("⚠", "needs a human", Tone::Bad),
    }
}

/// The sign of a step's state.
pub(crate) fn step_sign(state: v1::StepState) -> Sign {
    match state {
        v1::StepState::Unspecified => Sign::new("?", "unknown", Tone::Dim),
        v1::StepState::Started => Sign::new("◌", "started", Tone::Plain),
        v1::StepState::Succeeded => Sign::new("✔", "done", Tone::Good),
        v1::StepState::Failed => Sign::new("✖", "failed", Tone::Bad),
        v1::StepState::UndoStarted => Sign::new("◌", "undoing", Tone::Warn),
        v1::StepState::Undone => Sign::new("✔", "undone", Tone::Warn),
        v1::StepState::UndoFailed => Sign::new("✖", "undo failed", Tone::Bad),
    }
}

/// `ctl rollout ls`. An id is shown whole: prefixes of fresh ones are all alike.
pub(crate) fn list(view: View, rollouts: &[v1::Rollout]) -> String {
    let mut rows = Rows::new(&[
        "ROLLOUT", "STATE", "WHAT", "WHO", "STARTED", "TOOK", "REASON",
    ]);
    for rollout in rollouts {
        let orders = rollout.waves.iter().flat_map(|wave| &wave.orders);
        let what: Vec<String> = orders.map(restore).collect();
        let took = match rollout.finished_ms {
            0 => String::new(),
            end => duration(end.saturating_sub(rollout.created_ms)),
        };
        rows.push([
            plain(&rollout.id),
            state(rollout.state()).cell(),
            plain(what.join(", ")),
            plain(&rollout.operator),
            plain(relative(view, rollout.created_ms)),
            plain(took),
            plain(&rollout.reason),
        ]);
    }
    rows.render(view, "no rollouts")
}

fn restore(order: &v1::RolloutOrder) -> String {
    let plan = order.plan.clone().unwrap_or_default();
    format!(
        "{} {} {}",
        clean(&order.host_name),
        clean(&order.target),
        from_to(&plan)
    )
}

fn from_to(plan: &v1::Plan) -> String {
    let from = revision_name(plan.from_number, &plan.from_revision);
    let to = revision_name(plan.to_number, &plan.to_revision);
    format!("{from} → {to}")
}

/// `ctl rollout show`: the facts, then every line of progress.
pub(crate) fn show(view: View, watch: &Watch, news: &[News]) -> String {
    let rollout = &watch.rollout;
    let finished = match rollout.finished_ms {
        0 => String::new(),
        at => relative_and_absolute(view, at),
    };
    let mut text = pairs(
        view,
        &[
            ("rollout", clean(&rollout.id)),
            ("state", state(rollout.state()).painted(view)),
            ("operator", clean(&rollout.operator)),
            ("reason", clean(&rollout.reason)),
            ("started", relative_and_absolute(view, rollout.created_ms)),
            ("finished", finished),
        ],
    );
    text.push('\n');
    for item in news.iter().filter(|it| matches!(it.what, What::Event(_))) {
        text.push_str(&line(view, watch, item));
        text.push('\n');
    }
    text
}

/// A line of progress, with its time, without its line end.
pub(crate) fn line(view: View, watch: &Watch, news: &News) -> String {
    let time = paint(view, Tone::Dim, &time_of_day(news.at_ms));
    let Some(order) = watch.order(&news.order_id) else {
        return format!("{time} {}", clean(&news.order_id));
    };
    let (host, target) = (clean(&order.order.host_name), clean(&order.order.target));
    format!(
        "{time} {host} {target}  {}",
        happened(view, order, &news.what)
    )
}

/// What happened, in a phrase.
pub(crate) fn happened(view: View, order: &OrderWatch, what: &What) -> String {
    match what {
        What::Order => waiting(view, &order.order),
        What::Event(Event::Accepted(_)) => "✔ accepted by the host".to_owned(),
        What::Event(Event::Planned(plan)) => {
            format!("◌ carrying out {} steps", plan.steps.len())
        }
        What::Event(Event::Step(step)) => step_line(view, order, step),
        What::Event(Event::Evidence(it)) => evidence_line(view, it),
        What::Event(Event::Recovered(it)) => format!(
            "⚠ the agent was started again (attempt {}): {}",
            it.attempt,
            clean(&it.decision)
        ),
        What::Event(Event::Note(it)) => note(it),
        What::Event(Event::Finished(it)) => finished(view, it),
    }
}

fn note(note: &v1::OrderNote) -> String {
    let word = match note.code.as_str() {
        "turned-back" => "⚠ turned back: the restore is being undone".to_owned(),
        "confirmed" => "✔ confirmed: what ran before was looked at".to_owned(),
        "rescued" => "⚠ rescued: what can run was started".to_owned(),
        code => format!("◌ {}", clip(code, 40)),
    };
    let message = match note.message.as_str() {
        "" => String::new(),
        text => format!("; {}", clean(text)),
    };
    let why = note
        .problem
        .as_ref()
        .map_or_else(String::new, |it| format!("; {}", problem(it)));
    word + &message + &why
}

fn waiting(view: View, order: &v1::RolloutOrder) -> String {
    if order.state() == v1::OrderState::Queued && !order.host_online {
        let until = relative(view, order.not_after_ms);
        return format!("⚠ the host is offline: the order waits and expires {until}");
    }
    format!("◌ order {}", order_state(order.state()))
}

fn step_line(view: View, order: &OrderWatch, step: &v1::StepChanged) -> String {
    let sign = step_sign(step.state()).painted(view);
    let message = match step.message.as_str() {
        "" => String::new(),
        text => format!(": {}", clean(text)),
    };
    format!("{sign} {}{message}", step_name(order, step))
}

/// `step 3/7, stop shop`.
pub(crate) fn step_name(order: &OrderWatch, step: &v1::StepChanged) -> String {
    let number = u64::from(step.index) + 1;
    let info = usize::try_from(step.index)
        .ok()
        .and_then(|index| order.plan.steps.get(index));
    match info {
        Some(info) => {
            let all = order.plan.steps.len();
            format!("step {number}/{all}, {}", clip(&info.description, 120))
        }
        None => format!("step {number}, {}", clip(&step.step, 120)),
    }
}

fn evidence_line(view: View, evidence: &v1::Evidence) -> String {
    let sign = verdict(evidence.verdict()).painted(view);
    let instance = match evidence.instance.as_str() {
        "" => String::new(),
        instance => format!(" of the {}", clip(instance, 20)),
    };
    format!(
        "{sign} check {}{instance}: {} (expected {}, observed {}, took {})",
        clip(&evidence.check, 40),
        clip(&evidence.subject, 120),
        clip(&evidence.expected, 80),
        clip(&evidence.observed, 120),
        duration(evidence.duration_ms),
    )
}

fn finished(view: View, finished: &v1::OrderFinished) -> String {
    let word = crate::json::rollout::outcome(finished.outcome()).unwrap_or("unknown");
    let tone = match finished.outcome() {
        v1::Outcome::Restored | v1::Outcome::Unchanged => Tone::Good,
        _ => Tone::Bad,
    };
    let icon = if tone == Tone::Good { "✔" } else { "✖" };
    let why = match &finished.problem {
        Some(it) => format!(": {}", problem(it)),
        None => String::new(),
    };
    format!(
        "{}{why}",
        paint(view, tone, &format!("{icon} finished, {word}"))
    )
}

/// How it ended: a sentence for every order, its evidence, and what to do now.
pub(crate) fn summary(view: View, watch: &Watch) -> String {
    let mut text = String::new();
    for order in watch.orders() {
        text.push_str(&sentence(view, order));
        if let Some(why) = order.problem() {
            text.push_str(&format!("  because: {}\n", clean(&why.message)));
            if !why.next_step.is_empty() {
                text.push_str(&format!("  next: {}\n", clean(&why.next_step)));
            }
        }
        if !order.evidence.is_empty() {
            text.push('\n');
            text.push_str(&target::evidence(view, &order.evidence));
        }
        text.push_str(&afterwards(order));
    }
    text
}

fn sentence(view: View, order: &OrderWatch) -> String {
    let it = format!(
        "{} on {}",
        clean(&order.order.target),
        clean(&order.order.host_name)
    );
    let plan = &order.plan;
    let from = revision_name(plan.from_number, &plan.from_revision);
    let to = revision_name(plan.to_number, &plan.to_revision);
    let took = duration(order.took_ms());
    let (tone, text) = match order.outcome() {
        v1::Outcome::Restored => (
            Tone::Good,
            format!("✔ restored: {it} went from {from} to {to} in {took}, verified"),
        ),
        v1::Outcome::Unchanged => (
            Tone::Good,
            format!("✔ unchanged: {it} ran {to} already and passes its checks"),
        ),
        v1::Outcome::Undone => (
            Tone::Bad,
            format!("✖ undone: {it} could not go to {to}; {from} runs again, after {took}"),
        ),
        v1::Outcome::Refused => (
            Tone::Bad,
            format!("✖ refused: {it} stays as it was; nothing was changed"),
        ),
        v1::Outcome::Expired => (
            Tone::Bad,
            format!(
                "✖ expired: {it} stays as it was; the deadline passed before the order was taken"
            ),
        ),
        v1::Outcome::NeedsHuman => (Tone::Bad, needs_human(order, &it)),
        v1::Outcome::Unspecified => (
            Tone::Warn,
            format!(
                "◌ {}: {it}, {from} → {to}",
                order_state(order.order.state())
            ),
        ),
    };
    paint(view, tone, &text) + "\n"
}

fn needs_human(order: &OrderWatch, it: &str) -> String {
    let plan = &order.plan;
    let running = match order.running_revision() {
        "" => "nothing is known to run".to_owned(),
        id if id == plan.from_revision => {
            format!("{} runs", revision_name(plan.from_number, id))
        }
        id if id == plan.to_revision => format!("{} runs", revision_name(plan.to_number, id)),
        id => format!("{} runs", revision_name(0, id)),
    };
    format!(
        "⚠ needs a human: neither the rollback of {it} nor its undo could be completed; {running}"
    )
}

/// The next command after a restore. Names that could mean something to a shell are not put into one.
fn afterwards(order: &OrderWatch) -> String {
    let (host, target) = (&order.order.host_name, &order.order.target);
    let plain = host.parse::<HostName>().is_ok() && target.parse::<TargetName>().is_ok();
    let number = order.plan.from_number;
    let restored = order.outcome() == v1::Outcome::Restored;
    if !(restored && plain && number > 0) {
        return String::new();
    }
    format!(
        "\nWas #{number} bad? Then nobody shall come back to it:\n  \
         ctl revision mark bad {number} --host {host} --target {target} --reason '…'\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fold::tests::{
        evidence, finished as end, happened as event, rollout, step, stored, success,
    };

    fn watched(events: Vec<v1::RolloutEvent>) -> Watch {
        let mut watch = Watch::default();
        for event in events {
            watch.apply(event, 0);
        }
        watch
    }

    fn lines(events: Vec<v1::RolloutEvent>) -> String {
        let mut watch = Watch::default();
        let mut text = String::new();
        for event in events {
            for news in watch.apply(event, 0).news {
                text += &(line(View::plain(0), &watch, &news) + "\n");
            }
        }
        text
    }

    #[test]
    fn progress_is_one_line_an_event() {
        insta::assert_snapshot!(lines(success()), @r"
        00:00:00 web-1 docker/shop  ◌ order queued
        00:00:01 web-1 docker/shop  ✔ accepted by the host
        00:00:02 web-1 docker/shop  ◌ started step 2/2, stop shop\u{1b}[1A (revision #2)
        00:00:02 web-1 docker/shop  ✔ done step 2/2, stop shop\u{1b}[1A (revision #2): stopped in 0.2 s
        00:00:03 web-1 docker/shop  ✔ passed check http of the replacement: http://172.17.0.3:8080/health (expected 200, observed 200 \u{1b}[2J, took 350 ms)
        00:00:03 web-1 docker/shop  ✔ finished, restored
        ");
    }

    #[test]
    fn a_success_is_said_with_its_evidence_and_the_next_step() {
        let watch = watched(success());
        insta::assert_snapshot!(summary(View::plain(0), &watch), @r"
        ✔ restored: docker/shop on web-1 went from #2 to #1 in 2.0 s, verified

        CHECK  OF           SUBJECT                        EXPECTED  OBSERVED       TRIES  TOOK    VERDICT
        http   replacement  http://172.17.0.3:8080/health  200       200 \u{1b}[2J  2      350 ms  ✔ passed

        Was #2 bad? Then nobody shall come back to it:
          ctl revision mark bad 2 --host web-1 --target docker/shop --reason '…'
        ");
    }

    #[test]
    fn an_undo_is_said_with_its_reason() {
        let why = v1::Problem::new(
            "checks-failed",
            "http said 500",
            "look at the kept container",
        );
        let events = vec![
            stored(rollout(v1::RolloutState::Running, v1::OrderState::Sent)),
            event(1, step(1, v1::StepState::Failed, "no such container")),
            event(2, step(1, v1::StepState::UndoStarted, "")),
            event(3, step(1, v1::StepState::Undone, "")),
            event(4, evidence(v1::Verdict::Failed)),
            event(5, end(v1::Outcome::Undone, Some(why))),
            stored(rollout(v1::RolloutState::Undone, v1::OrderState::Finished)),
        ];
        let watch = watched(events.clone());
        insta::assert_snapshot!(lines(events) + "---\n" + &summary(View::plain(0), &watch), @r"
        00:00:00 web-1 docker/shop  ◌ order sent
        00:00:01 web-1 docker/shop  ✖ failed step 2/2, stop shop\u{1b}[1A (revision #2): no such container
        00:00:02 web-1 docker/shop  ◌ undoing step 2/2, stop shop\u{1b}[1A (revision #2)
        00:00:02 web-1 docker/shop  ✔ undone step 2/2, stop shop\u{1b}[1A (revision #2)
        00:00:03 web-1 docker/shop  ✖ failed check http of the replacement: http://172.17.0.3:8080/health (expected 200, observed 200 \u{1b}[2J, took 350 ms)
        00:00:03 web-1 docker/shop  ✖ finished, undone: http said 500 → look at the kept container
        ---
        ✖ undone: docker/shop on web-1 could not go to #1; #2 runs again, after 2.0 s
          because: http said 500
          next: look at the kept container

        CHECK  OF           SUBJECT                        EXPECTED  OBSERVED       TRIES  TOOK    VERDICT
        http   replacement  http://172.17.0.3:8080/health  200       200 \u{1b}[2J  2      350 ms  ✖ failed
        ");
    }

    #[test]
    fn every_outcome_has_a_sentence_of_its_own() {
        let text: String = [
            v1::Outcome::Unchanged,
            v1::Outcome::Refused,
            v1::Outcome::Expired,
            v1::Outcome::NeedsHuman,
            v1::Outcome::Unspecified,
        ]
        .into_iter()
        .map(|outcome| {
            let watch = watched(vec![
                stored(rollout(v1::RolloutState::Running, v1::OrderState::Sent)),
                event(1, end(outcome, None)),
            ]);
            summary(View::plain(0), &watch)
        })
        .collect();
        insta::assert_snapshot!(text, @r"
        ✔ unchanged: docker/shop on web-1 ran #1 already and passes its checks
        ✖ refused: docker/shop on web-1 stays as it was; nothing was changed
        ✖ expired: docker/shop on web-1 stays as it was; the deadline passed before the order was taken
        ⚠ needs a human: neither the rollback of docker/shop on web-1 nor its undo could be completed; #1 runs
        ◌ sent: docker/shop on web-1, #2 → #1
        ");
    }

    #[test]
    fn a_hostile_name_is_not_put_into_a_command() {
        let mut hostile = rollout(v1::RolloutState::Succeeded, v1::OrderState::Finished);
        hostile.waves[0].orders[0].host_name = "x; rm -rf ~".into();
        let watch = watched(vec![
            stored(hostile),
            event(1, end(v1::Outcome::Restored, None)),
        ]);
        assert!(!summary(View::plain(0), &watch).contains("mark bad"));
    }

    #[test]
    fn rollouts_are_listed_whole() {
        let rollouts = [rollout(v1::RolloutState::Running, v1::OrderState::Sent)];
        insta::assert_snapshot!(list(View::plain(61_000), &rollouts), @r"
        ROLLOUT                               STATE      WHAT                       WHO    STARTED   TOOK  REASON
        0198a1b2-0000-7000-8000-000000000001  ◌ running  web-1 docker/shop #2 → #1  alice  60 s ago        500s
        ");
    }
}
