//! The API from both ends: a made-up node behind a real listener, asked by the client.

use std::collections::BTreeMap;
use std::future::pending;

use pgrenga_admin::{
    Client, Cluster, Error, Fate, Marker, MarkerSnapshot, Member, NewMember, NodeView, PostgresAddress, Refusal, Shown,
    State, serve,
};
use pgrenga_writeset::{LogIndex, NodeId, Seq, TransactionId};
use tokio::net::TcpListener;

/// A node of a cluster of two, whose other member is never there.
#[derive(Clone)]
struct MadeUp {
    own_url: String,
}

impl Cluster for MadeUp {
    fn node(&self) -> NodeView {
        NodeView {
            cluster: "test".to_owned(),
            cluster_id: "c0ffee".to_owned(),
            former_cluster_ids: Vec::new(),
            name: "n1".to_owned(),
            id: NodeId(1),
            state: State::Serving,
            applied_seq: Seq(7),
            flushed_seq: Seq(5),
            committed_seq: Seq(9),
            leader: Some(NodeId(1)),
            silent: Vec::new(),
            daemon_pid: 11,
            postgres_pid: Some(12),
            removed: vec![NodeId(3)],
            verdict_hash: "abc".to_owned(),
            reason: None,
            counters: BTreeMap::from([("commits_total".to_owned(), 3), ("waiting".to_owned(), 1)]),
        }
    }

    fn members(&self) -> Vec<Member> {
        let member = |id, admin_url: &str| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            admin_url: admin_url.to_owned(),
            postgres: Some(PostgresAddress { host: "127.0.0.1".to_owned(), port: 6432 }),
            peer: "127.0.0.1:1".to_owned(),
            voter: id == 1,
        };
        vec![member(2, "http://127.0.0.1:1"), member(1, &self.own_url)]
    }

    async fn transaction(&self, id: TransactionId, index: LogIndex) -> Result<Fate, Refusal> {
        match index {
            LogIndex(0..=9) if id.counter == 65536 => Ok(Fate::InProgress),
            LogIndex(0..=9) => Ok(Fate::Unknown),
            _ => Err(Refusal::Unavailable("that is to come".to_owned())),
        }
    }

    async fn register(&self, new: NewMember) -> Result<NodeId, Refusal> {
        match new.name.as_str() {
            "n1" => Err(Refusal::Conflict("node \"n1\" exists".to_owned())),
            _ => Ok(NodeId(2)),
        }
    }

    async fn bring_in(&self, node: NodeId) -> Result<(), Refusal> {
        match node {
            NodeId(2) => Ok(()),
            _ => Err(Refusal::Unavailable("no leader".to_owned())),
        }
    }

    async fn set_detached(&self, node: NodeId, detached: bool) -> Result<(), Refusal> {
        match node {
            NodeId(2) if detached => Ok(()),
            _ => Err(Refusal::Conflict("it was not detached".to_owned())),
        }
    }

    async fn remove(&self, node: NodeId) -> Result<(), Refusal> {
        match node {
            NodeId(2) => Ok(()),
            _ => Err(Refusal::NotFound(format!("there is no node {node}"))),
        }
    }

    async fn begin_marker(&self) -> Result<Marker, Refusal> {
        Ok(Marker { id: 4, seq: Seq(9), nodes: vec!["n1".to_owned()] })
    }

    async fn shown(&self, seq: Seq) -> Shown {
        Shown { id: NodeId(1), state: State::Serving, applied_seq: seq }
    }

    fn end_marker(&self, _id: u64) {}

    fn marker(&self, id: u64) -> Option<MarkerSnapshot> {
        (id == 4).then(|| MarkerSnapshot { seq: Seq(9), snapshot: "00000003-00000002-1".to_owned() })
    }
}

async fn started() -> (Client, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = MadeUp { own_url: format!("http://{address}") };
    tokio::spawn(serve(listener, node, pending()));
    (Client::new(), address)
}

fn newcomer(cluster: &str, name: &str) -> NewMember {
    NewMember {
        cluster: cluster.to_owned(),
        name: name.to_owned(),
        admin_url: "http://127.0.0.1:2".to_owned(),
        postgres: None,
        peer: "127.0.0.1:3".to_owned(),
    }
}

