//! The commit slot: one transaction's way from its first write to its commit.
//!
//! One atomic word holds the state and either the transaction's counter (until
//! it is ordered) or its seq (from then on). Both are unique, so a
//! compare-and-swap can never hit another transaction in the same slot.
//!
//! ```text
//! FREE -> OPEN(c)                    first write
//! OPEN -> WAITING(c)                 writeset handed over
//! OPEN -> VICTIM(c)                  brute-force abort, before the signal
//! WAITING -> ABORTED(c)              verdict: abort
//! WAITING -> RESUBMIT(c)             the writeset was lost on the way
//! WAITING -> FORGOTTEN(c)            decided long ago, nobody remembers how
//! WAITING -> REFUSED(c)              the log's disks are full, it was not proposed
//! WAITING -> ORDERED(n)              verdict: commit
//! ORDERED -> COMMITTING(n)           at the turnstile
//! ORDERED -> REVOKED(n)              step-back: the applier takes over
//! FREE -> APPLYING(n)                an applier executes n, and those up to `last`
//! APPLYING -> YIELDED(n)             an earlier applier needs its locks
//! any -> FREE                        the transaction ended
//! ```
//!
//! A process that ends in ORDERED, COMMITTING or REVOKED without having
//! committed reports its seq as an orphan. One that ends in WAITING reports
//! nothing: the verdict will find nobody, and the port worker reports it.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrenga_writeset::Reader;
use pgrenga_writeset::port::AbortReason;

use super::monotonic_ms;
use super::needs::Needs;

/// Where a transaction is. The payload is a counter or a seq, see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No transaction that writes.
    Free,
    /// Has written, not yet handed over.
    Open(u64),
    /// Handed over, no verdict yet.
    Waiting(u64),
    /// Must abort: it stands in an ordered transaction's way.
    Victim(u64),
    /// Verdict: abort. The reason is in [`Slot::reason`].
    Aborted(u64),
    /// Hand it over again under a new id.
    Resubmit(u64),
    /// It was decided, and nobody remembers how.
    Forgotten(u64),
    /// It was not proposed and never will be: the log's disks are full.
    Refused(u64),
    /// Verdict: commit at this seq.
    Ordered(u64),
    /// Passing the turnstile.
    Committing(u64),
    /// Ordered, but the applier will do it.
    Revoked(u64),
    /// A worker applies a run that begins with this seq.
    Applying(u64),
    /// The worker must give up; the run's seqs are tried again.
    Yielded(u64),
}

const PAYLOAD_BITS: u32 = 60;
const PAYLOAD: u64 = (1 << PAYLOAD_BITS) - 1;

impl State {
    fn to_word(self) -> u64 {
        let (tag, payload) = match self {
            Self::Free => (0, 0),
            Self::Open(c) => (1, c),
            Self::Waiting(c) => (2, c),
            Self::Victim(c) => (3, c),
            Self::Aborted(c) => (4, c),
            Self::Resubmit(c) => (5, c),
            Self::Ordered(n) => (6, n),
            Self::Committing(n) => (7, n),
            Self::Revoked(n) => (8, n),
            Self::Applying(n) => (9, n),
            Self::Yielded(n) => (10, n),
            Self::Forgotten(c) => (11, c),
            Self::Refused(c) => (12, c),
        };
        (tag << PAYLOAD_BITS) | (payload & PAYLOAD)
    }

    fn from_word(word: u64) -> Self {
        let payload = word & PAYLOAD;
        match word >> PAYLOAD_BITS {
            1 => Self::Open(payload),
            2 => Self::Waiting(payload),
            3 => Self::Victim(payload),
            4 => Self::Aborted(payload),
            5 => Self::Resubmit(payload),
            6 => Self::Ordered(payload),
            7 => Self::Committing(payload),
            8 => Self::Revoked(payload),
            9 => Self::Applying(payload),
            10 => Self::Yielded(payload),
            11 => Self::Forgotten(payload),
            12 => Self::Refused(payload),
            _ => Self::Free,
        }
    }

    /// The (first) seq that whoever is in this state is about to make visible.
    pub fn seq(self) -> Option<u64> {
        match self {
            Self::Ordered(n) | Self::Committing(n) | Self::Revoked(n) | Self::Applying(n) | Self::Yielded(n) => Some(n),
            _ => None,
        }
    }
}

/// A transaction's dealings with the DDL fence. One word as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Not asked for.
    None,
    /// Asked for by the transaction with this counter.
    Requested(u64),
    /// Held; the payload is its log index.
    Held(u64),
    /// Taken away.
    Lost,
}

impl Fence {
    fn to_word(self) -> u64 {
        let (tag, payload) = match self {
            Self::None => (0, 0),
            Self::Requested(counter) => (1, counter),
            Self::Held(index) => (2, index),
            Self::Lost => (3, 0),
        };
        (tag << PAYLOAD_BITS) | (payload & PAYLOAD)
    }

