//! The table locks that a transaction holds at pre-commit: readers' and
//! `LOCK TABLE`'s, which no row tells of, and those of DDL.

use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

use pgrenga_writeset::writeset::{Flags, TableLocks};
use pgrx::pg_sys;

use super::OWN_SCHEMA;
use super::hash::Hash;
use super::transaction::Transaction;
use super::value::FIRST_USER_OID;
use crate::backend::BackendLocal;

#[derive(Clone)]
pub(super) struct Name {
    pub(super) hash: u64,
    pub(super) text: Rc<str>,
    is_sequence: bool,
    pub(super) is_unlogged: bool,
    pub(super) is_materialized_view: bool,
}

/// Names of lockable relations by OID; `None` for indexes, temporary
/// relations and our own.
static NAMES: BackendLocal<Option<HashMap<pg_sys::Oid, Option<Name>>>> = BackendLocal::new(None);

/// Forgets what is known of a relation, or of all.
pub(super) fn forget(relation: pg_sys::Oid) {
    // SAFETY: nobody borrows the map across calls into PostgreSQL.
    if let Some(names) = unsafe { NAMES.borrow() } {
        if relation == pg_sys::InvalidOid {
            names.clear();
        } else {
            names.remove(&relation);
        }
    }
}

/// Modes up to this one are taken by readers and writers of rows; stronger
/// ones by DDL and `LOCK TABLE`.
const STRONGEST_OF_ROWS: u8 = 3;

/// What `nextval()` takes on its sequence, until the transaction ends.
const OF_NEXTVAL: TableLocks = TableLocks::ROW_EXCLUSIVE;

/// The replicated sequences that this transaction may have drawn values from.
pub fn sequences_in_use() -> Vec<pg_sys::Oid> {
    let mut sequences = Vec::new();
    for_each_relation_lock(|relation, mask| {
        if mask.intersects(OF_NEXTVAL) && name_of(relation).is_some_and(|name| name.is_sequence) {
            sequences.push(relation);
        }
    });
    sequences
}

impl Transaction {
    /// Adds every table lock that this process holds. The applier takes a
    /// DDL's locks as well; readers' and `LOCK TABLE`'s were only held here.
    /// What the applier takes anyway is not listed as only held: that would
    /// make it count from the beginning. Returns the sequences among them, as
    /// [`sequences_in_use`] does.
    pub fn use_held_locks(&mut self) -> Vec<pg_sys::Oid> {
        let is_ddl = self.flags().contains(Flags::BARRIER);
        let mut sequences = Vec::new();
        for_each_relation_lock(|relation, mask| {
            let Some(name) = name_of(relation) else { return };
            if name.is_sequence && mask.intersects(OF_NEXTVAL) {
                sequences.push(relation);
            }
            let rows = TableLocks(mask.0 & ((1 << (STRONGEST_OF_ROWS + 1)) - 1));
            let strong = TableLocks(mask.0 & !rows.0);
            let (applied, held) = if is_ddl { (strong, rows) } else { (TableLocks::default(), rows.union(strong)) };
            self.use_hashed(name.hash, applied, held, || Rc::clone(&name.text));
        });
        self.forget_held_where_applied();
        sequences
    }
}

/// How a lockable relation is called; nothing for others.
pub(super) fn name_of(relation: pg_sys::Oid) -> Option<Name> {
    if u32::from(relation) < FIRST_USER_OID {
        return None;
    }
    // SAFETY: short borrows, none across the look-up.
    if let Some(known) = unsafe { NAMES.borrow() }.as_ref().and_then(|names| names.get(&relation)) {
        return known.clone();
    }
    let name = look_up(relation);
    // SAFETY: as above.
    unsafe { NAMES.borrow() }.get_or_insert_default().insert(relation, name.clone());
    name
}

