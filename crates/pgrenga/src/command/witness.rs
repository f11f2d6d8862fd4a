//! `pgrenga witness`: a daemon without PostgreSQL, for its vote and its copy of the log.

use anyhow::Result;

use super::daemon::Daemon;
use crate::config::{LogMember, Serving};

/// Nothing lags where nothing is served.
const SERVING: Serving = Serving { max_lag: u64::MAX, ready_lag: u64::MAX };

/// Runs until told to stop, or until the witness cannot go on.
pub(crate) async fn run(member: &LogMember) -> Result<()> {
    Daemon::prepare(member, true).await?.run(None, SERVING, None).await
}
