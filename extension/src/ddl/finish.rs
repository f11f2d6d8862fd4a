//! What is left to do when a captured statement has run: its place in the
//! writeset if it has none yet, the names it gave, and checks that need to see
//! its result.

use pgrx::pg_sys::{self, NodeTag};
use pgrx::spi::Spi;

use super::classify::Place;
use super::frame::{self, Changes, Kind};
use super::identity::as_superuser;
use super::ship::Statement;
use super::{access, evaluate, refusal, target, text, tree};
use crate::capture;
use crate::sequence;

/// Ends the statement that [`frame::push`] began at `place`.
pub(super) fn statement(place: usize, statement: *mut pg_sys::Node) {
    let mut changes = match frame::pop(place) {
        Some(Kind::Captured(changes)) => changes,
        // SAFETY: only such a statement is of this kind.
        Some(Kind::Content) => return unsafe { refreshed(statement.cast()) },
        Some(Kind::Physical | Kind::Transparent) | None => return,
    };
    // SAFETY: between statements; makes the statement's own changes visible here.
    unsafe { pg_sys::CommandCounterIncrement() };
    if let Some(pending) = changes.pending.take() {
        changes.replaced.clear();
        record_late(pending, &changes, statement);
    }
    check_dependencies(&changes);
    check_tablespaces(&changes);
    evaluate::check(&changes);
    use_names(&changes);
    record_content(&changes, statement);
    record_replaced(&changes);
    sequence::settle();
}

/// Ends a REFRESH: what the materialized view holds now it holds everywhere.
///
/// # Safety
/// `statement` has just run.
unsafe fn refreshed(statement: *const pg_sys::RefreshMatViewStmt) {
    // SAFETY: between statements, see `statement`; the name is looked up under the statement's own lock.
    unsafe { pg_sys::CommandCounterIncrement() };
    // SAFETY: as above, and the caller's promise.
    if let Some(view) = unsafe { target::find((*statement).relation) } {
        capture::record_content(view);
    }
}

/// A materialized view is filled as it is created; elsewhere it is created empty.
fn record_content(changes: &Changes, statement: *mut pg_sys::Node) {
    // SAFETY: the tag tells what the node is.
    let fills = unsafe {
        tree::tag(statement) == NodeTag::T_CreateTableAsStmt
            && !(*(*statement.cast::<pg_sys::CreateTableAsStmt>()).into).skipData
    };
    for object in changes.created.iter().filter(|object| fills && object.class == pg_sys::RelationRelationId) {
        // SAFETY: a catalog look-up inside a transaction; zero for what is gone.
        if unsafe { pg_sys::get_rel_relkind(object.oid) } as u8 == pg_sys::RELKIND_MATVIEW {
            capture::record_content(object.oid);
        }
    }
}

/// The rows of tables that were emptied elsewhere, and where their sequences go on.
fn record_replaced(changes: &Changes) {
    for table in &changes.replaced {
        if capture::was_written(*table, changes.described) {
            refusal::WRITTEN_WHILE_ALTERED.raise();
        }
        capture::record_rows(*table);
    }
    for object in changes.created.iter().filter(|object| object.class == pg_sys::RelationRelationId) {
        if !changes.replaced.is_empty() && object.part == 0 {
            sequence::go_on(object.oid);
        }
    }
}

/// Records a statement that told of no change, or whose text had to wait.
fn record_late(mut pending: Statement, changes: &Changes, statement: *mut pg_sys::Node) {
    // SAFETY: the tag tells what the node is.
    unsafe {
        match tree::tag(statement) {
            NodeTag::T_CreateExtensionStmt => {
                let extensions =
                    changes.created.iter().filter(|object| object.class == pg_sys::ExtensionRelationId).count();
                match extensions {
                    // It was there already.
                    0 => return,
                    1 => {}
                    _ => refusal::CREATE_EXTENSION_CASCADE.raise(),
                }
                let statement = &*statement.cast::<pg_sys::CreateExtensionStmt>();
                name_version(&mut pending, statement.extname, statement.options, "VERSION");
            }
            // Nothing was made: it was there already.
            NodeTag::T_CreateTableAsStmt | NodeTag::T_ExplainStmt if changes.place == Place::Definition => return,
            NodeTag::T_AlterExtensionStmt => {
                let statement = &*statement.cast::<pg_sys::AlterExtensionStmt>();
                name_version(&mut pending, statement.extname, statement.options, "TO");
            }
            _ => {}
        }
    }
    capture::transaction().record_ddl(&pending.op());
}

