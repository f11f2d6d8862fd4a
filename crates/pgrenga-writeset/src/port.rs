//! The commit port: frames between the extension's port worker and the daemon
//! over a Unix socket.
//!
//! ```text
//! length u32 (of what follows) | kind u8 | payload
//! ```

use crate::{Error, Incarnation, LogIndex, NodeId, Reader, Seq, Sink, TransactionId};

/// Version of the protocol; both sides must agree.
pub const VERSION: u8 = 4;

/// Longest frame either side accepts, in bytes after the length.
pub const MAX_FRAME: usize = 2 << 20;

/// Longest text of an answer, in bytes.
pub const MAX_ANSWER: usize = 1024;

/// Longest description of how a node differs, in bytes.
pub const MAX_PROBLEM: usize = 256;

/// Bytes of the length that begins a frame.
pub const LENGTH_BYTES: usize = 4;

/// What PostgreSQL tells its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromPostgres<'a> {
    /// First frame of a connection.
    Hello {
        /// Drawn at server start: tells one life of PostgreSQL from the next.
        server_start: u64,
        /// The visible seq.
        visible: Seq,
        /// The life that the server's slots were given, zero if none yet.
        incarnation: Incarnation,
    },
    /// A transaction asks to commit: an encoded writeset.
    Submit(&'a [u8]),
    /// A piece of a large writeset, ahead of it.
    Fragment {
        /// Whose.
        txid: TransactionId,
        /// Which piece, from 0.
        ordinal: u32,
        /// Part of the ops' bytes.
        body: &'a [u8],
    },
    /// A transaction asks for the DDL fence.
    FenceRequest(TransactionId),
    /// The transaction ended, or never will be: if it is not decided yet, it is aborted.
    GiveUp(TransactionId),
    /// After a new connection: this transaction still waits for its verdict.
    Waiting(TransactionId),
    /// Nobody here will commit this ordered writeset any more: apply it.
    Orphan(Seq),
    /// Up to where commits are visible.
    Progress(Seq),
    /// A session wants to know something.
    Question {
        /// Names the question. Sent again, it is the same one.
        id: u64,
        /// Milliseconds after which nobody waits for the answer.
        millis: u32,
        /// What it is about.
        topic: Topic,
    },
}

/// What a session asks its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// What became of a transaction, at a position of the log that includes
    /// everything that was ordered when the daemon got the question.
    Transaction(TransactionId),
    /// How this node is.
    Status,
    /// One of the members in the order of their ids, from 0.
    Member(u32),
    /// Up to which seq whoever shows it shows everything that was acknowledged
    /// on any node when the daemon got the question.
    Present,
    /// When every node that serves shows this seq.
    Everywhere(Seq),
}

/// Why a node's lease is renewed, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is renewed.
    Serving,
    /// The node has not applied what was ordered before its server or its daemon began.
    CatchingUp,
    /// No majority of the nodes answers.
    Alone,
    /// The node's data is not what the log decided.
    Different,
    /// The node was taken out for good.
    Removed,
}

/// What the daemon tells PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToPostgres<'a> {
    /// Answers Hello: who this node is and which life begins.
    Welcome {
        /// This node.
        node: NodeId,
        /// The life that transactions name from now on.
        incarnation: Incarnation,
        /// This node's slot in every sequence.
        sequence_slot: u16,
        /// How many slots sequences have.
        sequence_slots: u16,
    },
    /// The node may serve for some time; zero revokes.
    Lease {
        /// Until then, in milliseconds of the machine's monotonic clock: however
        /// long the frame is under way, it lends no more time.
        until: u64,
    },
    /// Whether the server may take new sessions of clients.
    Admission {
        /// It may.
        open: bool,
    },
    /// Why the lease is renewed, or is not.
    Standing(Standing),
    /// How the node's data are known to differ, ahead of [`Standing::Different`]. At most [`MAX_PROBLEM`] bytes.
    Problem(&'a str),
    /// The transaction is ordered.
    Commit {
        /// Which.
        txid: TransactionId,
        /// Its place.
        seq: Seq,
    },
    /// The transaction must abort, and may be retried.
    Abort {
        /// Which.
        txid: TransactionId,
        /// Why.
        reason: AbortReason,
    },
    /// The writeset was lost before it was ordered: submit it again.
    Resubmit(TransactionId),
    /// The transaction was not proposed and never will be: the log's disks are full.
    Refused(TransactionId),
    /// Nobody remembers how the transaction ended.
    Forgotten(TransactionId),
    /// The transaction holds the fence.
    FenceGranted {
        /// Which.
        txid: TransactionId,
        /// The fence's log index: the writeset must name it.
        fence: LogIndex,
        /// Everything up to here comes before the fence.
        after: Seq,
    },
    /// The transaction lost the fence (it took too long) and cannot commit.
    FenceLost(TransactionId),
    /// The log has that many of the transaction's fragments.
    Taken {
        /// Whose.
        txid: TransactionId,
        /// How many.
        fragments: u32,
    },
    /// Answers a question.
    Answer {
        /// Its id.
        question: u64,
        /// A word for [`Topic::Transaction`], a seq for [`Topic::Present`] and
        /// [`Topic::Everywhere`], a JSON object otherwise; nothing behind the
        /// last member. At most [`MAX_ANSWER`] bytes.
        text: &'a str,
    },
}

