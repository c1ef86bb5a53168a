//! Images that no registry has are copied to the agent's own disk, and come back from there whatever the engine lost.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sternway_agent::targets::{
    Recorded,
    docker::{
        DockerKind, DockerSettings,
        record::{ContainerRecord, Hints, ImageRef},
    },
};
use sternway_proto::name::TargetName;
use sternway_tests::{
    engine::{SCOPE_LABEL, Scope},
    gate::Gate,
    registry::Registry,
    shop::Image,
    wait::until,
};

use crate::support::{recorded, settings};

/// An image of some MiB is exported within this, also on a busy machine.
const TAKEN: Duration = Duration::from_mins(1);

/// A container whose image nobody else has, and the kind that looks after it.
struct Ground {
    kind: DockerKind,
    target: TargetName,
    revision: Recorded,
    image: ImageRef,
    gate: Gate,
    scope: Scope,
}

impl Ground {
    /// `image_archive_mib` as in the settings.
    async fn new(image_archive_mib: u64) -> Self {
        let scope = Scope::new().await;
        let image = Image::good("1").own(&scope).await;
        Self::of(scope, &image, image_archive_mib).await
    }

    async fn of(scope: Scope, image: &str, image_archive_mib: u64) -> Self {
        let gate = Gate::new(&scope.socket(), scope.folder());
        let kind = DockerKind::new(DockerSettings {
            socket: gate.socket().to_owned(),
            image_archive_mib,
            ..settings(&scope)
        });
        let mut kind = kind.expect("the settings are valid");
        let archive = kind.archive_in(&scope.folder().join("images"));
        archive.expect("the archive is opened");
        scope.run("web", &[], image).await;
        let inspected = kind.inspected(&scope.named("web")).await.expect("recorded");
        Self {
            kind,
            target: scope.target("web").parse().expect("a target"),
            revision: recorded(&inspected),
            image: inspected.record.image.clone(),
            gate,
            scope,
        }
    }

    async fn keep(&self) {
        let kept = std::slice::from_ref(&self.revision);
        self.kind.keep(&self.target, kept).await.expect("kept");
    }

    /// The list of an image in the archive: written last.
    fn listing(&self, id: &str) -> PathBuf {
        let digits = id.trim_start_matches("sha256:");
        let folder = self.scope.folder().join("images/images");
        folder.join(format!("{digits}.json"))
    }

    async fn taken(&self, id: &str) {
        until("the image to be archived", TAKEN, async || {
            self.listing(id).exists().then_some(()).ok_or("it is not")
        })
        .await;
    }

    async fn emptied(&self) {
        let folder = self.scope.folder().join("images");
        until("nothing to be archived", TAKEN, async || {
            let left = [files(&folder.join("blobs")), files(&folder.join("images"))].concat();
            left.is_empty().then_some(()).ok_or(format!("{left:?}"))
        })
        .await;
    }

    /// A container of an image of some bytes, never started.
    async fn tiny(&self) -> Recorded {
        let folder = self.scope.folder();
        let (file, archive) = (folder.join("tiny"), folder.join("tiny.tar"));
        fs::write(&file, self.scope.name()).expect("written");
        let mut layer = tar::Builder::new(fs::File::create(&archive).expect("made"));
        layer.append_path_with_name(&file, "tiny").expect("added");
        layer.finish().expect("written");
        let name = self.scope.named("tiny");
        let label = format!("LABEL {SCOPE_LABEL}={}", self.scope.name());
        let archive = archive.to_string_lossy().into_owned();
        let scope = &self.scope;
        scope.cli(&["import", "-c", &label, &archive, &name]).await;
        let label = format!("{SCOPE_LABEL}={}", scope.name());
        scope
            .cli(&["create", "--name", &name, "--label", &label, &name, "/tiny"])
            .await;
        recorded(&self.kind.inspected(&name).await.expect("recorded"))
    }

    /// Takes the image from the engine, and all that keeps it there.
    async fn lose(&self) {
        let id = &self.image.id;
        let filter = format!("label=sternway.keeps={id}");
        let keepers = self.scope.cli(&["ps", "-aq", "--filter", &filter]).await;
        let web = self.scope.named("web");
        self.scope.cli(&["rm", "-f", &web]).await;
        for keeper in keepers.lines() {
            self.scope.cli(&["rm", "-f", keeper]).await;
        }
        self.scope.cli(&["rmi", "-f", id]).await;
        assert!(!self.is_there().await);
    }

    async fn is_there(&self) -> bool {
        self.kind.engine().image(&self.image.id).await.is_ok()
    }

    async fn problems(&self) -> Vec<String> {
        let problems = self.kind.readiness(&self.target, &self.revision).await;
        problems.into_iter().map(|problem| problem.code).collect()
    }

