//! Which bridges we let accept loopback addresses, and what they did before: several restores may use
//! one bridge at the same time, and the last one puts it back.

use super::{
    DockerKind,
    redirect::{self, RedirectError},
};

impl DockerKind {
    /// What the bridge did before any restore of this process touched it. None: none did.
    pub(super) fn localnet(&self, bridge: &str) -> Option<bool> {
        self.localnets.lock().ok()?.get(bridge).copied()
    }

    pub(super) fn remember_localnet(&self, bridge: &str, before: bool) {
        if let Ok(mut all) = self.localnets.lock() {
            all.entry(bridge.to_owned()).or_insert(before);
        }
    }

    /// Puts the bridge back, unless another restore redirects at this moment.
    pub(super) async fn release_localnet(&self, bridge: &str) -> Result<(), RedirectError> {
        if redirect::any().await? {
            return Ok(());
        }
        redirect::accept_loopback(bridge, false)?;
        if let Ok(mut all) = self.localnets.lock() {
            all.remove(bridge);
        }
        Ok(())
    }
}
