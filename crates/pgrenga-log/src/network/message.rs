//! The bodies of frames, in our own encoding: see [`crate::codec`] for its
//! parts. Decoding never panics, and never allocates more than it was sent.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::codec::{
    Malformed, entry_len, get_bytes, get_entry, get_log_id, get_optional_log_id, get_u8, get_u32, get_u64, get_vote,
    put_entry, put_log_id, put_optional_log_id, put_vote,
};
use crate::raft::{Snapshot, TypeConfig};
use crate::snapshot;

/// Raised whenever an older member would misread what a newer one sends.
pub(crate) const PROTOCOL: u16 = 2;

/// How a connection begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) cluster: String,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

/// What a member asks of the leader beside proposals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    ReadIndex,
    AddLearner { node: u32, address: String },
    Promote { node: u32 },
    Remove { node: u32 },
    TransferLeader { to: u32 },
    MayRemove { node: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CallReply {
    Index(u64),
    Done,
    /// Perhaps not done; ask again, perhaps elsewhere.
    Retry,
    Refused(String),
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProposeReply {
    Committed(u64),
    NotLeader,
    Unknown,
    TooLarge,
}

/// A small message as bytes.
pub(crate) fn to_bytes(message: &impl Serialize) -> Bytes {
    postcard::to_stdvec(message).unwrap_or_default().into()
}

pub(crate) fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    postcard::from_bytes(bytes).map_err(|_| Malformed::new("message"))
}

/// `scarce`: fewer than a majority of the voters have room, see [`crate::space`].
pub(crate) fn encode_append(request: &AppendEntriesRequest<TypeConfig>, scarce: bool) -> Bytes {
    let len: usize = request.entries.iter().map(|entry| 4 + entry_len(entry)).sum();
    let mut to = BytesMut::with_capacity(64 + len);
    put_vote(&mut to, &request.vote);
    put_optional_log_id(&mut to, request.prev_log_id);
    put_optional_log_id(&mut to, request.leader_commit);
    to.put_u32_le(request.entries.len() as u32);
    for entry in &request.entries {
        to.put_u32_le(entry_len(entry) as u32);
        put_entry(&mut to, entry);
    }
    to.put_u8(scarce.into());
    to.freeze()
}

pub(crate) fn decode_append(mut body: Bytes) -> Result<(AppendEntriesRequest<TypeConfig>, bool), Malformed> {
    let vote = get_vote(&mut body)?;
    let prev_log_id = get_optional_log_id(&mut body)?;
    let leader_commit = get_optional_log_id(&mut body)?;
    let count = get_u32(&mut body, "append")?;
    let mut entries = Vec::new();
    let first = prev_log_id.map_or(0, |id| id.index + 1);
    for next in first..first + u64::from(count) {
        let len = get_u32(&mut body, "append")? as usize;
        let entry = get_entry(get_bytes(&mut body, len, "append")?)?;
        if entry.log_id.index != next {
            return Err(Malformed::new("append: entries with a gap"));
        }
        entries.push(entry);
    }
    let scarce = get_u8(&mut body, "append")? != 0;
    Ok((AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }, scarce))
}

/// What an append came to, and whether the disk is full where it came.
pub(crate) fn encode_append_reply(result: &StreamAppendResult<TypeConfig>, is_full: bool) -> Bytes {
    let mut to = BytesMut::with_capacity(32);
    to.put_u8(is_full.into());
    match result {
        Ok(matching) => {
            to.put_u8(0);
            put_optional_log_id(&mut to, *matching);
        }
        Err(StreamAppendError::Conflict(id)) => {
            to.put_u8(1);
            put_log_id(&mut to, *id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            to.put_u8(2);
            put_vote(&mut to, vote);
        }
    }
    to.freeze()
}

/// The entries were not taken, because the disk is full.
pub(crate) fn encode_append_refusal() -> Bytes {
    Bytes::from_static(&[1, 3])
}

/// No result: the entries were refused.
pub(crate) fn decode_append_reply(
    mut body: Bytes,
) -> Result<(Option<StreamAppendResult<TypeConfig>>, bool), Malformed> {
    let is_full = get_u8(&mut body, "append reply")? != 0;
    let result = match get_u8(&mut body, "append reply")? {
        0 => Some(Ok(get_optional_log_id(&mut body)?)),
        1 => Some(Err(StreamAppendError::Conflict(get_log_id(&mut body)?))),
        2 => Some(Err(StreamAppendError::HigherVote(get_vote(&mut body)?))),
        3 => None,
        _ => return Err(Malformed::new("append reply")),
    };
    Ok((result, is_full))
}

pub(crate) fn encode_vote(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut to = BytesMut::with_capacity(40);
    put_vote(&mut to, &request.vote);
    put_optional_log_id(&mut to, request.last_log_id);
    to.put_u8(request.leadership_transfer.into());
    to.freeze()
}

pub(crate) fn decode_vote(mut body: Bytes) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut request = VoteRequest::new(get_vote(&mut body)?, get_optional_log_id(&mut body)?);
    request.leadership_transfer = get_u8(&mut body, "vote request")? != 0;
    Ok(request)
}

