//! Keeps the images of revisions from being pruned: a tag of ours, and a container that is created and
//! never started for each image and target, because `docker image prune -a` spares nothing but images
//! with a container. That state is on the engine, in labels: nothing to lose, nothing to leak. Images that no registry
//! has are copied into the archive, too.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sternway_proto::name::{RevisionId, TargetName};
use tracing::{info, warn};

use super::{
    DockerKind,
    archive::Image,
    client::{Engine, EngineError, EngineErrorKind},
    labels::{self, Role},
    normalise::{self, list, object, text},
    record::{ContainerRecord, Hints},
};
use crate::targets::{KindError, Recorded};

/// The repository of our tags; the tag is the image's id without its algorithm.
const REPOSITORY: &str = "sternway-keep";

impl DockerKind {
    /// Keeps the images of exactly these revisions of the target. Repairs what somebody removed. An image
    /// that is gone is left to readiness to report.
    ///
    /// # Errors
    /// A record cannot be read (nothing is let go then); the engine does not answer.
    pub async fn keep(&self, target: &TargetName, kept: &[Recorded]) -> Result<(), KindError> {
        let wanted = images(target, kept)?;
        // First, because it does not need the engine now; and told at the end, because the rest does not need it.
        let archived = match &self.archive {
            Some(archive) => archive.want(target, in_order(kept)).await,
            None => Ok(()),
        };
        let _one_at_a_time = self.keeping.lock().await;
        let present = keepers(&self.engine, &[format!("{}={target}", labels::TARGET)]).await?;
        for id in &wanted {
            self.keep_image(target, id, present.contains_key(id))
                .await?;
        }
        let mut let_go = false;
        for (image, keeper) in &present {
            if !wanted.contains(image) {
                self.engine.remove_container(keeper, true).await?;
                let_go = true;
                info!(
                    "{target}: image {} is kept no longer",
                    normalise::short_image(image)
                );
            }
        }
        if let_go {
            self.sweep_tags().await?;
        }
        archived.map_err(|error| KindError::Failed {
            what: format!("failed to have the images of {target} archived"),
            reason: error.to_string(),
        })
    }

