//! Being told to stop.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal is gone), from when it is made.
pub(crate) struct StopSignals {
    signals: Vec<Signal>,
}

impl StopSignals {
    pub(crate) fn listen() -> Result<Self> {
        let mut all = Self::listen_but_for_hangup()?;
        all.signals.push(listen(SignalKind::hangup())?);
        Ok(all)
    }

    /// For who does something else when the terminal is gone, or somebody says so.
    pub(crate) fn listen_but_for_hangup() -> Result<Self> {
        let signals = [SignalKind::terminate(), SignalKind::interrupt()].into_iter().map(listen);
        Ok(Self { signals: signals.collect::<Result<_>>()? })
    }

    /// Resolves with the next one.
    pub(crate) async fn next(&mut self) {
        let signals = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(signals).await;
    }
}

/// From now on.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("could not listen for signals")
}