/// Every node must get the version that this one got.
unsafe fn name_version(
    pending: &mut Statement,
    name: *const std::ffi::c_char,
    options: *const pg_sys::List,
    keyword: &str,
) {
    // SAFETY: the caller has an extension statement's name and options.
    let (given, name) = unsafe { (tree::option(options, "new_version").is_some(), tree::str(name)) };
    if given {
        return;
    }
    let version = as_superuser(|| {
        Spi::get_one_with_args::<String>("SELECT extversion FROM pg_extension WHERE extname = $1", &[(&*name).into()])
    });
    if let Ok(Some(version)) = version {
        pending.append(&format!("{keyword} {}", text::quote_literal(&version)));
    }
}

/// A permanent object over a temporary one could not be made elsewhere.
fn check_dependencies(changes: &Changes) {
    let (mut namespace, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads variables of this process.
    unsafe { pg_sys::GetTempNamespaceState(&mut namespace, &mut toast) };
    if namespace == pg_sys::InvalidOid {
        return;
    }
    // PostgreSQL tells of a default by its table's OID.
    const QUERY: &str = "SELECT EXISTS (SELECT FROM pg_depend d WHERE classid = $1 AND objid = ANY (
        CASE $1 WHEN 'pg_attrdef'::regclass THEN ARRAY(SELECT oid FROM pg_attrdef WHERE adrelid = $2) ELSE ARRAY[$2] END
    ) AND CASE refclassid
        WHEN 'pg_class'::regclass THEN EXISTS (SELECT FROM pg_class WHERE oid = d.refobjid AND relnamespace = $3)
        WHEN 'pg_type'::regclass THEN EXISTS (SELECT FROM pg_type WHERE oid = d.refobjid AND typnamespace = $3)
        WHEN 'pg_proc'::regclass THEN EXISTS (SELECT FROM pg_proc WHERE oid = d.refobjid AND pronamespace = $3)
        ELSE false END)";
    for object in changes.created.iter().chain(&changes.altered) {
        let depends = as_superuser(|| {
            Spi::get_one_with_args::<bool>(QUERY, &[object.class.into(), object.oid.into(), namespace.into()])
        });
        if depends == Ok(Some(true)) {
            refusal::DEPENDS_ON_TEMPORARY.raise();
        }
    }
}

/// `default_tablespace` is each node's own business, a statement's is not.
fn check_tablespaces(changes: &Changes) {
    for object in changes.created.iter().filter(|object| object.class == pg_sys::RelationRelationId) {
        // SAFETY: catalog look-ups inside a transaction.
        let (given, default) = unsafe {
            let kind = pg_sys::get_rel_relkind(object.oid) as u8;
            let partitioned = matches!(kind, pg_sys::RELKIND_PARTITIONED_TABLE | pg_sys::RELKIND_PARTITIONED_INDEX);
            let given = pg_sys::get_rel_tablespace(object.oid);
            if given == pg_sys::InvalidOid {
                continue;
            }
            (given, pg_sys::GetDefaultTablespace(pg_sys::RELPERSISTENCE_PERMANENT as i8, partitioned))
        };
        if given != default {
            refusal::TABLESPACE.raise();
        }
    }
}

/// The lock walk at pre-commit finds relations under their last names; here
/// come the ones before.
fn use_names(changes: &Changes) {
    for object in &changes.created {
        if object.class == pg_sys::RelationRelationId && object.part == 0 {
            access::use_exclusively(object.oid, access::name_of(object.oid));
        }
    }
    for (oid, old) in &changes.renamed {
        let new = access::name_of(*oid);
        if new.is_some() && new.as_ref() != Some(old) {
            access::use_exclusively(*oid, Some(old.clone()));
            access::use_exclusively(*oid, new);
        }
    }
    let changed_form = changes.altered.iter().chain(changes.created.iter().filter(|object| object.part != 0));
    let mut relations = changed_form.filter(|object| object.class == pg_sys::RelationRelationId);
    if relations.any(|object| evaluate::is_column_type(object.oid)) {
        capture::transaction().set_catalog();
    }
}