    async fn ensure(&self) -> Result<String, String> {
        let ensured = self.kind.ensure_image(&self.image, &Hints::default()).await;
        ensured.map_err(|error| error.to_string())
    }
}

fn id_of(revision: &Recorded) -> String {
    let record = ContainerRecord::from_bytes(&revision.record);
    record.expect("a record").image.id
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).expect("there");
    listed.map(|entry| entry.expect("read").path()).collect()
}

#[tokio::test]
async fn an_image_that_no_registry_has_comes_back_as_it_was_and_is_let_go_of_with_its_revision() {
    let ground = Ground::new(100).await;
    ground.keep().await;
    ground.taken(&ground.image.id).await;
    let before = ground.kind.engine().image(&ground.image.id).await;
    ground.lose().await;
    assert_eq!(ground.problems().await, Vec::<String>::new());
    let said = ground.ensure().await.expect("loaded");
    assert!(said.contains("from the archive of this host"), "{said}");
    let after = ground.kind.engine().image(&ground.image.id).await;
    let (before, after) = (before.expect("there"), after.expect("there"));
    for key in ["Id", "Config", "RootFS", "Architecture", "Created"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    // What was loaded bears no tag but ours, and is kept again.
    ground.keep().await;
    ground.kind.keep(&ground.target, &[]).await.expect("let go");
    ground.emptied().await;
    assert!(!ground.is_there().await, "nothing keeps it any more");
}

#[tokio::test]
async fn what_a_registry_has_is_not_archived_and_what_is_too_large_is_not_either() {
    let scope = Scope::new().await;
    let registry = Registry::start(&scope).await;
    let image = registry.image("shop:1");
    Image::good("1").make(&image, &scope.labels()).await;
    scope.cli(&["push", &image]).await;
    let pushed = Ground::of(scope, &image, 100).await;
    let large = Ground::new(1).await;
    for ground in [pushed, large] {
        // The second one's image is taken behind the first one's: when it is there, that one will not be.
        let tiny = ground.tiny().await;
        let kept = [ground.revision.clone(), tiny.clone()];
        let keep = ground.kind.keep(&ground.target, &kept);
        keep.await.expect("kept");
        ground.taken(&id_of(&tiny)).await;
        assert!(!ground.listing(&ground.image.id).exists());
        let bytes: u64 = files(&ground.scope.folder().join("images/blobs"))
            .iter()
            .map(|path| fs::metadata(path).expect("there").len())
            .sum();
        assert!(bytes < 1_000_000, "{bytes}");
    }
}

#[tokio::test]
async fn a_budget_of_none_archives_nothing_and_lets_go_of_what_was() {
    let mut ground = Ground::new(100).await;
    ground.keep().await;
    ground.taken(&ground.image.id).await;
    let kind = DockerKind::new(DockerSettings {
        image_archive_mib: 0,
        ..settings(&ground.scope)
    });
    // The one before ends with its work: there is one archive in a folder.
    ground.kind = kind.expect("the settings are valid");
    let folder = ground.scope.folder().join("images");
    ground.kind.archive_in(&folder).expect("opened");
    ground.keep().await;
    ground.emptied().await;
}

#[tokio::test]
async fn a_copy_that_is_damaged_is_no_copy() {
    let ground = Ground::new(100).await;
    ground.keep().await;
    ground.taken(&ground.image.id).await;
    let blobs = ground.scope.folder().join("images/blobs");
    let size = |path: &PathBuf| fs::metadata(path).expect("there").len();
    let layer = files(&blobs).into_iter().max_by_key(size).expect("a layer");
    let mut bytes = fs::read(&layer).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).expect("damaged");
    ground.lose().await;
    assert_eq!(
        ground.problems().await,
        Vec::<String>::new(),
        "nobody read it yet"
    );
    let said = ground.ensure().await.expect_err("damaged");
    assert!(said.contains("damaged"), "{said}");
    assert!(!ground.is_there().await);
    assert_eq!(ground.problems().await, ["image-missing"]);
}

#[tokio::test]
async fn an_export_or_a_load_whose_answer_is_lost_is_taken_again() {
    let ground = Ground::new(100).await;
    let lost = ground.gate.lose("GET", "/get");
    ground.keep().await;
    lost.gone().await;
    until("the image to be archived all the same", TAKEN, async || {
        ground.keep().await;
        let listing = ground.listing(&ground.image.id);
        listing.exists().then_some(()).ok_or("it is not")
    })
    .await;
    ground.lose().await;
    let lost = ground.gate.lose("POST", "/images/load");
    let first = ground.ensure().await;
    lost.gone().await;
    assert!(first.is_err(), "{first:?}");
    // The engine did what it was asked, or does it now.
    ground.ensure().await.expect("it is there");
    assert!(ground.is_there().await);
}
