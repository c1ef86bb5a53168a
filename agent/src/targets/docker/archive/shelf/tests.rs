use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use tempfile::TempDir;

use super::{
    super::choose::{self, Image},
    *,
};

const ROOM: Room = Room {
    budget: 1 << 30,
    floor: 0,
};

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

type Files = Vec<(String, Vec<u8>)>;

/// An export as an engine makes it: its files, in order; a link instead of bytes where it begins with `->`.
struct Export {
    id: ImageId,
    files: Files,
}

impl Export {
    /// As Docker 20.10 lays it out: a folder a layer, a link where a layer comes twice.
    fn old(layers: &[&[u8]]) -> Self {
        let mut files = Files::new();
        let mut paths: Vec<String> = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let path = format!("l{number}/layer.tar");
            let before = layers[..number].iter().position(|other| other == layer);
            let content = match before {
                Some(before) => format!("->../l{before}/layer.tar").into_bytes(),
                None => layer.to_vec(),
            };
            files.push((format!("l{number}/"), Vec::new()));
            files.push((path.clone(), content));
            paths.push(path);
        }
        let config = config(layers);
        let id = digest(&config);
        let name = format!("{id}.json");
        let manifest = json!([{"Config": name, "Layers": paths}]);
        files.insert(0, (name, config));
        files.push((
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ));
        Self::of(&id, files)
    }

    /// As newer ones do: everything under its own hash, here with the layers compressed.
    fn new(layers: &[&[u8]]) -> Self {
        let mut files = Vec::new();
        let mut paths = Vec::new();
        let mut add = |bytes: &[u8]| {
            let path = format!("blobs/sha256/{}", digest(bytes));
            files.push((path.clone(), bytes.to_vec()));
            path
        };
        for layer in layers {
            paths.push(add(&[b"compressed ", *layer].concat()));
        }
        let config = config(layers);
        let path = add(&config);
        let manifest = json!([{"Config": path, "Layers": paths}]);
        files.push((
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ));
        Self::of(&digest(&config), files)
    }

    fn of(id: &str, files: Files) -> Self {
        let id = format!("sha256:{id}").parse().expect("an id");
        Self { id, files }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (path, content) in &self.files {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            let added = if path.ends_with('/') {
                header.set_entry_type(EntryType::Directory);
                out.append_data(&mut header, path, io::empty())
            } else if let Some(to) = content.strip_prefix(b"->") {
                header.set_entry_type(EntryType::Symlink);
                out.append_link(&mut header, path, str::from_utf8(to).expect("text"))
            } else {
                header.set_size(content.len() as u64);
                out.append_data(&mut header, path, &content[..])
            };
            added.expect("added");
        }
        out.into_inner().expect("written")
    }
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let hashes: Vec<String> = layers
        .iter()
        .map(|layer| format!("sha256:{}", digest(layer)))
        .collect();
    json!({"rootfs": {"diff_ids": hashes}})
        .to_string()
        .into_bytes()
}

fn shelf() -> (TempDir, Shelf) {
    let dir = TempDir::new().expect("folder");
    let shelf = Shelf::open(&dir.path().join("images")).expect("opened");
    (dir, shelf)
}

fn wish(id: &ImageId, rank: usize) -> Wish {
    Wish {
        id: id.clone(),
        rank,
        target: "docker/web".parse().expect("a target"),
        digests: Vec::new(),
    }
}

/// The bytes of all files.
fn used(shelf: &Shelf) -> u64 {
    let names = names(&shelf.blobs()).expect("listed");
    let sizes = names
        .iter()
        .filter_map(|name| size(&shelf.blobs().join(name)));
    sizes.sum()
}

/// Paths and contents of an archive.
fn read(archive: &[u8]) -> Files {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let path = String::from_utf8(entry.path_bytes().to_vec()).expect("text");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("read");
            if let Some(to) = entry.link_name_bytes() {
                content = [b"->", &to[..]].concat();
            }
            (path, content)
        })
        .collect()
}

