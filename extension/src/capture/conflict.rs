//! Tells a client which of its keys lost, and to whom.

use pgrenga_writeset::port::AbortReason;

use super::transaction::{Transaction, WHOLE_ROW};
use crate::commit;
use crate::error::{PgSqlErrorCode, raise};

const MESSAGE: &str = "could not serialize access due to concurrent update on another node";
const HINT: &str = "Try the transaction again.";

impl Transaction {
    /// Ends the transaction with the error that its verdict calls for.
    pub fn raise_conflict(&self, reason: AbortReason) -> ! {
        let detail = match reason {
            AbortReason::Key { ordinal, winner, node } => {
                format!(
                    "{}, which a transaction of node {node} changed or locked at seq {winner}.",
                    self.describe_key(ordinal as usize)
                )
            }
            AbortReason::Relation { ordinal, winner, node } => format!(
                "The transaction used relation \"{}\", which a transaction of node {node} locked at seq {winner}.",
                self.used_relation(ordinal as usize).unwrap_or("?"),
            ),
            AbortReason::Catalog { winner, node } => {
                format!("A transaction of node {node} changed the catalog at seq {winner}.")
            }
            AbortReason::TooOld => "The transaction is older than what the cluster remembers of changes.".to_owned(),
            AbortReason::FenceLost => commit::fence_lost(),
            AbortReason::Void => "The node restarted its replication before the transaction was ordered.".to_owned(),
            AbortReason::Malformed => raise(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                "the cluster could not read this transaction's writeset",
                "",
                "This is a bug in pgrenga, or a fragment of the writeset was lost. Nothing was changed.",
            ),
        };
        raise(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, MESSAGE, detail, HINT)
    }

    /// Names the key with that hash, if this transaction used it.
    pub fn describe_hash(&self, hash: u64) -> Option<String> {
        self.position_of(hash).map(|ordinal| self.describe_key(ordinal))
    }

    fn describe_key(&self, ordinal: usize) -> String {
        let Some(origin) = self.key_origin(ordinal) else { return "The transaction used a row".to_owned() };
        let table = self.described(origin.table);
        let of_table = format!("of table \"{}.{}\"", table.schema, table.name);
        if origin.index == WHOLE_ROW {
            format!("The transaction used a row {of_table}")
        } else {
            format!("The transaction used a key of \"{}\" {of_table}", table.indexes[usize::from(origin.index)].name)
        }
    }
}
