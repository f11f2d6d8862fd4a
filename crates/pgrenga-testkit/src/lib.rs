//! How pgrenga is tested: what clients saw is recorded as a [`history`], by
//! [`workload`]s that run against any set of PostgreSQL servers, and checkers
//! judge the history without knowing anything about the system that made it.
//! A [`cluster`] is the real one, for tests that stop and kill its parts; [`random`] makes
//! schemas and statements for it.

pub mod cluster;
pub mod history;
pub mod random;
pub mod workload;
