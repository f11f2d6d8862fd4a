//! Random logs. Actions are relative to the state that they meet, so that a
//! shrunken log stays meaningful.

use pgrenga_core::{Core, Decision, Position};
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::writeset::{
    Access, Flags, Header, Key, Moment, Read, Reading, RelationUse, RowLock, TableLocks, encode_header, encode_reads,
};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};
use proptest::prelude::*;

/// A transaction, by the life of its node: 0 is the present one.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    node: u32,
    lives_ago: u32,
    counter: u64,
}

#[derive(Clone, Debug)]
pub enum Action {
    Writeset {
        who: Who,
        last_ago: u64,
        first_ago: u64,
        flags: u8,
        fence: bool,
        fragments: u32,
        relations: Vec<RelationUse>,
        keys: Vec<Key>,
        /// From which key on, and how long ago that was captured.
        moments: Vec<(u32, u64)>,
        /// How long ago the snapshot was taken, and what was read; of SERIALIZABLE ones.
        reads: (u64, Vec<Read>),
    },
    Fragment(Who, u32),
    FenceRequest(Who),
    GiveUp(Who),
    FenceLift(Who),
    EndFence,
    Life(u32),
    Remove(u32),
    Marker,
    Garbage(Vec<u8>),
    Broken(Who),
}

fn who() -> impl Strategy<Value = Who> {
    (1..=3_u32, prop_oneof![9 => Just(0_u32), 1 => Just(1)], 1..=40_u64).prop_map(|(node, lives_ago, counter)| Who {
        node,
        lives_ago,
        counter,
    })
}

fn key() -> impl Strategy<Value = Key> {
    (0..8_u64, 0..7_usize).prop_map(|(hash, kind)| {
        let (mode, access) = [
            (RowLock::NoKeyUpdate, Access::Write),
            (RowLock::Update, Access::Write),
            (RowLock::KeyShare, Access::Lock),
            (RowLock::Share, Access::Lock),
            (RowLock::NoKeyUpdate, Access::Lock),
            (RowLock::Update, Access::Lock),
            (RowLock::Update, Access::Deferred),
        ][kind];
        Key { hash, mode, access }
    })
}

fn relation() -> impl Strategy<Value = RelationUse> {
    let modes = prop_oneof![8 => Just(1_u16 << 3), 2 => (1..=8_u16).prop_map(|mode| 1 << mode), 1 => any::<u16>()];
    let held = prop_oneof![6 => Just(0_u16), 3 => Just(1_u16 << 1), 2 => (1..=8_u16).prop_map(|mode| 1 << mode)];
    (0..3_u64, modes, held).prop_map(|(hash, applied, held)| RelationUse {
        hash,
        applied: TableLocks(applied),
        held: TableLocks(held),
    })
}

fn read() -> impl Strategy<Value = Read> {
    prop_oneof![
        (0..3_u64).prop_map(|hash| Read { hash, what: Reading::Rows }),
        (0..3_u64).prop_map(|hash| Read { hash, what: Reading::Definition }),
        (0..8_u64).prop_map(|hash| Read { hash, what: Reading::Key }),
    ]
}

fn writeset() -> impl Strategy<Value = Action> {
    let flags = prop_oneof![16 => Just(0_u8), 8 => Just(8_u8), 1 => Just(1_u8), 1 => Just(3_u8), 1 => Just(9_u8)];
    let fragments = prop_oneof![8 => Just(0_u32), 1 => Just(1_u32)];
    let (relations, keys) = (prop::collection::vec(relation(), 0..3), prop::collection::vec(key(), 0..4));
    let moments = prop::collection::vec((0..4_u32, 0..7_u64), 0..3);
    let reads = (0..7_u64, prop::collection::vec(read(), 0..3));
    (who(), 0..4_u64, 0..3_u64, flags, any::<bool>(), fragments, relations, (keys, moments, reads)).prop_map(
        |(who, last_ago, more, flags, fence, fragments, relations, (keys, moments, reads))| Action::Writeset {
            who,
            last_ago,
            first_ago: last_ago + more,
            flags,
            fence,
            fragments,
            relations,
            keys,
            moments,
            reads,
        },
    )
}

