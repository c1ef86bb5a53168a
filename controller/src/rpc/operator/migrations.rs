//! What a rollback would cross without taking it back: migrations of data that a deployment was recorded with.

use sternway_proto::{
    digest,
    v1::{self, Problem},
};

const DESTRUCTIVE: &str = "destructive";

/// What is worth knowing of the data before that revision comes back. Data stays as the newest deployment left it, so
/// every migration since then counts, whatever runs at this moment.
pub(super) fn crossed(
    revisions: &[v1::Revision],
    deployments: &[v1::Deployment],
    to: &v1::Revision,
) -> Vec<Problem> {
    let destructive = deployments.iter().filter(|it| it.migration == DESTRUCTIVE);
    let mut warnings: Vec<(u32, Problem)> = Vec::new();
    for deployment in destructive {
        let of = revisions
            .iter()
            .filter(|it| digest::names(&deployment.digest, it));
        // An image that was there before the migration is told of is not what brought it.
        let number = of.map(|revision| revision.number).min();
        let after = match number {
            Some(number) => number > to.number,
            None => deployment.recorded_ms > to.first_seen_ms,
        };
        let number = number.unwrap_or(0);
        if after && warnings.iter().all(|(known, _)| *known != number) {
            warnings.push((number, warning(deployment, number, to)));
        }
    }
    warnings.sort_by_key(|(number, _)| *number);
    warnings.into_iter().map(|(_, warning)| warning).collect()
}

fn warning(deployment: &v1::Deployment, number: u32, to: &v1::Revision) -> Problem {
    let what = match (number, deployment.version.as_str()) {
        (0, "") => "a deployment that belongs to no known revision".to_owned(),
        (0, version) => format!("version {version}, which belongs to no known revision,"),
        (number, "") => format!("#{number}"),
        (number, version) => format!("#{number} (version {version})"),
    };
    Problem::new(
        "migration-destructive",
        format!(
            "{what} was recorded with a destructive migration: going back over it is dangerous, because the data stays \
             migrated and #{} may not be able to work with it",
            to.number
        ),
        "make sure that the data can be brought back, or that the old revision works with the new data, before you \
         say yes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: u32, image: &str) -> v1::Revision {
        v1::Revision {
            number,
            image_id: format!("sha256:{image}"),
            image_digest: format!("shop@sha256:digest-of-{image}"),
            first_seen_ms: i64::from(number) * 100,
            ..v1::Revision::default()
        }
    }

    fn deployment(digest: &str, migration: &str) -> v1::Deployment {
        v1::Deployment {
            digest: digest.into(),
            migration: migration.into(),
            recorded_ms: 250,
            ..v1::Deployment::default()
        }
    }

    fn numbers(deployments: &[v1::Deployment], to: u32) -> Vec<String> {
        // #4 runs the image of #3 with another configuration.
        let revisions = [
            revision(4, "c"),
            revision(3, "c"),
            revision(2, "b"),
            revision(1, "a"),
        ];
        let to = revisions.iter().find(|it| it.number == to).expect("there");
        let told = crossed(&revisions, deployments, to);
        assert!(told.iter().all(|it| it.code == "migration-destructive"));
        told.iter()
            .map(|it| {
                it.message
                    .split(" was")
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn a_destructive_migration_since_the_wanted_revision_is_told_once() {
        for digest in ["sha256:c", "shop@sha256:digest-of-c", "sha256:digest-of-c"] {
            let recorded = [
                deployment(digest, "destructive"),
                deployment(digest, "destructive"),
                deployment("sha256:b", "reversible"),
            ];
            assert_eq!(numbers(&recorded, 1), ["#3"], "{digest}");
            assert_eq!(numbers(&recorded, 2), ["#3"], "{digest}");
        }
    }

    #[test]
    fn one_that_is_not_crossed_is_not_told() {
        let recorded = [deployment("sha256:c", "destructive")];
        assert!(
            numbers(&recorded, 3).is_empty(),
            "only the configuration goes back"
        );
        assert!(numbers(&[deployment("", "destructive")], 3).is_empty());
    }

    #[test]
    fn one_that_belongs_to_no_revision_is_told_where_it_came_later() {
        let recorded = [deployment("sha256:index", "destructive")];
        let said = ["a deployment that belongs to no known revision"];
        assert_eq!(numbers(&recorded, 2), said);
        assert!(numbers(&recorded, 3).is_empty());
    }
}