    fn from_word(word: u64) -> Self {
        match word >> PAYLOAD_BITS {
            1 => Self::Requested(word & PAYLOAD),
            2 => Self::Held(word & PAYLOAD),
            3 => Self::Lost,
            _ => Self::None,
        }
    }
}

/// A commit slot. One for each process, on cache lines of its own.
#[repr(C, align(128))]
pub struct Slot {
    word: AtomicU64,
    fence: AtomicU64,
    /// With `Fence::Held`: everything up to this seq comes before the fence.
    pub fence_after: AtomicU64,
    /// With `State::Waiting`: the life of the node in which it was handed over.
    pub incarnation: AtomicU32,
    /// With `State::Waiting`: how many of its fragments the log has.
    pub taken: AtomicU32,
    /// With `State::Applying`: where the run ends; zero otherwise.
    last: AtomicU64,
    /// With `State::Applying`: what the applier is about to do.
    pub needs: Needs,
    /// Who ended this process's transaction: that one's local id, and the
    /// accuser's process number from 1.
    accuser: AtomicU64,
    /// The transaction of this process that heard last that it is ended: its local id, and when, in
    /// milliseconds.
    heard: AtomicU64,
    /// With `State::Aborted`: the encoded reason.
    reason: [AtomicU64; REASON_WORDS],
}

impl Slot {
    /// The present state.
    pub fn state(&self) -> State {
        State::from_word(self.word.load(Ordering::Acquire))
    }

    /// Moves from exactly `from` to `to`; false if the slot was elsewhere.
    pub fn advance(&self, from: State, to: State) -> bool {
        self.word.compare_exchange(from.to_word(), to.to_word(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The owner sets a state that nobody else may change away from.
    pub fn set(&self, to: State) {
        self.word.store(to.to_word(), Ordering::Release);
    }

    /// The owner, an applier, says where its run ends. Before it moves to `Applying`.
    pub fn set_last(&self, seq: u64) {
        self.last.store(seq, Ordering::Release);
    }

    /// The seqs that whoever is in this slot is about to make visible, if any.
    pub fn seqs(&self) -> Option<RangeInclusive<u64>> {
        let first = self.state().seq()?;
        Some(first..=first.max(self.last.load(Ordering::Acquire)))
    }

    /// The fence's state.
    pub fn fence(&self) -> Fence {
        Fence::from_word(self.fence.load(Ordering::Acquire))
    }

    /// The owner sets the fence's state.
    pub fn set_fence(&self, fence: Fence) {
        self.fence.store(fence.to_word(), Ordering::Release);
    }

    /// Moves the fence from exactly `from` to `to`.
    pub fn advance_fence(&self, from: Fence, to: Fence) -> bool {
        self.fence.compare_exchange(from.to_word(), to.to_word(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Says that the transaction with local id `lxid` stands in the way of
    /// process `procno`. Of two accusers the later one is remembered.
    pub fn accuse(&self, lxid: u32, procno: usize) {
        self.accuser.store((u64::from(lxid) << 32) | (procno as u64 + 1), Ordering::Release);
    }

    /// Who accused the transaction with local id `lxid`.
    pub fn accuser(&self, lxid: u32) -> Option<usize> {
        let word = self.accuser.load(Ordering::Acquire);
        let procno = (word as u32).checked_sub(1)?;
        (lxid != 0 && (word >> 32) as u32 == lxid).then_some(procno as usize)
    }

    /// The owner's transaction with local id `lxid` hears that it is ended.
    pub fn hear(&self, lxid: u32) {
        self.heard.store((u64::from(lxid) << 32) | u64::from(monotonic_ms() as u32), Ordering::Release);
    }

    /// Whether the transaction with local id `lxid` heard of it within the last `ms` milliseconds.
    pub fn heard_within(&self, lxid: u32, ms: u32) -> bool {
        let word = self.heard.load(Ordering::Acquire);
        lxid != 0 && (word >> 32) as u32 == lxid && (monotonic_ms() as u32).wrapping_sub(word as u32) < ms
    }

    /// Stores why the verdict is abort; before the state moves to `Aborted`.
    pub fn set_reason(&self, reason: &AbortReason) {
        let mut bytes = Vec::with_capacity(REASON_WORDS * 8);
        reason.encode(&mut bytes);
        bytes.resize(REASON_WORDS * 8, 0);
        for (word, bytes) in self.reason.iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().expect("of 8 bytes")), Ordering::Relaxed);
        }
    }

    /// What [`Slot::set_reason`] stored.
    pub fn reason(&self) -> AbortReason {
        let bytes: Vec<u8> = self.reason.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        AbortReason::decode(&mut Reader::new(&bytes)).unwrap_or(AbortReason::Void)
    }
}

const REASON_WORDS: usize = AbortReason::SIZE.div_ceil(8);
