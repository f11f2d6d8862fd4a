//! `ProcessUtility_hook`: where utility statements come by, nested ones too.
//!
//! The original runs without any guard between: an error of it jumps over our
//! functions and keeps its position, table and constraint for the client. So
//! nothing here that needs a destructor is alive while it runs.

use std::ffi::c_char;

use pgrx::pg_sys::{self, AlterTableType, NodeTag, ProcessUtilityContext};

use super::classify::{Class, Place, classify};
use super::frame::{self, Changes, Kind};
use super::ship::{Edit, Statement};
use super::target::{self, Target};
use super::tree::{self, items};
use super::{alter, concurrently, finish, is_watched, password, refusal};
use crate::apply;
use crate::capture;
use crate::commit::{self, fence};
use crate::notify;
use crate::read;
use crate::sequence;
use crate::session;

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Installs the hook. Call from `_PG_init`.
pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// A call of `ProcessUtility`.
#[derive(Clone, Copy)]
struct Call {
    planned: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
}

/// What becomes of a call.
enum Plan {
    Pass,
    Watch(Kind),
    Capture(*mut pg_sys::PlannedStmt, Changes),
}

impl Call {
    fn statement(&self) -> *mut pg_sys::Node {
        // SAFETY: the hook's contract.
        unsafe { (*self.planned).utilityStmt }
    }

    /// # Safety
    /// Nothing that needs a destructor is alive in the callers.
    unsafe fn run(&self) {
        type Original = unsafe extern "C-unwind" fn(
            *mut pg_sys::PlannedStmt,
            *const c_char,
            bool,
            ProcessUtilityContext::Type,
            pg_sys::ParamListInfo,
            *mut pg_sys::QueryEnvironment,
            *mut pg_sys::DestReceiver,
            *mut pg_sys::QueryCompletion,
        );
        unsafe extern "C-unwind" {
            fn standard_ProcessUtility(
                planned: *mut pg_sys::PlannedStmt,
                query: *const c_char,
                read_only_tree: bool,
                context: ProcessUtilityContext::Type,
                params: pg_sys::ParamListInfo,
                environment: *mut pg_sys::QueryEnvironment,
                receiver: *mut pg_sys::DestReceiver,
                completion: *mut pg_sys::QueryCompletion,
            );
        }
        // SAFETY: the hook's own arguments; set once at server start.
        unsafe {
            let original: Original = PREVIOUS.unwrap_or(standard_ProcessUtility);
            original(
                self.planned,
                self.query,
                self.read_only_tree,
                self.context,
                self.params,
                self.environment,
                self.receiver,
                self.completion,
            );
        }
    }
}

#[pgrx::pg_guard]
#[allow(clippy::too_many_arguments)] // the hook's signature
unsafe extern "C-unwind" fn process_utility(
    planned: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    let mut call = Call { planned, query, read_only_tree, context, params, environment, receiver, completion };
    // SAFETY: the hook's contract.
    unsafe { read::before_utility(call.statement()) };
    // SAFETY: as above.
    unsafe { session::before_utility(call.statement()) };
    // SAFETY: as above.
    let notifies = unsafe { notify::before_statement(call.statement()) };
    let outer = sequence::begin_statement(changes_sequences(call.statement()));
    // SAFETY: as above.
    let moved = unsafe { out_of_the_way(call.statement()) };
    // Everything that `plan` made lies in the stack of frames from here on.
    let place = match plan(&call) {
        Plan::Pass => None,
        Plan::Watch(kind) => Some(frame::push(kind)),
        Plan::Capture(planned, changes) => {
            call.planned = planned;
            Some(frame::push(Kind::Captured(changes)))
        }
    };
    // SAFETY: only plain values are alive.
    unsafe { call.run() };
    if let Some(moved) = moved {
        moved.put_back();
    }
    if let Some(place) = place {
        finish::statement(place, call.statement());
    }
    if notifies {
        // SAFETY: it said so itself.
        unsafe { notify::after_statement(call.statement()) };
    }
    sequence::end_statement(outer);
}

/// What the statement itself says of sequences' definitions.
fn changes_sequences(statement: *mut pg_sys::Node) -> sequence::Redefines {
    // SAFETY: the tag tells what the node is.
    unsafe {
        match tree::tag(statement) {
            NodeTag::T_AlterSeqStmt => {
                let options = (*statement.cast::<pg_sys::AlterSeqStmt>()).options;
                sequence::Redefines {
                    increment: tree::option(options, "increment").is_some(),
                    position: tree::option(options, "restart").is_some(),
                }
            }
            NodeTag::T_TruncateStmt => sequence::Redefines {
                increment: false,
                position: (*statement.cast::<pg_sys::TruncateStmt>()).restart_seqs,
            },
            NodeTag::T_CreateSeqStmt => {
                let options = (*statement.cast::<pg_sys::CreateSeqStmt>()).options;
                if let Some(increment) = tree::option(options, "increment") {
                    sequence::undo_spreading(increment);
                }
                sequence::Redefines::default()
            }
            _ => sequence::Redefines::default(),
        }
    }
}

/// Another node's statement that gives a sequence new limits: where this node's sequence stands must not make it fail.
unsafe fn out_of_the_way(statement: *mut pg_sys::Node) -> Option<sequence::Moved> {
    // SAFETY: the tag tells what the node is.
    unsafe {
        if tree::tag(statement) != NodeTag::T_AlterSeqStmt || !apply::active() {
            return None;
        }
        let statement = &*statement.cast::<pg_sys::AlterSeqStmt>();
        let says = |option| tree::option(statement.options, option).is_some();
        let limits = says("as") || says("maxvalue") || says("minvalue");
        if !limits || says("restart") { None } else { sequence::Moved::away(target::find(statement.sequence)?) }
    }
}

