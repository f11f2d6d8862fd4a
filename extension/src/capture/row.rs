//! Rows into ops and keys.

use std::rc::Rc;

use pgrenga_writeset::Sink;
use pgrenga_writeset::op::{self, Value};
use pgrenga_writeset::writeset::{Access, RowLock, TableLocks};
use pgrx::pg_sys;

use super::buffer::Buffer;
use super::hash::Hash;
use super::key::UniqueIndex;
use super::table::{self, Table};
use super::transaction::{KeyOrigin, Transaction};

/// The columns of one row version, deformed.
pub struct Row<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> Row<'a> {
    /// The row in a slot.
    ///
    /// # Safety
    /// The slot is valid, holds a row, and outlives the result.
    pub unsafe fn of_slot(slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: slot_getallattrs fills both arrays for all columns.
        unsafe {
            pg_sys::slot_getallattrs(slot);
            let count = (*(*slot).tts_tupleDescriptor).natts as usize;
            Self {
                values: std::slice::from_raw_parts((*slot).tts_values, count),
                nulls: std::slice::from_raw_parts((*slot).tts_isnull, count),
            }
        }
    }

    /// A row that was deformed into arrays, one element for each column.
    pub fn new(values: &'a [pg_sys::Datum], nulls: &'a [bool]) -> Self {
        Self { values, nulls }
    }

    /// Whether a value lies outside the row, in a TOAST relation.
    pub fn has_toasted(&self, table: &Table) -> bool {
        (0..table.columns.len()).any(|at| table.columns[at].toast_pointer(self.values[at], self.nulls[at]).is_some())
    }

    fn encode(&self, out: &mut impl Sink, table: &Table) {
        op::begin_row(out, table.columns.len() as u16);
        for (at, column) in table.columns.iter().enumerate() {
            column.encode(out, self.values[at], self.nulls[at]);
        }
    }

    /// The columns by which the row is found, the others absent.
    fn encode_identity(&self, out: &mut impl Sink, table: &Table) {
        let Some(identity) = table.identity() else { return self.encode(out, table) };
        op::begin_row(out, table.columns.len() as u16);
        for (at, column) in table.columns.iter().enumerate() {
            if identity.columns().any(|key| key == at) {
                column.encode(out, self.values[at], self.nulls[at]);
            } else {
                Value::Absent.encode(out);
            }
        }
    }

    /// The row as the successor of `old`: TOASTed values that the update did
    /// not touch stay behind. They are the same only if the pointer is that of
    /// the same column in the old version.
    fn encode_successor(&self, out: &mut impl Sink, table: &Table, old: Option<&Row<'_>>) {
        op::begin_row(out, table.columns.len() as u16);
        for (at, column) in table.columns.iter().enumerate() {
            let pointer = column.toast_pointer(self.values[at], self.nulls[at]);
            let untouched = pointer.is_some()
                && old.is_some_and(|old| column.toast_pointer(old.values[at], old.nulls[at]) == pointer);
            if untouched {
                Value::Unchanged.encode(out);
            } else {
                column.encode(out, self.values[at], self.nulls[at]);
            }
        }
    }

    fn key(&self, table: &Table, index: &UniqueIndex) -> Option<Hash> {
        index.key(&table.columns, self.values, self.nulls)
    }

    /// The key of a row that no index identifies: all its bytes.
    fn whole_row_key(&self, table: &Table) -> Hash {
        let mut bytes = Buffer::new();
        self.encode(&mut bytes, table);
        let hash = table.hash.bytes(bytes.as_slice());
        bytes.clear();
        hash
    }
}

/// Hashes of the keys of the row in `slot`, as many as fit; returns how many.
/// Allocates in the current memory context.
///
/// # Safety
/// The relation is open and the slot holds one of its rows.
pub unsafe fn key_hashes(relation: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot, out: &mut [u64]) -> usize {
    let table = table::lookup(relation);
    if table.indexes.is_empty() {
        return 0;
    }
    // SAFETY: the caller's promise.
    let row = unsafe { Row::of_slot(slot) };
    let hashes = table.indexes.iter().filter_map(|index| row.key(&table, index));
    out.iter_mut().zip(hashes).map(|(place, hash)| *place = hash.0).count()
}

