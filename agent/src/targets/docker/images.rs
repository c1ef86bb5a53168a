//! Images: the inspect answers of those that were seen, and getting a missing one back by digest.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::{
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

/// Makes sure that the image is on this host: pulls it by digest where it is missing, and accepts
/// nothing but that very image. Answers with what was done.
///
/// # Errors
/// `NotFound`: it is gone from the disk and no registry has it; `NoSpace`; the engine does not answer.
pub async fn ensure_image(
    engine: &Engine,
    image: &ImageRef,
    hints: &Hints,
    registry_config: Option<&Path>,
) -> Result<String, EngineError> {
    match engine.image(&image.id).await {
        Ok(_) => {
            return Ok(format!(
                "image {} is there",
                normalise::short_image(&image.id)
            ));
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let mut last = missing(image, "no registry is known to have it");
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