pub(crate) fn encode_vote_reply(reply: &VoteResponse<TypeConfig>) -> Bytes {
    let mut to = BytesMut::with_capacity(40);
    put_vote(&mut to, &reply.vote);
    put_optional_log_id(&mut to, reply.last_log_id);
    to.put_u8(reply.vote_granted.into());
    to.freeze()
}

pub(crate) fn decode_vote_reply(mut body: Bytes) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = get_vote(&mut body)?;
    let last_log_id = get_optional_log_id(&mut body)?;
    Ok(VoteResponse::new(vote, last_log_id, get_u8(&mut body, "vote reply")? != 0))
}

pub(crate) fn encode_snapshot(vote: &crate::raft::Vote, snapshot: &Snapshot) -> Bytes {
    let mut to = BytesMut::with_capacity(128 + snapshot.snapshot.len());
    put_vote(&mut to, vote);
    to.put_slice(&snapshot::encode_meta(&snapshot.meta));
    to.put_slice(&snapshot.snapshot);
    to.freeze()
}

pub(crate) fn decode_snapshot(mut body: Bytes) -> Result<(crate::raft::Vote, Snapshot), Malformed> {
    Ok((get_vote(&mut body)?, snapshot::decode(body)?))
}

pub(crate) fn encode_snapshot_reply(reply: &SnapshotResponse<TypeConfig>) -> Bytes {
    let mut to = BytesMut::with_capacity(17);
    put_vote(&mut to, &reply.vote);
    to.freeze()
}

pub(crate) fn decode_snapshot_reply(mut body: Bytes) -> Result<SnapshotResponse<TypeConfig>, Malformed> {
    Ok(SnapshotResponse::new(get_vote(&mut body)?))
}

pub(crate) fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut to = BytesMut::with_capacity(48);
    put_vote(&mut to, request.from_leader());
    to.put_u64_le(*request.to_node_id());
    put_optional_log_id(&mut to, request.last_log_id().copied());
    to.freeze()
}

pub(crate) fn decode_transfer(mut body: Bytes) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let from = get_vote(&mut body)?;
    let to = get_u64(&mut body, "leader transfer")?;
    Ok(TransferLeaderRequest::new(from, to, get_optional_log_id(&mut body)?))
}

pub(crate) fn encode_transfer_reply(reply: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut to = BytesMut::with_capacity(40);
    match reply {
        Ok(()) => to.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            to.put_u8(1);
            put_vote(&mut to, expected);
            put_vote(&mut to, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            to.put_u8(2);
            put_optional_log_id(&mut to, *expected);
            put_optional_log_id(&mut to, *actual);
        }
    }
    to.freeze()
}

pub(crate) fn decode_transfer_reply(mut body: Bytes) -> Result<TransferLeaderResponse<TypeConfig>, Malformed> {
    Ok(match get_u8(&mut body, "leader transfer reply")? {
        0 => Ok(()),
        1 => {
            let expected = get_vote(&mut body)?;
            Err(TransferLeaderError::VoteChanged { expected, actual: get_vote(&mut body)? })
        }
        2 => {
            let expected = get_optional_log_id(&mut body)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: get_optional_log_id(&mut body)? })
        }
        _ => return Err(Malformed::new("leader transfer reply")),
    })
}