impl Transaction {
    fn push_keys(&mut self, table: &Table, ordinal: u16, row: &Row<'_>, mode: RowLock) {
        for (at, index) in table.indexes.iter().enumerate() {
            if let Some(hash) = row.key(table, index) {
                let origin = KeyOrigin::Row { table: ordinal, index: Some(at as u16) };
                self.push_key(hash, mode, index.write_access(), origin);
            }
        }
    }

    fn push_row_identity(&mut self, table: &Table, ordinal: u16, row: &Row<'_>, mode: RowLock, access: Access) {
        let (hash, index) = match table.identity {
            Some(at) => (row.key(table, &table.indexes[at]), Some(at as u16)),
            None => (Some(row.whole_row_key(table)), None),
        };
        if let Some(hash) = hash {
            self.push_key(hash, mode, access, KeyOrigin::Row { table: ordinal, index });
        }
    }

    /// A row came in.
    pub(super) fn record_insert(&mut self, table: &Rc<Table>, row: &Row<'_>) {
        self.mark_subtransaction();
        self.use_for_write(table);
        let ordinal = self.table(table);
        op::begin_insert(self.body(), ordinal);
        row.encode(self.body(), table);
        self.push_keys(table, ordinal, row, RowLock::Update);
        self.count_op();
    }

    /// A row changed under row lock `mode`. `old` is `None` only if the update
    /// left all keys alone and nothing is TOASTed.
    pub(super) fn record_update(&mut self, table: &Rc<Table>, old: Option<&Row<'_>>, new: &Row<'_>, mode: RowLock) {
        self.mark_subtransaction();
        self.use_for_write(table);
        let ordinal = self.table(table);
        op::begin_update(self.body(), ordinal);
        old.unwrap_or(new).encode_identity(self.body(), table);
        new.encode_successor(self.body(), table, old);
        if let Some(old) = old {
            self.push_keys(table, ordinal, old, mode);
            if table.identity.is_none() {
                self.push_row_identity(table, ordinal, old, mode, Access::Write);
            }
        }
        self.push_keys(table, ordinal, new, mode);
        self.count_op();
    }

    /// A row went away.
    pub(super) fn record_delete(&mut self, table: &Rc<Table>, old: &Row<'_>) {
        self.mark_subtransaction();
        self.use_for_write(table);
        let ordinal = self.table(table);
        op::begin_delete(self.body(), ordinal);
        old.encode_identity(self.body(), table);
        self.push_keys(table, ordinal, old, RowLock::Update);
        if table.identity.is_none() {
            self.push_row_identity(table, ordinal, old, RowLock::Update, Access::Write);
        }
        self.count_op();
    }

    /// What the table holds is replaced: [`Self::record_content_row`] says by what.
    pub(super) fn record_replacement(&mut self, table: &Rc<Table>) {
        self.begin_write();
        self.mark_subtransaction();
        self.use_relation(&table.schema, &table.name, TableLocks::ACCESS_EXCLUSIVE, TableLocks::default());
        let ordinal = self.table(table);
        op::replace(self.body(), ordinal);
        self.count_op();
    }

    /// Rows that lack the column, because it was added later, have this in it.
    pub(super) fn record_missing(&mut self, table: &Rc<Table>, column: u16, value: &str) {
        self.mark_subtransaction();
        let ordinal = self.table(table);
        op::missing(self.body(), ordinal, column, value);
        self.count_op();
    }

    /// A row of a table's new content. Nobody else uses the table at all, so it needs no key.
    pub(super) fn record_content_row(&mut self, table: &Rc<Table>, row: &Row<'_>) {
        let ordinal = self.table(table);
        op::begin_insert(self.body(), ordinal);
        row.encode(self.body(), table);
        self.count_op();
    }

    /// A row was locked.
    pub(super) fn record_lock(&mut self, table: &Rc<Table>, row: &Row<'_>, mode: RowLock) {
        self.mark_subtransaction();
        self.use_for_lock(table);
        let ordinal = self.table(table);
        self.push_row_identity(table, ordinal, row, mode, Access::Lock);
    }
}
