use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;

use super::*;

fn id(version: &str) -> PackageId {
    let name = "billing".parse().expect("a name");
    PackageId::new(name, version.parse().expect("a version"), "all").expect("valid")
}

/// Makes a package file.
fn build(folder: &Path, version: &str, description: &str) -> PathBuf {
    let root = folder.join("root");
    fs::create_dir_all(root.join("DEBIAN")).expect("made");
    let control = format!(
        "Package: billing\nVersion: {version}\nArchitecture: all\n\
         Maintainer: nobody <n@example.org>\nDescription: {description}\n"
    );
    fs::write(root.join("DEBIAN/control"), control).expect("written");
    let path = folder.join(format!("{description}.deb"));
    let build = Command::new("dpkg-deb")
        .arg("--build")
        .args([&root, &path])
        .output();
    assert!(build.expect("dpkg-deb runs").status.success());
    fs::remove_dir_all(root).expect("removed");
    path
}

/// Has what it was given, and counts who asks.
#[derive(Default)]
struct Given {
    fetched: Option<PathBuf>,
    rebuilt: Option<PathBuf>,
    asked: AtomicUsize,
}

impl Supply for Given {
    async fn fetch(&self, _: &PackageId) -> Option<PathBuf> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.fetched.clone()
    }

    async fn rebuild(&self, _: &PackageId) -> Option<PathBuf> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.rebuilt.clone()
    }
}

/// A dpkg that says that this version is installed, and nothing else.
fn dpkg(version: &str) -> Dpkg {
    let said = format!("P\tbilling\tall\t{version}\tinstall\tok\tinstalled\n\n");
    Dpkg::by_way_of(["sh", "-c", "printf %s \"$0\"", &said])
}

fn shelf(dir: &TempDir) -> Shelf {
    let shelf = Shelf::open(&dir.path().join("shelf"), 1_000_000).expect("opened");
    let cache = dir.path().join("cache");
    files::make_dir(&cache).expect("made");
    shelf.with_cache(cache)
}

#[tokio::test]
async fn a_package_is_kept_from_the_cache_before_anybody_is_asked() {
    let dir = TempDir::new().expect("folder");
    let shelf = shelf(&dir);
    let deb = build(dir.path(), "1:1.0-1", "cached");
    fs::copy(&deb, shelf.cache.join("billing_1%3a1.0-1_all.deb")).expect("copied");
    let (given, package) = (Given::default(), id("1:1.0-1"));
    let kept = shelf.keep(&dpkg("2"), &package, &given).await;
    let kept = kept.expect("kept");
    assert_eq!(kept.source, Source::Cache);
    assert_eq!(given.asked.load(Ordering::Relaxed), 0);
    let out = shelf.copy_to(&package, dir.path()).await.expect("there");
    assert_eq!(
        fs::read(&out).expect("there"),
        fs::read(&deb).expect("there")
    );
    fs::remove_dir_all(&shelf.cache).expect("apt-get clean");
    let again = shelf.keep(&dpkg("2"), &package, &given).await;
    assert_eq!(again.expect("kept"), kept);
    let reopened = Shelf::open(&dir.path().join("shelf"), 1_000_000).expect("opened");
    reopened.verify(&package).await.expect("whole");
}

