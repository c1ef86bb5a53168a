use serde_json::json;
use sternway_proto::name::RevisionId;

use super::*;
use crate::targets::docker::record::SCHEMA;

fn record(config: Value, host: Value) -> ContainerRecord {
    ContainerRecord {
        schema: SCHEMA,
        image: ImageRef {
            reference: "shop:1".into(),
            id: "sha256:1".into(),
        },
        config: serde_json::from_value(config).expect("a map"),
        host: serde_json::from_value(host).expect("a map"),
        networks: BTreeMap::new(),
    }
}

fn old(id: &str, again: Option<Box<Again>>) -> Old {
    Old {
        id: id.into(),
        ran: true,
        paused: false,
        policy: json!({"Name": "always"}),
        again,
    }
}

fn sharer(name: &str) -> Sharer {
    Sharer {
        target: format!("docker/{name}").parse().expect("valid"),
        record: record(json!({}), json!({"NetworkMode": "container:shop"})),
        volumes: BTreeMap::new(),
        old: old(name, None),
    }
}

/// The plan from `from` to `to`, with what shares a namespace.
fn planned(from: &ContainerRecord, to: &ContainerRecord, sharers: Vec<Sharer>) -> Decision {
    planned_with(from, to, sharers, |_| ())
}

/// As [`planned`], with a change of what it is made of.
fn planned_with(
    from: &ContainerRecord,
    to: &ContainerRecord,
    sharers: Vec<Sharer>,
    change: impl FnOnce(&mut Facts<'_>),
) -> Decision {
    let target = "docker/shop".parse().expect("valid");
    let (id, hints, labels) = (RevisionId::of(b""), Hints::default(), BTreeMap::new());
    let mut facts = Facts {
        target: &target,
        from_number: 2,
        to_number: 1,
        from: Some(from),
        result: to,
        result_id: &id,
        image_labels: Some(&labels),
        from_labels: from.labels(),
        hints: &hints,
        volumes: BTreeMap::new(),
        old: Some(old("shop", Again::of(from, &BTreeMap::new()))),
        sharers,
        swap: v1::Swap::Unspecified,
        redirect: Ok(()),
        has_health_check: false,
        pulls: false,
    };
    change(&mut facts);
    decide(&facts)
}

fn step<'a>(plan: &'a Decision, id: &str) -> &'a Step {
    let found = plan.steps.iter().find(|step| step.id == id);
    found.unwrap_or_else(|| panic!("no {id}"))
}

#[test]
fn what_shares_a_namespace_stops_before_it_and_starts_behind_it() {
    let shop = record(json!({}), json!({}));
    let plan = planned(&shop, &shop, vec![sharer("a"), sharer("b")]);
    let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
    let wanted = [
        "docker.fetch-image",
        "docker.create-new",
        "docker.create-new/a",
        "docker.create-new/b",
        "docker.disarm-old",
        "docker.disarm-old/b",
        "docker.stop-old/b",
        "docker.disarm-old/a",
        "docker.stop-old/a",
        "docker.stop-old",
        "docker.swap-names",
        "docker.swap-names/a",
        "docker.swap-names/b",
        "docker.start-new",
        "docker.start-new/a",
        "docker.start-new/b",
        "docker.verify",
        "docker.commit/a",
        "docker.commit/b",
        "docker.commit",
    ];
    assert_eq!(ids, wanted);
    let commits = plan.steps.iter().filter(|step| step.commits);
    let commits: Vec<&str> = commits.map(|step| step.id.as_str()).collect();
    assert_eq!(commits, ["docker.commit"]);
    assert_eq!(plan.warnings.len(), 2, "{:?}", plan.warnings);
}

#[test]
fn clients_go_to_the_standby_from_its_redirect_on() {
    let ports = json!({"PortBindings": {"80/tcp": [{"HostPort": "80"}]}});
    let shop = record(json!({}), ports);
    let plan = planned(&shop, &shop, Vec::new());
    let mut outputs = BTreeMap::new();
    let mut done = plan.steps.iter().map(|step| {
        outputs.insert(step.id.clone(), Value::Null);
        (step.id.as_str(), redirected(&outputs))
    });
    let first = done.find(|(_, redirected)| *redirected);
    assert_eq!(first, Some(("docker.redirect", true)));
    assert!(done.all(|(_, redirected)| redirected));
}

#[test]
fn what_is_given_long_to_stop_has_the_time() {
    let hour = record(json!({"StopTimeout": 3_600}), json!({}));
    let usual = record(json!({}), json!({}));
    let there = planned(&hour, &usual, Vec::new());
    let an_hour = Duration::from_hours(1);
    assert!(step(&there, "docker.stop-old").timeout > an_hour);
    // Its undo stops what was started.
    let back = planned(&usual, &hour, Vec::new());
    assert!(step(&back, "docker.start-new").timeout > an_hour);
    let usual = planned(&usual, &usual, Vec::new()).waiting;
    for long in [there, back] {
        assert!(
            long.waiting + Duration::from_mins(12) > usual + an_hour,
            "{:?}",
            long.waiting
        );
    }
}

#[test]
fn an_image_that_has_to_come_from_its_registry_has_the_time() {
    let shop = record(json!({}), json!({}));
    let missing = planned_with(&shop, &shop, Vec::new(), |facts| facts.pulls = true);
    let fetch = step(&missing, "docker.fetch-image").timeout;
    // It may have a HEALTHCHECK, as may one of which nobody knows.
    let health = planned_with(&shop, &shop, Vec::new(), |facts| {
        facts.has_health_check = true;
    });
    assert_eq!(missing.waiting, health.waiting + fetch);
}

#[test]
fn where_nobody_knows_the_labels_of_the_image_the_swap_is_cold_and_the_checks_have_all_the_time() {
    let ports = json!({"PortBindings": {"80/tcp": [{"HostPort": "80"}]}});
    let shop = record(json!({}), ports);
    let known = planned_with(&shop, &shop, Vec::new(), |facts| facts.pulls = true);
    assert_eq!(known.swap, v1::Swap::Warm, "{}", known.swap_reason);
    let unknown = |swap| {
        planned_with(&shop, &shop, Vec::new(), |facts| {
            facts.pulls = true;
            facts.image_labels = None;
            facts.swap = swap;
        })
    };
    let plan = unknown(v1::Swap::Unspecified);
    assert_eq!(plan.swap, v1::Swap::Cold);
    assert!(plan.swap_reason.contains("labels"), "{}", plan.swap_reason);
    let labels = json!({"Labels": {"sternway.check.timeout": "600s", "sternway.soak": "600s"}});
    let longest = record(labels, shop.host.clone().into_iter().collect());
    let longest = planned_with(&longest, &longest, Vec::new(), |facts| facts.pulls = true);
    let limit = |plan: &Decision| step(plan, "docker.verify").timeout;
    assert_eq!(limit(&plan), limit(&longest));
    assert_eq!(unknown(v1::Swap::Warm).blockers[0].code, "warm-impossible");
}

#[test]
fn only_the_job_that_stops_it_knows_how_to_create_it_again() {
    let vanishes = record(json!({"Env": ["K=s3cr3t"]}), json!({"AutoRemove": true}));
    let plan = planned(&vanishes, &record(json!({}), json!({})), Vec::new());
    for step in &plan.steps {
        let knows = step.payload.to_string().contains("s3cr3t");
        assert_eq!(knows, step.id == "docker.stop-old", "{}", step.id);
    }
    assert_eq!(plan.warnings[0].code, "auto-remove");
}