    async fn keep_image(
        &self,
        target: &TargetName,
        id: &str,
        kept: bool,
    ) -> Result<(), EngineError> {
        let image = match self.engine.image(id).await {
            Ok(image) => image,
            Err(error) if error.is_not_found() => {
                let image = normalise::short_image(id);
                if !self.archived(id).await && self.tell_once(format!("lost {id}")) {
                    warn!("{target}: image {image} is gone and cannot be kept");
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let tag = tag_of(id);
        let ours = Value::String(format!("{REPOSITORY}:{tag}"));
        if !list(&image["RepoTags"]).contains(&ours) {
            self.engine.tag_image(id, REPOSITORY, tag).await?;
        }
        if kept {
            return Ok(());
        }
        let created = self
            .engine
            .create_container(&keeper_name(target, id), &keeper(target, id, &image))
            .await;
        match created {
            Ok(_) => Ok(()),
            // Made since we looked, or by a call whose answer was lost.
            Err(error) if error.kind == EngineErrorKind::Conflict => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what is left of tags whose keepers went otherwise.
    pub(super) async fn sweep(&self) -> Result<(), EngineError> {
        let _one_at_a_time = self.keeping.lock().await;
        self.sweep_tags().await
    }

    /// Removes our tags from images that no keeper of any target keeps. Where a container still uses the
    /// image by that tag alone the engine says so, and the next sweep finds it.
    async fn sweep_tags(&self) -> Result<(), EngineError> {
        let kept: BTreeSet<String> = keepers(&self.engine, &[]).await?.into_keys().collect();
        for image in self.engine.images(REPOSITORY).await? {
            let id = text(&image, "Id");
            if kept.contains(id) {
                continue;
            }
            let ours = format!("{REPOSITORY}:{}", tag_of(id));
            match self.engine.untag_image(&ours).await {
                Err(error) if error.kind != EngineErrorKind::Conflict => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Keepers with these labels, by the image they keep.
async fn keepers(
    engine: &Engine,
    labels: &[String],
) -> Result<BTreeMap<String, String>, EngineError> {
    let mut wanted = vec![format!("{}={}", labels::ROLE, Role::Keeper.as_str())];
    wanted.extend_from_slice(labels);
    let found = engine.containers(&wanted).await?;
    Ok(found
        .iter()
        .filter_map(|keeper| {
            let image = object(keeper, "Labels")
                .get(labels::KEEPS)?
                .as_str()?
                .to_owned();
            Some((image, text(keeper, "Id").to_owned()))
        })
        .collect())
}

/// The images of these revisions.
fn images(target: &TargetName, kept: &[Recorded]) -> Result<BTreeSet<String>, KindError> {
    kept.iter()
        .map(|revision| {
            ContainerRecord::from_bytes(&revision.record)
                .map(|record| record.image.id)
                .map_err(|error| KindError::Record {
                    target: format!("{target} #{}", revision.number),
                    reason: error.to_string(),
                })
        })
        .collect()
}

/// The images of these revisions, in their order, with what is known of their registries.
fn in_order(kept: &[Recorded]) -> Vec<Image> {
    let mut images: Vec<Image> = Vec::new();
    for revision in kept {
        let id = ContainerRecord::from_bytes(&revision.record)
            .ok()
            .and_then(|record| record.image.id.parse().ok());
        if let Some(id) = id
            && images.iter().all(|image| image.id != id)
        {
            let digests = Hints::read(&revision.hints).digests;
            images.push(Image { id, digests });
        }
    }
    images
}

fn tag_of(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// Unique to target and image, and within the engine's rules whatever the target is called.
fn keeper_name(target: &TargetName, id: &str) -> String {
    let both = RevisionId::of(format!("{target} {id}").as_bytes());
    let image = normalise::short_image(id);
    format!("{}keeper-{image}-{}", labels::NAME_PREFIX, both.short())
}

/// A container that could never run, holds no network and makes no volumes.
fn keeper(target: &TargetName, id: &str, image: &Value) -> Value {
    let tmpfs: BTreeMap<String, &str> = normalise::image::volumes(image)
        .into_iter()
        .map(|place| (place, ""))
        .collect();
    json!({
        "Image": id,
        "Entrypoint": ["/sternway-keeps-this-image-and-never-starts-it"],
        "Cmd": [],
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {
            labels::ROLE: Role::Keeper.as_str(),
            labels::TARGET: target.as_str(),
            labels::KEEPS: id,
        },
        "HostConfig": {
            "NetworkMode": "none",
            "RestartPolicy": {"Name": "no"},
            "Tmpfs": tmpfs,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_makes_no_volumes_and_is_named_after_target_and_image() {
        let target: TargetName = "docker/web".parse().expect("valid");
        let image = json!({"Config": {"Volumes": {"/data": {}}}});
        let body = keeper(&target, "sha256:aa", &image);
        assert_eq!(body["HostConfig"]["Tmpfs"], json!({"/data": ""}));
        assert_eq!(body["HostConfig"]["NetworkMode"], "none");
        let other: TargetName = "docker/api".parse().expect("valid");
        assert_ne!(
            keeper_name(&target, "sha256:aa"),
            keeper_name(&other, "sha256:aa")
        );
        assert!(labels::not_ours(&keeper_name(&target, "sha256:aa"), &BTreeMap::new()).is_some());
    }

    #[test]
    fn nothing_is_let_go_while_a_record_cannot_be_read() {
        let target: TargetName = "docker/web".parse().expect("valid");
        let broken = Recorded {
            id: RevisionId::of(b""),
            number: 3,
            record: b"{}".to_vec(),
            hints: Value::Null,
        };
        let error = images(&target, &[broken]).expect_err("refused").to_string();
        assert!(error.contains("docker/web #3"), "{error}");
    }
}
