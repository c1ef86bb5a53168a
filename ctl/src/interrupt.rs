//! Ctrl-C: the first asks a command to let go, the second ends the process at once.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Counts how often the person pressed Ctrl-C.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    count: watch::Receiver<u32>,
}

impl Interrupt {
    /// Takes the signals over from the system's default, for the rest of the process.
    pub(crate) fn install() -> Self {
        let (sender, count) = watch::channel(0);
        // Here and not in the task: from now on no Ctrl-C ends the process unheard.
        let signals = signal(SignalKind::interrupt());
        tokio::spawn(async move {
            if let Ok(mut signals) = signals {
                while signals.recv().await.is_some() {
                    sender.send_modify(|count| *count += 1);
                }
            }
            // Without a handler nothing is ever counted, and the sender has to live for that.
            std::future::pending::<()>().await;
        });
        Self { count }
    }

    /// Returns at the first Ctrl-C, at once where it was pressed already.
    pub(crate) async fn first(&self) {
        self.at_least(1).await;
    }

    /// Returns at the second.
    pub(crate) async fn second(&self) {
        self.at_least(2).await;
    }

    async fn at_least(&self, wanted: u32) {
        let mut count = self.count.clone();
        if count.wait_for(|count| *count >= wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
