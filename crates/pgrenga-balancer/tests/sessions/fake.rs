//! A made-up cluster: admin APIs that say what a test wants, and servers that are played by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgrenga_admin::{
    Cluster, Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, PostgresAddress, Refusal, Shown, State, serve,
};
use pgrenga_balancer::{Balancer, Handle, Limits, Options, PoolMode, Security, Settings};
use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::wire::{PATIENCE, STARTUP, Wire, frame, words};

pub(crate) const LIMITS: Limits = Limits {
    max_connections: 100,
    max_unauthenticated: 100,
    authentication_timeout: PATIENCE,
    max_sessions_per_node: 100,
    queue_timeout: PATIENCE,
    max_repetitions: 3,
};

/// What the servers' secrets are made of.
const SECRET: u32 = 0x5EC0_0000;

/// A balancer in front of made-up nodes.
pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) handle: Handle,
    pub(crate) servers: Vec<TcpListener>,
    members: Arc<Mutex<Vec<(Member, State)>>>,
    silent: Arc<Mutex<Vec<NodeId>>>,
    admins: Vec<oneshot::Sender<()>>,
    seeds: Vec<String>,
    stop: Vec<oneshot::Sender<()>>,
}

impl Fake {
    pub(crate) async fn start(nodes: u32, limits: Limits) -> Self {
        Self::protected(nodes, limits, Security::default()).await
    }

    pub(crate) async fn protected(nodes: u32, limits: Limits, security: Security) -> Self {
        let mut servers = Vec::new();
        for _ in 0..nodes {
            servers.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let ports: Vec<u16> = servers.iter().map(|server| server.local_addr().unwrap().port()).collect();
        Self { servers, ..Self::in_front_of(&ports, limits, security).await }
    }

    /// In transaction mode.
    pub(crate) async fn pooled(nodes: u32, limits: Limits) -> Self {
        let fake = Self::start(nodes, limits).await;
        fake.handle.change(transactions(limits));
        until_heard().await;
        fake
    }

    /// In front of servers that somebody else plays.
    pub(crate) async fn in_front_of(ports: &[u16], limits: Limits, security: Security) -> Self {
        let members = Arc::new(Mutex::new(Vec::new()));
        let (mut seeds, mut admins, silent) = (Vec::new(), Vec::new(), Arc::default());
        for (port, id) in ports.iter().zip(1..) {
            let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let admin_url = format!("http://{}", admin.local_addr().unwrap());
            let member = Member {
                id: NodeId(id),
                name: format!("n{id}"),
                admin_url: admin_url.clone(),
                postgres: Some(PostgresAddress { host: "127.0.0.1".to_owned(), port: *port }),
                peer: String::new(),
                voter: true,
            };
            members.lock().unwrap().push((member, State::Serving));
            let node = Node { id: NodeId(id), members: Arc::clone(&members), silent: Arc::clone(&silent) };
            let (closed, close) = oneshot::channel::<()>();
            tokio::spawn(serve(admin, node, async { drop(close.await) }));
            admins.push(closed);
            seeds.push(admin_url);
        }
        // The others are learned.
        seeds.truncate(1);
        let (address, handle, stop) = start_balancer(seeds.clone(), limits, security).await;
        Self { address, handle, servers: Vec::new(), members, silent, admins, seeds, stop: vec![stop] }
    }

    /// Another balancer in front of the same nodes, which goes as well when this does. Where it listens.
    pub(crate) async fn another_balancer(&mut self) -> String {
        let (address, _, stop) = start_balancer(self.seeds.clone(), LIMITS, Security::default()).await;
        self.stop.push(stop);
        address
    }

    /// What the cluster says of a node from now on.
    pub(crate) fn set_state(&self, node: usize, state: State) {
        self.members.lock().unwrap()[node].1 = state;
    }

    /// The node's admin API answers no more.
    pub(crate) fn mute(&mut self, node: usize) {
        let (muted, _) = oneshot::channel();
        self.admins[node] = muted;
    }

    /// Who leads the log hears nothing of the node.
    pub(crate) fn miss(&self, node: usize) {
        self.silent.lock().unwrap().push(self.members.lock().unwrap()[node].0.id);
    }

    /// Tells the balancer to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.clear();
    }

    /// A connection to the balancer on which nothing was said yet.
    pub(crate) async fn dial(&self) -> Wire {
        Wire(TcpStream::connect(&self.address).await.unwrap())
    }

    /// A connection of the balancer to a server, its startup packet read.
    pub(crate) async fn knocked(&self, node: usize) -> Wire {
        let accepted = tokio::time::timeout(PATIENCE, self.servers[node].accept()).await.expect("a session in time");
        let mut server = Wire(accepted.unwrap().0);
        assert_eq!(server.packet().await, asking());
        server
    }

