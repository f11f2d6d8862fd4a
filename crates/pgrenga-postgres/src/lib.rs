//! The daemon's side of a PostgreSQL server: its process and its data
//! directory ([`server`]), what is in one that others made ([`adopt`]), how a copy of one is
//! made ([`backup`]), and whether several hold the same ([`compare`]).

pub mod adopt;
pub mod backup;
pub mod compare;
mod error;
mod os_user;
pub mod server;

pub use error::{Error, Result};
