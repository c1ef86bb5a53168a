//! What a peer says of our certificate after the handshake. In TLS 1.3 a client is done before the server has seen
//! its certificate, and the layers above keep nothing of the alert that follows.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether a controller said that our certificate is revoked, has expired, or is missing; shared by all that hold a copy.
#[derive(Debug, Clone, Default)]
pub struct Revoked(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    revoked: AtomicBool,
    expired: AtomicBool,
    wanted: AtomicBool,
}

impl Revoked {
    /// Whether it said that it is revoked, since the last time this was asked.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.revoked.swap(false, Ordering::Relaxed)
    }

    /// Whether it said that it has expired, since the last time this was asked.
    #[must_use]
    pub fn take_expired(&self) -> bool {
        self.0.expired.swap(false, Ordering::Relaxed)
    }

    /// Whether it said that it wants one, since the last time this was asked.
    #[must_use]
    pub fn take_wanted(&self) -> bool {
        self.0.wanted.swap(false, Ordering::Relaxed)
    }

    fn hear(&self, error: &io::Error) {
        let error = error.get_ref().and_then(|it| it.downcast_ref());
        let Some(rustls::Error::AlertReceived(alert)) = error else {
            return;
        };
        match alert {
            AlertDescription::CertificateRevoked => self.0.revoked.store(true, Ordering::Relaxed),
            AlertDescription::CertificateExpired => self.0.expired.store(true, Ordering::Relaxed),
            AlertDescription::CertificateRequired => self.0.wanted.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// A stream that listens for these alerts.
pub(crate) struct Listening<S> {
    pub(crate) inner: S,
    pub(crate) revoked: Revoked,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        Poll::Ready(read.inspect_err(|error| self.revoked.hear(error)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_alerts_count_and_only_once() {
        let said = Revoked::default();
        let alert = |it| io::Error::other(rustls::Error::AlertReceived(it));
        said.hear(&alert(AlertDescription::CertificateUnknown));
        said.hear(&io::ErrorKind::ConnectionReset.into());
        assert!(!said.take() && !said.take_expired());
        said.hear(&alert(AlertDescription::CertificateExpired));
        assert!(!said.take());
        assert!(said.clone().take_expired());
        said.hear(&alert(AlertDescription::CertificateRevoked));
        assert!(said.clone().take());
        assert!(!said.take() && !said.take_expired());
        assert!(!said.take_wanted());
        said.hear(&alert(AlertDescription::CertificateRequired));
        assert!(said.take_wanted());
    }
}
