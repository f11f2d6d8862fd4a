//! Ports for a demo that nobody uses, as far as one can tell.

use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which the kernel takes ports for outgoing connections.
const LOWEST: u16 = 15_000;
const HIGHEST: u16 = 32_000;

/// A first port whose followers, as the demo uses them for up to nine nodes, are free now.
pub(super) fn free_range() -> u16 {
    loop {
        let first = fastrand::u16(LOWEST..HIGHEST);
        let mut all = (0..=9).flat_map(|node| [first + node, first + 100 + node, first + 200 + node]);
        if all.all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return first;
        }
    }
}