fn plan(call: &Call) -> Plan {
    let statement = call.statement();
    if !is_watched() {
        return Plan::Pass;
    }
    // SAFETY: a utility statement.
    let class = unsafe { classify(statement) };
    if class == Class::Plain {
        if begins_transaction(statement) {
            commit::await_winner();
        }
        announce(statement);
        return Plan::Pass;
    }
    if call.context == ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND && frame::covers_subcommands() {
        return Plan::Pass;
    }
    match class {
        Class::Plain => Plan::Pass,
        Class::Transparent => Plan::Watch(Kind::Transparent),
        Class::Physical => Plan::Watch(Kind::Physical),
        Class::Content => {
            // SAFETY: a variable of this process; PostgreSQL refuses it by itself then.
            if !unsafe { pg_sys::XactReadOnly } {
                capture::transaction().begin_write();
            }
            Plan::Watch(Kind::Content)
        }
        // SAFETY: as above, for the rest.
        Class::Refused(refusal) => match unsafe { target::of(statement, call.query) } {
            Target::Local => Plan::Watch(Kind::Physical),
            Target::Replicated | Target::Mixed => refusal.raise(),
        },
        Class::Replicated { catalog, place } => {
            // PostgreSQL refuses it by itself then.
            if unsafe { pg_sys::XactReadOnly } {
                return Plan::Pass;
            }
            match unsafe { target::of(statement, call.query) } {
                Target::Local => Plan::Watch(Kind::Physical),
                Target::Mixed => refusal::LOCAL_AND_REPLICATED.raise(),
                Target::Replicated => capture(call, catalog, place),
            }
        }
    }
}

/// Waits until this node may change the catalogs, checks the statement and
/// takes its text.
fn capture(call: &Call, catalog: bool, place: Place) -> Plan {
    let statement = call.statement();
    // SAFETY: a utility statement.
    unsafe {
        if target::copies_from_temporary(statement) {
            refusal::DEPENDS_ON_TEMPORARY.raise();
        }
    }
    // SAFETY: a utility statement about permanent objects.
    let plain = unsafe { concurrently::as_plain(call.planned, call.context) };
    capture::transaction().begin_write();
    fence::acquire();
    // SAFETY: a utility statement, inside a transaction.
    let (planned, own, replaced) = unsafe {
        let mut replaced = Vec::new();
        if tree::tag(statement) == NodeTag::T_AlterTableStmt {
            warn_of_triggers(&*statement.cast());
            replaced = alter::replaced(statement.cast(), call.query);
        }
        let concealed = password::conceal(call.planned);
        let (planned, edit) = match (&plain, &concealed) {
            (Some(plain), _) => (plain.planned, Edit::Concurrently(plain.stands)),
            (_, Some(concealed)) => (concealed.planned, Edit::Password(concealed)),
            _ => (call.planned, Edit::Nothing),
        };
        let own = match (place, creation(statement)) {
            (Place::Definition, creation) => Statement::of_definition((*creation).into),
            _ => Statement::capture(planned, call.query, &edit),
        };
        (planned, own, replaced)
    };
    if catalog {
        capture::transaction().set_catalog();
    }
    let mut changes = Changes::new(place);
    changes.replaced = replaced;
    if place == Place::Beginning {
        capture::transaction().record_ddl(&own.op());
    } else {
        changes.pending = Some(own);
    }
    Plan::Capture(planned, changes)
}

/// The CREATE TABLE AS that the statement is, or really runs.
unsafe fn creation(statement: *mut pg_sys::Node) -> *const pg_sys::CreateTableAsStmt {
    // SAFETY: a utility statement; the tag tells what it is.
    unsafe {
        match tree::tag(statement) {
            NodeTag::T_CreateTableAsStmt => statement.cast(),
            _ => tree::analyzed_creation(statement),
        }
    }
}

/// Whether a transaction block begins, whose snapshot is not taken yet.
fn begins_transaction(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_BEGIN, TRANS_STMT_START};
    // SAFETY: the tag tells what the node is.
    unsafe {
        tree::tag(statement) == NodeTag::T_TransactionStmt
            && matches!((*statement.cast::<pg_sys::TransactionStmt>()).kind, TRANS_STMT_BEGIN | TRANS_STMT_START)
    }
}

fn announce(statement: *mut pg_sys::Node) {
    // SAFETY: a utility statement.
    if unsafe { tree::tag(statement) } == NodeTag::T_AlterSystemStmt {
        refusal::notice(
            "ALTER SYSTEM changes this node alone",
            "Run it on the other nodes too if they should behave alike.",
        );
    }
}

unsafe fn warn_of_triggers(statement: &pg_sys::AlterTableStmt) {
    // SAFETY: the grammar's list of subcommands.
    let fires_always = unsafe { items::<pg_sys::AlterTableCmd>(statement.cmds) }.any(|command| {
        // SAFETY: as above.
        let kind = unsafe { (*command).subtype };
        matches!(kind, AlterTableType::AT_EnableAlwaysTrig | AlterTableType::AT_EnableReplicaTrig)
    });
    if fires_always {
        refusal::warn(
            "triggers enabled ALWAYS or REPLICA fire on the node where the change is made, never where it is applied",
            "Their effects on rows are replicated as rows.",
        );
    }
}
