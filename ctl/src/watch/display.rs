//! What is shown while a rollout runs: JSON lines for programs, a bar over the steps under lines of progress on a
//! terminal, plain lines off it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sternway_proto::v1::{self, order_event::Event, rollout_event::Event as RolloutEvent};

use super::fold::{News, Watch, What};
use crate::{
    error::CtlError,
    json,
    render::rollout,
    text::{View, one_line},
    ui::Ui,
};

/// What stands around a message in the bar's line beside the bar itself: the spinner, `12/34`, and a time like `(12m)`.
const AROUND: u16 = 17;

/// The signs of a bar: done, being done, to do.
const BAR: &str = "━╾─";

/// Where progress goes.
pub(crate) enum Display {
    Json,
    Lines,
    Live(ProgressBar),
}

impl Display {
    /// What suits the terminal.
    pub(crate) fn of(ui: &Ui) -> Self {
        if ui.json() {
            return Self::Json;
        }
        if !ui.live {
            return Self::Lines;
        }
        let bar = ProgressBar::new_spinner();
        advance(&bar, ui.progress_view(), (0, 0));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Live(bar)
    }

    /// Shows what an event told.
    pub(crate) fn event(
        &self,
        ui: &mut Ui,
        watch: &Watch,
        event: &v1::RolloutEvent,
        news: &[News],
    ) -> Result<(), CtlError> {
        if matches!(self, Self::Json) {
            return ui.data(&json_line(event));
        }
        for item in news {
            let view = ui.progress_view();
            let line = one_line(view, &rollout::line(view, watch, item));
            match self {
                Self::Live(bar) if is_beginning(item) => {
                    bar.set_message(beside(view, &active(watch, item)));
                }
                Self::Live(bar) => bar.suspend(|| ui.note(&line)),
                _ => ui.note(&line),
            }
        }
        if let Self::Live(bar) = self {
            advance(bar, ui.progress_view(), watch.progress());
        }
        Ok(())
    }

    /// Shows a remark beside the events.
    pub(crate) fn note(&self, ui: &mut Ui, text: &str) {
        match self {
            Self::Live(bar) => bar.suspend(|| ui.note(text)),
            _ => ui.note(text),
        }
    }

    /// Takes away what would be redrawn.
    pub(crate) fn finish(&self) {
        if let Self::Live(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Moves the bar to where the steps are, forwards or, in an undo, back. Before there is a plan it only turns.
fn advance(bar: &ProgressBar, view: View, (done, all): (u64, u64)) {
    // The template is made of constants; should it ever be wrong, the one from before serves.
    if let Ok(style) = ProgressStyle::with_template(&template(view, all)) {
        bar.set_style(style.tick_chars("◐◓◑◒◌").progress_chars(BAR));
    }
    bar.set_length(all);
    bar.set_position(done);
}

fn template(view: View, all: u64) -> String {
    match (all, bar_width(view)) {
        (0, _) => "{spinner} {msg} ({elapsed})".to_owned(),
        (_, 0) => "{spinner} {pos}/{len} {msg} ({elapsed})".to_owned(),
        (_, width) => format!("{{spinner}} {{bar:{width}}} {{pos}}/{{len}} {{msg}} ({{elapsed}})"),
    }
}

/// How wide the bar is: what is being done matters more where there is little room.
fn bar_width(view: View) -> u16 {
    match view.width {
        Some(0..=49) => 0,
        Some(50..=79) => 10,
        _ => 20,
    }
}

/// A message for the bar's line, cut to what is left of it.
fn beside(view: View, message: &str) -> String {
    let around = AROUND + bar_width(view);
    let width = view.width.map(|width| width.saturating_sub(around).max(1));
    one_line(View { width, ..view }, message)
}

/// A step that begins lives beside the bar; its end is a line.
fn is_beginning(news: &News) -> bool {
    let What::Event(Event::Step(step)) = &news.what else {
        return false;
    };
    matches!(
        step.state(),
        v1::StepState::Started | v1::StepState::UndoStarted
    )
}

fn active(watch: &Watch, news: &News) -> String {
    let order = watch.order(&news.order_id);
    order.map_or_else(String::new, |order| match order.active_step() {
        Some(step) => {
            let word = rollout::step_sign(step.state()).word;
            format!("{word}: {}", rollout::step_name(order, step))
        }
        None => String::new(),
    })
}

/// An event as a line for programs. An event of a newer controller is a line of nothing.
fn json_line(event: &v1::RolloutEvent) -> String {
    match &event.event {
        Some(RolloutEvent::Rollout(rollout)) => json::line(&json::rollout::Line::Rollout {
            rollout: Box::new(rollout.into()),
        }),
        Some(RolloutEvent::OrderEvent(event)) => json::line(&json::rollout::Line::OrderEvent {
            event: Box::new(event.into()),
        }),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::columns;
    use crate::watch::fold::tests::success;

    #[test]
    fn the_line_of_the_bar_fits_every_terminal() {
        let message = "started: step 12/34, stop shop (container 3f2a9c1e6a0b, revision #2)";
        for width in 20..200 {
            let view = View {
                width: Some(width),
                ..View::plain(0)
            };
            let text = beside(view, message);
            let line = template(view, 34)
                .replace("{spinner}", "◐")
                .replace(
                    &format!("{{bar:{}}}", bar_width(view)),
                    &"━".repeat(bar_width(view).into()),
                )
                .replace("{pos}/{len}", "12/34")
                .replace("{msg}", &text)
                .replace("{elapsed}", "12m");
            assert!(columns(&line) <= usize::from(width), "{width}: {line}");
        }
    }

    #[test]
    fn every_event_is_one_json_line_with_a_type_and_a_version() {
        for event in success() {
            let line = json_line(&event);
            let value: serde_json::Value = serde_json::from_str(&line).expect("one document");
            assert_eq!(value["version"], 1);
            let kind = value["type"].as_str().expect("a type");
            assert!(["rollout", "order_event"].contains(&kind), "{kind}");
        }
    }
}
