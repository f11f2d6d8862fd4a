//! The format of a segment file. `docs/internals/log.md` gives the reasons.
//!
//! ```text
//! segment   header, zero-padded to HEADER bytes; frames, one after the other; zeros to the end
//! header    magic "pgrlog", version u16, crc32c u32 of what follows, len u16, then `len` bytes:
//!           node u64, salt u32, number u64, previous_end u64, first_frame u64, checkpoint
//! checkpoint  the log's state before the first frame: optional vote, then optional log ids:
//!           purged, committed, last
//! frame     len u32, crc32c u32 of salt and body, body: number u64, records
//! record    len u32, crc32c u32 of inverted salt and body, body: kind u8 and
//!             1 entry      an encoded entry
//!             2 vote       a vote
//!             3 truncate   optional log id, the last one that stays
//!             4 purge      log id, the last one that goes
//!             5 committed  optional log id
//! ```
//!
//! Integers are little-endian. A frame is what one `fdatasync` made durable,
//! and frames are numbered without gaps through all segments. The salt is
//! random and keeps bytes of a payload from passing for a frame; inverted for
//! records, it keeps a record from passing for one.

use bytes::{BufMut, Bytes};

use crate::codec::{self, Malformed, get_bytes, get_u8, get_u32, get_u64};
use crate::raft::{Entry, LogId, Vote};

/// Bytes in front of the first frame.
pub(crate) const HEADER: usize = 4096;
/// Bytes of a frame in front of its first record.
pub(crate) const FRAME_HEAD: usize = 16;
/// Bytes of a record in front of its kind.
pub(crate) const RECORD_HEAD: usize = 8;

const MAGIC: &[u8; 6] = b"pgrlog";
const VERSION: u16 = 1;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;

/// What a log knows beside its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) vote: Option<Vote>,
    /// The last entry removed from the front.
    pub(crate) purged: Option<LogId>,
    /// Known to be committed; persisted lazily, so it may lag.
    pub(crate) committed: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub(crate) last: Option<LogId>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    pub(crate) node: u64,
    pub(crate) salt: u32,
    pub(crate) number: u64,
    /// Where the frames of the segment before end.
    pub(crate) previous_end: u64,
    pub(crate) first_frame: u64,
    pub(crate) checkpoint: Checkpoint,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(128);
        body.put_u64_le(self.node);
        body.put_u32_le(self.salt);
        body.put_u64_le(self.number);
        body.put_u64_le(self.previous_end);
        body.put_u64_le(self.first_frame);
        body.put_u8(self.checkpoint.vote.is_some().into());
        if let Some(vote) = &self.checkpoint.vote {
            codec::put_vote(&mut body, vote);
        }
        for id in [self.checkpoint.purged, self.checkpoint.committed, self.checkpoint.last] {
            codec::put_optional_log_id(&mut body, id);
        }
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.put_slice(MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u32_le(crc32c::crc32c(&body));
        bytes.put_u16_le(body.len() as u16);
        bytes.put_slice(&body);
        bytes.resize(HEADER, 0);
        bytes
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, Malformed> {
        if get_bytes(&mut bytes, MAGIC.len(), "segment header")? != MAGIC[..] {
            return Err(Malformed::new("segment header: not a log segment"));
        }
        let version = get_bytes(&mut bytes, 2, "segment header")?;
        if version != VERSION.to_le_bytes()[..] {
            return Err(Malformed::new("segment header: written by another version"));
        }
        let crc = get_u32(&mut bytes, "segment header")?;
        let len = get_bytes(&mut bytes, 2, "segment header")?;
        let mut body = get_bytes(&mut bytes, u16::from_le_bytes([len[0], len[1]]).into(), "segment header")?;
        if crc32c::crc32c(&body) != crc {
            return Err(Malformed::new("segment header: checksum mismatch"));
        }
        let node = get_u64(&mut body, "segment header")?;
        let salt = get_u32(&mut body, "segment header")?;
        let number = get_u64(&mut body, "segment header")?;
        let previous_end = get_u64(&mut body, "segment header")?;
        let first_frame = get_u64(&mut body, "segment header")?;
        let vote = match get_u8(&mut body, "segment header")? {
            0 => None,
            _ => Some(codec::get_vote(&mut body)?),
        };
        let checkpoint = Checkpoint {
            vote,
            purged: codec::get_optional_log_id(&mut body)?,
            committed: codec::get_optional_log_id(&mut body)?,
            last: codec::get_optional_log_id(&mut body)?,
        };
        Ok(Self { node, salt, number, previous_end, first_frame, checkpoint })
    }
}

/// One thing that happened to the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    Entry(LogId, RecordLocation),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(Option<LogId>),
}

/// Where an entry's record lies in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordLocation {
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) membership: bool,
}

fn checksum(salt: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), body)
}

/// Builds one frame.
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
    salt: u32,
}

