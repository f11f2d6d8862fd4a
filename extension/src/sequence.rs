//! Sequences: every node hands out values of its own, without asking anybody.
//!
//! Physically a sequence steps by its user's increment times the number of
//! slots, from this node's own residue (see [`lattice`]); table
//! `pgrenga.sequence` keeps the user's increment and the base from which values
//! count. After every statement that may define or move a sequence, here or on
//! the applier, the sequence is realigned: local and physical, captured by
//! nobody. The base is the same on every node, because only definitions and
//! restarts change it, and those are replicated.
//!
//! Values drawn before a crash do not come again, see [`durable`].

mod columns;
mod durable;
mod lattice;
mod limits;
mod setval;
mod shown;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::backend::BackendLocal;
use crate::capture::OWN_SCHEMA;
use crate::ddl::{Name, as_owner_of, as_superuser, quote_identifier, relation_name};
use crate::error::{PgSqlErrorCode, raise, refuse};
use crate::shmem::shared;
use lattice::{Bounds, Lattice, Position};

pub use durable::{flush, flush_if_drawn, forget_drawn, note_drawn};
pub use limits::Moved;

/// What a statement says of the sequences that it touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redefines {
    /// It gives the increment.
    pub increment: bool,
    /// It says where to go on.
    pub position: bool,
}

/// A relation that a statement created or altered; perhaps a sequence.
#[derive(Clone, Copy)]
struct Touched {
    oid: pg_sys::Oid,
    is_new: bool,
    redefines: Redefines,
}

static STATEMENT: BackendLocal<Redefines> = BackendLocal::new(Redefines { increment: false, position: false });
static TOUCHED: BackendLocal<Vec<Touched>> = BackendLocal::new(Vec::new());

fn touched() -> &'static mut Vec<Touched> {
    // SAFETY: every borrow ends before PostgreSQL is called again.
    unsafe { TOUCHED.borrow() }
}

/// Installs the hooks that look at queries. Call from `_PG_init`.
pub fn install() {
    setval::install();
    shown::install();
}

/// A utility statement begins. Returns what to give to [`end_statement`].
pub fn begin_statement(redefines: Redefines) -> Redefines {
    let outer = STATEMENT.get();
    STATEMENT.set(redefines);
    outer
}

/// The statement ended.
pub fn end_statement(outer: Redefines) {
    STATEMENT.set(outer);
}

/// The transaction or savepoint is over. Never fails.
pub fn forget() {
    STATEMENT.set(Redefines::default());
    touched().clear();
}

/// `LIKE .. INCLUDING IDENTITY` repeats a sequence's increment as it is physically (`sequence_options` in
/// `sequence.c`). Such an option has no place in a text.
///
/// # Safety
/// `increment` is an option of a CREATE SEQUENCE that is about to run.
pub unsafe fn undo_spreading(increment: *mut pg_sys::DefElem) {
    let Some((_, slots)) = slots() else { return };
    // SAFETY: the caller's promise; the statement's tree is this call's own.
    unsafe {
        let physical = pg_sys::defGetInt64(increment);
        if (*increment).location < 0 && physical % i64::from(slots) == 0 {
            let own = CString::new((physical / i64::from(slots)).to_string()).unwrap_or_default();
            (*increment).arg = pg_sys::makeFloat(pg_sys::pstrdup(own.as_ptr())).cast();
        }
    }
}

/// A relation was created or altered.
pub fn note(oid: pg_sys::Oid, is_new: bool) {
    let redefines = STATEMENT.get();
    touched().push(Touched { oid, is_new, redefines });
}

/// A table was truncated, with RESTART IDENTITY if the statement says so.
pub fn note_truncated(table: pg_sys::Oid) {
    if !STATEMENT.get().position {
        return;
    }
    // SAFETY: a catalog look-up inside a transaction; the list is palloc'd.
    let owned = unsafe { pg_sys::getOwnedSequences(table) };
    if owned.is_null() {
        return;
    }
    // SAFETY: a list of OIDs.
    let sequences: Vec<_> = unsafe { (0..(*owned).length).map(|at| pg_sys::list_nth_oid(owned, at)).collect() };
    sequences.into_iter().for_each(|oid| note(oid, false));
}

