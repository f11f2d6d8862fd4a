//! Members talking to each other: length-framed messages over TCP, many at
//! once on each connection.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod message;
mod outages;
mod peer;
pub(crate) mod server;
#[cfg(test)]
mod tests;
pub(crate) mod transport;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::RaftNetworkFactory;
use openraft::impls::BasicNode;

use crate::options::Options;
use crate::raft::TypeConfig;
use crate::space::Space;
use connection::{Lane, Route};
use outages::Outages;
use peer::Peer;
use transport::Transport;

/// Replies to requests of a member are small; requests may carry entries.
pub(crate) fn max_frame(options: &Options) -> usize {
    options.max_append_bytes.max(options.max_entry_bytes) + (1 << 20)
}

/// Connections by the member's id and address.
type Lanes = BTreeMap<(u64, String), Arc<Lane>>;

/// Makes connections to other members. Each purpose has a connection of its
/// own: a snapshot must not hold up entries, nor entries the heartbeats.
#[derive(Clone)]
pub(crate) struct Network {
    cluster: String,
    node: u32,
    timeout: Duration,
    transport: Arc<dyn Transport>,
    forwarding: Arc<Mutex<Lanes>>,
    outages: Arc<Outages>,
    space: Arc<Space>,
}

impl Network {
    pub(crate) fn new(options: &Options, transport: Arc<dyn Transport>, space: Arc<Space>) -> Self {
        Self {
            cluster: options.cluster.clone(),
            node: options.node_id.0,
            timeout: options.rpc_timeout,
            transport,
            forwarding: Arc::default(),
            outages: Arc::default(),
            space,
        }
    }

    fn lane(&self, target: u64, address: &str) -> Lane {
        let to = u32::try_from(target).unwrap_or(u32::MAX);
        let route = Route { cluster: self.cluster.clone(), from: self.node, to, address: address.to_owned() };
        Lane::new(self.transport.clone(), route, self.outages.clone(), self.timeout)
    }

    /// The connection on which proposals and calls are forwarded to a leader.
    pub(crate) fn forwarding(&self, target: u64, address: &str) -> Arc<Lane> {
        let mut lanes = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        // An address that a member no longer has goes with its connection.
        lanes.retain(|(id, known), _| *id != target || known == address);
        lanes.entry((target, address.to_owned())).or_insert_with(|| Arc::new(self.lane(target, address))).clone()
    }

    /// Drops all forwarding connections.
    pub(crate) fn close(&self) {
        self.forwarding.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer::new(target, self.lane(target, &node.addr), self.timeout, self.space.clone())
    }
}
