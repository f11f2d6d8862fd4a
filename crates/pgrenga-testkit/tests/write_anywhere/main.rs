//! The promise: any client, unchanged, writes on any of the servers, and all of
//! them hold the same; what cannot be replicated is refused.
//!
//! One cluster of three nodes for all tests, which run one after the other,
//! each in a schema of its own.

mod concurrently;
mod conflicts;
mod created_as;
mod definitions;
mod definitions_under_load;
mod everywhere;
mod large_objects;
mod local;
mod materialized_views;
mod names;
mod notifications;
mod questions;
mod random;
mod refusals;
mod restored;
mod rewritten;
mod rows;
mod sequences;
mod serializable;
mod sessions;
mod triggers;
mod verify;

use pgrenga_testkit::cluster::Shared;

static CLUSTER: Shared = Shared::new(3);