/// Says everywhere that a new sequence goes on beyond what was drawn from it before it
/// was aligned: the statement that created it drew values of every node's.
pub fn go_on(oid: pg_sys::Oid) {
    let Some(name) = replicated_name(oid) else { return };
    let position = as_superuser(|| position(&name));
    if !position.is_called {
        return;
    }
    let next = position.last_value.saturating_add(definition(oid).increment);
    as_owner_of(oid, || {
        if let Err(error) = Spi::run(&format!("ALTER SEQUENCE {name} RESTART WITH {next}")) {
            unexpected(&error.to_string());
        }
    });
}

/// Realigns the sequences that were touched since the last call. Call when a
/// statement has run.
pub fn settle() {
    let pending = std::mem::take(touched());
    if pending.is_empty() || slots().is_none() {
        return;
    }
    // SAFETY: between statements.
    unsafe { pg_sys::CommandCounterIncrement() };
    let mut merged: Vec<Touched> = Vec::new();
    for one in pending {
        match merged.iter_mut().find(|known| known.oid == one.oid) {
            Some(known) => {
                known.is_new |= one.is_new;
                known.redefines.increment |= one.redefines.increment;
                known.redefines.position |= one.redefines.position;
            }
            None => merged.push(one),
        }
    }
    for one in merged {
        if let Some(name) = replicated_name(one.oid) {
            as_superuser(|| align(&name, one, Cycles::Refuse, None));
        }
    }
}

/// What to do about a sequence that begins again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cycles {
    Refuse,
    /// It was there before the node was adopted.
    Warn,
}

/// This node's slot and their number; `None` before the daemon has told.
pub fn slots() -> Option<(u32, u32)> {
    let shared = shared();
    let slots = shared.sequence_slots.load(Ordering::Acquire);
    (slots > 0).then(|| (shared.sequence_slot.load(Ordering::Acquire), slots))
}

/// The qualified, quoted name of a permanent sequence that is not our own.
fn replicated_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: catalog look-ups inside a transaction; of a relation that is
    // gone the kind is zero, its persistence cannot be asked.
    let permanent = unsafe {
        pg_sys::get_rel_relkind(oid) as u8 == pg_sys::RELKIND_SEQUENCE
            && pg_sys::get_rel_persistence(oid) as u8 != pg_sys::RELPERSISTENCE_TEMP
    };
    if !permanent {
        return None;
    }
    relation_name(oid).filter(|name| name.schema != OWN_SCHEMA).map(|name| quoted(&name))
}

fn quoted(name: &Name) -> String {
    format!("{}.{}", quote_identifier(&name.schema), quote_identifier(&name.relation))
}

/// A row of `pg_sequence` (`catalog/pg_sequence.h`), which the bindings lack.
#[repr(C)]
#[derive(Clone, Copy)]
struct Definition {
    oid: pg_sys::Oid,
    kind: pg_sys::Oid,
    start: i64,
    increment: i64,
    max: i64,
    min: i64,
    cache: i64,
    cycles: bool,
}

/// `SequenceRelationId`.
const SEQUENCE_RELATION: u32 = 2224;

fn definition(oid: pg_sys::Oid) -> Definition {
    // SAFETY: a catalog look-up inside a transaction; the entry is copied and released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::SEQRELID as i32, pg_sys::Datum::from(oid));
        assert!(!tuple.is_null(), "cache lookup failed for sequence {oid:?}");
        let definition = *pg_sys::GETSTRUCT(tuple).cast::<Definition>();
        pg_sys::ReleaseSysCache(tuple);
        definition
    }
}

