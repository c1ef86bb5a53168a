//! What the archive should hold: plain values and decisions, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sternway_proto::name::TargetName;
use thiserror::Error;

/// The id of an image, `sha256:` and 64 digits: nothing else becomes the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(in super::super) struct ImageId(String);

/// It is no id of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it is no id of an image")]
pub(in super::super) struct NoImageId;

impl ImageId {
    /// As the engine writes it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash, 64 digits.
    pub(super) fn digits(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl FromStr for ImageId {
    type Err = NoImageId;

    fn from_str(text: &str) -> Result<Self, NoImageId> {
        let digits = text.strip_prefix("sha256:").ok_or(NoImageId)?;
        let lower = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() == 64 && digits.bytes().all(lower) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoImageId)
        }
    }
}

impl TryFrom<String> for ImageId {
    type Error = NoImageId;

    fn try_from(text: String) -> Result<Self, NoImageId> {
        text.parse()
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::super::normalise::short_image(&self.0))
    }
}

/// An image that a target has use for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Image {
    pub(in super::super) id: ImageId,
    /// Under what a registry may have it: `name@sha256:…`.
    pub(in super::super) digests: Vec<String>,
}

/// Which images each target has use for, what matters most first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Wanted(BTreeMap<TargetName, Vec<Image>>);

/// An image that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) id: ImageId,
    /// 0: it matters most to a target; the higher, the sooner it is let go.
    pub(super) rank: usize,
    /// To whom.
    pub(super) target: TargetName,
    /// As of the [`Image`].
    pub(super) digests: Vec<String>,
}

impl Wanted {
    /// Sets what a target wants. Answers with whether that is something else than before.
    pub(super) fn set(&mut self, target: &TargetName, images: Vec<Image>) -> bool {
        if images.is_empty() {
            return self.0.remove(target).is_some();
        }
        self.0.insert(target.clone(), images.clone()) != Some(images)
    }

    /// Every image once, in the order in which they are taken.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        let mut all: Vec<Wish> = self
            .0
            .iter()
            .flat_map(|(target, images)| {
                images.iter().enumerate().map(move |(rank, image)| Wish {
                    id: image.id.clone(),
                    rank,
                    target: target.clone(),
                    digests: image.digests.clone(),
                })
            })
            .collect();
        all.sort_by(|one, other| (one.rank, &one.id).cmp(&(other.rank, &other.id)));
        let mut seen = BTreeSet::new();
        all.retain(|wish| seen.insert(wish.id.clone()));
        all
    }
}

/// An image in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: ImageId,
    /// As of its [`Wish`]; behind all others where nobody wants it.
    pub(super) rank: usize,
    /// Its files by their hash, and their bytes. Images share files.
    pub(super) files: BTreeMap<String, u64>,
}

impl Held {
    /// The rank of what nobody wants.
    pub(super) const UNWANTED: usize = usize::MAX;
}

/// The bytes that all of these take, what they share once.
pub(super) fn size<'a>(held: impl IntoIterator<Item = &'a Held>) -> u64 {
    let files: BTreeMap<&String, &u64> = held.into_iter().flat_map(|one| &one.files).collect();
    files.into_values().sum()
}

/// What is let go so that `needed` bytes more fit for an image of that rank, where `free` are there: only what ranks
/// behind it, the last first, and no more than necessary. None: not even all of that makes the room.
pub(super) fn make_room(
    needed: u64,
    rank: usize,
    free: u64,
    mut held: Vec<Held>,
) -> Option<Vec<ImageId>> {
    held.sort_by_key(|one| one.rank);
    let before = size(&held);
    let mut gone = Vec::new();
    while free.saturating_add(before - size(&held)) < needed {
        let last = held.pop_if(|one| one.rank > rank)?;
        gone.push(last.id);
    }
    Some(gone)
}

