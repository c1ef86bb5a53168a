//! The plan of a rollback for the person who has to say yes.

use sternway_proto::v1;

use super::{problem, target};
use crate::text::{Tone, View, clean, clip, duration, paint, revision_name, short_id};

/// Whether the wanted revision runs already.
pub(crate) fn nothing_to_do(plan: &v1::Plan) -> bool {
    plan.from_revision == plan.to_revision
        && !plan.to_revision.is_empty()
        && plan.changes.is_empty()
}

/// The whole plan, and whose it is.
pub(crate) fn show(view: View, controller: &str, response: &v1::PlanRollbackResponse) -> String {
    let host = response.host.clone().unwrap_or_default();
    let plan = response.plan.clone().unwrap_or_default();
    let mut text = head(view, &host, &plan);
    let mut pairs = vec![("controller", clean(controller))];
    pairs.extend(facts(&plan, &response.chosen_because));
    text.push_str(&super::pairs(view, &pairs));
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            text.push_str(&format!("\n{}\n{body}", paint(view, Tone::Strong, title)));
        }
    };
    section("Changes", target::changes(view, &plan.changes));
    // What runs already is left as it is: no step is taken, whatever an exchange would need.
    if !nothing_to_do(&plan) {
        section("Steps", steps(&plan.steps));
    }
    section("Checks that decide", checks(&plan));
    section(
        "Warnings",
        problems(view, Tone::Warn, "⚠", &warnings(response, &plan)),
    );
    section("Blockers", problems(view, Tone::Bad, "✖", &plan.blockers));
    text
}

fn head(view: View, host: &v1::Host, plan: &v1::Plan) -> String {
    let labels = match super::host::labels(&host.labels) {
        labels if labels.is_empty() => labels,
        labels => format!(" [{labels}]"),
    };
    let line = format!(
        "Rollback of {} on {}: {} → {}",
        clean(&plan.target),
        clean(&host.name),
        revision_name(plan.from_number, &plan.from_revision),
        revision_name(plan.to_number, &plan.to_revision),
    );
    format!("{}{labels}\n\n", paint(view, Tone::Strong, &line))
}

fn facts(plan: &v1::Plan, chosen_because: &str) -> Vec<(&'static str, String)> {
    let part = match plan.scope() {
        v1::RestoreScope::Image => "image only; the configuration stays",
        v1::RestoreScope::Config => "configuration only; the image stays",
        v1::RestoreScope::Both | v1::RestoreScope::Unspecified => "",
    };
    let idle = nothing_to_do(plan);
    let swap = match (plan.swap(), clean(&plan.swap_reason)) {
        _ if idle => String::new(),
        (v1::Swap::Unspecified, _) => String::new(),
        (swap, why) if why.is_empty() => crate::json::rollout::swap(swap).to_owned(),
        (swap, why) => format!("{}, because {why}", crate::json::rollout::swap(swap)),
    };
    vec![
        (
            "to",
            format!(
                "{} ({})",
                revision_name(plan.to_number, &plan.to_revision),
                short_id(&plan.to_revision)
            ),
        ),
        ("chosen", clean(chosen_because)),
        ("part", part.to_owned()),
        ("swap", swap),
        (
            "expected outage",
            if idle {
                "none: nothing is changed".to_owned()
            } else {
                clean(&plan.expected_outage)
            },
        ),
        ("data", data(plan).to_owned()),
    ]
}

/// What no rollback does.
fn data(plan: &v1::Plan) -> &'static str {
    if nothing_to_do(plan) {
        ""
    } else {
        "not rolled back: volumes and databases stay as they are, also where they were migrated"
    }
}

fn steps(steps: &[v1::StepInfo]) -> String {
    let line = |(index, step): (usize, &v1::StepInfo)| {
        format!("  {:>2}. {}\n", index + 1, clip(&step.description, 160))
    };
    steps.iter().enumerate().map(line).collect()
}

fn checks(plan: &v1::Plan) -> String {
    let mut text: String = plan
        .checks
        .iter()
        .map(|check| format!("  • {}\n", clip(check, 160)))
        .collect();
    if plan.soak_ms > 0 {
        text.push_str(&format!(
            "  • all of them through a soak of {}\n",
            duration(plan.soak_ms)
        ));
    }
    text
}

fn warnings(response: &v1::PlanRollbackResponse, plan: &v1::Plan) -> Vec<v1::Problem> {
    let mut warnings = plan.warnings.clone();
    // The controller says so itself, with more.
    let said = warnings.iter().any(|it| it.code == "host-offline");
    if response.host_offline && !said {
        warnings.push(v1::Problem::new(
            "host-offline",
            "the host is offline: this plan is made from what the controller knew last, and the order \
             waits for the host until its deadline",
            "`--deadline` says how long",
        ));
    }
    if nothing_to_do(plan) {
        warnings.push(v1::Problem::new(
            "nothing-to-do",
            "the revision runs already: nothing will be changed, its checks are run",
            "",
        ));
    }
    warnings
}