impl FrameBuilder {
    /// Begins a frame in the space of an earlier one.
    pub(crate) fn new(mut bytes: Vec<u8>, salt: u32) -> Self {
        bytes.clear();
        bytes.resize(FRAME_HEAD, 0);
        Self { bytes, salt }
    }

    /// The frame, which is empty, is to go into another segment.
    pub(crate) fn set_salt(&mut self, salt: u32) {
        self.salt = salt;
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEAD
    }

    fn record(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> (usize, usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + RECORD_HEAD, 0);
        self.bytes.push(kind);
        body(&mut self.bytes);
        let len = self.bytes.len() - start - RECORD_HEAD;
        let crc = checksum(!self.salt, &self.bytes[start + RECORD_HEAD..]);
        self.bytes[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
        self.bytes[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        (start, RECORD_HEAD + len)
    }

    /// Adds an entry; its location counts from the frame's beginning.
    pub(crate) fn entry(&mut self, entry: &Entry) -> RecordLocation {
        let (offset, len) = self.record(ENTRY, |to| codec::put_entry(to, entry));
        let membership = matches!(entry.payload, openraft::EntryPayload::Membership(_));
        RecordLocation { offset: offset as u32, len: len as u32, membership }
    }

    pub(crate) fn vote(&mut self, vote: &Vote) {
        self.record(VOTE, |to| codec::put_vote(to, vote));
    }

    pub(crate) fn truncate(&mut self, last: Option<LogId>) {
        self.record(TRUNCATE, |to| codec::put_optional_log_id(to, last));
    }

    pub(crate) fn purge(&mut self, upto: LogId) {
        self.record(PURGE, |to| codec::put_log_id(to, upto));
    }

    pub(crate) fn committed(&mut self, committed: Option<LogId>) {
        self.record(COMMITTED, |to| codec::put_optional_log_id(to, committed));
    }

    /// Numbers and seals the frame.
    pub(crate) fn finish(mut self, number: u64) -> Vec<u8> {
        self.bytes[8..16].copy_from_slice(&number.to_le_bytes());
        let crc = checksum(self.salt, &self.bytes[8..]);
        let len = (self.bytes.len() - 8) as u32;
        self.bytes[0..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// The frame at `at`, if one with a number in `numbers` is there, whole: its
/// number and where it ends.
pub(crate) fn frame_at(data: &[u8], at: usize, salt: u32, numbers: std::ops::Range<u64>) -> Option<(u64, usize)> {
    let len = word(data, at)? as usize;
    let body = data.get(at + 8..)?.get(..len)?;
    let number = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    (numbers.contains(&number) && word(data, at + 4)? == checksum(salt, body)).then_some((number, at + 8 + len))
}

/// The records of the frame in `data[start..end]`.
pub(crate) fn records(data: &Bytes, start: usize, end: usize) -> Result<Vec<Record>, Malformed> {
    let mut at = start + FRAME_HEAD;
    let mut found = Vec::new();
    while at < end {
        let len = word(data, at).ok_or(Malformed::new("record"))? as usize;
        let body_at = at + RECORD_HEAD;
        if len == 0 || body_at + len > end {
            return Err(Malformed::new("record"));
        }
        let location = RecordLocation { offset: at as u32, len: (RECORD_HEAD + len) as u32, membership: false };
        found.push(decode_record(data.slice(body_at..body_at + len), location)?);
        at = body_at + len;
    }
    Ok(found)
}

fn decode_record(mut body: Bytes, location: RecordLocation) -> Result<Record, Malformed> {
    Ok(match get_u8(&mut body, "record")? {
        ENTRY => {
            let membership = codec::is_membership(&body);
            Record::Entry(codec::get_log_id(&mut body)?, RecordLocation { membership, ..location })
        }
        VOTE => Record::Vote(codec::get_vote(&mut body)?),
        TRUNCATE => Record::Truncate(codec::get_optional_log_id(&mut body)?),
        PURGE => Record::Purge(codec::get_log_id(&mut body)?),
        COMMITTED => Record::Committed(codec::get_optional_log_id(&mut body)?),
        _ => return Err(Malformed::new("record kind")),
    })
}

/// The entry in a whole record, as read back from disk.
pub(crate) fn entry_of_record(record: Bytes, salt: u32) -> Result<Entry, Malformed> {
    let mut record = record;
    let len = get_u32(&mut record, "record")?;
    let crc = get_u32(&mut record, "record")?;
    if record.len() != len as usize || checksum(!salt, &record) != crc {
        return Err(Malformed::new("record: checksum mismatch"));
    }
    match get_u8(&mut record, "record")? {
        ENTRY => codec::get_entry(record),
        _ => Err(Malformed::new("record: not an entry")),
    }
}

/// Random enough to tell segments apart.
pub(crate) fn new_salt() -> u32 {
    fastrand::u32(..)
}
