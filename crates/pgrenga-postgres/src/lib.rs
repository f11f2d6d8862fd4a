//! The daemon's side of a PostgreSQL server: its process and its data
//! directory ([`server`]), how a copy of one is made ([`backup`]), and whether
//! several hold the same ([`compare`]).

pub mod backup;
pub mod compare;
mod error;
mod os_user;
pub mod server;

pub use error::{Error, Result};