/// Why a writeset aborts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// An earlier writeset conflicts on one of its keys.
    Key {
        /// Which of the writeset's keys.
        ordinal: u32,
        /// The winner's place.
        winner: Seq,
        /// Where the winner ran.
        node: NodeId,
    },
    /// An earlier writeset conflicts on one of its relations.
    Relation {
        /// Which of the writeset's relations.
        ordinal: u32,
        /// The winner's place.
        winner: Seq,
        /// Where the winner ran.
        node: NodeId,
    },
    /// An earlier writeset changed the catalog.
    Catalog {
        /// The winner's place.
        winner: Seq,
        /// Where the winner ran.
        node: NodeId,
    },
    /// The transaction is older than what certification remembers.
    TooOld,
    /// The transaction lost the DDL fence it names.
    FenceLost,
    /// The node began a new life before the writeset was ordered.
    Void,
    /// The writeset is malformed or misses fragments.
    Malformed,
    /// The transaction was given up before its writeset was ordered.
    GivenUp,
    /// Something that a SERIALIZABLE transaction has read was changed since.
    Read {
        /// Position in the writeset's list of reads.
        ordinal: u32,
        /// The writeset that changed it.
        winner: Seq,
        /// Its node.
        node: NodeId,
    },
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const SUBMIT: u8 = 2;
    pub(super) const FRAGMENT: u8 = 3;
    pub(super) const FENCE_REQUEST: u8 = 4;
    pub(super) const GIVE_UP: u8 = 5;
    pub(super) const ORPHAN: u8 = 6;
    pub(super) const PROGRESS: u8 = 7;
    pub(super) const WAITING: u8 = 8;
    pub(super) const QUESTION: u8 = 9;

    pub(super) const WELCOME: u8 = 65;
    pub(super) const LEASE: u8 = 66;
    pub(super) const COMMIT: u8 = 67;
    pub(super) const ABORT: u8 = 68;
    pub(super) const RESUBMIT: u8 = 69;
    pub(super) const FENCE_GRANTED: u8 = 70;
    pub(super) const FENCE_LOST: u8 = 71;
    pub(super) const TAKEN: u8 = 72;
    pub(super) const ANSWER: u8 = 73;
    pub(super) const ADMISSION: u8 = 77;
    pub(super) const REFUSED: u8 = 79;
    pub(super) const STANDING: u8 = 74;
    pub(super) const FORGOTTEN: u8 = 75;
    pub(super) const PROBLEM: u8 = 78;
}

