//! CONCURRENTLY, for indexes and partitions: what the word asks for takes several transactions, which no other
//! node could repeat as one. The statement runs without it, and says so.

use std::ffi::CStr;

use pgrx::pg_sys::{self, AlterTableType, NodeTag, ProcessUtilityContext};

use super::refusal;
use super::tree::{self, items};

/// The word itself.
pub(super) const WORD: &str = "concurrently";

/// Which of the places where the word stands is the statement's own. As a keyword it can be no name of an index
/// or table, but any name after a dot, and a function's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    First,
    Last,
}

/// A statement as it runs.
pub(super) struct Plain {
    pub(super) planned: *mut pg_sys::PlannedStmt,
    pub(super) stands: Stands,
}

/// A statement with CONCURRENTLY.
struct Asked {
    /// Where its tree says so.
    flag: *mut bool,
    stands: Stands,
    /// What PostgreSQL calls it where it refuses to run it in a transaction block.
    name: &'static CStr,
    notice: &'static str,
}

/// The statement without CONCURRENTLY, if it has it.
///
/// # Safety
/// `planned` is a utility statement about permanent objects.
pub(super) unsafe fn as_plain(
    planned: *const pg_sys::PlannedStmt,
    context: ProcessUtilityContext::Type,
) -> Option<Plain> {
    // SAFETY: the caller's promise; the copy is changed, not the original, which may be run again.
    unsafe {
        let name = asked((*planned).utilityStmt)?.name;
        pg_sys::PreventInTransactionBlock(context == ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL, name.as_ptr());
        let planned = pg_sys::copyObjectImpl(planned.cast()).cast::<pg_sys::PlannedStmt>();
        let asked = asked((*planned).utilityStmt)?;
        *asked.flag = false;
        refusal::notice(
            asked.notice,
            "The other nodes' commits wait for it, for at most pgrenga.ddl_fence_timeout; so do writes to its table.",
        );
        Some(Plain { planned, stands: asked.stands })
    }
}

unsafe fn asked(statement: *mut pg_sys::Node) -> Option<Asked> {
    // SAFETY: the tag tells what the statement is.
    let asked = unsafe {
        match tree::tag(statement) {
            NodeTag::T_IndexStmt => Asked {
                flag: &raw mut (*statement.cast::<pg_sys::IndexStmt>()).concurrent,
                stands: Stands::First,
                name: c"CREATE INDEX CONCURRENTLY",
                notice: "CREATE INDEX CONCURRENTLY runs without CONCURRENTLY, on every node",
            },
            NodeTag::T_DropStmt => Asked {
                flag: &raw mut (*statement.cast::<pg_sys::DropStmt>()).concurrent,
                stands: Stands::First,
                name: c"DROP INDEX CONCURRENTLY",
                notice: "DROP INDEX CONCURRENTLY runs without CONCURRENTLY, on every node",
            },
            NodeTag::T_AlterTableStmt => Asked {
                flag: detached(&*statement.cast())?,
                stands: Stands::Last,
                name: c"ALTER TABLE ... DETACH CONCURRENTLY",
                notice: "DETACH PARTITION CONCURRENTLY runs without CONCURRENTLY, on every node",
            },
            _ => return None,
        }
    };
    // SAFETY: a field of the statement.
    unsafe { *asked.flag }.then_some(asked)
}

/// DETACH PARTITION stands alone in its statement.
unsafe fn detached(statement: &pg_sys::AlterTableStmt) -> Option<*mut bool> {
    // SAFETY: the grammar's list of subcommands; of this one the definition is a partition's.
    unsafe {
        let command = items::<pg_sys::AlterTableCmd>(statement.cmds).next()?;
        ((*command).subtype == AlterTableType::AT_DetachPartition)
            .then(|| &raw mut (*(*command).def.cast::<pg_sys::PartitionCmd>()).concurrent)
    }
}
