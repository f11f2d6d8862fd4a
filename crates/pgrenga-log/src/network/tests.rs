//! What comes over the wire is believed only as far as it makes sense.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::impls::BasicNode;
use openraft::raft::AppendEntriesRequest;
use pgrenga_writeset::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connection::{CallError, Lane, Route};
use super::frame::Kind;
use super::message::{self, Call, Hello, PROTOCOL};
use super::transport::Tcp;
use crate::raft::{Entry, Membership, Payload, TypeConfig, Vote, log_id};
use crate::{Handle, Options, start};

async fn member(dir: &tempfile::TempDir) -> Handle {
    let mut options = Options::new(NodeId(1), dir.path(), "here");
    options.segment_bytes = 64 << 10;
    options.max_entry_bytes = 16 << 10;
    start(options).await.expect("a member").0
}

fn route(handle: &Handle) -> Route {
    Route { cluster: "here".into(), from: 2, to: 1, address: handle.local_addr().to_string() }
}

async fn lane(route: Route) -> Lane {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    Lane::new(Arc::new(Tcp(listener)), route, Arc::default(), Duration::from_secs(2))
}

#[tokio::test]
async fn strangers_are_turned_away_with_a_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let handle = member(&dir).await;
    let good = route(&handle);
    let cases = [
        (Route { cluster: "there".into(), ..good.clone() }, "belongs to cluster \"here\", not \"there\""),
        (Route { to: 3, ..good.clone() }, "this is node 1, not 3"),
    ];
    for (route, reason) in cases {
        let error = lane(route).await.connection().await.err().expect("refused");
        assert!(matches!(error, CallError::Unreachable { .. }) && error.to_string().contains(reason), "{error}");
    }
    let lane = lane(good).await;
    let call = message::to_bytes(&Call::ReadIndex);
    assert_eq!(lane.call(Kind::Call, call, Duration::from_secs(2)).await.expect("a reply").kind, Kind::CallReply);
    handle.shutdown().await;
}

#[tokio::test]
async fn garbage_closes_the_connection_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let handle = member(&dir).await;
    let hello = Hello { protocol: PROTOCOL, cluster: "here".into(), from: 2, to: 1 };
    let body = message::to_bytes(&hello);
    let mut greeting = (10 + body.len() as u32).to_le_bytes().to_vec();
    greeting.extend([Kind::Hello as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    greeting.extend_from_slice(&body);
    let garbage: [&[u8]; 5] = [
        &[0xff; 64],
        &[0; 64],
        &[12, 0, 0, 0, Kind::Append as u8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 9],
        &[11, 0, 0, 0, Kind::Call as u8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 99],
        &[10, 0, 0, 0, 77, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    ];
    for greeted in [false, true] {
        for bytes in garbage {
            let mut stream = TcpStream::connect(handle.local_addr()).await.expect("connected");
            if greeted {
                stream.write_all(&greeting).await.expect("sent");
            }
            stream.write_all(bytes).await.expect("sent");
            // The other side may have answered the greeting; then it closes, if need be with a reset.
            let closed = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "still open after {bytes:?}");
        }
    }
    handle.initialize().await.expect("it goes on");
    handle.shutdown().await;
}

#[test]
fn append_requests_survive_the_wire_and_cuts_are_noticed() {
    let nodes = [1u64, 2, 3].map(|id| (id, BasicNode { addr: format!("host{id}:1") }));
    let membership = Membership::new(
        vec![[1, 2].into(), [2, 3].into()],
        nodes.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    );
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: Vote::new_committed(7, 2),
        prev_log_id: Some(log_id(6, 41)),
        entries: vec![
            Entry::new(log_id(7, 42), EntryPayload::Blank),
            Entry::new(log_id(7, 43), EntryPayload::Normal(Payload(Bytes::from_static(b"payload")))),
            Entry::new(log_id(7, 44), EntryPayload::Membership(membership.expect("a membership"))),
        ],
        leader_commit: Some(log_id(6, 40)),
    };
    let bytes = message::encode_append(&request, true);
    let (decoded, scarce) = message::decode_append(bytes.clone()).expect("decodes");
    assert!(scarce);
    assert_eq!(decoded.entries, request.entries);
    assert_eq!(
        (decoded.vote, decoded.prev_log_id, decoded.leader_commit),
        (request.vote, request.prev_log_id, request.leader_commit)
    );
    for len in 0..bytes.len() {
        assert!(message::decode_append(bytes.slice(..len)).is_err(), "cut to {len} bytes");
    }
}
