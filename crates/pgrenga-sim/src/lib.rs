//! Deterministic simulation of the core and of the replicated log: see
//! `docs/internals/simulation.md`.
//!
//! Several nodes run on one thread, with simulated disks, network and time. [`run`] lets a seed
//! decide everything: load, faults, and the order in which things happen. What must hold stands in
//! [`invariants`], one file for each.

pub mod clients;
pub mod daemon;
pub mod disk;
pub mod faults;
pub mod invariants;
pub mod machine;
pub mod network;
pub mod plan;
pub mod postgres;
pub mod power;
pub mod table;
pub mod trace;
pub mod world;
pub mod writes;

pub use world::{Failure, Report, run};