/// What is let go so that no more than the budget is left, the last first. With a budget of none all of it.
pub(super) fn beyond(budget: u64, mut held: Vec<Held>) -> Vec<ImageId> {
    held.sort_by_key(|one| one.rank);
    let mut gone = Vec::new();
    while size(&held) > budget {
        let Some(last) = held.pop() else {
            break;
        };
        gone.push(last.id);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ImageId {
        let text = format!("sha256:{}", digit.to_string().repeat(64));
        text.parse().expect("an id")
    }

    fn image(digit: char) -> Image {
        Image {
            id: id(digit),
            digests: Vec::new(),
        }
    }

    fn target(name: &str) -> TargetName {
        name.parse().expect("a target")
    }

    #[test]
    fn nothing_but_an_id_becomes_a_name_of_a_file() {
        let digits = "a".repeat(64);
        for wrong in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            &digits,
            &format!("sha256:{}/", "a".repeat(63)),
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha512:{digits}"),
        ] {
            assert_eq!(wrong.parse::<ImageId>(), Err(NoImageId), "{wrong}");
        }
        let right: ImageId = format!("sha256:{digits}").parse().expect("an id");
        assert_eq!(right.digits(), digits);
    }

    #[test]
    fn what_matters_most_to_every_target_goes_first_and_each_image_is_taken_once() {
        let mut wanted = Wanted::default();
        assert!(wanted.set(&target("docker/web"), vec![image('1'), image('2')]));
        assert!(wanted.set(&target("docker/api"), vec![image('2'), image('3')]));
        assert!(!wanted.set(&target("docker/api"), vec![image('2'), image('3')]));
        let order: Vec<(ImageId, usize)> = wanted
            .wishes()
            .into_iter()
            .map(|wish| (wish.id, wish.rank))
            .collect();
        assert_eq!(order, [(id('1'), 0), (id('2'), 0), (id('3'), 1)]);
        assert!(wanted.set(&target("docker/api"), Vec::new()));
        assert_eq!(wanted.wishes().len(), 2);
        assert_eq!(wanted.wishes()[1].rank, 1);
    }

    fn held(digit: char, rank: usize, files: &[(&str, u64)]) -> Held {
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), *bytes));
        Held {
            id: id(digit),
            rank,
            files: files.collect(),
        }
    }

    #[test]
    fn room_is_made_by_what_ranks_behind_and_by_no_more_than_that() {
        let all = || {
            vec![
                held('1', 0, &[("a", 50)]),
                held('3', 2, &[("c", 20)]),
                held('2', 1, &[("b", 30)]),
            ]
        };
        assert_eq!(make_room(10, 0, 10, all()), Some(vec![]));
        assert_eq!(make_room(25, 0, 10, all()), Some(vec![id('3')]));
        assert_eq!(make_room(60, 0, 10, all()), Some(vec![id('3'), id('2')]));
        assert_eq!(make_room(61, 0, 10, all()), None, "never its equals");
        assert_eq!(make_room(31, 1, 10, all()), None);
    }

    #[test]
    fn what_is_shared_goes_with_the_last_that_has_it() {
        let base = ("base", 1_000);
        let old = || {
            vec![
                held('1', 3, &[base, ("x", 50)]),
                held('2', 4, &[base, ("y", 50)]),
            ]
        };
        assert_eq!(size(&old()), 1_100);
        assert_eq!(make_room(40, 0, 0, old()), Some(vec![id('2')]));
        assert_eq!(make_room(60, 0, 0, old()), Some(vec![id('2'), id('1')]));
        let mut kept = old();
        kept.push(held('3', 0, &[base]));
        assert_eq!(size(&kept), 1_100);
        assert_eq!(make_room(101, 0, 0, kept), None, "the base stays");
        assert_eq!(beyond(1_100, old()), []);
        assert_eq!(beyond(1_099, old()), [id('2')]);
        assert_eq!(beyond(0, old()), [id('2'), id('1')]);
    }
}
