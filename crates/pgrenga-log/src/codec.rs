//! Entries, log ids, votes and memberships as bytes. The disk and the wire use
//! the same encoding, which is ours: openraft's serde formats may change from
//! one release to the next. Everything is little-endian.
//!
//! ```text
//! log id       term u64, index u64
//! optional x   0u8, or 1u8 and x
//! vote         term u64, node u64, committed u8
//! entry        log id, kind u8 (0 blank, 1 application, 2 membership), payload to the end
//! membership   postcard of `MembershipRecord`
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};
use openraft::EntryPayload;
use openraft::impls::BasicNode;
use serde::{Deserialize, Serialize};

use crate::raft::{Entry, LogId, Membership, Payload, Vote, log_id};

/// Bytes of an entry in front of its payload.
pub(crate) const ENTRY_HEAD: usize = 17;

const BLANK: u8 = 0;
const APPLICATION: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The bytes are not what this version of the format writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub(crate) struct Malformed {
    what: &'static str,
}

impl Malformed {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what }
    }
}

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    /// One set of voters, or two while a change is under way.
    voters: Vec<Vec<u64>>,
    /// Every member, learners included, with its address.
    members: Vec<(u64, String)>,
}

pub(crate) fn get_u8(from: &mut Bytes, what: &'static str) -> Result<u8, Malformed> {
    from.try_get_u8().map_err(|_| Malformed::new(what))
}

pub(crate) fn get_u32(from: &mut Bytes, what: &'static str) -> Result<u32, Malformed> {
    from.try_get_u32_le().map_err(|_| Malformed::new(what))
}

pub(crate) fn get_u64(from: &mut Bytes, what: &'static str) -> Result<u64, Malformed> {
    from.try_get_u64_le().map_err(|_| Malformed::new(what))
}

/// The next `len` bytes, without a copy.
pub(crate) fn get_bytes(from: &mut Bytes, len: usize, what: &'static str) -> Result<Bytes, Malformed> {
    if from.len() < len { Err(Malformed::new(what)) } else { Ok(from.split_to(len)) }
}

pub(crate) fn put_log_id(to: &mut impl BufMut, id: LogId) {
    to.put_u64_le(id.leader_id.term);
    to.put_u64_le(id.index);
}

pub(crate) fn get_log_id(from: &mut Bytes) -> Result<LogId, Malformed> {
    let term = get_u64(from, "log id")?;
    Ok(log_id(term, get_u64(from, "log id")?))
}

pub(crate) fn put_optional_log_id(to: &mut impl BufMut, id: Option<LogId>) {
    to.put_u8(id.is_some().into());
    if let Some(id) = id {
        put_log_id(to, id);
    }
}

pub(crate) fn get_optional_log_id(from: &mut Bytes) -> Result<Option<LogId>, Malformed> {
    get_u8(from, "log id").and_then(|some| if some == 0 { Ok(None) } else { get_log_id(from).map(Some) })
}

pub(crate) fn put_vote(to: &mut impl BufMut, vote: &Vote) {
    to.put_u64_le(vote.leader_id.term);
    to.put_u64_le(vote.leader_id.voted_for);
    to.put_u8(vote.committed.into());
}

pub(crate) fn get_vote(from: &mut Bytes) -> Result<Vote, Malformed> {
    let term = get_u64(from, "vote")?;
    let node = get_u64(from, "vote")?;
    Ok(if get_u8(from, "vote")? == 0 { Vote::new(term, node) } else { Vote::new_committed(term, node) })
}

/// Membership as bytes.
pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    let record = MembershipRecord {
        voters: membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect(),
        members: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
    };
    postcard::to_stdvec(&record).unwrap_or_default()
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, Malformed> {
    let record: MembershipRecord = postcard::from_bytes(bytes).map_err(|_| Malformed::new("membership"))?;
    let voters: Vec<BTreeSet<u64>> = record.voters.into_iter().map(|set| set.into_iter().collect()).collect();
    let members: BTreeMap<u64, BasicNode> =
        record.members.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
    if voters.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, members).map_err(|_| Malformed::new("membership"))
}

/// Bytes that `put_entry` will write.
pub(crate) fn entry_len(entry: &Entry) -> usize {
    ENTRY_HEAD
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(payload) => payload.0.len(),
            EntryPayload::Membership(membership) => encode_membership(membership).len(),
        }
}

pub(crate) fn put_entry(to: &mut impl BufMut, entry: &Entry) {
    put_log_id(to, entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => to.put_u8(BLANK),
        EntryPayload::Normal(payload) => {
            to.put_u8(APPLICATION);
            to.put_slice(&payload.0);
        }
        EntryPayload::Membership(membership) => {
            to.put_u8(MEMBERSHIP);
            to.put_slice(&encode_membership(membership));
        }
    }
}

/// The payload of the result is a slice of `bytes`.
pub(crate) fn get_entry(mut bytes: Bytes) -> Result<Entry, Malformed> {
    let log_id = get_log_id(&mut bytes)?;
    let payload = match get_u8(&mut bytes, "entry")? {
        BLANK if bytes.is_empty() => EntryPayload::Blank,
        APPLICATION => EntryPayload::Normal(Payload(bytes)),
        MEMBERSHIP => EntryPayload::Membership(decode_membership(&bytes)?),
        _ => return Err(Malformed::new("entry")),
    };
    Ok(Entry { log_id, payload })
}

/// Whether an encoded entry changes the membership, without decoding it.
pub(crate) fn is_membership(encoded: &[u8]) -> bool {
    encoded.get(ENTRY_HEAD - 1) == Some(&MEMBERSHIP)
}