    /// A session on a node: the client's end, the server's end. The server's process is `pid`.
    pub(crate) async fn session(&self, node: usize, pid: u32) -> (Wire, Wire) {
        let mut client = self.dial().await;
        client.send(STARTUP).await;
        let mut server = self.knocked(node).await;
        server.send(&welcome(pid)).await;
        client.until_ready().await;
        (client, server)
    }
}

async fn start_balancer(
    nodes: Vec<String>,
    limits: Limits,
    security: Security,
) -> (String, Handle, oneshot::Sender<()>) {
    let options = Options {
        cluster: "made-up".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        nodes,
        settings: settings(limits, security),
        threads: 2,
        metrics: None,
    };
    let (started, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let balancer = Balancer::bind(options).await.unwrap();
            started.send((balancer.address().to_string(), balancer.handle())).unwrap();
            balancer.run(async { drop(stopped.await) }).await;
        });
    });
    let (address, handle) = address.await.unwrap();
    (address, handle, stop)
}

pub(crate) fn settings(limits: Limits, security: Security) -> Settings {
    Settings { limits, weights: BTreeMap::new(), security, pool_mode: PoolMode::Session }
}

/// Of transaction mode.
pub(crate) fn transactions(limits: Limits) -> Settings {
    Settings { pool_mode: PoolMode::Transaction, ..settings(limits, Security::default()) }
}

/// The startup packet as it reaches the server: it asks for reports, too.
pub(crate) fn asking() -> Vec<u8> {
    let added = b"pgrenga.report_session\0on\0pgrenga.report_transaction_id\0on\0\0";
    let packet = [&STARTUP[4..STARTUP.len() - 1], added].concat();
    [&words(&[u32::try_from(packet.len() + 4).unwrap()])[..], &packet].concat()
}

/// What a server says that trusts its client.
pub(crate) fn welcome(pid: u32) -> Vec<u8> {
    [
        frame(b'R', &words(&[0])),
        frame(b'S', b"server_version\x0015.0\0"),
        frame(b'K', &words(&[pid, SECRET + pid])),
        frame(b'Z', b"I"),
    ]
    .concat()
}

/// The cancel request that such a server understands.
pub(crate) fn cancel(pid: u32) -> Vec<u8> {
    words(&[16, 80_877_102, pid, SECRET + pid])
}

/// Time enough for the balancer to hear of anything.
pub(crate) async fn until_heard() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[derive(Clone)]
struct Node {
    id: NodeId,
    members: Arc<Mutex<Vec<(Member, State)>>>,
    silent: Arc<Mutex<Vec<NodeId>>>,
}

/// The second one.
const LEADER: NodeId = NodeId(2);

impl Cluster for Node {
    fn node(&self) -> NodeView {
        let members = self.members.lock().unwrap();
        let (member, state) = members.iter().find(|(member, _)| member.id == self.id).expect("a member");
        NodeView {
            cluster: "made-up".to_owned(),
            cluster_id: "c".to_owned(),
            former_cluster_ids: Vec::new(),
            name: member.name.clone(),
            id: self.id,
            state: *state,
            applied_seq: Seq(1),
            flushed_seq: Seq(1),
            committed_seq: Seq(1),
            leader: Some(LEADER),
            silent: if self.id == LEADER { self.silent.lock().unwrap().clone() } else { Vec::new() },
            daemon_pid: 1,
            postgres_pid: None,
            removed: Vec::new(),
            verdict_hash: String::new(),
            reason: None,
            counters: BTreeMap::new(),
        }
    }

    fn members(&self) -> Vec<Member> {
        self.members.lock().unwrap().iter().map(|(member, _)| member.clone()).collect()
    }

    async fn shown(&self, seq: Seq) -> Shown {
        Shown { id: self.id, state: State::Serving, applied_seq: seq }
    }

    async fn transaction(&self, _id: TransactionId, _index: LogIndex) -> Result<Fate, Refusal> {
        Err(no())
    }

    async fn register(&self, _new: NewMember) -> Result<NodeId, Refusal> {
        Err(no())
    }

    async fn bring_in(&self, _node: NodeId) -> Result<(), Refusal> {
        Err(no())
    }

    async fn set_detached(&self, _node: NodeId, _detached: bool) -> Result<(), Refusal> {
        Err(no())
    }

    async fn remove(&self, _node: NodeId) -> Result<(), Refusal> {
        Err(no())
    }

    async fn begin_marker(&self) -> Result<Marker, Refusal> {
        Err(no())
    }

    fn marker(&self, _id: u64) -> Option<MarkerSnapshot> {
        None
    }

    fn end_marker(&self, _id: u64) {}
}

fn no() -> Refusal {
    Refusal::Unavailable("made up".to_owned())
}