pub fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => writeset(),
        2 => (who(), 0..2_u32).prop_map(|(who, ordinal)| Action::Fragment(who, ordinal)),
        2 => who().prop_map(Action::FenceRequest),
        1 => who().prop_map(Action::GiveUp),
        1 => who().prop_map(Action::FenceLift),
        2 => Just(Action::EndFence),
        1 => (1..=3_u32).prop_map(Action::Life),
        1 => (1..=6_u32).prop_map(Action::Remove),
        1 => Just(Action::Marker),
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Action::Garbage),
        1 => who().prop_map(Action::Broken),
    ]
}

/// The actions as items of a log, each in an entry of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owned {
    Writeset(Vec<u8>),
    Fragment(TransactionId, u32),
    FenceRequest(TransactionId),
    GiveUp(TransactionId),
    FenceLift(TransactionId),
    Incarnation(NodeId, Incarnation),
    Remove(NodeId),
    Marker(u64),
}

impl Owned {
    pub fn item(&self) -> Item<'_> {
        match self {
            Self::Writeset(bytes) => Item::Writeset(bytes),
            Self::Fragment(txid, ordinal) => Item::Fragment { txid: *txid, ordinal: *ordinal, body: &[] },
            Self::FenceRequest(txid) => Item::FenceRequest(*txid),
            Self::GiveUp(txid) => Item::GiveUp(*txid),
            Self::FenceLift(txid) => Item::FenceLift(*txid),
            Self::Incarnation(node, incarnation) => Item::Incarnation { node: *node, incarnation: *incarnation },
            Self::Remove(node) => Item::Remove(*node),
            Self::Marker(id) => Item::Marker { id: *id },
        }
    }
}

/// One item as it stands in the log.
pub fn step(core: &mut Core, index: u64, item: &Owned) -> Vec<Decision> {
    let mut decisions = Vec::new();
    core.step(Position { index: LogIndex(index), item: 0 }, &item.item(), &mut decisions);
    decisions
}

impl Who {
    fn txid(self, core: &Core) -> TransactionId {
        let node = NodeId(self.node);
        let incarnation = Incarnation(core.incarnation(node).0.saturating_sub(self.lives_ago));
        TransactionId { node, incarnation, counter: self.counter }
    }
}

impl Action {
    /// The item that the action is in this state.
    pub fn resolve(&self, core: &Core) -> Owned {
        match self {
            Self::Writeset { who, last_ago, first_ago, flags, fence, fragments, relations, keys, moments, reads } => {
                let held = core.fence().filter(|_| *fence);
                let txid = held.map_or_else(|| who.txid(core), |(holder, _)| holder);
                let ago = |ago: u64| Seq(core.seq().0.saturating_sub(ago));
                let header = Header {
                    flags: Flags(*flags),
                    txid,
                    seen_first: ago(*first_ago),
                    seen_last: ago(*last_ago),
                    fence: held.map_or(LogIndex(0), |(_, index)| index),
                    fragments: *fragments,
                };
                let moments: Vec<_> = moments.iter().map(|&(key, seen)| Moment { key, seen: ago(seen) }).collect();
                let mut bytes = Vec::new();
                encode_header(&mut bytes, &header, relations.iter(), keys.iter(), &moments);
                if header.flags.contains(Flags::SERIALIZABLE) {
                    encode_reads(&mut bytes, ago(reads.0), reads.1.iter());
                }
                Owned::Writeset(bytes)
            }
            Self::Fragment(who, ordinal) => Owned::Fragment(who.txid(core), *ordinal),
            Self::FenceRequest(who) => Owned::FenceRequest(who.txid(core)),
            Self::GiveUp(who) => Owned::GiveUp(who.txid(core)),
            Self::FenceLift(who) => Owned::FenceLift(who.txid(core)),
            Self::EndFence => core.fence().map_or(Owned::Marker(0), |(holder, _)| Owned::GiveUp(holder)),
            Self::Life(node) => Owned::Incarnation(NodeId(*node), Incarnation(core.incarnation(NodeId(*node)).0 + 1)),
            // The last node stays: nothing would happen any more.
            Self::Remove(node @ 2..=3) => Owned::Remove(NodeId(*node)),
            Self::Remove(_) | Self::Marker => Owned::Marker(1),
            Self::Garbage(bytes) => Owned::Writeset(bytes.clone()),
            Self::Broken(who) => {
                let mut bytes = Vec::new();
                encode_header(
                    &mut bytes,
                    &Header { txid: who.txid(core), ..Header::default() },
                    [].iter(),
                    [].iter(),
                    &[],
                );
                bytes.truncate(30);
                Owned::Writeset(bytes)
            }
        }
    }
}
