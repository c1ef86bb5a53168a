//! Drives the steps of a plan as the engine does, with faults in between: each step applied twice, a stop
//! behind or within any step, and then the undo of everything, twice.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use sternway_agent::{
    engine::step::{Done, EvidenceSink, Step, StepContext, StepError},
    targets::{Draft, Kind, PlanInput, Recorded, docker::DockerKind},
};
use sternway_proto::{
    name::TargetName,
    v1::{Evidence, RestoreScope, Swap},
};
use sternway_tests::{engine::Scope, shop::Image};
use uuid::Uuid;

use crate::support::{kind, recorded};

/// A target with two revisions: `v1` was recorded, `v2` runs.
pub(crate) struct Shop {
    pub(crate) scope: Scope,
    pub(crate) kind: DockerKind,
    pub(crate) target: TargetName,
    pub(crate) v1: Recorded,
    pub(crate) v2: Recorded,
}

/// An order at work.
pub(crate) struct Order<'a> {
    shop: &'a Shop,
    pub(crate) id: Uuid,
    pub(crate) draft: Draft,
    outputs: BTreeMap<String, Value>,
    sink: EvidenceSink,
    pub(crate) evidence: Arc<Mutex<Vec<Evidence>>>,
}

impl Shop {
    /// `v1` and then `v2` deployed with the same flags.
    pub(crate) async fn new(flags: &[&str]) -> Self {
        let image = |version| Image {
            version,
            ..Image::default()
        };
        Self::of(flags, &image("v1"), &image("v2")).await
    }

    /// As [`Shop::new`], of these images.
    pub(crate) async fn of(flags: &[&str], old: &Image, new: &Image) -> Self {
        let (old, new) = (old.shared().await, new.shared().await);
        Self::deployed(Scope::new().await, flags, &old, &new).await
    }

    /// As [`Shop::of`], in that scope.
    pub(crate) async fn deployed(scope: Scope, flags: &[&str], old: &str, new: &str) -> Self {
        let kind = kind(&scope);
        let name = scope.named("shop");
        scope.run("shop", flags, old).await;
        let v1 = recorded(&kind.inspected(&name).await.expect("v1 is recorded"));
        scope.redeploy("shop", flags, new).await;
        let v2 = Recorded {
            number: 2,
            ..recorded(&kind.inspected(&name).await.expect("v2 is recorded"))
        };
        let target = scope.target("shop").parse().expect("a name");
        Self {
            scope,
            kind,
            target,
            v1,
            v2,
        }
    }

    /// The container that bears the target's name.
    pub(crate) async fn instance(&self) -> String {
        let standing = self.scope.inspect("shop").await;
        standing.and_then(|found| found.id).unwrap_or_default()
    }

    /// A restore of `v1`, where that container was seen to run `v2`.
    pub(crate) fn input(&self, instance: &str, swap: Swap) -> PlanInput {
        PlanInput {
            target: self.target.clone(),
            from: Some(self.v2.clone()),
            instance: instance.to_owned(),
            to: self.v1.clone(),
            scope: RestoreScope::Both,
            swap,
        }
    }

