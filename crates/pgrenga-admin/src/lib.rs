//! The admin API: JSON and Prometheus text over HTTP, one address for each
//! node.
//!
//! [`Cluster`] is what the API needs to know of the node behind it, [`serve`]
//! answers requests from it, [`Client`] asks another node. What they say to
//! each other are views such as [`NodeView`]; [`Status`] puts those of all
//! nodes together.

mod client;
mod cluster;
mod metrics;
mod server;
mod status;
mod view;

pub use client::{Client, Error};
pub use cluster::{Cluster, Refusal};
pub use server::{router, serve};
pub use status::{NodeStatus, Status};
pub use view::{
    Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, PostgresAddress, Problem, Registered, Shown, State,
};
