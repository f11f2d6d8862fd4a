//! Tells a client which of its keys lost, and to whom.

use pgrenga_writeset::port::AbortReason;

use pgrx::pg_sys;

use super::large_object::TABLE as LARGE_OBJECTS;
use super::transaction::{KeyOrigin, Transaction};
use crate::commit;
use crate::error::{PgSqlErrorCode, raise};
use crate::shmem::{Conflict, shared};

const MESSAGE: &str = "could not serialize access due to concurrent update on another node";
/// As PostgreSQL says it within one server.
const READ_MESSAGE: &str = "could not serialize access due to read/write dependencies among transactions";
const HINT: &str = "Try the transaction again.";

/// A key that the transaction used, for its user to recognize.
#[derive(Default)]
pub struct UsedKey {
    /// The table, qualified; empty if it is not known.
    pub table: String,
    /// The index; empty if the whole row stands for it. Of a large object, its OID.
    pub index: String,
}

impl std::fmt::Display for UsedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.table.as_str(), self.index.as_str()) {
            ("", _) => f.write_str("The transaction used a row"),
            (LARGE_OBJECTS, oid) => write!(f, "The transaction used large object {oid}"),
            (table, "") => write!(f, "The transaction used a row of table \"{table}\""),
            (table, index) => write!(f, "The transaction used a key of \"{index}\" of table \"{table}\""),
        }
    }
}

impl Transaction {
    /// Ends the transaction with the error that its verdict calls for.
    pub fn raise_conflict(&self, reason: AbortReason) -> ! {
        self.record_conflict(reason);
        let detail = match reason {
            AbortReason::Key { ordinal, winner, node } => format!(
                "{}, which a transaction of node {node} changed or locked at seq {winner}.",
                self.used_key(ordinal as usize)
            ),
            AbortReason::Relation { ordinal, winner, node } => format!(
                "The transaction used relation \"{}\", which a transaction of node {node} locked at seq {winner}.",
                self.used_relation(ordinal as usize).unwrap_or("?"),
            ),
            AbortReason::Catalog { winner, node } => {
                format!("A transaction of node {node} changed the catalog at seq {winner}.")
            }
            AbortReason::Read { ordinal, winner, node } => format!(
                "The transaction has read relation \"{}\", which a transaction of node {node} changed at seq {winner}.",
                self.read_relation(ordinal as usize).unwrap_or("?"),
            ),
            AbortReason::TooOld => "The transaction is older than what the cluster remembers of changes.".to_owned(),
            AbortReason::FenceLost => commit::fence_lost(),
            AbortReason::Void => "The node restarted its replication before the transaction was ordered.".to_owned(),
            AbortReason::GivenUp => "The transaction was given up before it was ordered.".to_owned(),
            AbortReason::Malformed => raise(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                "the cluster could not read this transaction's writeset",
                "",
                "This is a bug in pgrenga, or a fragment of the writeset was lost. Nothing was changed.",
            ),
        };
        let message = if matches!(reason, AbortReason::Read { .. }) { READ_MESSAGE } else { MESSAGE };
        raise(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, message, detail, HINT)
    }

    /// For `pgrenga.conflicts`.
    fn record_conflict(&self, reason: AbortReason) {
        let (used, winner, node) = match reason {
            AbortReason::Key { ordinal, winner, node } => (self.used_key(ordinal as usize), winner, node),
            AbortReason::Relation { ordinal, winner, node } => {
                let table = self.used_relation(ordinal as usize).unwrap_or_default().to_owned();
                (UsedKey { table, ..UsedKey::default() }, winner, node)
            }
            AbortReason::Read { ordinal, winner, node } => {
                let table = self.read_relation(ordinal as usize).unwrap_or_default().to_owned();
                (UsedKey { table, ..UsedKey::default() }, winner, node)
            }
            AbortReason::Catalog { winner, node } => (UsedKey::default(), winner, node),
            AbortReason::TooOld
            | AbortReason::FenceLost
            | AbortReason::Void
            | AbortReason::Malformed
            | AbortReason::GivenUp => return,
        };
        used.record_lost(node.0, winner.0);
    }

    /// The key with that hash, if this transaction used it.
    pub fn key_with_hash(&self, hash: u64) -> Option<UsedKey> {
        self.position_of(hash).map(|ordinal| self.used_key(ordinal))
    }

    fn used_key(&self, ordinal: usize) -> UsedKey {
        let Some(origin) = self.key_origin(ordinal) else { return UsedKey::default() };
        match origin {
            KeyOrigin::Row { table, index } => {
                let table = self.described(table);
                let index = index.map_or_else(String::new, |index| table.indexes[usize::from(index)].name.to_string());
                UsedKey { table: format!("{}.{}", table.schema, table.name), index }
            }
            KeyOrigin::LargeObject(oid) => UsedKey { table: LARGE_OBJECTS.to_owned(), index: oid.to_string() },
        }
    }
}

impl UsedKey {
    /// Records that a transaction of `node`, ordered at `seq`, won it. Looks at
    /// memory only.
    pub fn record_lost(self, node: u32, seq: u64) {
        commit::lost_to(seq);
        // SAFETY: reads the clock.
        let at = unsafe { pg_sys::GetCurrentTimestamp() };
        shared().conflicts.record(&Conflict { at, table: self.table, key: self.index, node, seq });
    }
}