fn look_up(relation: pg_sys::Oid) -> Option<Name> {
    // SAFETY: catalog look-ups inside a transaction; the cache entry is
    // released before anything else happens, the names are palloc'd.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(relation));
        if tuple.is_null() {
            return None;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let lockable = matches!((*class).relkind as u8, b'r' | b'p' | b'v' | b'm' | b'S' | b'f')
            && (*class).relpersistence != pg_sys::RELPERSISTENCE_TEMP as i8;
        let is_sequence = (*class).relkind as u8 == pg_sys::RELKIND_SEQUENCE;
        let is_unlogged = (*class).relpersistence == pg_sys::RELPERSISTENCE_UNLOGGED as i8;
        let is_materialized_view = (*class).relkind as u8 == pg_sys::RELKIND_MATVIEW;
        let namespace = (*class).relnamespace;
        let name = CStr::from_ptr((*class).relname.data.as_ptr()).to_string_lossy().into_owned();
        pg_sys::ReleaseSysCache(tuple);
        let schema = pg_sys::get_namespace_name(namespace);
        if !lockable || schema.is_null() {
            return None;
        }
        let schema = CStr::from_ptr(schema).to_string_lossy();
        (schema != OWN_SCHEMA).then(|| Name {
            hash: Hash::relation(&schema, &name).0,
            text: format!("{schema}.{name}").into(),
            is_sequence,
            is_unlogged,
            is_materialized_view,
        })
    }
}

/// Calls `each` with the relations of this database that this process has
/// locked and the modes. First the fast path, then the lock table: a lock that
/// another process moves meanwhile goes that way, so none is missed.
pub(super) fn for_each_relation_lock(mut each: impl FnMut(pg_sys::Oid, TableLocks)) {
    let mut found: Vec<(pg_sys::Oid, TableLocks)> = Vec::with_capacity(32);
    // SAFETY: this process's own PGPROC. Its fast-path array is changed only
    // by itself, and by others that move locks away under `fpInfoLock`; its
    // lists only under the partitions' locks.
    unsafe {
        let me = pg_sys::MyProc;
        pg_sys::LWLockAcquire(&raw mut (*me).fpInfoLock, pg_sys::LWLockMode::LW_SHARED);
        for (slot, relation) in (*me).fpRelId.iter().enumerate() {
            // Three bits for each slot: AccessShare, RowShare, RowExclusive (lock.c).
            let bits = ((*me).fpLockBits >> (3 * slot)) & 7;
            if bits != 0 {
                found.push((*relation, TableLocks((bits as u16) << 1)));
            }
        }
        pg_sys::LWLockRelease(&raw mut (*me).fpInfoLock);
    }
    for_each_lock(|tag, mask| {
        // SAFETY: a plain variable of this process.
        let database = u32::from(unsafe { pg_sys::MyDatabaseId });
        if tag.locktag_type == pg_sys::LockTagType::LOCKTAG_RELATION as u8 && tag.locktag_field1 == database {
            found.push((pg_sys::Oid::from(tag.locktag_field2), mask));
        }
    });
    found.into_iter().for_each(|(relation, mask)| each(relation, mask));
}

/// Whether this process holds an advisory lock; outside of a transaction it can only be the session's.
pub fn holds_advisory_lock() -> bool {
    let mut holds = false;
    for_each_lock(|tag, _| holds |= tag.locktag_type == pg_sys::LockTagType::LOCKTAG_ADVISORY as u8);
    holds
}

/// Calls `each` with what this process has in the lock table, which is all but the fast path's. It must not call back
/// into PostgreSQL.
fn for_each_lock(mut each: impl FnMut(&pg_sys::LOCKTAG, TableLocks)) {
    // SAFETY: this process's own PGPROC, whose lists change only under the partitions' locks.
    unsafe {
        let me = pg_sys::MyProc;
        for partition in 0..pg_sys::NUM_LOCK_PARTITIONS as usize {
            let head = &raw mut (*me).myProcLocks[partition];
            if (*head).next == head {
                continue;
            }
            let lock =
                &raw mut (*pg_sys::MainLWLockArray.add(pg_sys::LOCK_MANAGER_LWLOCK_OFFSET as usize + partition)).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_SHARED);
            let mut link = (*head).next;
            while link != head {
                let held = link.byte_sub(std::mem::offset_of!(pg_sys::PROCLOCK, procLink)).cast::<pg_sys::PROCLOCK>();
                each(&(*(*held).tag.myLock).tag, TableLocks((*held).holdMask as u16));
                link = (*link).next;
            }
            pg_sys::LWLockRelease(lock);
        }
    }
}
