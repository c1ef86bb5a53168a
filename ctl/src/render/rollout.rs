//! Rollouts for people: the list, the lines of progress, and how it ended.

use sternway_proto::{
    name::{HostName, TargetName},
    v1::{self, order_event::Event},
};

use super::{Sign, pairs, problem, target, verdict};
use crate::{
    table::{Rows, plain},
    text::{
        Tone, View, clean, clip, counted, duration, moment, paint, prose, relative,
        relative_and_absolute, revision_name, until,
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

/// So much of a rollout's id is its time to the millisecond and some chance: enough to find it by.
pub(super) const ROLLOUT: usize = 18;

/// `ctl rollout ls`.
pub(crate) fn list(view: View, rollouts: &[v1::Rollout]) -> String {
    let mut rows = Rows::new(&[
        "ROLLOUT", "STATE", "WHAT", "WHO", "STARTED", "TOOK", "REASON",
    ])
    .id("ROLLOUT", ROLLOUT)
    .spare(&["TOOK", "WHO", "STARTED"])
    .words("REASON", 20);
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

/// `ctl rollout show`: the facts, every line of progress, and how it ended.
pub(crate) fn show(view: View, watch: &Watch, news: &[News]) -> String {
    let rollout = &watch.rollout;
    let asked: Vec<String> = watch.orders().map(|it| restore(&it.order)).collect();
    let finished = match rollout.finished_ms {
        0 => String::new(),
        at => relative_and_absolute(view, at),
    };
    let mut text = pairs(
        view,
        &[
            ("rollout", clean(&rollout.id)),
            ("asked", asked.join(", ")),
            ("state", state(rollout.state()).painted(view)),
            ("operator", clean(&rollout.operator)),
            ("reason", clean(&rollout.reason)),
            ("started", relative_and_absolute(view, rollout.created_ms)),
            ("finished", finished),
        ],
    );
    text.push('\n');
    // That a step began is of interest while it lasts, and whose it is where there are several.
    let several = watch.orders().nth(1).is_some();
    for item in news {
        let (What::Event(event), Some(order)) = (&item.what, watch.order(&item.order_id)) else {
            continue;
        };
        if matches!(event, Event::Step(step) if order.is_past(step)) {
            continue;
        }
        if several {
            text.push_str(&line(view, watch, item));
        } else {
            let time = paint(view, Tone::Dim, &moment(item.at_ms));
            text.push_str(&format!("{time} {}", happened(view, order, &item.what)));
        }
        text.push('\n');
    }
    text + "\n" + &summary(view, watch)
}

/// A line of progress, with its time, without its line end.
pub(crate) fn line(view: View, watch: &Watch, news: &News) -> String {
    let time = paint(view, Tone::Dim, &moment(news.at_ms));
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
            format!(
                "◌ carrying out {}",
                counted(plan.steps.len(), "step", "steps")
            )
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
        "turned-back" => "⚠ going back".to_owned(),
        "confirmed" => "✔ looked at what ran before".to_owned(),
        "rescued" => match note.problem {
            None => "⚠ last resort: what can run was started".to_owned(),
            Some(_) => "✖ last resort failed".to_owned(),
        },
        code => format!("◌ {}", clip(code, 40)),
    };
    // A note with a problem may say the same in both.
    let said = match &note.problem {
        Some(it) => problem(it),
        None => prose(&note.message),
    };
    match said.as_str() {
        "" => word,
        said => format!("{word}: {said}"),
    }
}

/// What the state of an order means for whoever waits for it.
fn waiting(view: View, order: &v1::RolloutOrder) -> String {
    let host = clean(&order.host_name);
    let deadline = || until(view, order.not_after_ms);
    match (order.state(), order.host_online) {
        (v1::OrderState::Queued, true) => "◌ the order is stored and goes to the host".to_owned(),
        (v1::OrderState::Queued, false) => format!(
            "⚠ {host} is offline: the order waits until {}, then expires; Ctrl-C leaves it waiting",
            deadline()
        ),
        (v1::OrderState::Sent, true) => "◌ the order is sent".to_owned(),
        (v1::OrderState::Sent, false) => format!(
            "⚠ {host} went offline with the order on its way: it takes it until {}, or not at all",
            deadline()
        ),
        (v1::OrderState::Accepted, true) => format!("✔ {host} is online and has the order"),
        (v1::OrderState::Accepted, false) => format!(
            "⚠ the connection to {host} is lost: it carries the order out by itself and reports when it \
             is back"
        ),
        (v1::OrderState::Finished, _) => "◌ the order is finished".to_owned(),
        (v1::OrderState::Unspecified, _) => {
            "? the order is in a state that this ctl does not know".to_owned()
        }
    }
}

/// What is left behind by whoever stops watching.
pub(crate) fn left(view: View, watch: &Watch) -> String {
    watch
        .waiting()
        .map(|order| {
            let host = clean(&order.host_name);
            let until = until(view, order.not_after_ms);
            format!("The order waits for {host} until {until}, then expires.\n")
        })
        .collect()
}

fn step_line(view: View, order: &OrderWatch, step: &v1::StepChanged) -> String {
    let sign = step_sign(step.state()).painted(view);
    let message = match step.message.as_str() {
        "" => String::new(),
        text => format!(": {}", prose(text)),
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

/// How it ended: what happened, why, what runs now, the evidence, and what to do next.
pub(crate) fn summary(view: View, watch: &Watch) -> String {
    let mut text = String::new();
    for order in watch.orders() {
        text.push_str(&sentence(view, order));
        let running = running(order);
        if !running.is_empty() {
            text.push_str(&format!("  runs now: {running}\n"));
        }
        if let Some(why) = order.problem() {
            text.push_str(&format!("  because: {}\n", prose(&why.message)));
            if !why.next_step.is_empty() {
                text.push_str(&format!("  next: {}\n", clean(&why.next_step)));
            }
        }
        let evidence = order.last_evidence();
        if !evidence.is_empty() {
            text.push('\n');
            text.push_str(&target::evidence(view, &evidence));
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
            format!(
                "✖ undone: {it} could not go from {from} to {to}, and was put back after {took}"
            ),
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
        v1::Outcome::NeedsHuman
            if order
                .problem()
                .is_some_and(|it| it.code == "outcome-unknown") =>
        {
            (
                Tone::Bad,
                format!("⚠ needs a human: what became of the rollback of {it} is not known"),
            )
        }
        v1::Outcome::NeedsHuman => (
            Tone::Bad,
            format!(
                "⚠ needs a human: neither the rollback of {it} nor its undo could be completed"
            ),
        ),
        v1::Outcome::Unspecified => (
            Tone::Warn,
            format!(
                "◌ not finished: {it}, {from} → {to}; {}",
                waiting(view, &order.order)
            ),
        ),
    };
    paint(view, tone, &text) + "\n"
}

/// The revision that runs now, as people name it; empty where nobody said.
fn running(order: &OrderWatch) -> String {
    let plan = &order.plan;
    match order.running_revision() {
        "" => String::new(),
        id if id == plan.from_revision => revision_name(plan.from_number, id),
        id if id == plan.to_revision => revision_name(plan.to_number, id),
        id => revision_name(0, id),
    }
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
        "\nWas #{number} bad? Keep every rollback from going back to it:\n  \
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
        00:00:00Z web-1 docker/shop  ◌ the order is stored and goes to the host
        00:00:01Z web-1 docker/shop  ✔ accepted by the host
        00:00:02Z web-1 docker/shop  ◌ started step 2/2, stop shop\u{1b}[1A (revision #2)
        00:00:02Z web-1 docker/shop  ✔ done step 2/2, stop shop\u{1b}[1A (revision #2): stopped in 0.2 s
        00:00:03Z web-1 docker/shop  ✔ passed check http of the replacement: http://172.17.0.3:8080/health (expected 200, observed 200 \u{1b}[2J, took 350 ms)
        00:00:03Z web-1 docker/shop  ✔ finished, restored
        ");
    }

    #[test]
    fn a_success_is_said_with_its_evidence_and_the_next_step() {
        let watch = watched(success());
        insta::assert_snapshot!(summary(View::plain(0), &watch), @r"
        ✔ restored: docker/shop on web-1 went from #2 to #1 in 2.0 s, verified
          runs now: #1

        CHECK  OF           SUBJECT                        EXPECTED  OBSERVED       TRIES  TOOK    VERDICT
        http   replacement  http://172.17.0.3:8080/health  200       200 \u{1b}[2J  2      350 ms  ✔ passed

        Was #2 bad? Keep every rollback from going back to it:
          ctl revision mark bad 2 --host web-1 --target docker/shop --reason '…'
        ");
    }

    #[test]
    fn the_report_says_what_was_asked_what_happened_and_what_runs_now() {
        let mut watch = Watch::default();
        let mut told = Vec::new();
        for event in success() {
            told.extend(watch.apply(event, 0).news);
        }
        watch.rollout.finished_ms = 4_000;
        insta::assert_snapshot!(show(View::plain(61_000), &watch, &told), @r"
        rollout   0198a1b2-0000-7000-8000-000000000001
        asked     web-1 docker/shop #2 → #1
        state     ✔ succeeded
        operator  alice
        reason    500s
        started   60 s ago (1970-01-01T00:00:01.000Z)
        finished  57 s ago (1970-01-01T00:00:04.000Z)

        00:00:01Z ✔ accepted by the host
        00:00:02Z ✔ done step 2/2, stop shop\u{1b}[1A (revision #2): stopped in 0.2 s
        00:00:03Z ✔ passed check http of the replacement: http://172.17.0.3:8080/health (expected 200, observed 200 \u{1b}[2J, took 350 ms)
        00:00:03Z ✔ finished, restored

        ✔ restored: docker/shop on web-1 went from #2 to #1 in 2.0 s, verified
          runs now: #1

        CHECK  OF           SUBJECT                        EXPECTED  OBSERVED       TRIES  TOOK    VERDICT
        http   replacement  http://172.17.0.3:8080/health  200       200 \u{1b}[2J  2      350 ms  ✔ passed

        Was #2 bad? Keep every rollback from going back to it:
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
        00:00:00Z web-1 docker/shop  ◌ the order is sent
        00:00:01Z web-1 docker/shop  ✖ failed step 2/2, stop shop\u{1b}[1A (revision #2): no such container
        00:00:02Z web-1 docker/shop  ◌ undoing step 2/2, stop shop\u{1b}[1A (revision #2)
        00:00:02Z web-1 docker/shop  ✔ undone step 2/2, stop shop\u{1b}[1A (revision #2)
        00:00:03Z web-1 docker/shop  ✖ failed check http of the replacement: http://172.17.0.3:8080/health (expected 200, observed 200 \u{1b}[2J, took 350 ms)
        00:00:03Z web-1 docker/shop  ✖ finished, undone: http said 500 → look at the kept container
        ---
        ✖ undone: docker/shop on web-1 could not go from #2 to #1, and was put back after 2.0 s
          runs now: #2
          because: http said 500
          next: look at the kept container

        CHECK  OF           SUBJECT                        EXPECTED  OBSERVED       TRIES  TOOK    VERDICT
        http   replacement  http://172.17.0.3:8080/health  200       200 \u{1b}[2J  2      350 ms  ✖ failed
        ");
    }

    #[test]
    fn every_state_of_an_order_says_what_it_means() {
        let view = View::plain(1_000);
        let text: String = [
            (v1::OrderState::Queued, true),
            (v1::OrderState::Queued, false),
            (v1::OrderState::Sent, true),
            (v1::OrderState::Sent, false),
            (v1::OrderState::Accepted, true),
            (v1::OrderState::Accepted, false),
        ]
        .into_iter()
        .map(|(state, host_online)| {
            let mut rollout = rollout(v1::RolloutState::Running, state);
            rollout.waves[0].orders[0].host_online = host_online;
            let watch = Watch::new(rollout, 0);
            let order = watch.order("o1").expect("known");
            waiting(view, &order.order) + "\n" + &left(view, &watch)
        })
        .collect();
        insta::assert_snapshot!(text, @r"
        ◌ the order is stored and goes to the host
        ⚠ web-1 is offline: the order waits until 00:10:01 UTC (in 10 min), then expires; Ctrl-C leaves it waiting
        The order waits for web-1 until 00:10:01 UTC (in 10 min), then expires.
        ◌ the order is sent
        ⚠ web-1 went offline with the order on its way: it takes it until 00:10:01 UTC (in 10 min), or not at all
        ✔ web-1 is online and has the order
        ⚠ the connection to web-1 is lost: it carries the order out by itself and reports when it is back
        ");
    }

    #[test]
    fn a_note_says_it_once() {
        let told = |code: &str, message: &str, problem: Option<v1::Problem>| {
            note(&v1::OrderNote {
                code: code.into(),
                message: message.into(),
                problem,
            })
        };
        let id = "c".repeat(64);
        let why = v1::Problem::new("checks-failed", format!("container {id} says 500"), "");
        let text = [
            told("turned-back", &why.message, Some(why.clone())),
            told("confirmed", "shop answers", None),
            told("rescued", &format!("container {id} runs"), None),
            told("rescued", &why.message, Some(why.clone())),
            told("newer", "", None),
        ]
        .join("\n");
        insta::assert_snapshot!(text, @r"
        ⚠ going back: container cccccccccccc says 500
        ✔ looked at what ran before: shop answers
        ⚠ last resort: what can run was started: container cccccccccccc runs
        ✖ last resort failed: container cccccccccccc says 500
        ◌ newer
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
          runs now: #1
        ✖ refused: docker/shop on web-1 stays as it was; nothing was changed
        ✖ expired: docker/shop on web-1 stays as it was; the deadline passed before the order was taken
        ⚠ needs a human: neither the rollback of docker/shop on web-1 nor its undo could be completed
        ◌ not finished: docker/shop on web-1, #2 → #1; ◌ the order is sent
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