#[test]
fn an_image_comes_out_as_it_went_in_and_only_its_owner_reads_it() {
    for export in [
        Export::old(&[b"base", b"app", b"base"]),
        Export::new(&[b"base", b"app"]),
    ] {
        let (_dir, shelf) = shelf();
        assert!(!shelf.holds(&export.id));
        shelf
            .take(&export.id, &export.bytes()[..], ROOM)
            .expect("taken");
        assert!(shelf.holds(&export.id));
        let mut out = Vec::new();
        shelf.give(&export.id, &mut out).expect("given");
        assert_eq!(read(&out), export.files);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&shelf.blobs()), 0o700);
        for name in names(&shelf.blobs()).expect("listed") {
            assert_eq!(mode(&shelf.blobs().join(name)), 0o600);
        }
        assert_eq!(mode(&shelf.listing_path(&export.id)), 0o600);
    }
}

#[test]
fn what_images_share_is_on_the_disk_once_and_stays_as_long_as_one_has_it() {
    let (_dir, shelf) = shelf();
    let (base, app) = ([b'b'; 10_000], [b'a'; 1_000]);
    let first = Export::old(&[&base]);
    let second = Export::old(&[&base, &app]);
    shelf
        .take(&first.id, &first.bytes()[..], ROOM)
        .expect("taken");
    let before = used(&shelf);
    let hash = format!("sha256:{}", digest(&base));
    assert_eq!(shelf.known([hash.as_str(), "sha256:0"].into_iter()), 10_000);
    // Less than the base would need, were it written again.
    let room = Room {
        budget: 5_000,
        ..ROOM
    };
    shelf
        .take(&second.id, &second.bytes()[..], room)
        .expect("taken");
    let more = used(&shelf) - before;
    assert!((1_000..5_000).contains(&more), "{more}");
    let held = shelf.held(&[wish(&second.id, 3)]).expect("listed");
    let rank = |id: &ImageId| held.iter().find(|one| one.id == *id).expect("held").rank;
    assert_eq!((rank(&second.id), rank(&first.id)), (3, Held::UNWANTED));
    assert_eq!(choose::size(&held), used(&shelf));
    shelf
        .let_go(std::slice::from_ref(&first.id))
        .expect("let go");
    assert!(!shelf.holds(&first.id) && shelf.holds(&second.id));
    shelf
        .let_go(std::slice::from_ref(&second.id))
        .expect("let go");
    assert_eq!(used(&shelf), 0);
}

#[test]
fn what_is_not_the_whole_image_is_not_taken_and_nothing_of_it_stays() {
    let right = Export::old(&[b"base", b"app"]);
    let bytes = right.bytes();
    let spoilt = |change: &dyn Fn(&mut Files)| {
        let mut files = right.files.clone();
        change(&mut files);
        Export {
            id: right.id.clone(),
            files,
        }
        .bytes()
    };
    let without =
        |name: &'static str| spoilt(&|files| files.retain(|(path, _)| !path.contains(name)));
    let other = Export::old(&[b"base"]);
    for (what, export) in [
        ("cut in a file", bytes[..700].to_vec()),
        ("another image", other.bytes()),
        ("no list", without("manifest.json")),
        ("no layer", without("l1/layer.tar")),
        ("no configuration", without(".json")),
        (
            "no archive",
            b"{\"message\":\"no space left on device\"}".repeat(40),
        ),
        (
            "another layer",
            spoilt(&|files| {
                let layer = files.iter_mut().find(|(path, _)| path == "l1/layer.tar");
                layer.expect("a layer").1 = b"evil".to_vec();
            }),
        ),
        (
            "a link out of it",
            spoilt(&|files| {
                let layer = files.iter_mut().find(|(path, _)| path == "l1/layer.tar");
                layer.expect("a layer").1 = b"->../../../etc/passwd".to_vec();
            }),
        ),
    ] {
        let (_dir, shelf) = shelf();
        let refused = shelf.take(&right.id, &export[..], ROOM);
        assert!(
            matches!(refused, Err(ShelfError::NotIt(_) | ShelfError::Export(_))),
            "{what}: {refused:?}"
        );
        assert!(!shelf.holds(&right.id), "{what}");
        assert_eq!(
            names(&shelf.blobs()).expect("listed"),
            Vec::<String>::new(),
            "{what}"
        );
    }
}

#[test]
fn the_room_holds_and_some_of_the_disk_stays_free() {
    let (_dir, shelf) = shelf();
    let export = Export::old(&[&[b'x'; 10_000]]);
    for room in [
        Room {
            budget: 10_000,
            ..ROOM
        },
        Room {
            floor: u64::MAX,
            ..ROOM
        },
    ] {
        let refused = shelf.take(&export.id, &export.bytes()[..], room);
        assert!(matches!(refused, Err(ShelfError::NoRoom)), "{refused:?}");
        assert_eq!(used(&shelf), 0);
    }
}

