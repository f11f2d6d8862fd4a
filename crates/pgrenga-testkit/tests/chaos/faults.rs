//! What can go wrong, and how it is made and undone.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Network, Part};

/// One fault, of one node or between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed; somebody starts it again.
    Kill(usize, Part),
    /// Daemon and PostgreSQL at once.
    KillNode(usize),
    /// Whoever leads the log.
    KillLeader,
    /// Every process within milliseconds.
    KillAll,
    /// The process stands still with its connections open: a hung machine, a disk that does not answer.
    Pause(usize, Part),
    /// Whoever leads the log.
    PauseLeader,
    /// The node is cut off from the others, both ways.
    Isolate(usize),
    /// Nothing of the node arrives anywhere, but it hears all.
    Mute(usize),
    /// Nothing arrives at the node, but it is heard.
    Deafen(usize),
    /// Two nodes do not reach each other; the third reaches both.
    Bridge(usize, usize),
    /// The node's wall clock is set to so many seconds after the others', and stays so.
    SetClock(usize, i64),
}

impl Fault {
    /// Any of them.
    pub(crate) fn draw(random: &mut fastrand::Rng, nodes: usize, has_clocks: bool) -> Self {
        let node = random.usize(..nodes);
        let other = (node + random.usize(1..nodes)) % nodes;
        match random.u32(..if has_clocks { 15 } else { 13 }) {
            0 => Self::Kill(node, Part::Daemon),
            1 => Self::Kill(node, Part::Postgres),
            2 => Self::KillNode(node),
            3 => Self::KillLeader,
            4 => Self::KillAll,
            5 => Self::Pause(node, Part::Daemon),
            6 => Self::Pause(node, Part::Postgres),
            7 => Self::PauseLeader,
            8 | 9 => Self::Isolate(node),
            10 => Self::Mute(node),
            11 => Self::Deafen(node),
            12 => Self::Bridge(node, other),
            _ => Self::SetClock(node, random.i64(-200_000..200_000)),
        }
    }

    /// Lets it happen.
    pub(crate) async fn make(self, cluster: &Cluster, network: &Network) -> Result<()> {
        match self {
            Self::Kill(node, part) => _ = cluster.kill(node, part),
            Self::KillNode(node) => kill_node(cluster, node),
            Self::KillLeader => kill_node(cluster, leader(cluster).await),
            Self::KillAll => {
                for part in [Part::Daemon, Part::Postgres] {
                    (0..cluster.len()).for_each(|node| _ = cluster.signal(node, part, Signal::SIGKILL));
                }
            }
            Self::Pause(node, part) => _ = cluster.signal_all(node, part, Signal::SIGSTOP),
            Self::PauseLeader => _ = cluster.signal(leader(cluster).await, Part::Daemon, Signal::SIGSTOP),
            Self::Isolate(node) => others(cluster, node).for_each(|other| network.part(id(node), id(other))),
            Self::Mute(node) => others(cluster, node).for_each(|other| network.cut(id(node), id(other))),
            Self::Deafen(node) => others(cluster, node).for_each(|other| network.cut(id(other), id(node))),
            Self::Bridge(node, other) => network.part(id(node), id(other)),
            Self::SetClock(node, seconds) => cluster.set_clock(node, seconds)?,
        }
        Ok(())
    }

    /// Puts an end to it.
    pub(crate) fn undo(self, cluster: &mut Cluster, network: &Network) -> Result<()> {
        network.heal();
        for node in 0..cluster.len() {
            for part in [Part::Daemon, Part::Postgres] {
                cluster.signal_all(node, part, Signal::SIGCONT);
            }
        }
        Ok(cluster.revive()?)
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Kill(_, Part::Daemon) => "daemon killed",
            Self::Kill(_, Part::Postgres) => "PostgreSQL killed",
            Self::KillNode(_) => "node killed",
            Self::KillLeader => "leader killed",
            Self::KillAll => "everything killed",
            Self::Pause(_, Part::Daemon) => "daemon paused",
            Self::Pause(_, Part::Postgres) => "PostgreSQL paused",
            Self::PauseLeader => "leader paused",
            Self::Isolate(_) => "node isolated",
            Self::Mute(_) => "node muted",
            Self::Deafen(_) => "node deafened",
            Self::Bridge(..) => "bridge",
            Self::SetClock(..) => "clock set",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillLeader | Self::KillAll | Self::PauseLeader => f.write_str(self.kind()),
            Self::Bridge(one, other) => write!(f, "bridge: n{} and n{} do not reach each other", one + 1, other + 1),
            Self::SetClock(node, seconds) => write!(f, "{}: n{} to {seconds:+} s", self.kind(), node + 1),
            Self::Kill(node, _)
            | Self::KillNode(node)
            | Self::Pause(node, _)
            | Self::Isolate(node)
            | Self::Mute(node)
            | Self::Deafen(node) => write!(f, "{}: n{}", self.kind(), node + 1),
        }
    }
}

/// A node's id in the cluster, which has had no other nodes.
fn id(node: usize) -> u32 {
    node as u32 + 1
}

fn others(cluster: &Cluster, node: usize) -> impl Iterator<Item = usize> {
    (0..cluster.len()).filter(move |other| *other != node)
}

fn kill_node(cluster: &Cluster, node: usize) {
    cluster.signal(node, Part::Postgres, Signal::SIGKILL);
    cluster.kill(node, Part::Daemon);
}

/// Whoever leads the log, or any node if nobody does.
async fn leader(cluster: &Cluster) -> usize {
    let Ok(status) = cluster.status().await else { return 0 };
    let name = status["leader"].as_str().unwrap_or_default();
    (0..cluster.len()).find(|node| cluster.name(*node) == name).unwrap_or(0)
}

/// How often each kind of fault was made.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u32>);

impl Tally {
    /// One more.
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.0.entry(fault.kind()).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.0.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
        f.write_str(&faults.join(", "))
    }
}