#[tokio::test]
async fn what_was_rebuilt_gives_way_to_what_its_maintainer_made() {
    let dir = TempDir::new().expect("folder");
    let (shelf, package) = (shelf(&dir), id("1.0-1"));
    let mut given = Given {
        rebuilt: Some(build(dir.path(), "1.0-1", "rebuilt")),
        ..Given::default()
    };
    let other = shelf.keep(&dpkg("2"), &package, &given).await;
    let refused = matches!(other, Err(ShelfError::NotToBeHad { .. }));
    assert!(refused, "another version is installed: {other:?}");
    let source = async |given: &Given| {
        let kept = shelf.keep(&dpkg("1.0-1"), &package, given).await;
        kept.expect("kept").source
    };
    assert_eq!(source(&given).await, Source::Rebuilt);
    assert_eq!(source(&given).await, Source::Rebuilt);
    let fetched = build(dir.path(), "1.0-1", "fetched");
    given.fetched = Some(fetched.clone());
    assert_eq!(source(&given).await, Source::Repository);
    let rebuilt = given.rebuilt.clone().expect("made");
    let kept = shelf.take(&package, &rebuilt, Source::Rebuilt).await;
    assert_eq!(kept.expect("kept").source, Source::Repository);
    shelf
        .retain(&[package.clone()].into())
        .await
        .expect("swept");
    let out = shelf.copy_to(&package, dir.path()).await.expect("there");
    assert_eq!(
        fs::read(out).expect("there"),
        fs::read(fetched).expect("there")
    );
    shelf.retain(&BTreeSet::new()).await.expect("swept");
    let gone = shelf.verify(&package).await;
    assert!(matches!(gone, Err(ShelfError::NotKept { .. })), "{gone:?}");
    assert_eq!(shelf.artifacts.size().expect("known"), 0);
}

#[tokio::test]
async fn a_file_that_is_another_package_or_none_is_not_taken() {
    let dir = TempDir::new().expect("folder");
    let (shelf, package) = (shelf(&dir), id("1.0-1"));
    let other = build(dir.path(), "2.0-1", "other");
    let taken = shelf.take(&package, &other, Source::Repository).await;
    assert!(
        matches!(taken, Err(ShelfError::Deb(DebError::Another { .. }))),
        "{taken:?}"
    );
    fs::write(&other, "no package").expect("written");
    let taken = shelf.take(&package, &other, Source::Repository).await;
    assert!(
        matches!(taken, Err(ShelfError::Deb(DebError::NoPackage { .. }))),
        "{taken:?}"
    );
    let cached = shelf.cache.join(package.file_name());
    std::os::unix::fs::symlink(build(dir.path(), "1.0-1", "link"), &cached).expect("made");
    // In the cache it is passed over, with a word.
    let given = Given {
        fetched: Some(build(dir.path(), "1.0-1", "fetched")),
        ..Given::default()
    };
    let kept = shelf.keep(&dpkg("2"), &package, &given).await;
    assert_eq!(kept.expect("kept").source, Source::Repository);
}

#[tokio::test]
async fn a_damaged_file_is_found_out_and_replaced() {
    let dir = TempDir::new().expect("folder");
    let (shelf, package) = (shelf(&dir), id("1.0-1"));
    let given = Given {
        fetched: Some(build(dir.path(), "1.0-1", "fetched")),
        ..Given::default()
    };
    let kept = shelf.keep(&dpkg("2"), &package, &given).await;
    let text = kept.expect("kept").artifact.to_string();
    let file = dir.path().join("shelf/files").join(&text[..2]).join(&text);
    fs::write(&file, "damaged").expect("written");
    assert!(shelf.verify(&package).await.is_err());
    assert!(shelf.copy_to(&package, dir.path()).await.is_err());
    shelf
        .keep(&dpkg("2"), &package, &given)
        .await
        .expect("kept");
    shelf.verify(&package).await.expect("whole");
}

#[test]
fn apt_is_asked_for_that_version_alone() {
    let name = "docker-ce".parse().expect("a name");
    let version = "5:24.0~1-1".parse().expect("a version");
    let package = PackageId::new(name, version, "amd64").expect("valid");
    let download = download_command(&package, Path::new("/run/sternway/x"));
    let last = download.arguments.last().map(String::as_str);
    assert_eq!(last, Some("docker-ce:amd64=5:24.0~1-1"));
    let file = Path::new("/run/sternway/x/docker-ce_5%3a24.0~1-1_amd64.deb");
    assert_eq!(download.file, file);
}
