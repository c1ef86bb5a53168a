//! Where a rollback goes that names no revision. One answer for both ends: what an agent keeps and holds ready is
//! what the controller chooses. Pure.

use crate::v1::Mark;

/// What is known and said of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// It passed its checks through its soak.
    pub known_good: bool,
    /// What a person said of it.
    pub mark: Mark,
}

impl Standing {
    /// Marked DO_NOT_DEPLOY: never chosen.
    #[must_use]
    pub fn is_bad(self) -> bool {
        self.mark == Mark::Bad
    }

    /// Known-good, by its checks or by a person's word.
    #[must_use]
    pub fn is_good(self) -> bool {
        !self.is_bad() && (self.known_good || self.mark == Mark::Good)
    }
}

/// The revisions of a lineage before the current one, nearest first. Where nothing of it runs, all of it stands
/// behind.
pub fn before<'a, T: PartialEq>(
    lineage: &'a [T],
    current: Option<&T>,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let end = current
        .and_then(|current| lineage.iter().rposition(|one| one == current))
        .unwrap_or(lineage.len());
    lineage.iter().take(end).rev()
}

/// Of the revisions before the current one, nearest first: the first that is good, else the first that is not bad.
pub fn goal<T>(before: impl IntoIterator<Item = (T, Standing)>) -> Option<T> {
    let mut fallback = None;
    for (one, standing) in before {
        if standing.is_good() {
            return Some(one);
        }
        if !standing.is_bad() && fallback.is_none() {
            fallback = Some(one);
        }
    }
    fallback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_good_one_goes_before_the_nearest_and_a_mark_before_a_check() {
        let standing = |text: &str| match text {
            "-" => (false, Mark::Unspecified),
            "k" => (true, Mark::Unspecified),
            "g" => (false, Mark::Good),
            "b" => (false, Mark::Bad),
            "kb" => (true, Mark::Bad),
            other => panic!("{other}"),
        };
        for (nearest_first, wanted) in [
            ("", None),
            ("-", Some(0)),
            ("- k", Some(1)),
            ("- g", Some(1)),
            ("- g k", Some(1)),
            ("kb -", Some(1)),
            ("b - -", Some(1)),
            ("b kb", None),
        ] {
            let all = nearest_first.split_whitespace().map(standing);
            let all = all.map(|(known_good, mark)| Standing { known_good, mark });
            assert_eq!(goal((0..).zip(all)), wanted, "{nearest_first:?}");
        }
    }

    #[test]
    fn what_stands_before_the_current_one_is_told_nearest_first() {
        let told = |current| before(&[1, 2, 3], current).copied().collect::<Vec<_>>();
        assert_eq!(told(Some(&3)), [2, 1]);
        assert_eq!(told(Some(&2)), [1]);
        assert_eq!(told(None), [3, 2, 1]);
        assert_eq!(told(Some(&9)), [3, 2, 1]);
    }
}
