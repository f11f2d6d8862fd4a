//! Large objects: what a transaction does to them, it does on every node.
//!
//! PostgreSQL keeps them in catalogs, which no table access method and no statement tells of. So the functions
//! that write are replaced at their entry in the table of built-in functions, through which SQL and the protocol's
//! function calls (libpq's `lo_write()`) come alike. Each takes a lock on the object first, as PostgreSQL itself does
//! only for `lo_unlink()`: then nobody else, no applier either, changes it until the transaction ends, and one
//! certification key for each object tells of all conflicts. That objects come and go is told by
//! `object_access_hook`, whoever creates or drops them. All of it becomes steps of the writeset, which a savepoint
//! takes back like rows.
//!
//! OIDs that nobody chose are drawn from this node's own residue, as values of sequences are, so that two nodes do
//! not draw the same.

use pgrenga_writeset::large_object::{Change, LargeObject, PIECE};
use pgrx::IntoDatum as _;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid};

use crate::backend::BackendLocal;
use crate::builtin::{self, Original, argument, value};
use crate::capture;
use crate::ddl::{is_watched, role_name};
use crate::error::{PgSqlErrorCode, raise, refuse};
use crate::read;
use crate::sequence;
use crate::serializable;

/// `LargeObjectRelationId`: the class of large objects among all objects.
pub const CLASS: u32 = 2613;
/// `LargeObjectMetadataRelationId`, its index, and the number of its column `oid`.
const METADATA: (u32, u32, i16) = (2995, 2996, 1);
/// `lo_import(text, oid)` and `lo_get(oid)`; the bindings give these another type.
const LO_IMPORT_WITH_OID: u32 = 767;
const LO_GET: u32 = 3458;
/// `libpq/libpq-fs.h`.
const INV_WRITE: i32 = 0x0002_0000;

unsafe extern "C-unwind" {
    /// `catalog/pg_largeobject.h`.
    #[link_name = "LargeObjectExists"]
    fn unguarded_exists(oid: Oid) -> bool;
}

static ORIGINALS: BackendLocal<Vec<(u32, Original)>> = BackendLocal::new(Vec::new());

/// Which object each descriptor of this session was opened for last. PostgreSQL closes them all when the
/// transaction ends.
static OPEN: BackendLocal<Vec<(i32, Oid)>> = BackendLocal::new(Vec::new());

/// Puts our functions in the place of PostgreSQL's. Call from `_PG_init`.
pub fn install() {
    const OURS: [(u32, Original); 14] = [
        (pg_sys::F_LO_CREAT, lo_creat),
        (pg_sys::F_LO_CREATE, lo_create),
        (pg_sys::F_LO_FROM_BYTEA, lo_from_bytea),
        (pg_sys::F_LO_IMPORT_TEXT, lo_import),
        (LO_IMPORT_WITH_OID, lo_import_with_oid),
        (pg_sys::F_LO_OPEN, lo_open),
        (pg_sys::F_LOWRITE, lowrite),
        (pg_sys::F_LO_PUT, lo_put),
        (pg_sys::F_LO_TRUNCATE, lo_truncate),
        (pg_sys::F_LO_TRUNCATE64, lo_truncate64),
        (pg_sys::F_LOREAD, loread),
        (LO_GET, lo_get),
        (pg_sys::F_LO_GET_OID_INT8_INT4, lo_get_fragment),
        (pg_sys::F_LO_EXPORT, lo_export),
    ];
    for (function, ours) in OURS {
        let original = builtin::replace(function, ours);
        // SAFETY: in the postmaster, single-threaded.
        unsafe { ORIGINALS.borrow() }.push((function, original));
    }
}

/// Calls a function as PostgreSQL has it, with the arguments that it came with.
///
/// # Safety
/// They are that function's. An error jumps over the callers: nothing in them needs a destructor.
unsafe fn original(function: u32, call: FunctionCallInfo) -> Datum {
    // SAFETY: filled at server start; the caller's promise.
    unsafe {
        let known = ORIGINALS.borrow().iter().find(|(known, _)| *known == function);
        (known.expect("replaced at server start").1)(call)
    }
}

/// An OID for a new object: one of this node's own.
fn fresh_oid() -> Datum {
    // Not before this node may write, when it knows its residue.
    capture::transaction().begin_write();
    let (slot, slots) = sequence::slots().unwrap_or((0, 1));
    let (catalog, index, column) = METADATA;
    // SAFETY: the catalog is open while OIDs are looked up in it.
    unsafe {
        let relation = pg_sys::table_open(Oid::from(catalog), pg_sys::AccessShareLock as i32);
        let oid = loop {
            pg_sys::check_for_interrupts!();
            let oid = pg_sys::GetNewOidWithIndex(relation, Oid::from(index), column);
            if u32::from(oid) % slots == slot % slots {
                break oid;
            }
        };
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        Datum::from(oid)
    }
}