fn set_physical_increment(oid: pg_sys::Oid, increment: i64) {
    // SAFETY: as `AlterSequence` in `sequence.c` changes the row.
    unsafe {
        let catalog = pg_sys::table_open(pg_sys::Oid::from(SEQUENCE_RELATION), pg_sys::RowExclusiveLock as i32);
        let zero = pg_sys::Datum::from(0);
        let tuple = pg_sys::SearchSysCacheCopy(
            pg_sys::SysCacheIdentifier::SEQRELID as i32,
            pg_sys::Datum::from(oid),
            zero,
            zero,
            zero,
        );
        assert!(!tuple.is_null(), "cache lookup failed for sequence {oid:?}");
        (*pg_sys::GETSTRUCT(tuple).cast::<Definition>()).increment = increment;
        pg_sys::CatalogTupleUpdate(catalog, &raw mut (*tuple).t_self, tuple);
        pg_sys::table_close(catalog, pg_sys::RowExclusiveLock as i32);
        pg_sys::CommandCounterIncrement();
    }
}

/// A function of ours, if this database has it.
fn own_function(name: &CStr, arguments: &[pg_sys::Oid]) -> pg_sys::Oid {
    // SAFETY: a catalog look-up inside a transaction, by a list of C strings.
    unsafe {
        let part = |text: &CStr| pg_sys::makeString(text.as_ptr().cast_mut()).cast();
        let list = pg_sys::lappend(pg_sys::lappend(std::ptr::null_mut(), part(c"pgrenga")), part(name));
        pg_sys::LookupFuncName(list, arguments.len() as i32, arguments.as_ptr(), true)
    }
}

/// The user's own definition: increment and base.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Own {
    increment: i64,
    base: i64,
}

/// Moves one sequence onto this node's values. `used` is a value that must not
/// come again. True if something changed.
fn align(name: &str, touched: Touched, cycles: Cycles, used: Option<i64>) -> bool {
    let Some((slot, slots)) = slots() else { return false };
    let oid = touched.oid;
    let definition = definition(oid);
    if definition.cycles {
        match cycles {
            Cycles::Refuse => crate::ddl::refuse_cycle(),
            Cycles::Warn => {
                pgrx::warning!("sequence {name} has CYCLE and may hand out values of other nodes when it begins again")
            }
        }
    }
    let position = position(name);
    let known = if touched.is_new { None } else { stored(oid) };
    let own = own_definition(known, &definition, position, touched.redefines);
    let Some(lattice) = Lattice::new(own.base, own.increment, slot, slots) else {
        refuse(
            format!("the increment of sequence {name} is too large"),
            format!("Every node steps by the increment times {slots}, which is out of range."),
            "Use a smaller increment.",
        )
    };
    if known != Some(own) {
        store(oid, own);
    }
    if definition.increment != lattice.step() {
        set_physical_increment(oid, lattice.step());
    }
    let target = lattice.realign(position, Bounds { min: definition.min, max: definition.max }, used);
    if let Some(target) = target {
        set_position(oid, target);
    }
    target.is_some() || known != Some(own) || definition.increment != lattice.step()
}

fn own_definition(known: Option<Own>, definition: &Definition, position: Position, redefines: Redefines) -> Own {
    let Some(known) = known else {
        return Own { increment: definition.increment, base: definition.start };
    };
    let increment = if redefines.increment { definition.increment } else { known.increment };
    // A restart alone leaves a value that was not handed out yet.
    let base = if redefines.position && !position.is_called {
        lattice::rebase(known.base, increment, position.last_value)
    } else {
        known.base
    };
    Own { increment, base }
}

/// Where it is on this node.
fn position(name: &str) -> Position {
    let query = format!("{} SELECT last_value, is_called FROM {name}", shown::AS_IT_IS);
    match Spi::connect_mut(|client| {
        let row = client.update(&query, Some(1), &[])?.first();
        row.get_two::<i64, bool>()
    }) {
        Ok((Some(last_value), Some(is_called))) => Position { last_value, is_called },
        other => unexpected(&format!("reading sequence {name}: {other:?}")),
    }
}