impl<'a> FromPostgres<'a> {
    /// Bytes of the frame's payload, kind included.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Hello { .. } => 21,
            Self::Submit(writeset) => writeset.len(),
            Self::Fragment { body, .. } => 20 + body.len(),
            Self::FenceRequest(_) | Self::GiveUp(_) | Self::Waiting(_) => 16,
            Self::Orphan(_) | Self::Progress(_) => 8,
            Self::Question { topic, .. } => 12 + topic.encoded_len(),
        }
    }

    /// Appends the frame, its length included.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_u32(self.encoded_len() as u32);
        match self {
            Self::Hello { server_start, visible, incarnation } => {
                out.put_u8(kind::HELLO);
                out.put_u8(VERSION);
                out.put_u64(*server_start);
                out.put_u64(visible.0);
                out.put_u32(incarnation.0);
            }
            Self::Submit(writeset) => {
                out.put_u8(kind::SUBMIT);
                out.put(writeset);
            }
            Self::Fragment { txid, ordinal, body } => {
                out.put_u8(kind::FRAGMENT);
                out.put_txid(txid);
                out.put_u32(*ordinal);
                out.put(body);
            }
            Self::FenceRequest(txid) => {
                out.put_u8(kind::FENCE_REQUEST);
                out.put_txid(txid);
            }
            Self::GiveUp(txid) => {
                out.put_u8(kind::GIVE_UP);
                out.put_txid(txid);
            }
            Self::Waiting(txid) => {
                out.put_u8(kind::WAITING);
                out.put_txid(txid);
            }
            Self::Orphan(seq) => {
                out.put_u8(kind::ORPHAN);
                out.put_u64(seq.0);
            }
            Self::Progress(seq) => {
                out.put_u8(kind::PROGRESS);
                out.put_u64(seq.0);
            }
            Self::Question { id, millis, topic } => {
                out.put_u8(kind::QUESTION);
                out.put_u64(*id);
                out.put_u32(*millis);
                topic.encode(out);
            }
        }
    }

    /// Reads a frame's payload (without its length).
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(payload);
        let frame = match reader.u8()? {
            kind::HELLO => match reader.u8()? {
                VERSION => Self::Hello {
                    server_start: reader.u64()?,
                    visible: Seq(reader.u64()?),
                    incarnation: Incarnation(reader.u32()?),
                },
                found => return Err(Error::Version { found, expected: VERSION }),
            },
            kind::SUBMIT => return Ok(Self::Submit(reader.rest())),
            kind::FRAGMENT => {
                return Ok(Self::Fragment { txid: reader.txid()?, ordinal: reader.u32()?, body: reader.rest() });
            }
            kind::FENCE_REQUEST => Self::FenceRequest(reader.txid()?),
            kind::GIVE_UP => Self::GiveUp(reader.txid()?),
            kind::WAITING => Self::Waiting(reader.txid()?),
            kind::ORPHAN => Self::Orphan(Seq(reader.u64()?)),
            kind::PROGRESS => Self::Progress(Seq(reader.u64()?)),
            kind::QUESTION => {
                Self::Question { id: reader.u64()?, millis: reader.u32()?, topic: Topic::decode(&mut reader)? }
            }
            tag => return Err(Error::Unknown { what: "frame from PostgreSQL", tag }),
        };
        reader.finish()?;
        Ok(frame)
    }
}

impl Topic {
    fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Transaction(_) => 16,
            Self::Status | Self::Present => 0,
            Self::Member(_) => 4,
            Self::Everywhere(_) => 8,
        }
    }

    fn encode(&self, out: &mut impl Sink) {
        match self {
            Self::Transaction(txid) => {
                out.put_u8(1);
                out.put_txid(txid);
            }
            Self::Status => out.put_u8(2),
            Self::Member(ordinal) => {
                out.put_u8(3);
                out.put_u32(*ordinal);
            }
            Self::Present => out.put_u8(4),
            Self::Everywhere(seq) => {
                out.put_u8(5);
                out.put_u64(seq.0);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            1 => Self::Transaction(reader.txid()?),
            2 => Self::Status,
            3 => Self::Member(reader.u32()?),
            4 => Self::Present,
            5 => Self::Everywhere(Seq(reader.u64()?)),
            tag => return Err(Error::Unknown { what: "topic", tag }),
        })
    }
}

impl Standing {
    /// As one byte.
    #[must_use]
    pub fn tag(self) -> u8 {
        match self {
            Self::Serving => 1,
            Self::CatchingUp => 2,
            Self::Alone => 3,
            Self::Different => 4,
            Self::Removed => 5,
        }
    }

    /// The other way round.
    #[must_use]
    pub fn of(tag: u8) -> Option<Self> {
        [Self::Serving, Self::CatchingUp, Self::Alone, Self::Different, Self::Removed]
            .into_iter()
            .find(|standing| standing.tag() == tag)
    }
}

impl AbortReason {
    /// Bytes of the encoded form.
    pub const SIZE: usize = 17;

    /// Appends the reason.
    pub fn encode(&self, out: &mut impl Sink) {
        let (tag, ordinal, winner, node) = match *self {
            Self::Key { ordinal, winner, node } => (1, ordinal, winner, node),
            Self::Relation { ordinal, winner, node } => (2, ordinal, winner, node),
            Self::Catalog { winner, node } => (3, 0, winner, node),
            Self::TooOld => (4, 0, Seq(0), NodeId(0)),
            Self::FenceLost => (5, 0, Seq(0), NodeId(0)),
            Self::Void => (6, 0, Seq(0), NodeId(0)),
            Self::Malformed => (7, 0, Seq(0), NodeId(0)),
            Self::GivenUp => (8, 0, Seq(0), NodeId(0)),
            Self::Read { ordinal, winner, node } => (9, ordinal, winner, node),
        };
        out.put_u8(tag);
        out.put_u32(ordinal);
        out.put_u64(winner.0);
        out.put_u32(node.0);
    }

