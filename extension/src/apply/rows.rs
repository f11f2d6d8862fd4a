//! Row changes, through the table access method: no triggers, no CHECKs, no
//! generated columns, and the row-lock mode that PostgreSQL itself chooses.

use pgrenga_writeset::op::Row;
use pgrx::pg_sys::{self, Datum, TM_Result};

use super::execution::Execution;
use super::failure;
use super::relation::Opened;
use super::value::Decoded;
use crate::brute_force;
use crate::capture;
use crate::commit;
use crate::shmem::{self, NEEDED_KEYS};

/// How often a row may turn out to have been replaced before the writeset is
/// put back.
const MAX_LOOKS: u32 = 100;
/// How often a row is looked for once all that comes before is visible.
const SETTLED_LOOKS: u32 = 3;

/// What becomes of the row that was found.
enum Change<'a> {
    Update(&'a Row<'a>),
    Delete,
}

/// What the access method said.
struct Attempt {
    result: TM_Result::Type,
    lock_mode: pg_sys::LockTupleMode::Type,
    update_indexes: bool,
}

impl Execution<'_> {
    pub(super) fn insert(&mut self, relation: u16, new: &Row<'_>) {
        let open = self.relation(relation);
        open.store_new(new, false);
        // SAFETY: the slot holds a row of this relation.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::table_tuple_insert(open.relation, open.new, command, open.insert_options, std::ptr::null_mut());
        }
        self.insert_index_entries(relation, false);
    }

    pub(super) fn update(&mut self, relation: u16, old: &Row<'_>, new: &Row<'_>) {
        if self.change(relation, old, &Change::Update(new)).update_indexes {
            self.insert_index_entries(relation, true);
        } else {
            self.relation(relation).clear();
        }
    }

    pub(super) fn delete(&mut self, relation: u16, old: &Row<'_>) {
        self.change(relation, old, &Change::Delete);
        self.relation(relation).clear();
    }

    fn insert_index_entries(&mut self, relation: u16, is_update: bool) {
        let estate = self.estate();
        let open = self.relation(relation);
        open.tell_keys(open.new);
        open.insert_index_entries(estate, is_update);
        open.clear();
    }

    /// Finds the row and changes it. Whoever holds it is not ordered yet and
    /// has to go; whoever replaced it meanwhile came before: look again.
    fn change(&mut self, relation: u16, old: &Row<'_>, change: &Change<'_>) -> Attempt {
        let (first, seq) = (self.first, self.seq);
        let open = self.relation(relation);
        for _ in 0..MAX_LOOKS {
            super::interrupt();
            if !open.find(old) {
                find_settled(first, seq, open, old);
            }
            let mut attempt = open.attempt(change, false);
            if attempt.result == TM_Result::TM_BeingModified {
                open.tell_keys(open.old);
                // SAFETY: the slot holds the row, in its buffer.
                unsafe { brute_force::clear_row(first, open.old, attempt.lock_mode) };
                attempt = open.attempt(change, true);
            }
            match attempt.result {
                TM_Result::TM_Ok => return attempt,
                TM_Result::TM_Updated | TM_Result::TM_Deleted => {}
                result => panic!("unexpected result {result} of a row's change"),
            }
        }
        failure::unsettled(seq, &open.name)
    }
}

/// Looks for a row that was not found once more when everything before `first`, where
/// this transaction begins, is visible. Only then is it missing.
///
/// A scan with `SnapshotSelf` can miss a row while its replacement commits,
/// and a dependency that no key expressed may not have been applied yet.
fn find_settled(first: u64, seq: u64, open: &mut Opened, old: &Row<'_>) {
    commit::wait_visible(first - 1, None, super::interrupt);
    for _ in 0..SETTLED_LOOKS {
        if open.find(old) {
            return;
        }
        super::interrupt();
        shmem::sleep(1);
    }
    let columns = open.identity.as_ref().map(|identity| identity.columns().to_vec());
    match columns {
        Some(columns) => {
            let key = open.decoder.describe(old, &columns);
            failure::diverged(seq, &open.name, format!("there is no row with {key}."))
        }
        None => failure::diverged(seq, &open.name, "there is no such row, compared by all columns."),
    }
}

impl Opened {
    /// Puts a row into the `new` slot; values that stay come from the row in
    /// the `old` one.
    fn store_new(&mut self, row: &Row<'_>, has_old: bool) {
        self.decoder.check(row);
        // SAFETY: the arrays have one element for each column. Values lie in
        // the op's memory or the old row's buffer; the slot copies them when it
        // forms the tuple, before either goes.
        unsafe {
            pg_sys::ExecClearTuple(self.new);
            if has_old {
                pg_sys::slot_getallattrs(self.old);
            }
            let (values, nulls) = ((*self.new).tts_values, (*self.new).tts_isnull);
            let old = self.old;
            self.decoder.decode(
                row,
                |_| true,
                |at, value| {
                    let (datum, is_null) = match value {
                        Decoded::Null => (Datum::from(0usize), true),
                        Decoded::Datum(datum) => (datum, false),
                        Decoded::Unchanged if has_old => (*(*old).tts_values.add(at), *(*old).tts_isnull.add(at)),
                        Decoded::Unchanged | Decoded::Absent => failure::malformed("a new row lacks a column"),
                    };
                    *values.add(at) = datum;
                    *nulls.add(at) = is_null;
                },
            );
            pg_sys::ExecStoreVirtualTuple(self.new);
        }
    }

    /// Says which row comes next, for those who may have to make way for it.
    fn tell_keys(&self, slot: *mut pg_sys::TupleTableSlot) {
        let mut hashes = [0; NEEDED_KEYS];
        // SAFETY: the slot holds a row of this relation.
        let count = unsafe { capture::key_hashes(self.relation, slot, &mut hashes) };
        shmem::shared().my_slot().needs.set_keys(&hashes[..count]);
    }

    /// Changes the row in the `old` slot, once. Without `wait` it returns at
    /// once if another transaction holds the row, even if that does not conflict.
    fn attempt(&mut self, change: &Change<'_>, wait: bool) -> Attempt {
        if let Change::Update(new) = change {
            self.store_new(new, true);
        }
        let mut attempt = Attempt {
            result: TM_Result::TM_Ok,
            lock_mode: pg_sys::LockTupleMode::LockTupleExclusive,
            update_indexes: false,
        };
        // SAFETY: the slots hold rows of this relation.
        unsafe {
            let mut tid = (*self.old).tts_tid;
            let command = pg_sys::GetCurrentCommandId(true);
            let none = std::ptr::null_mut();
            let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
            let failure = &raw mut failure;
            attempt.result = match change {
                Change::Update(_) => {
                    let (mode, indexes) = (&raw mut attempt.lock_mode, &raw mut attempt.update_indexes);
                    let (relation, new) = (self.relation, self.new);
                    pg_sys::table_tuple_update(
                        relation, &mut tid, new, command, none, none, wait, failure, mode, indexes,
                    )
                }
                Change::Delete => {
                    pg_sys::table_tuple_delete(self.relation, &mut tid, command, none, none, wait, failure, false)
                }
            };
        }
        attempt
    }
}