/// Calls one of our functions with another OID than the client's, which was none.
///
/// # Safety
/// The function has these arguments.
unsafe fn call_again(function: u32, first: Datum, second: Option<Datum>) -> Datum {
    // SAFETY: the caller's promise.
    unsafe {
        match second {
            None => pg_sys::OidFunctionCall1Coll(Oid::from(function), pg_sys::InvalidOid, first),
            Some(second) => pg_sys::OidFunctionCall2Coll(Oid::from(function), pg_sys::InvalidOid, first, second),
        }
    }
}

/// Whether a function that creates is to choose the OID, in the argument at that place.
unsafe fn chooses_oid(call: FunctionCallInfo, at: usize) -> bool {
    // SAFETY: the caller's arguments.
    is_watched() && unsafe { value::<Oid>(call, at) } == pg_sys::InvalidOid
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_creat(call: FunctionCallInfo) -> Datum {
    // SAFETY: the function's own arguments; so in all that follow.
    unsafe {
        if is_watched() {
            return call_again(pg_sys::F_LO_CREATE, fresh_oid(), None);
        }
        original(pg_sys::F_LO_CREAT, call)
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_create(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        if chooses_oid(call, 0) {
            return call_again(pg_sys::F_LO_CREATE, fresh_oid(), None);
        }
        original(pg_sys::F_LO_CREATE, call)
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_from_bytea(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        if chooses_oid(call, 0) {
            return call_again(pg_sys::F_LO_FROM_BYTEA, fresh_oid(), Some(argument(call, 1)));
        }
        let oid = original(pg_sys::F_LO_FROM_BYTEA, call);
        if is_watched() {
            record_bytea(value(call, 0), 0, argument(call, 1));
        }
        oid
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_import(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        if is_watched() {
            return call_again(LO_IMPORT_WITH_OID, argument(call, 0), Some(fresh_oid()));
        }
        original(pg_sys::F_LO_IMPORT_TEXT, call)
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_import_with_oid(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        if chooses_oid(call, 1) {
            return call_again(LO_IMPORT_WITH_OID, argument(call, 0), Some(fresh_oid()));
        }
        let oid = original(LO_IMPORT_WITH_OID, call);
        if is_watched() {
            record_content(value(call, 1));
        }
        oid
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_open(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        let (oid, mode) = (value::<Oid>(call, 0), value::<i32>(call, 1));
        let descriptor = if mode & INV_WRITE == 0 {
            read::large_object(|| original(pg_sys::F_LO_OPEN, call))
        } else {
            original(pg_sys::F_LO_OPEN, call)
        };
        let open = OPEN.borrow();
        open.retain(|(known, _)| *known != descriptor.value() as i32);
        open.push((descriptor.value() as i32, oid));
        descriptor
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lowrite(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        let Some(oid) = begin_change_through(call) else { return unknown(pg_sys::F_LOWRITE, call) };
        let tell = Oid::from(pg_sys::F_LO_TELL64);
        let offset = pg_sys::OidFunctionCall1Coll(tell, pg_sys::InvalidOid, argument(call, 0));
        let written = original(pg_sys::F_LOWRITE, call);
        record_bytea(oid, offset.value() as u64, argument(call, 1));
        written
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_put(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        if !is_watched() {
            return original(pg_sys::F_LO_PUT, call);
        }
        let oid = value(call, 0);
        begin_change(oid);
        let nothing = original(pg_sys::F_LO_PUT, call);
        record_bytea(oid, value::<i64>(call, 1) as u64, argument(call, 2));
        nothing
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_truncate(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe { truncate(pg_sys::F_LO_TRUNCATE, call, value::<i32>(call, 1) as u64) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_truncate64(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe { truncate(pg_sys::F_LO_TRUNCATE64, call, value::<i64>(call, 1) as u64) }
}

unsafe fn truncate(function: u32, call: FunctionCallInfo, length: u64) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe {
        let Some(oid) = begin_change_through(call) else { return unknown(function, call) };
        let result = original(function, call);
        record(oid, Change::Truncate { length });
        result
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn loread(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe { read::large_object(|| original(pg_sys::F_LOREAD, call)) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_get(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe { read::large_object(|| original(LO_GET, call)) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_get_fragment(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe { read::large_object(|| original(pg_sys::F_LO_GET_OID_INT8_INT4, call)) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn lo_export(call: FunctionCallInfo) -> Datum {
    // SAFETY: see `lo_creat`.
    unsafe { read::large_object(|| original(pg_sys::F_LO_EXPORT, call)) }
}

/// Before a change through a descriptor, the first argument: of which object. Nothing if it need not be captured,
/// or nobody saw the descriptor being opened.
unsafe fn begin_change_through(call: FunctionCallInfo) -> Option<Oid> {
    if !is_watched() {
        return None;
    }
    // SAFETY: the caller's first argument; a short borrow.
    let (descriptor, open) = unsafe { (value::<i32>(call, 0), OPEN.borrow()) };
    let oid = open.iter().find(|(known, _)| *known == descriptor).map(|(_, oid)| *oid)?;
    begin_change(oid);
    Some(oid)
}

/// A change through a descriptor of which nothing is known. It had better be none.
unsafe fn unknown(function: u32, call: FunctionCallInfo) -> Datum {
    // SAFETY: the caller's promise.
    let result = unsafe { original(function, call) };
    if is_watched() {
        refuse(
            "a change to a large object was not captured",
            "A function written in C opened it without lo_open().",
            "Use lo_open().",
        );
    }
    result
}

/// Keeps everybody else from changing the object until the transaction ends.
fn begin_change(oid: Oid) {
    refuse_read_only();
    capture::transaction().begin_write();
    let had_to_wait = !try_lock(oid);
    if had_to_wait {
        lock(oid);
    }
    // It may have gone while we waited.
    if !exists(oid) {
        let message = format!("large object {} does not exist", u32::from(oid));
        raise(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, message, "", "");
    }
    // What this transaction has read of it, and where its end was, may be no longer so.
    if had_to_wait {
        raise(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update",
            format!("Another transaction has changed large object {} meanwhile.", u32::from(oid)),
            "Try the transaction again.",
        );
    }
}

fn try_lock(oid: Oid) -> bool {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::ConditionalLockDatabaseObject(Oid::from(CLASS), oid, 0, pg_sys::ExclusiveLock as i32) }
}

/// PostgreSQL 15 lets READ ONLY transactions write large objects, but what SERIALIZABLE ones have read it may
/// forget before their end.
fn refuse_read_only() {
    // SAFETY: a plain variable of this process.
    if serializable::is_serializable() && unsafe { pg_sys::XactReadOnly } {
        raise(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot change large objects in a read-only transaction",
            "",
            "",
        );
    }
}

/// Whoever changes a large object holds this lock.
pub fn lock(oid: Oid) {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::LockDatabaseObject(Oid::from(CLASS), oid, 0, pg_sys::ExclusiveLock as i32) };
}

/// Whether there is such an object now.
pub fn exists(oid: Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded_exists(oid)) }
}

fn record(oid: Oid, change: Change<'_>) {
    capture::transaction().record_large_object(&LargeObject { oid: oid.into(), change });
}

/// Records that the bytes were written from `offset` on.
unsafe fn record_bytea(oid: Oid, offset: u64, bytea: Datum) {
    // SAFETY: the caller has a value of that type, which stays where it is.
    let data = unsafe {
        let varlena = pg_sys::pg_detoast_datum_packed(bytea.cast_mut_ptr());
        std::slice::from_raw_parts(
            pgrx::varlena::vardata_any(varlena).cast::<u8>(),
            pgrx::varlena::varsize_any_exhdr(varlena),
        )
    };
    for (number, data) in data.chunks(PIECE).enumerate() {
        record(oid, Change::Write { offset: offset + (number * PIECE) as u64, data });
    }
}

/// Records all that the object holds, which this transaction has just written.
fn record_content(oid: Oid) {
    let mut offset = 0;
    loop {
        // SAFETY: `lo_get()` with its arguments, under a snapshot that shows this command's changes.
        let piece = unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let piece = pg_sys::OidFunctionCall3Coll(
                Oid::from(pg_sys::F_LO_GET_OID_INT8_INT4),
                pg_sys::InvalidOid,
                Datum::from(oid),
                (offset as i64).into_datum().expect("not null"),
                Datum::from(PIECE as i32),
            );
            pg_sys::PopActiveSnapshot();
            piece.cast_mut_ptr::<pg_sys::varlena>()
        };
        // SAFETY: a palloc'd bytea.
        unsafe {
            let length = pgrx::varlena::varsize_any_exhdr(piece);
            record_bytea(oid, offset, Datum::from(piece));
            pg_sys::pfree(piece.cast());
            offset += length as u64;
            if length < PIECE {
                return;
            }
        }
    }
}

/// An object has come into being (`object_access_hook`).
pub fn created(oid: Oid) {
    if is_watched() {
        refuse_read_only();
        // SAFETY: a plain variable of this process.
        let owner = role_name(unsafe { pg_sys::GetUserId() });
        record(oid, Change::Create { owner: &owner });
    }
}

/// An object is about to go; `by_statement` if a captured statement has it dropped on every node. It is locked.
pub fn dropped(oid: Oid, by_statement: bool) {
    if !is_watched() {
        return;
    }
    refuse_read_only();
    if by_statement {
        capture::transaction().use_large_object(oid.into());
    } else {
        record(oid, Change::Unlink);
    }
}

/// The transaction ended. Never fails.
pub fn forget() {
    // SAFETY: a short borrow.
    unsafe { OPEN.borrow() }.clear();
}
