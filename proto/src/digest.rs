//! Which revisions a digest means, as people and CI give it. Pure.

use crate::v1::Revision;

/// `sha256:…` of `name@sha256:…`; what is bare already stays so.
#[must_use]
pub fn bare(digest: &str) -> &str {
    digest.rsplit_once('@').map_or(digest, |(_, bare)| bare)
}

/// Whether a digest is that of a revision's image: of its configuration, or of its manifest in a registry, with or
/// without the name before the `@`. An empty one is nobody's.
#[must_use]
pub fn names(digest: &str, revision: &Revision) -> bool {
    let digest = bare(digest);
    !digest.is_empty() && (digest == revision.image_id || digest == bare(&revision.image_digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_names_an_image_with_or_without_a_name_before_it() {
        let revision = Revision {
            image_id: "sha256:c".into(),
            image_digest: "shop@sha256:m".into(),
            ..Revision::default()
        };
        for (digest, wanted) in [
            ("sha256:c", true),
            ("sha256:m", true),
            ("shop@sha256:m", true),
            ("other.example/shop@sha256:m", true),
            ("sha256:x", false),
            ("shop", false),
            ("shop@", false),
            ("", false),
        ] {
            assert_eq!(names(digest, &revision), wanted, "{digest:?}");
        }
        assert!(!names("", &Revision::default()));
        assert!(!names("shop@", &Revision::default()));
    }
}