fn refusal(result: Result<impl Sized, Error>) -> (u16, String) {
    match result {
        Err(Error::Refused { status, problem, .. }) => (status, problem.message),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn status_shows_a_silent_node_as_detached() {
    let (client, address) = started().await;
    let status = client.status(&address).await.unwrap();
    assert_eq!((status.cluster.as_deref(), status.leader.as_deref()), (Some("test"), Some("n1")));
    assert_eq!(status.committed_seq, Seq(9));
    let [n1, n2] = &status.nodes[..] else { panic!("{status:?}") };
    assert_eq!((n1.name.as_str(), n1.state, n1.lag_seq), ("n1", State::Serving, Some(2)));
    assert_eq!((n2.name.as_str(), n2.state, n2.lag_seq), ("n2", State::Detached, None));

    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["nodes"][0]["state"], "serving");
    assert_eq!(json["nodes"][0]["applied_seq"], 7);
    assert!(json["nodes"][1]["applied_seq"].is_null());
}

#[tokio::test]
async fn members_come_in_or_are_refused_with_a_reason() {
    let (client, address) = started().await;
    let registered = client.register(&address, &newcomer("test", "n2")).await.unwrap();
    assert_eq!((registered.node_id, registered.cluster_id.as_str()), (NodeId(2), "c0ffee"));
    assert_eq!(registered.members.len(), 2);
    client.bring_in(&address, NodeId(2)).await.unwrap();

    let (status, message) = refusal(client.register(&address, &newcomer("test", "n1")).await);
    assert_eq!((status, message.as_str()), (409, "node \"n1\" exists"));
    let (status, message) = refusal(client.register(&address, &newcomer("other", "n2")).await);
    assert_eq!((status, message.as_str()), (409, "this is cluster \"test\", not \"other\""));
    let late = client.bring_in(&address, NodeId(3)).await.unwrap_err();
    assert!(late.is_transient(), "{late:?}");
}

#[tokio::test]
async fn members_are_detached_and_removed() {
    let (client, address) = started().await;
    client.detach(&address, NodeId(2)).await.unwrap();
    client.remove(&address, NodeId(2)).await.unwrap();
    let (status, message) = refusal(client.attach(&address, NodeId(2)).await);
    assert_eq!((status, message.as_str()), (409, "it was not detached"));
    assert_eq!(refusal(client.remove(&address, NodeId(9)).await).0, 404);
    assert_eq!(client.node(&address).await.unwrap().removed, [NodeId(3)]);
}

#[tokio::test]
async fn a_marker_is_begun_and_reached() {
    let (client, address) = started().await;
    let marker = client.begin_marker(&address).await.unwrap();
    assert_eq!(client.marker(&address, marker.id + 1).await.unwrap(), None);
    assert_eq!(client.marker(&address, marker.id).await.unwrap().unwrap().seq, marker.seq);
}

#[tokio::test]
async fn a_transactions_fate_is_told_at_a_place_of_the_log() {
    let (client, address) = started().await;
    let id = |text: &str| text.parse::<TransactionId>().unwrap();
    assert_eq!(client.transaction(&address, id("1-2-65536"), LogIndex(9)).await.unwrap(), Fate::InProgress);
    assert_eq!(client.transaction(&address, id("1-2-65537"), LogIndex(9)).await.unwrap(), Fate::Unknown);
    assert_eq!(refusal(client.transaction(&address, id("1-2-65536"), LogIndex(10)).await).0, 503);
    let text = raw(&address, "GET /transactions/1-2/3 HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.0 404"), "{text}");
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let (_, address) = started().await;
    let text = raw(&address, "GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(text.contains("text/plain; version=0.0.4"), "{text}");
    for line in [
        "# TYPE pgrenga_applied_seq gauge\npgrenga_applied_seq{cluster=\"test\",node=\"n1\"} 7\n",
        "# TYPE pgrenga_commits_total counter\npgrenga_commits_total{cluster=\"test\",node=\"n1\"} 3\n",
        "# TYPE pgrenga_waiting gauge\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn nonsense_gets_a_clear_answer() {
    let (client, address) = started().await;
    let body = "{\"name\":1}";
    let head = "POST /members HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: ";
    let text = raw(&address, &format!("{head}{}\r\n\r\n{body}", body.len())).await;
    assert!(text.starts_with("HTTP/1.0 422") && text.contains("request not understood"), "{text}");
    assert!(raw(&address, "GET /nothing HTTP/1.0\r\n\r\n").await.contains("no such path"));
    assert!(matches!(client.node("127.0.0.1:1").await, Err(Error::Unreachable { .. })));
    assert!(matches!(client.node("not a host").await, Err(Error::Unreachable { .. })));
}

async fn raw(address: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
