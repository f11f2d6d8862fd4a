//! The promise: nodes come, go, fail and hang, and the work on the others goes on.

mod failover;
mod grow_and_shrink;
mod hung_disk;
mod join_again;
mod removal;
mod sequences;
mod service;

use pgrenga_testkit::cluster::Shared;

/// Small enough for a test to make a node lag.
static CLUSTER: Shared = Shared::configured(3, "[serving]\nmax_lag = 2000\nready_lag = 20\n");
