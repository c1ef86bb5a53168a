//! Holds the lists of fields in `docs/ctl.md` against the documents.

use std::collections::BTreeSet;

use serde::Serialize;
use sternway_proto::v1;

use super::{error, host, record, rollout, target};

const DOCS: &str = include_str!("../../../docs/ctl.md");

/// The fields that the list item of a name has: its words in backticks after the colon.
fn documented(name: &str) -> BTreeSet<String> {
    let begin = format!("\n- {name}: `");
    let (_, after) = DOCS
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no item {name:?}"));
    let (fields, _) = after.split_once('`').expect("closed");
    fields.split_whitespace().map(str::to_owned).collect()
}

fn fields<T: Serialize>(document: &T) -> BTreeSet<String> {
    let value = serde_json::to_value(document).expect("serializes");
    let object = value.as_object().expect("an object");
    object.keys().cloned().collect()
}

#[test]
fn the_documents_have_the_fields_that_are_documented_and_no_others() {
    let problem = v1::Problem::default();
    let failure = error::Failure {
        exit_code: 1,
        code: None,
        message: "",
        because: &[],
        next: &[],
    };
    let planned = rollout::PlannedRollback {
        plan_id: String::new(),
        host: String::new(),
        host_offline: false,
        chosen_because: String::new(),
        nothing_to_do: false,
        plan: None,
    };
    for (name, document) in [
        ("host", fields(&host::Host::from(&v1::Host::default()))),
        (
            "target",
            fields(&target::Target::new(
                &v1::Host::default(),
                &v1::Target::default(),
            )),
        ),
        (
            "revision",
            fields(&target::Revision::from(&v1::Revision::default())),
        ),
        (
            "change",
            fields(&target::Change::from(&v1::FieldChange::default())),
        ),
        ("problem", fields(&target::Problem::from(&problem))),
        (
            "evidence",
            fields(&target::Evidence::from(&v1::Evidence::default())),
        ),
        (
            "deployment",
            fields(&target::Deployment::from(&v1::Deployment::default())),
        ),
        (
            "failure",
            fields(&target::Failure::from(&v1::FailedRestore::default())),
        ),
        ("plan", fields(&rollout::Plan::from(&v1::Plan::default()))),
        (
            "rollout",
            fields(&rollout::Rollout::from(&v1::Rollout::default())),
        ),
        (
            "order",
            fields(&rollout::Order::from(&v1::RolloutOrder::default())),
        ),
        ("`plan` (first, `rollback` only)", fields(&planned)),
        (
            "entry",
            fields(&record::Entry::from(&v1::RecordEntry::default())),
        ),
        ("error", fields(&failure)),
    ] {
        assert_eq!(document, documented(name), "{name}");
    }
}

/// The item of a name, whole.
fn item(name: &str) -> &'static str {
    let begin = format!("\n- {name}: ");
    let (_, after) = DOCS.split_once(&begin).expect("an item");
    after.split("\n- ").next().expect("it goes on")
}

/// The words of an enumeration, by what makes them; none is null.
fn words<E: TryFrom<i32>, W: Into<Option<&'static str>>>(
    word: impl Fn(E) -> W,
) -> Vec<&'static str> {
    let all = (0..100).map_while(|number| E::try_from(number).ok());
    all.map(|value| word(value).into().unwrap_or("null"))
        .collect()
}

#[test]
fn every_word_that_a_field_may_have_is_documented_where_the_field_is() {
    for (name, words) in [
        ("host", words(host::host_state)),
        ("target", words(target::target_state)),
        ("target", words(target::verdict)),
        ("target", words(target::readiness_verdict)),
        ("evidence", words(target::verdict)),
        ("plan", words(rollout::scope)),
        ("plan", words(rollout::swap)),
        ("rollout", words(rollout::rollout_state)),
        ("order", words(rollout::order_state)),
        ("order", words(rollout::outcome)),
        ("`order_event`", words(rollout::step_state)),
    ] {
        assert!(words.len() > 2, "{name}: {words:?}");
        for word in words {
            let documented = match word {
                "null" => "null".to_owned(),
                word => format!("`{word}`"),
            };
            assert!(item(name).contains(&documented), "{name}: {word}");
        }
    }
}