    /// Reads a reason.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let tag = reader.u8()?;
        let (ordinal, winner, node) = (reader.u32()?, Seq(reader.u64()?), NodeId(reader.u32()?));
        Ok(match tag {
            1 => Self::Key { ordinal, winner, node },
            2 => Self::Relation { ordinal, winner, node },
            3 => Self::Catalog { winner, node },
            4 => Self::TooOld,
            5 => Self::FenceLost,
            6 => Self::Void,
            7 => Self::Malformed,
            8 => Self::GivenUp,
            9 => Self::Read { ordinal, winner, node },
            tag => return Err(Error::Unknown { what: "abort reason", tag }),
        })
    }
}

impl<'a> ToPostgres<'a> {
    /// Appends the frame, its length included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length_at = out.len();
        out.put_u32(0);
        match self {
            Self::Welcome { node, incarnation, sequence_slot, sequence_slots } => {
                out.put_u8(kind::WELCOME);
                out.put_u8(VERSION);
                out.put_u32(node.0);
                out.put_u32(incarnation.0);
                out.put_u16(*sequence_slot);
                out.put_u16(*sequence_slots);
            }
            Self::Lease { until } => {
                out.put_u8(kind::LEASE);
                out.put_u64(*until);
            }
            Self::Standing(standing) => {
                out.put_u8(kind::STANDING);
                out.put_u8(standing.tag());
            }
            Self::Problem(problem) => {
                out.put_u8(kind::PROBLEM);
                out.put_str(problem);
            }
            Self::Refused(txid) => {
                out.put_u8(kind::REFUSED);
                out.put_txid(txid);
            }
            Self::Forgotten(txid) => {
                out.put_u8(kind::FORGOTTEN);
                out.put_txid(txid);
            }
            Self::Admission { open } => {
                out.put_u8(kind::ADMISSION);
                out.put_u8(u8::from(*open));
            }
            Self::Commit { txid, seq } => {
                out.put_u8(kind::COMMIT);
                out.put_txid(txid);
                out.put_u64(seq.0);
            }
            Self::Abort { txid, reason } => {
                out.put_u8(kind::ABORT);
                out.put_txid(txid);
                reason.encode(out);
            }
            Self::Resubmit(txid) => {
                out.put_u8(kind::RESUBMIT);
                out.put_txid(txid);
            }
            Self::FenceGranted { txid, fence, after } => {
                out.put_u8(kind::FENCE_GRANTED);
                out.put_txid(txid);
                out.put_u64(fence.0);
                out.put_u64(after.0);
            }
            Self::FenceLost(txid) => {
                out.put_u8(kind::FENCE_LOST);
                out.put_txid(txid);
            }
            Self::Taken { txid, fragments } => {
                out.put_u8(kind::TAKEN);
                out.put_txid(txid);
                out.put_u32(*fragments);
            }
            Self::Answer { question, text } => {
                out.put_u8(kind::ANSWER);
                out.put_u64(*question);
                out.put_str(text);
            }
        }
        let length = (out.len() - length_at - LENGTH_BYTES) as u32;
        out[length_at..length_at + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads a frame's payload (without its length).
    pub fn decode(payload: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(payload);
        let frame = match reader.u8()? {
            kind::WELCOME => match reader.u8()? {
                VERSION => Self::Welcome {
                    node: NodeId(reader.u32()?),
                    incarnation: Incarnation(reader.u32()?),
                    sequence_slot: reader.u16()?,
                    sequence_slots: reader.u16()?,
                },
                found => return Err(Error::Version { found, expected: VERSION }),
            },
            kind::ADMISSION => Self::Admission { open: reader.u8()? != 0 },
            kind::LEASE => Self::Lease { until: reader.u64()? },
            kind::STANDING => {
                let tag = reader.u8()?;
                Self::Standing(Standing::of(tag).ok_or(Error::Unknown { what: "standing", tag })?)
            }
            kind::PROBLEM => Self::Problem(reader.str()?),
            kind::REFUSED => Self::Refused(reader.txid()?),
            kind::FORGOTTEN => Self::Forgotten(reader.txid()?),
            kind::COMMIT => Self::Commit { txid: reader.txid()?, seq: Seq(reader.u64()?) },
            kind::ABORT => Self::Abort { txid: reader.txid()?, reason: AbortReason::decode(&mut reader)? },
            kind::RESUBMIT => Self::Resubmit(reader.txid()?),
            kind::FENCE_GRANTED => {
                Self::FenceGranted { txid: reader.txid()?, fence: LogIndex(reader.u64()?), after: Seq(reader.u64()?) }
            }
            kind::FENCE_LOST => Self::FenceLost(reader.txid()?),
            kind::TAKEN => Self::Taken { txid: reader.txid()?, fragments: reader.u32()? },
            kind::ANSWER => Self::Answer { question: reader.u64()?, text: reader.str()? },
            tag => return Err(Error::Unknown { what: "frame to PostgreSQL", tag }),
        };
        reader.finish()?;
        Ok(frame)
    }
}
