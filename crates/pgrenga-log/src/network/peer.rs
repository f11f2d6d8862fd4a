//! openraft's requests to one other member.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkV2};
use tokio::sync::mpsc;

use super::connection::{CallError, Connection, Lane, Registered};
use super::frame::{Frame, Kind};
use super::message;
use crate::codec::Malformed;
use crate::raft::{Snapshot, TypeConfig, Vote};
use crate::space::Space;

type RpcError = RPCError<TypeConfig>;
type AppendResult = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// Append requests under way to one member. With the bytes in one request
/// bounded, so are the bytes under way.
const WINDOW: usize = 64;
/// Snapshots travel in pieces of this size.
const SNAPSHOT_PIECE: usize = 1 << 20;

/// One member, for one purpose.
pub(crate) struct Peer {
    target: u64,
    lane: Lane,
    timeout: Duration,
    space: Arc<Space>,
}

impl Peer {
    pub(crate) fn new(target: u64, lane: Lane, timeout: Duration, space: Arc<Space>) -> Self {
        Self { target, lane, timeout, space }
    }

    /// What the member says to an append, and of its disk.
    fn append_result(&self, reply: Bytes, address: &str) -> AppendResult {
        let (result, is_full) = message::decode_append_reply(reply).map_err(|error| malformed(&error))?;
        self.space.heard(self.target, is_full);
        result.ok_or_else(|| self.rpc_error(&CallError::Full(address.to_owned())))
    }

    async fn call(&self, kind: Kind, reply: Kind, body: Bytes) -> Result<Bytes, RpcError> {
        let frame = self.lane.call(kind, body, self.timeout).await.map_err(|error| self.rpc_error(&error))?;
        if frame.kind == reply { Ok(frame.body) } else { Err(malformed(&Malformed::new("reply: of another kind"))) }
    }

    fn rpc_error(&self, error: &CallError) -> RpcError {
        match error {
            // openraft tries both again after a pause.
            CallError::Unreachable { .. } | CallError::Full(_) => Unreachable::new(error).into(),
            CallError::Broken(_) => NetworkError::new(error).into(),
            CallError::TimedOut(_) => {
                Timeout { action: RPCTypes::AppendEntries, id: self.target, target: self.target, timeout: self.timeout }
                    .into()
            }
        }
    }
}

fn malformed(error: &Malformed) -> RpcError {
    NetworkError::new(error).into()
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let input = futures::stream::iter([request]);
        let mut replies = self.stream_append(input, option).await?;
        match replies.next().await {
            Some(Ok(Ok(_))) => Ok(AppendEntriesResponse::Success),
            Some(Ok(Err(StreamAppendError::Conflict(_)))) => Ok(AppendEntriesResponse::Conflict),
            Some(Ok(Err(StreamAppendError::HigherVote(vote)))) => Ok(AppendEntriesResponse::HigherVote(vote)),
            Some(Err(error)) => Err(error),
            None => Err(malformed(&Malformed::new("append: no reply"))),
        }
    }

    /// Requests go out as they come, up to a window, and replies come back in
    /// their order. The other side serves one such stream at a time on a
    /// connection; a new stream ends the one before. This one ends when its
    /// input did and every request has its reply.
    ///
    /// The first request is fetched before the connection: after failures
    /// openraft waits there, and would call again at once otherwise.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let peer = &*self;
            let mut input = input.fuse();
            let first = input.next().await;
            let connection = peer.lane.connection().await.map_err(|error| peer.rpc_error(&error))?;
            let input = futures::stream::iter(first).chain(input);
            let (stream, replies) = connection.open_stream();
            let pipeline = Pipeline { peer, connection, stream, replies, input, ended: false, under_way: 0 };
            let output = futures::stream::unfold(Some(pipeline), |pipeline| async move {
                let mut pipeline = pipeline?;
                let result = pipeline.next().await?;
                // After anything but a success the other side ends the stream as well.
                let goes_on = matches!(result, Ok(Ok(_)));
                Some((result, goes_on.then_some(pipeline)))
            });
            let output: BoxStream<'s, AppendResult> = Box::pin(output);
            Ok(output)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let reply = self.call(Kind::Vote, Kind::VoteReply, message::encode_vote(&request)).await?;
        message::decode_vote_reply(reply).map_err(|error| malformed(&error))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let reply = self.call(Kind::PreVote, Kind::VoteReply, message::encode_vote(&request)).await?;
        message::decode_vote_reply(reply).map_err(|error| malformed(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = async {
            let connection = self.lane.connection().await?;
            let body = message::encode_snapshot(&vote, &snapshot);
            let (request, reply) = connection.open_request();
            let mut at = 0;
            while at < body.len() {
                let end = body.len().min(at + SNAPSHOT_PIECE);
                let piece =
                    Frame { kind: Kind::Snapshot, more: end < body.len(), id: request.id, body: body.slice(at..end) };
                let sent = tokio::time::timeout(self.timeout, connection.send(piece)).await;
                sent.unwrap_or_else(|_| Err(connection.timed_out()))?;
                at = end;
            }
            // Writing it to disk there takes as long as it takes; the connection tells of a death.
            reply.await.map_err(|_| connection.broken())
        };
        let frame = tokio::select! {
            biased;
            sent = send => sent.map_err(|error| self.rpc_error(&error))?,
            closed = cancel => return Err(closed.into()),
        };
        message::decode_snapshot_reply(frame.body).map_err(|error| malformed(&error).into())
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let body = message::encode_transfer(&request);
        let reply = self.call(Kind::TransferLeader, Kind::TransferLeaderReply, body).await?;
        message::decode_transfer_reply(reply).map_err(|error| malformed(&error))
    }
}

/// One stream of append requests.
struct Pipeline<'s, S> {
    peer: &'s Peer,
    connection: Arc<Connection>,
    stream: Registered,
    replies: mpsc::UnboundedReceiver<Frame>,
    input: S,
    ended: bool,
    under_way: usize,
}

impl<S> Drop for Pipeline<'_, S> {
    /// openraft gives up a stream that it waits for in vain.
    fn drop(&mut self) {
        if self.under_way > 0 {
            self.connection.reach.missed();
        }
    }
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<'_, S> {
    async fn next(&mut self) -> Option<AppendResult> {
        loop {
            if self.ended && self.under_way == 0 {
                return None;
            }
            let timeout = self.peer.timeout;
            tokio::select! {
                biased;
                reply = self.replies.recv(), if self.under_way > 0 => {
                    self.under_way -= 1;
                    return Some(match reply {
                        Some(frame) => self.peer.append_result(frame.body, &self.connection.reach.address),
                        None => Err(self.peer.rpc_error(&self.connection.broken())),
                    });
                }
                request = self.input.next(), if !self.ended && self.under_way < WINDOW => match request {
                    Some(request) => {
                        let frame = Frame::new(Kind::Append, self.stream.id, message::encode_append(&request, self.peer.space.is_scarce()));
                        let sent = tokio::time::timeout(timeout, self.connection.send(frame)).await;
                        if let Err(error) = sent.unwrap_or_else(|_| Err(self.connection.timed_out())) {
                            return Some(Err(self.peer.rpc_error(&error)));
                        }
                        self.under_way += 1;
                    }
                    None => self.ended = true,
                },
                () = tokio::time::sleep(timeout), if self.under_way > 0 => {
                    return Some(Err(self.peer.rpc_error(&self.connection.timed_out())));
                }
            }
        }
    }
}
