//! Holds the log to its promise: what was acknowledged is in the log of every
//! member, once, in one order, whatever is stopped and started in between.

mod cluster;
mod durability;
mod failover;
mod membership;
mod recovery;
mod single;