    /// An order that restores `v1`, planned and not begun.
    pub(crate) async fn order(&self, swap: Swap) -> Order<'_> {
        let input = self.input(&self.instance().await, swap);
        let draft = self.kind.plan(&input).await.expect("it is planned");
        assert_eq!(draft.blockers, [], "blocked");
        let (sink, mut seen) = EvidenceSink::channel();
        let evidence = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&evidence);
        tokio::spawn(async move {
            while let Some(one) = seen.recv().await {
                all.lock().expect("not poisoned").push(one);
            }
        });
        Order {
            shop: self,
            id: Uuid::now_v7(),
            draft,
            outputs: BTreeMap::new(),
            sink,
            evidence,
        }
    }

    /// The revision that stands under the target's name and runs; none where nothing does.
    pub(crate) async fn serving(&self) -> Option<u32> {
        let name = self.target.local();
        let inspected = self.kind.inspected(name).await.ok()?;
        inspected.inspect["State"]["Running"]
            .as_bool()
            .filter(|r| *r)?;
        let id = recorded(&inspected).id;
        [&self.v1, &self.v2]
            .into_iter()
            .find(|one| one.id == id)
            .map(|one| one.number)
    }

    /// What of an undone order is kept because it ran.
    pub(crate) async fn failed(&self, order: Uuid) -> Vec<String> {
        let mut all = self.scope.containers().await;
        let of = format!("sternway-failed-{}-", order.simple());
        all.retain(|name| name.starts_with(&of));
        all
    }

    /// What runs of this target, by name, and everything of ours there is besides, but for what undone orders kept.
    pub(crate) async fn is_tidy(&self, order: Uuid, kept: bool) {
        let running = self.running().await;
        assert_eq!(running, [self.target.local()], "exactly one runs");
        let mut all = self.scope.containers().await;
        all.retain(|name| !name.starts_with("sternway-failed-"));
        let aside = all
            .iter()
            .filter(|name| name.starts_with("sternway-previous-"))
            .count();
        assert_eq!(aside, usize::from(kept), "kept aside: {all:?}");
        assert_eq!(all.len(), 1 + usize::from(kept), "left over: {all:?}");
        let tables = tables();
        assert!(!tables.contains(&order.simple().to_string()), "{tables}");
    }

    pub(crate) async fn running(&self) -> Vec<String> {
        let filter = format!("name={}", self.scope.name());
        let listed = self
            .scope
            .cli(&["ps", "--filter", &filter, "--format", "{{.Names}}"])
            .await;
        listed.lines().map(str::to_owned).collect()
    }

    pub(crate) async fn policy(&self) -> String {
        let name = self.target.local();
        let format = "{{.HostConfig.RestartPolicy.Name}}";
        self.scope.cli(&["inspect", "-f", format, name]).await
    }
}

/// The kernel's tables.
pub(crate) fn tables() -> String {
    let output = Command::new("nft").args(["list", "tables"]).output();
    String::from_utf8_lossy(&output.expect("nft is installed").stdout).into_owned()
}

impl Order<'_> {
    pub(crate) fn context(&self) -> StepContext<'_> {
        StepContext {
            order_id: self.id,
            target: &self.shop.target,
            outputs: &self.outputs,
            evidence: &self.sink,
        }
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.draft.steps.clone()
    }

    /// Applies a step and keeps its output, as the journal does.
    pub(crate) async fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        let done = Kind::apply(&self.shop.kind, &self.context(), step).await?;
        self.outputs.insert(step.id.clone(), done.output.clone());
        Ok(done)
    }

    /// Applies a step whose success the journal never heard of.
    pub(crate) async fn apply_unheard(&self, step: &Step) -> Result<Done, StepError> {
        Kind::apply(&self.shop.kind, &self.context(), step).await
    }

    pub(crate) async fn undo(&self, step: &Step) -> Result<Done, StepError> {
        Kind::undo(&self.shop.kind, &self.context(), step).await
    }

    /// All steps to the end.
    pub(crate) async fn run(&mut self) {
        for step in self.steps() {
            let done = self.apply(&step).await;
            assert!(done.is_ok(), "{}: {done:?}", step.id);
        }
    }

    /// Undoes the first `count` steps, backwards, each twice.
    pub(crate) async fn undo_all(&self, count: usize) {
        for step in self.steps().iter().take(count).rev() {
            for _ in 0..2 {
                let done = self.undo(step).await;
                assert!(done.is_ok(), "undo of {}: {done:?}", step.id);
            }
        }
    }

    /// The place of the step that commits.
    pub(crate) fn commit(&self) -> usize {
        let steps = self.draft.steps.iter();
        steps
            .clone()
            .position(|step| step.commits)
            .unwrap_or(steps.len())
    }
}
