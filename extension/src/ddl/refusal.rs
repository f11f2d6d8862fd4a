//! What is refused, and what users read when it is. Every refusal is `0A000`.

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;

use crate::error::{PgSqlErrorCode, refuse};

/// Tells the client something it did not ask for.
pub(super) fn notice(message: &'static str, hint: &'static str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, "pgrenga")
        .set_hint(hint)
        .report(PgLogLevel::NOTICE);
}

/// Tells the client that something may not be what it expects.
pub(super) fn warn(message: &'static str, hint: &'static str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pgrenga").set_hint(hint).report(PgLogLevel::WARNING);
}

/// An error's three texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    message: &'static str,
    detail: &'static str,
    hint: &'static str,
}

impl Refusal {
    /// Ends the transaction with it.
    pub(super) fn raise(self) -> ! {
        refuse(self.message, self.detail, self.hint)
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $message:literal, $detail:literal, $hint:literal;)*) => {
        $($(#[$doc])* pub(super) const $name: Refusal = Refusal { message: $message, detail: $detail, hint: $hint };)*
    };
}

refusals! {
    UNKNOWN = "this statement is not replicated",
        "pgrenga does not know what it does to the other nodes.",
        "Run it on every node with pgrenga.replicate off if it is harmless.";
    EXPLAINED_MATERIALIZED_VIEW = "EXPLAIN ANALYZE of CREATE MATERIALIZED VIEW is not supported",
        "It would create the materialized view, and other nodes need that statement by itself.",
        "Use EXPLAIN ANALYZE of the query.";
    DETACH_FINALIZE = "ALTER TABLE .. DETACH PARTITION .. FINALIZE is not supported",
        "DETACH PARTITION CONCURRENTLY runs in one step here, so that nothing is left to be finalized.",
        "Use DETACH PARTITION.";
    DATABASE = "creating, dropping and altering databases is not supported yet",
        "Only the database that pgrenga.database names is replicated.",
        "Use schemas.";
    TABLESPACE = "tablespaces are not supported",
        "A directory of this server means nothing to the other nodes.",
        "Leave out the tablespace.";
    PREPARE_TRANSACTION = "PREPARE TRANSACTION is not supported",
        "A prepared transaction's outcome is decided outside the replicated log.",
        "Use COMMIT.";
    SUBSCRIPTION = "subscriptions are not supported yet",
        "What a subscription receives would need an order among the nodes.",
        "Subscribe with a server outside the cluster; publications are supported.";
    PERSISTENCE = "SET LOGGED and SET UNLOGGED are not supported yet",
        "Rows of unlogged tables exist on one node alone.",
        "Create a new table and copy the rows with INSERT .. SELECT.";
    LOCAL_AND_REPLICATED = "the statement names both temporary and permanent objects",
        "Temporary objects exist on this node alone, so the statement would mean something else on the others.",
        "Use one statement for the temporary objects and another one for the rest.";
    EVENT_TRIGGER_ON_APPLY = "event triggers cannot be enabled ALWAYS or REPLICA",
        "They would fire again on every node that applies the statement, on top of what they did here.",
        "Use ENABLE.";
    FOREIGN_KEY_TRIGGER = "triggers of foreign keys cannot be named",
        "Their names contain a number that differs between nodes.",
        "Use DISABLE TRIGGER ALL, or drop the constraint.";
    OWN_EXTENSION = "extension \"pgrenga\" cannot be created, altered or dropped in a replicated session",
        "Every node has its own.",
        "pgrenga init and pgrenga join install it.";
    PG_SURGERY = "extension \"pg_surgery\" is not supported",
        "It changes rows where no other node could follow.",
        "Let a damaged node take a full state transfer.";
    CREATE_EXTENSION_CASCADE = "CREATE EXTENSION .. CASCADE created more than one extension",
        "The versions of the others are not part of the statement, so they could differ between nodes.",
        "Create the required extensions first, each with a statement of its own.";
    MUTABLE_DEFAULT = "a column cannot be added to a table with rows with this default",
        "It is not immutable, and came from where pgrenga did not see it before it was evaluated.",
        "Add the column without the default, then set the default, then UPDATE the rows.";
    REFERENCED_USING = "the type of a column that a foreign key refers to cannot be changed by this expression",
        "It is not immutable or calls a function of yours, so that its rows would have to travel, and the foreign key is checked before they do.",
        "Drop the foreign key and add it again, or add another column, UPDATE it, then drop the old one.";
    WRITTEN_WHILE_ALTERED = "a table was written while ALTER TABLE made its rows anew",
        "A trigger or a function that the statement ran changed rows of the table that it alters.",
        "Change the rows with a statement of its own.";
    MUTABLE_CHECK = "a CHECK constraint that is not immutable cannot be validated on existing rows",
        "Another node could find the rows valid when this one does not, or the reverse.",
        "Add the constraint with NOT VALID.";
    CYCLE = "CYCLE is not supported for sequences",
        "A sequence that begins again would hand out values of other nodes.",
        "Leave out CYCLE.";
    DEPENDS_ON_TEMPORARY = "a permanent object cannot depend on a temporary one",
        "The temporary object exists on this node alone.",
        "Create the object in pg_temp too, or use a permanent type.";
    SESSION_USER = "SESSION_USER cannot be named here",
        "The statement runs as another role than the session's, and other nodes know only that one.",
        "Name the role.";
    TEXT_DIFFERS = "the statement does not come from its text",
        "Other nodes get the statement's text, and parsing it again gives another statement.",
        "Send the statement by itself.";
    PASSWORD = "the password cannot be taken out of the statement",
        "Other nodes and the log must never see it in plain text.",
        "Give the SCRAM verifier instead: psql's \\password computes it.";
    FOREIGN_TRUNCATE = "TRUNCATE of both foreign and local tables is not supported",
        "Every node would truncate the table on the foreign server.",
        "Truncate the foreign table with a statement of its own.";
    TRIPWIRE = "a change to the system catalogs was not captured",
        "It was made by a command or function that pgrenga does not replicate.",
        "Use the SQL command for it.";
}
