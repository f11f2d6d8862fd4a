//! The promise: whatever passes the balancer is passed on as it is, and whatever the balancer says itself is true.
//! Raw frames, with made-up servers and a made-up cluster behind it;
//! where it is about proofs, libpq and a real server.

mod begin;
mod cancel;
mod certificates;
mod encrypted;
mod ends;
mod fake;
mod flow;
mod limits;
mod moves;
mod passwords;
mod pooled;
mod reload;
mod repetitions;
mod rules;
mod server;
mod tls;
mod wire;
