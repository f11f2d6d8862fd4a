//! Which members cannot be reached: the daemon's log tells of an outage when it
//! has gone on for a while and when it ends, not at every attempt in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shorter ones are nobody's concern.
const WORTH_TELLING: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Outage {
    since: Instant,
    told: bool,
}

/// By address. All connections to a member share its outage.
#[derive(Debug, Default)]
pub(crate) struct Outages(Mutex<BTreeMap<String, Outage>>);

impl Outages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, address: &str, error: &io::Error) {
        let mut outages = self.lock();
        let begins = Outage { since: Instant::now(), told: false };
        let outage = outages.entry(address.to_owned()).or_insert(begins);
        if !outage.told && outage.since.elapsed() >= WORTH_TELLING {
            outage.told = true;
            tracing::warn!(address, %error, "cannot reach a member of the log; trying again");
        }
    }

    /// An attempt succeeded.
    pub(crate) fn reached(&self, address: &str) {
        if let Some(outage) = self.lock().remove(address).filter(|outage| outage.told) {
            tracing::info!(address, after = ?outage.since.elapsed(), "reached a member of the log again");
        }
    }
}

/// What is known of the other side of a connection.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) address: String,
    outages: Arc<Outages>,
    /// It did not reply in time, and to nothing since.
    silent: AtomicBool,
}

impl Reach {
    pub(crate) fn new(address: String, outages: Arc<Outages>) -> Self {
        Self { address, outages, silent: AtomicBool::new(false) }
    }

    /// Something that is always answered soon was not.
    pub(crate) fn missed(&self) {
        self.silent.store(true, Ordering::Relaxed);
        self.outages.failed(&self.address, &io::ErrorKind::TimedOut.into());
    }

    /// Anything came from there.
    pub(crate) fn heard(&self) {
        if self.silent.load(Ordering::Relaxed) {
            self.silent.store(false, Ordering::Relaxed);
            self.outages.reached(&self.address);
        }
    }
}
