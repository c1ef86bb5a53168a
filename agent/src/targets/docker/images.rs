//! Images: the inspect answers of those that were seen, and getting a missing one back by digest.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::{
    DockerKind,
    archive::ArchiveError,
    client::{Engine, EngineError, EngineErrorKind},
    normalise,
    record::{Hints, ImageRef},
    registry,
};

/// Inspect answers by image id. An image never changes under its id; what does change (its
/// repository digests) only grows and is refreshed with the agent.
#[derive(Debug, Default)]
pub(super) struct ImageCache(Mutex<BTreeMap<String, Arc<Value>>>);

impl ImageCache {
    /// Answers kept at most; then the cache begins again.
    const ENTRIES: usize = 256;

    pub(super) async fn of(&self, engine: &Engine, id: &str) -> Result<Arc<Value>, EngineError> {
        // An image with digests is complete; one without may have been pushed since.
        if let Some(known) = self.known(id)
            && !normalise::list(&known["RepoDigests"]).is_empty()
        {
            return Ok(known);
        }
        let image = Arc::new(engine.image(id).await?);
        if let Ok(mut known) = self.0.lock() {
            if known.len() >= Self::ENTRIES {
                known.clear();
            }
            known.insert(id.to_owned(), Arc::clone(&image));
        }
        Ok(image)
    }

    fn known(&self, id: &str) -> Option<Arc<Value>> {
        self.0.lock().ok()?.get(id).cloned()
    }
}

impl DockerKind {
    /// Whether the image is in this host's archive.
    pub(super) async fn archived(&self, id: &str) -> bool {
        match (&self.archive, id.parse()) {
            (Some(archive), Ok(id)) => archive.holds(&id).await,
            _ => false,
        }
    }

    /// Makes sure that the image is on this host: loads it from the archive or pulls it by digest where it is missing,
    /// and accepts nothing but that very image. Answers with what was done.
    ///
    /// # Errors
    /// `NotFound`: it is gone from the disk and no registry has it; `NoSpace`; the engine does not answer.
    pub async fn ensure_image(
        &self,
        image: &ImageRef,
        hints: &Hints,
    ) -> Result<String, EngineError> {
        let short = normalise::short_image(&image.id);
        match self.engine.image(&image.id).await {
            Ok(_) => return Ok(format!("image {short} is there")),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let last = match self.loaded(image).await {
            Ok(true) => return Ok(format!("loaded {short} from the archive of this host")),
            Ok(false) => missing(image, "no registry is known to have it"),
            Err(error) if error.kind == EngineErrorKind::NoSpace || error.is_transient() => {
                return Err(error);
            }
            Err(error) => error,
        };
        let registry_config = self.settings.registry_config.as_deref();
        pulled_from_any(&self.engine, image, hints, registry_config, last).await
    }

    /// Loads the image from the archive. False: it is not there.
    async fn loaded(&self, image: &ImageRef) -> Result<bool, EngineError> {
        let (Some(archive), Ok(id)) = (&self.archive, image.id.parse()) else {
            return Ok(false);
        };
        match archive.load(&id).await {
            Ok(false) => Ok(false),
            Ok(true) => match self.engine.image(&image.id).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_not_found() => Err(missing(
                    image,
                    "the engine made another of the archived one",
                )),
                Err(error) => Err(error),
            },
            Err(ArchiveError::Engine(error)) => Err(error),
            Err(error) => Err(missing(image, &error.to_string())),
        }
    }
}

/// `last`: why it is not there otherwise.
async fn pulled_from_any(
    engine: &Engine,
    image: &ImageRef,
    hints: &Hints,
    registry_config: Option<&Path>,
    mut last: EngineError,
) -> Result<String, EngineError> {
    for digest in &hints.digests {
        let credentials = registry::credentials(registry_config, digest).await;
        match pulled(engine, image, digest, credentials).await {
            Ok(()) => return Ok(format!("pulled {digest}")),
            // Another registry is no help against a full disk.
            Err(error) if error.kind == EngineErrorKind::NoSpace => return Err(error),
            Err(error) => last = error,
        }
    }
    // Refused and not transient: repeating it at once brings nothing.
    Err(match last.kind {
        EngineErrorKind::Refused => missing(image, &last.message),
        _ => last,
    })
}

async fn pulled(
    engine: &Engine,
    image: &ImageRef,
    digest: &str,
    credentials: Option<String>,
) -> Result<(), EngineError> {
    engine.pull_image(digest, credentials).await?;
    let got = engine.image(digest).await?;
    if normalise::text(&got, "Id") == image.id {
        return Ok(());
    }
    Err(missing(image, &format!("{digest} is another image")))
}

fn missing(image: &ImageRef, reason: &str) -> EngineError {
    let what = format!("get image {}", normalise::short_image(&image.id));
    EngineError::new(what, EngineErrorKind::NotFound, reason)
}
