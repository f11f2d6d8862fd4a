//! Finding the row that an op names.
//!
//! Rows are looked for with `SnapshotSelf`: whatever is committed, and what
//! this transaction did itself. A version that another transaction is about to
//! replace still counts; the caller finds that transaction when it writes.

use pgrenga_writeset::op::Row;
use pgrx::pg_sys::{self, Datum};

use super::failure;
use super::relation::Opened;
use super::value::Decoded;

/// The unique index by which rows of one relation are found.
pub(super) struct Identity {
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    /// One for each key column; the argument changes from row to row.
    keys: Vec<pg_sys::ScanKeyData>,
    /// Position in the table of each key column, from 0.
    columns: Vec<usize>,
    /// Where the scan lives: it allocates as it goes (`killedItems` in
    /// nbtree.c), and keeps that from row to row.
    context: pg_sys::MemoryContext,
}

const ROW_EXCLUSIVE: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
const NO_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

unsafe extern "C-unwind" {
    /// `datum.c`: equal bytes, once detoasted.
    #[link_name = "datum_image_eq"]
    fn unguarded_datum_image_eq(left: Datum, right: Datum, by_value: bool, length: i32) -> bool;
}

impl Identity {
    /// Opens some index of `relation` that can hold only one row with a value.
    pub(super) fn any(relation: pg_sys::Relation) -> Option<Self> {
        // SAFETY: the relation is open and locked, so its indexes stay; the list is palloc'd.
        let indexes: Vec<_> = unsafe {
            let list = pg_sys::RelationGetIndexList(relation);
            let length = if list.is_null() { 0 } else { (*list).length };
            (0..length).map(|at| pg_sys::list_nth_oid(list, at)).collect()
        };
        indexes.into_iter().find_map(|index| Self::open(relation, index))
    }

    /// Opens index `oid`; `None` if it is not a unique index on plain columns
    /// of `relation` that holds all of its rows and refuses a second one at once.
    pub(super) fn open(relation: pg_sys::Relation, oid: pg_sys::Oid) -> Option<Self> {
        if oid == pg_sys::InvalidOid {
            return None;
        }
        // SAFETY: the index is open from here on, and with it its relcache entry.
        unsafe {
            let index = pg_sys::relation_open(oid, ROW_EXCLUSIVE);
            let form = (*index).rd_index;
            let is_unique = !form.is_null()
                && (*form).indrelid == (*relation).rd_id
                && (*form).indisunique
                && (*form).indimmediate
                && (*form).indisvalid
                && pg_sys::RelationGetIndexPredicate(index).is_null();
            if !is_unique {
                pg_sys::relation_close(index, ROW_EXCLUSIVE);
                return None;
            }
            let numbers = (*form).indkey.values.as_slice((*form).indnkeyatts as usize);
            if numbers.iter().any(|&number| number <= 0) {
                pg_sys::relation_close(index, ROW_EXCLUSIVE);
                return None;
            }
            let columns = numbers.iter().map(|&number| number as usize - 1).collect::<Vec<_>>();
            let keys = (0..columns.len()).map(|at| scan_key(index, at)).collect::<Vec<_>>();
            let snapshot = &raw mut pg_sys::SnapshotSelfData;
            let scan = pg_sys::index_beginscan(relation, index, snapshot, keys.len() as i32, 0);
            Some(Self { index, scan, keys, columns, context: pg_sys::CurrentMemoryContext })
        }
    }

    /// Positions of the key columns.
    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Whether the values say which row it is: one with a NULL may be there many times.
    fn has_all(&self, values: &[Decoded]) -> bool {
        self.columns.iter().all(|&at| matches!(values[at], Decoded::Datum(_)))
    }

    fn set(&mut self, column: usize, value: Decoded) {
        for (key, _) in self.keys.iter_mut().zip(&self.columns).filter(|(_, at)| **at == column) {
            match value {
                Decoded::Datum(datum) => {
                    key.sk_flags = 0;
                    key.sk_argument = datum;
                }
                _ => {
                    key.sk_flags = (pg_sys::SK_ISNULL | pg_sys::SK_SEARCHNULL) as i32;
                    key.sk_argument = Datum::from(0usize);
                }
            }
        }
    }

    fn find(&mut self, slot: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: the scan was begun for these keys and this slot's relation;
        // index_rescan copies the keys.
        unsafe {
            let none = std::ptr::null_mut();
            let outer = pg_sys::MemoryContextSwitchTo(self.context);
            pg_sys::index_rescan(self.scan, self.keys.as_mut_ptr(), self.keys.len() as i32, none, 0);
            let found = pg_sys::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
            pg_sys::MemoryContextSwitchTo(outer);
            found
        }
    }

