//! The promise: whatever passes the balancer is passed on as it is, and whatever the balancer says itself is true.
//! Raw frames, with made-up servers and a made-up cluster behind it.

mod begin;
mod cancel;
mod certificates;
mod ends;
mod fake;
mod flow;
mod limits;
mod tls;
mod wire;
