//! What a member of the log is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pgrenga_writeset::NodeId;

use crate::error::Error;
use crate::gather::Join;

/// How a member of the log is set up. Validated as a whole by [`crate::start()`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// This member. Never used again once it was removed.
    pub node_id: NodeId,
    /// Where segments and snapshot live; created if missing. One process at a time.
    pub dir: PathBuf,
    /// Where to accept other members. Port 0 takes a free one, see [`crate::Handle::local_addr`].
    pub listen: SocketAddr,
    /// `HOST:PORT` at which others reach this member; empty: the address listened on.
    pub advertise: String,
    /// The cluster's id. Members of another cluster are turned away.
    pub cluster: String,
    /// How often a leader assures the others that it lives. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// Shortest time beyond the leader's lease before a silent leader is replaced. Default 400 ms.
    pub election_timeout_min: Duration,
    /// Longest such time, and the leader's lease. A dead leader is replaced within twice this and a
    /// round trip. Default 700 ms.
    pub election_timeout_max: Duration,
    /// How long a reply of another member may take before its connection is given up. Default 2 s.
    pub rpc_timeout: Duration,
    /// How entries that are proposed at the same time become one. Default: not at all.
    pub join: Join,
    /// Size of a segment file in bytes; two are zero-filled at the first start. Default 16 MiB.
    pub segment_bytes: u64,
    /// Largest payload of an entry in bytes. Default 4 MiB.
    pub max_entry_bytes: usize,
    /// Recent entries kept in memory, in bytes. Default 16 MiB.
    pub cache_bytes: usize,
    /// Payload bytes that this member's proposals may have in flight; more wait. Default 64 MiB.
    pub max_in_flight_bytes: usize,
    /// Entries in one message to another member, in bytes; one larger entry goes alone. Default 4 MiB.
    pub max_append_bytes: usize,
    /// Largest snapshot accepted from a leader, in bytes. Default 1 GiB.
    pub max_snapshot_bytes: usize,
}

impl Options {
    /// Options with the defaults, listening on a free port of the loopback interface.
    pub fn new(node_id: NodeId, dir: impl Into<PathBuf>, cluster: impl Into<String>) -> Self {
        Self {
            node_id,
            dir: dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: String::new(),
            cluster: cluster.into(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(700),
            rpc_timeout: Duration::from_secs(2),
            join: |_, _| false,
            segment_bytes: 16 << 20,
            max_entry_bytes: 4 << 20,
            cache_bytes: 16 << 20,
            max_in_flight_bytes: 64 << 20,
            max_append_bytes: 4 << 20,
            max_snapshot_bytes: 1 << 30,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(Error::Options(what.into())) };
        require(self.cluster.len() <= 255, "cluster is longer than 255 bytes")?;
        require(!self.heartbeat_interval.is_zero(), "heartbeat_interval is zero")?;
        require(
            self.election_timeout_min >= self.heartbeat_interval * 3,
            "election_timeout_min is below three heartbeat intervals",
        )?;
        require(
            self.election_timeout_max > self.election_timeout_min,
            "election_timeout_max is not above election_timeout_min",
        )?;
        require((64 << 10..=1 << 30).contains(&self.segment_bytes), "segment_bytes is not between 64 kiB and 1 GiB")?;
        require(
            self.max_entry_bytes as u64 + (16 << 10) <= self.segment_bytes,
            "max_entry_bytes does not fit into a segment",
        )?;
        require(self.max_in_flight_bytes >= self.max_entry_bytes, "max_in_flight_bytes is below max_entry_bytes")?;
        require(self.max_snapshot_bytes <= 1 << 32, "max_snapshot_bytes is above 4 GiB")
    }
}