    pub(super) fn close(self) {
        // SAFETY: opened by `open`, closed once.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::relation_close(self.index, NO_LOCK);
        }
    }
}

/// "Column `at` of the index equals": by the operator that the index itself
/// uses, so that 1.0 finds 1.00.
///
/// # Safety
/// The index is open and has that key column.
unsafe fn scan_key(index: pg_sys::Relation, at: usize) -> pg_sys::ScanKeyData {
    // SAFETY: the arrays have one element for each key column.
    unsafe {
        let (family, input) = (*(*index).rd_opfamily.add(at), *(*index).rd_opcintype.add(at));
        let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
        let operator = pg_sys::get_opfamily_member(family, input, input, equal as i16);
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        pg_sys::ScanKeyEntryInitialize(
            &mut key,
            0,
            at as i16 + 1,
            equal,
            pg_sys::InvalidOid,
            *(*index).rd_indcollation.add(at),
            pg_sys::get_opcode(operator),
            Datum::from(0usize),
        );
        key
    }
}

/// Gives a slot that a table scan has filled a tuple header of its own: the scan's is gone with it
/// (`tts_buffer_heap_copyslot` does so too). The tuple itself is in the buffer, on which the slot has its own pin.
///
/// # Safety
/// The slot holds a heap tuple, in its buffer.
unsafe fn own_header(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: the caller's promise.
    unsafe {
        let slot = slot.cast::<pg_sys::HeapTupleTableSlot>();
        (*slot).tupdata = *(*slot).tuple;
        (*slot).tuple = &raw mut (*slot).tupdata;
    }
}

impl Opened {
    /// Looks for the row that `old` names and puts it into the `old` slot.
    pub(super) fn find(&mut self, old: &Row<'_>) -> bool {
        self.decoder.check(old);
        match &mut self.identity {
            Some(identity) => {
                let columns = identity.columns.clone();
                self.decoder.decode(old, |at| columns.contains(&at), |at, value| identity.set(at, value));
                identity.find(self.old)
            }
            None => self.find_whole(old),
        }
    }

    /// One row all of whose columns have the same bytes. Which one of several
    /// makes no difference.
    fn find_whole(&mut self, old: &Row<'_>) -> bool {
        let mut wanted = Vec::with_capacity(old.columns());
        wanted.resize_with(old.columns(), || Decoded::Null);
        self.decoder.decode(old, |_| true, |at, value| wanted[at] = value);
        if wanted.iter().any(|value| matches!(value, Decoded::Unchanged | Decoded::Absent)) {
            failure::malformed("a row that no index identifies lacks columns");
        }
        if let Some(index) = self.whole.as_mut().filter(|index| index.has_all(&wanted)) {
            index.columns.clone().into_iter().for_each(|at| index.set(at, wanted[at]));
            // SAFETY: the slot holds the only row that can be it.
            return index.find(self.old) && unsafe { self.is(&wanted) };
        }
        // SAFETY: the scan ends before anything else uses the relation; the
        // slot keeps its own pin on the row that was found.
        unsafe {
            let snapshot = &raw mut pg_sys::SnapshotSelfData;
            let scan = pg_sys::table_beginscan(self.relation, snapshot, 0, std::ptr::null_mut());
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let mut found = false;
            while !found && pg_sys::table_scan_getnextslot(scan, forward, self.old) {
                super::interrupt();
                found = self.is(&wanted);
            }
            if found {
                own_header(self.old);
            }
            pg_sys::table_endscan(scan);
            found
        }
    }

    /// Whether the row in the `old` slot is this one.
    ///
    /// # Safety
    /// The slot holds a row.
    unsafe fn is(&self, wanted: &[Decoded]) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            pg_sys::slot_getallattrs(self.old);
            wanted.iter().enumerate().all(|(at, value)| self.same(at, value))
        }
    }

    /// Whether column `at` of the row in the `old` slot is this value.
    ///
    /// # Safety
    /// The slot holds a row, deformed.
    unsafe fn same(&self, at: usize, value: &Decoded) -> bool {
        // SAFETY: the arrays have one element for each column.
        unsafe {
            let is_null = *(*self.old).tts_isnull.add(at);
            let Decoded::Datum(wanted) = *value else { return is_null };
            if is_null {
                return false;
            }
            let found = *(*self.old).tts_values.add(at);
            let column = self.decoder.attribute(at);
            if column.attbyval {
                return found.value() == wanted.value();
            }
            let length = i32::from(column.attlen);
            // SAFETY: both are values of the column's type.
            pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded_datum_image_eq(found, wanted, false, length))
        }
    }
}
