//! Every port is looked at before anything is made.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::layout::{Layout, NodeLayout};
use crate::report::Problem;

/// Below the range from which the kernel takes ports for outgoing connections.
const CHOICE: std::ops::Range<u16> = 15_000..32_000;
const CHOICES_MAX: u32 = 100;

/// A layout for a new cluster whose ports nothing else uses.
pub(super) fn choose(dir: &Path, nodes: u16) -> Result<Layout> {
    let choice = || Layout::plan(dir, Some(nodes), Some(fastrand::u16(CHOICE)));
    for _ in 1..CHOICES_MAX {
        let layout = choice()?;
        if check_free(&layout).is_ok() {
            return Ok(layout);
        }
    }
    let layout = choice()?;
    check_free(&layout).map(|()| layout)
}

/// Fails with the name of the first port that something else uses.
pub(super) fn check_free(layout: &Layout) -> Result<()> {
    check(layout.port, "The balancer", "clients")?;
    for node in &layout.nodes {
        let user = format!("Node {}", node.name);
        if !own_server_runs(node) {
            check(node.postgres_port, &user, "PostgreSQL")?;
        }
        check(node.admin_port, &user, "the admin API")?;
        check(node.peer_port, &user, "connections between the nodes")?;
    }
    Ok(())
}

fn check(port: u16, user: &str, purpose: &str) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Problem::new(format!("port {port} is in use"))
            .detail(format!("{user} needs it for {purpose}."))
            .hint("Stop what uses it ('ss -ltnp' shows that), or choose other ports with --port.")
            .into()),
        Err(error) => Err(error).with_context(|| format!("could not use port {port} for {purpose}")),
    }
}

/// The last demo was killed, and this node's PostgreSQL outlived it. It will be adopted.
fn own_server_runs(node: &NodeLayout) -> bool {
    node.config().is_ok_and(|config| config.server().running_pid().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_in_use_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let is_named = || {
            let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = taken.local_addr().unwrap().port();
            let layout = Layout::plan(directory.path(), Some(1), Some(port - 101)).unwrap();
            check_free(&layout).unwrap_err().to_string() == format!("port {port} is in use")
        };
        // Another program may use a port near by.
        assert!((0..20).any(|_| is_named()));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
