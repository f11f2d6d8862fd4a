//! Being told to stop.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal is gone), from when it is made.
pub(crate) struct StopSignals {
    signals: [Signal; 3],
}

impl StopSignals {
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("could not listen for signals");
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(listen);
        Ok(Self { signals: [terminate?, interrupt?, hangup?] })
    }

    /// Resolves with the next one.
    pub(crate) async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.signals;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