fn problems(view: View, tone: Tone, icon: &str, problems: &[v1::Problem]) -> String {
    problems
        .iter()
        .map(|it| format!("  {} {}\n", paint(view, tone, icon), problem(it)))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn planned() -> v1::PlanRollbackResponse {
        let step = |step: &str, description: &str| v1::StepInfo {
            step: step.into(),
            description: description.into(),
        };
        v1::PlanRollbackResponse {
            plan_id: "plan-1".into(),
            host: Some(v1::Host {
                name: "web-1".into(),
                labels: [("env".into(), "production".into())].into(),
                ..Default::default()
            }),
            plan: Some(v1::Plan {
                target: "docker/shop".into(),
                from_revision: "b".repeat(64),
                from_number: 2,
                to_revision: "a".repeat(64),
                to_number: 1,
                scope: v1::RestoreScope::Both.into(),
                swap: v1::Swap::Warm.into(),
                swap_reason: "two instances may overlap".into(),
                steps: vec![
                    step("docker.start-standby", "start a standby from #1"),
                    step("docker.stop-old", "stop shop\x1b[1A (revision #2)"),
                ],
                changes: vec![v1::FieldChange {
                    path: "image".into(),
                    before: Some("shop:2".into()),
                    after: Some("shop:1".into()),
                    private: false,
                }],
                checks: vec!["running: stays up".into()],
                soak_ms: 10_000,
                warnings: vec![v1::Problem::new("slow", "it starts slowly", "")],
                blockers: vec![],
                expected_outage: "none".into(),
            }),
            chosen_because: "newest known-good before #2".into(),
            host_offline: false,
        }
    }

    const CONTROLLER: &str = "controller.example:7443";

    #[test]
    fn a_plan_says_everything_before_the_question() {
        insta::assert_snapshot!(show(View::plain(0), CONTROLLER, &planned()), @r"
        Rollback of docker/shop on web-1: #2 → #1 [env=production]

        controller       controller.example:7443
        to               #1 (aaaaaaaaaaaa)
        chosen           newest known-good before #2
        swap             warm, because two instances may overlap
        expected outage  none
        data             not rolled back: volumes and databases stay as they are, also where they were migrated

        Changes
          ~ image: shop:2 → shop:1

        Steps
           1. start a standby from #1
           2. stop shop\u{1b}[1A (revision #2)

        Checks that decide
          • running: stays up
          • all of them through a soak of 10.0 s

        Warnings
          ⚠ it starts slowly
        ");
    }

    #[test]
    fn blockers_and_an_offline_host_are_said() {
        let mut planned = planned();
        planned.host_offline = true;
        let plan = planned.plan.as_mut().expect("set");
        plan.blockers.push(v1::Problem::new(
            "image-missing",
            "the image is gone",
            "push it again",
        ));
        plan.steps.clear();
        plan.changes.clear();
        plan.checks.clear();
        plan.soak_ms = 0;
        plan.swap = v1::Swap::Unspecified.into();
        insta::assert_snapshot!(show(View::plain(0), CONTROLLER, &planned), @r"
        Rollback of docker/shop on web-1: #2 → #1 [env=production]

        controller       controller.example:7443
        to               #1 (aaaaaaaaaaaa)
        chosen           newest known-good before #2
        expected outage  none
        data             not rolled back: volumes and databases stay as they are, also where they were migrated

        Warnings
          ⚠ it starts slowly
          ⚠ the host is offline: this plan is made from what the controller knew last, and the order waits for the host until its deadline → `--deadline` says how long

        Blockers
          ✖ the image is gone → push it again
        ");
    }

    #[test]
    fn a_plan_to_what_runs_already_has_nothing_to_do() {
        let mut plan = planned().plan.expect("set");
        assert!(!nothing_to_do(&plan));
        plan.from_revision = plan.to_revision.clone();
        plan.from_number = plan.to_number;
        plan.changes.clear();
        assert!(nothing_to_do(&plan));
        let response = v1::PlanRollbackResponse {
            plan: Some(plan),
            chosen_because: "named by its number".into(),
            ..planned()
        };
        insta::assert_snapshot!(show(View::plain(0), CONTROLLER, &response), @r"
        Rollback of docker/shop on web-1: #1 → #1 [env=production]

        controller       controller.example:7443
        to               #1 (aaaaaaaaaaaa)
        chosen           named by its number
        expected outage  none: nothing is changed

        Checks that decide
          • running: stays up
          • all of them through a soak of 10.0 s

        Warnings
          ⚠ it starts slowly
          ⚠ the revision runs already: nothing will be changed, its checks are run
        ");
    }
}