fn set_position(oid: pg_sys::Oid, position: Position) {
    // SAFETY: the arguments of `setval(regclass, int8, bool)`; nothing that needs a destructor is alive within.
    unsafe {
        pg_sys::DirectFunctionCall3Coll(
            Some(setval::original()),
            pg_sys::InvalidOid,
            pg_sys::Datum::from(oid),
            pg_sys::Datum::from(position.last_value),
            pg_sys::Datum::from(position.is_called),
        );
    }
}

fn stored(oid: pg_sys::Oid) -> Option<Own> {
    let row = Spi::connect_mut(|client| {
        let query = "SELECT increment, base FROM pgrenga.sequence WHERE relid = $1";
        let rows = client.update(query, Some(1), &[oid.into()])?;
        if rows.is_empty() { Ok((None, None)) } else { rows.first().get_two::<i64, i64>() }
    });
    match row {
        Ok((Some(increment), Some(base))) => Some(Own { increment, base }),
        Ok(_) => None,
        Err(error) => unexpected(&error.to_string()),
    }
}

fn store(oid: pg_sys::Oid, own: Own) {
    let query = "INSERT INTO pgrenga.sequence AS s (relid, increment, base) VALUES ($1, $2, $3)
        ON CONFLICT (relid) DO UPDATE SET increment = excluded.increment, base = excluded.base";
    if let Err(error) = Spi::run_with_args(query, &[oid.into(), own.increment.into(), own.base.into()]) {
        unexpected(&error.to_string());
    }
}

fn unexpected(what: &str) -> ! {
    raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not realign a sequence", what, "")
}

/// Realigns every permanent sequence: after a join, when the data came from a
/// node in another slot, and after a crash. Those named go on beyond what was drawn
/// from them, in this node's data before it was replaced. Returns how many it moved.
#[pg_extern]
fn pgrenga_realign_sequences(schemas: Vec<String>, sequences: Vec<String>, drawn: Vec<i64>) -> i64 {
    // SAFETY: a plain look at this process's role.
    if !unsafe { pg_sys::superuser() } {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "must be superuser to realign sequences",
            "",
            "The daemon does it when it must be done.",
        );
    }
    if slots().is_none() {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "this node's sequence slot is not known yet",
            "Its daemon has not connected since the server started.",
            "Start the daemon.",
        );
    }
    let names = schemas.into_iter().zip(sequences).map(|(schema, relation)| quoted(&Name { schema, relation }));
    let drawn: HashMap<String, i64> = names.zip(drawn).collect();
    as_superuser(|| {
        let (sequences, gone) = (
            "SELECT array_agg(oid ORDER BY oid) FROM pg_class WHERE relkind = 'S' AND relpersistence <> 't'",
            "DELETE FROM pgrenga.sequence s WHERE NOT EXISTS (SELECT FROM pg_sequence WHERE seqrelid = s.relid)",
        );
        if let Err(error) = Spi::run(gone) {
            unexpected(&error.to_string());
        }
        let oids = Spi::get_one::<Vec<pg_sys::Oid>>(sequences).unwrap_or_default().unwrap_or_default();
        oids.into_iter().map(|oid| i64::from(realign_one(oid, &drawn))).sum()
    })
}

fn realign_one(oid: pg_sys::Oid, drawn: &HashMap<String, i64>) -> bool {
    // SAFETY: keeps the sequence in place, and nextval() away from it, until
    // the transaction ends.
    unsafe { pg_sys::LockRelationOid(oid, pg_sys::ShareRowExclusiveLock as i32) };
    let Some(name) = replicated_name(oid) else { return false };
    let used = later(oid, columns::used_value(oid), drawn.get(&name).copied());
    align(&name, Touched { oid, is_new: false, redefines: Redefines::default() }, Cycles::Warn, used)
}

/// The later of two values, in the sequence's direction.
fn later(oid: pg_sys::Oid, one: Option<i64>, other: Option<i64>) -> Option<i64> {
    let values = one.into_iter().chain(other);
    if definition(oid).increment > 0 { values.max() } else { values.min() }
}