#[test]
fn a_damaged_file_is_never_given_as_whole_and_is_taken_anew() {
    let (_dir, shelf) = shelf();
    let export = Export::old(&[b"base", b"app"]);
    shelf
        .take(&export.id, &export.bytes()[..], ROOM)
        .expect("taken");
    let layer = shelf.blob_path(&digest(b"app"));
    fs::write(&layer, b"opp").expect("damaged");
    assert!(shelf.holds(&export.id), "its length is right");
    let given = shelf.give(&export.id, io::sink());
    assert!(matches!(given, Err(ShelfError::Damaged(_))), "{given:?}");
    assert!(!shelf.holds(&export.id));
    shelf
        .take(&export.id, &export.bytes()[..], ROOM)
        .expect("taken");
    shelf.give(&export.id, io::sink()).expect("whole again");
    fs::remove_file(&layer).expect("removed");
    assert!(!shelf.holds(&export.id));
}

#[test]
fn a_file_that_cannot_be_read_is_damaged_and_one_that_was_taken_again_is_whole() {
    let (_dir, shelf) = shelf();
    let export = Export::old(&[b"base", b"app"]);
    let take = || {
        let taken = shelf.take(&export.id, &export.bytes()[..], ROOM);
        taken.expect("taken");
    };
    take();
    // Of the right length: nobody sees it before it is read.
    let layer = shelf.blob_path(&digest(b"app"));
    fs::write(&layer, b"opp").expect("damaged");
    take();
    shelf
        .give(&export.id, io::sink())
        .expect("replaced by what was taken");
    let mut cut = Hashing::new(Unreadable);
    assert!(cut.read(&mut [0; 8]).is_err());
    assert!(
        cut.failed
            .is_some_and(|error| error.to_string() == "bad sector")
    );
}

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("bad sector"))
    }
}

#[test]
fn what_a_later_version_wrote_and_what_cannot_be_read_is_left_alone() {
    let (dir, shelf) = shelf();
    let export = Export::old(&[b"base"]);
    shelf
        .take(&export.id, &export.bytes()[..], ROOM)
        .expect("taken");
    let path = shelf.listing_path(&export.id);
    let list = fs::read_to_string(&path).expect("read");
    fs::write(
        &path,
        list.replace("\"schema\":1", "\"schema\":2,\"more\":[]"),
    )
    .expect("written");
    let before = used(&shelf);
    let shelf = Shelf::open(&dir.path().join("images")).expect("opened");
    assert_eq!(used(&shelf), before);
    assert!(path.exists() && !shelf.holds(&export.id));
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("something that cannot be read");
    assert!(matches!(
        Shelf::open(&dir.path().join("images")),
        Err(ShelfError::File(_))
    ));
    assert_eq!(used(&shelf), before);
}

#[test]
fn what_an_interrupted_write_left_goes_when_the_archive_is_opened() {
    let (dir, shelf) = shelf();
    let export = Export::old(&[b"base"]);
    shelf
        .take(&export.id, &export.bytes()[..], ROOM)
        .expect("taken");
    let kept = names(&shelf.blobs()).expect("listed").len();
    fs::write(shelf.blobs().join("new"), b"half").expect("written");
    fs::write(shelf.blobs().join("0".repeat(64)), b"whole, of no image").expect("written");
    fs::write(
        shelf.listings().join(format!("{}.json", "1".repeat(64))),
        b"{",
    )
    .expect("written");
    let shelf = Shelf::open(&dir.path().join("images")).expect("opened");
    assert_eq!(names(&shelf.blobs()).expect("listed").len(), kept);
    assert_eq!(names(&shelf.listings()).expect("listed").len(), 1);
    assert!(shelf.holds(&export.id));
}

#[test]
fn who_wants_what_is_remembered() {
    let (_dir, shelf) = shelf();
    assert_eq!(shelf.wanted().expect("read"), None);
    let mut wanted = Wanted::default();
    let image = Image {
        id: Export::old(&[b"base"]).id,
        digests: vec!["shop@sha256:1".to_owned()],
    };
    wanted.set(&"docker/web".parse().expect("a target"), vec![image]);
    shelf.want(&wanted).expect("written");
    assert_eq!(shelf.wanted().expect("read"), Some(wanted));
}
