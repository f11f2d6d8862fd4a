//! The writeset of this process's transaction, as it grows.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use pgrenga_writeset::op::{Ddl, Notify, Relation};
use pgrenga_writeset::writeset::{self, Access, Flags, Header, Key, RelationUse, RowLock, TableLocks};
use pgrenga_writeset::{Seq, Sink};
use pgrx::pg_sys;

use super::body::Body;
use super::buffer::Buffer;
use super::hash::Hash;
use super::large_object::table_hash;
use super::moments::Moments;
use super::reads::Reads;
use super::table::Table;
use crate::backend::BackendLocal;
use crate::commit;
use crate::error::{PgSqlErrorCode, raise, refuse};
use crate::serializable;
use crate::settings;
use crate::shmem::{Slot, State, shared};

/// Keys beyond which whole-table locks stand for them.
const MAX_KEYS: usize = 50_000;
/// Bytes of a fragment, and of a body that travels whole.
const FRAGMENT: usize = 512 << 10;
/// How many of the last keys a write looks through for its own lock.
const PROMOTABLE: usize = 32;
/// How many recent keys are remembered so as not to list them again.
const RECENT: usize = 256;

/// From what a key came: enough to name it in an error message.
#[derive(Clone, Copy)]
pub(super) enum KeyOrigin {
    /// A row.
    Row {
        /// Ordinal of its table.
        table: u16,
        /// Which of the table's indexes; `None` for a row without identity.
        index: Option<u16>,
    },
    /// The large object with that OID.
    LargeObject(u32),
}

struct Described {
    table: Rc<Table>,
    at: u64,
}

struct Use {
    name: Rc<str>,
    locks: RelationUse,
}

/// Where everything stood when a subtransaction first wrote.
#[derive(Clone, Copy)]
struct Mark {
    level: i32,
    body: u64,
    keys: usize,
    tables: usize,
    uses: usize,
    ops: u64,
}

/// A transaction that writes, or locks rows.
pub struct Transaction {
    counter: u64,
    seen_first: Seq,
    flags: Flags,
    /// Row changes and statements so far.
    ops: u64,
    body: Body,
    keys: Vec<Key>,
    origins: Vec<KeyOrigin>,
    moments: Moments,
    /// Tables described in the body since its last DDL, by ordinal.
    tables: Vec<Described>,
    /// Tables before this ordinal were described before the last DDL.
    first_table: usize,
    uses: Vec<Use>,
    marks: Vec<Mark>,
    recent: [(u64, u8); RECENT],
    /// Keys are no longer listed: every table is locked whole.
    collapsed: bool,
    /// Of a SERIALIZABLE transaction, when it is closed.
    reads: Reads,
    frame: Buffer,
}

static TRANSACTION: BackendLocal<Transaction> = BackendLocal::new(Transaction::new());

/// This process's transaction.
pub fn transaction() -> &'static mut Transaction {
    // SAFETY: its methods run to their end without running user code that
    // could capture, and nobody keeps the borrow across a step.
    unsafe { TRANSACTION.borrow() }
}

impl Transaction {
    const fn new() -> Self {
        Self {
            counter: 0,
            seen_first: Seq(0),
            flags: Flags(0),
            ops: 0,
            body: Body::new(),
            keys: Vec::new(),
            origins: Vec::new(),
            moments: Moments::new(),
            tables: Vec::new(),
            first_table: 0,
            uses: Vec::new(),
            marks: Vec::new(),
            recent: [(0, 0); RECENT],
            collapsed: false,
            reads: Reads::new(),
            frame: Buffer::new(),
        }
    }

    /// Whether rows were locked or changed, or the fence was asked for.
    pub fn is_open(&self) -> bool {
        self.counter != 0
    }

    /// Whether there is anything to replicate.
    pub fn has_changes(&self) -> bool {
        self.ops > 0
    }

    /// The commit slot's generation.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The visible seq when the first row was captured.
    pub fn seen_first(&self) -> Seq {
        self.seen_first
    }

    /// What holds for the writeset as a whole.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Claims the commit slot at the first write or row lock.
    pub fn open(&mut self) {
        if self.is_open() {
            return;
        }
        self.counter = commit::draw_counter();
        let shared = shared();
        shared.writers.fetch_add(1, Ordering::Relaxed);
        self.seen_first = commit::seen();
        // What is captured from here on must have the names that were valid then: the caches may be as old as the statement.
        // SAFETY: inside a transaction, as when a lock is taken.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        shared.my_slot().set(State::Open(self.counter));
    }

    /// Claims the slot again under a new name, after the writeset was lost.
    pub fn reopen(&mut self, slot: &Slot) {
        self.counter = shared().draw_counter();
        slot.set(State::Open(self.counter));
    }

    /// Makes sure that this transaction may write here and now. Call before
    /// the row is touched, so that a refusal leaves no lock behind.
    pub fn begin_write(&mut self) {
        if self.has_changes() {
            return;
        }
        // SAFETY: a plain variable of this process.
        check_database(unsafe { pg_sys::MyDatabaseId });
        if serializable::is_serializable() {
            serializable::note_snapshot();
        }
        commit::ensure_writable();
        commit::await_winner();
        self.open();
    }

    /// Appends a statement. Relations are described anew after it.
    pub fn record_ddl(&mut self, statement: &Ddl<'_>) {
        self.begin_write();
        self.mark_subtransaction();
        statement.encode(&mut self.body);
        self.flags = self.flags.union(Flags::BARRIER);
        self.first_table = self.tables.len();
        self.count_op();
    }

    /// Appends a notification.
    pub fn record_notification(&mut self, notification: &Notify<'_>) {
        self.begin_write();
        self.mark_subtransaction();
        notification.encode(&mut self.body);
        self.flags = self.flags.union(Flags::NOTIFIES);
        self.count_op();
    }

    /// Nothing was captured yet: what was waited for meanwhile is no conflict.
    pub fn refresh_seen_first(&mut self) {
        if !self.has_changes() && self.keys.is_empty() {
            self.seen_first = commit::seen();
        }
    }

    /// Makes this writeset conflict with every concurrent one.
    pub fn set_catalog(&mut self) {
        self.add_flag(Flags::CATALOG);
    }

    pub(super) fn add_flag(&mut self, flag: Flags) {
        self.flags = self.flags.union(flag);
    }

    pub(super) fn reads(&mut self) -> &mut Reads {
        &mut self.reads
    }

    /// Adds table locks with which a relation was used.
    pub fn use_relation(&mut self, schema: &str, name: &str, applied: TableLocks, held: TableLocks) {
        let hash = Hash::relation(schema, name).0;
        self.use_hashed(hash, applied, held, || format!("{schema}.{name}").into());
    }

    pub(super) fn use_hashed(
        &mut self,
        hash: u64,
        applied: TableLocks,
        held: TableLocks,
        name: impl FnOnce() -> Rc<str>,
    ) {
        match self.uses.iter_mut().rev().find(|entry| entry.locks.hash == hash) {
            Some(entry) => {
                entry.locks.applied = entry.locks.applied.union(applied);
                entry.locks.held = entry.locks.held.union(held);
            }
            None => self.uses.push(Use { name: name(), locks: RelationUse { hash, applied, held } }),
        }
    }

    pub(super) fn forget_held_where_applied(&mut self) {
        for Use { locks, .. } in &mut self.uses {
            locks.held = TableLocks(locks.held.0 & !locks.applied.0);
        }
    }

    /// The ordinal of a table, describing it in the body if need be.
    pub(super) fn table(&mut self, table: &Rc<Table>) -> u16 {
        let known = self.tables[self.first_table..].iter().rposition(|known| Rc::ptr_eq(&known.table, table));
        if let Some(at) = known {
            return (self.first_table + at) as u16;
        }
        let Ok(ordinal) = u16::try_from(self.tables.len()) else {
            raise(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the transaction writes too many tables",
                "A writeset can name 65535 tables.",
                "Use several transactions.",
            )
        };
        let identity = table.identity().map_or("", |index| &index.name);
        let relation =
            Relation { ordinal, schema: &table.schema, name: &table.name, identity, descriptor: table.descriptor };
        self.tables.push(Described { table: Rc::clone(table), at: self.body.len() });
        relation.encode(&mut self.body);
        ordinal
    }

    /// How many tables the body describes.
    pub fn described_tables(&self) -> usize {
        self.tables.len()
    }

    /// Whether a table was described after the first `count`.
    pub(super) fn describes_since(&self, table: Hash, count: usize) -> bool {
        self.tables.iter().skip(count).any(|described| described.table.hash.0 == table.0)
    }

    /// The table with that ordinal.
    pub(super) fn described(&self, ordinal: u16) -> &Rc<Table> {
        &self.tables[usize::from(ordinal)].table
    }

    /// Says that rows of the table are written.
    pub(super) fn use_for_write(&mut self, table: &Table) {
        self.use_rows(table.hash, || format!("{}.{}", table.schema, table.name).into());
    }

    pub(super) fn use_rows(&mut self, table: Hash, name: impl FnOnce() -> Rc<str>) {
        let applied = if self.collapsed {
            TableLocks::ROW_EXCLUSIVE.union(TableLocks::EXCLUSIVE)
        } else {
            TableLocks::ROW_EXCLUSIVE
        };
        self.use_hashed(table.0, applied, TableLocks::default(), name);
    }

    /// Where ops go.
    pub(super) fn body(&mut self) -> &mut Body {
        &mut self.body
    }

    /// Counts an op that was appended whole.
    pub(super) fn count_op(&mut self) {
        self.ops += 1;
        self.body.spill_if_large();
        let limit = settings::MAX_WRITESET_KB.get() as u64 * 1024;
        if self.body.len() > limit {
            raise(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the transaction's changes exceed pgrenga.max_writeset_bytes",
                format!("The limit is {limit} bytes."),
                "Use several smaller transactions, or raise the limit on all nodes.",
            );
        }
    }

    /// Adds a key, unless it was added lately.
    pub(super) fn push_key(&mut self, hash: Hash, mode: RowLock, access: Access, origin: KeyOrigin) {
        if self.collapsed {
            return;
        }
        let tag = 1 + mode as u8 + 4 * access as u8;
        let recent = &mut self.recent[hash.0 as usize % RECENT];
        if *recent == (hash.0, tag) {
            return;
        }
        *recent = (hash.0, tag);
        if access == Access::Write && self.promote_lock(hash, mode) {
            return;
        }
        self.moments.note(self.keys.len(), self.seen_first, commit::seen());
        self.keys.push(Key { hash: hash.0, mode, access });
        self.origins.push(origin);
        if self.keys.len() > MAX_KEYS {
            self.collapse();
        }
    }

    /// A row that was locked first and is written now counts as written: the
    /// applier takes that lock as well. (An UPDATE that had to wait for another
    /// one locks the new version before it writes it.) Not across a savepoint,
    /// which may take back the write and leave the lock.
    fn promote_lock(&mut self, hash: Hash, mode: RowLock) -> bool {
        let savepoint = self.marks.last().map_or(0, |mark| mark.keys);
        let first = savepoint.max(self.keys.len().saturating_sub(PROMOTABLE));
        let locked = self.keys[first..]
            .iter_mut()
            .rev()
            .find(|key| key.hash == hash.0 && key.access == Access::Lock && key.mode <= mode);
        let Some(key) = locked else { return false };
        (key.access, key.mode) = (Access::Write, mode);
        true
    }

    /// Replaces the keys by locks of whole tables: every row written here may
    /// conflict with any row of the same table written elsewhere.
    fn collapse(&mut self) {
        for origin in &self.origins {
            let hash = match *origin {
                KeyOrigin::Row { table, .. } => self.tables[usize::from(table)].table.hash.0,
                KeyOrigin::LargeObject(_) => table_hash().0,
            };
            if let Some(entry) = self.uses.iter_mut().find(|entry| entry.locks.hash == hash) {
                let locks = &mut entry.locks;
                locks.applied = locks.applied.union(TableLocks::EXCLUSIVE);
            }
        }
        self.keys = Vec::new();
        self.origins = Vec::new();
        self.moments.clear();
        self.collapsed = true;
    }

    /// Says that rows of the table were locked but not written.
    pub(super) fn use_for_lock(&mut self, table: &Table) {
        let held = if self.collapsed { TableLocks::EXCLUSIVE } else { TableLocks::default() };
        self.use_hashed(table.hash.0, TableLocks::default(), held, || {
            format!("{}.{}", table.schema, table.name).into()
        });
    }

    /// Remembers where a savepoint's changes begin. Call before each op.
    pub(super) fn mark_subtransaction(&mut self) {
        // SAFETY: a plain read of the transaction state.
        let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
        if level > 1 && self.marks.last().is_none_or(|mark| mark.level < level) {
            self.marks.push(Mark {
                level,
                body: self.body.len(),
                keys: self.keys.len(),
                tables: self.tables.len(),
                uses: self.uses.len(),
                ops: self.ops,
            });
        }
    }

    /// Takes back what the subtransaction at `level` did.
    pub fn abort_subtransaction(&mut self, level: i32) {
        let Some(first) = self.marks.iter().position(|mark| mark.level >= level) else { return };
        let mark = self.marks[first];
        self.marks.truncate(first);
        self.body.truncate(mark.body);
        if !self.collapsed {
            self.keys.truncate(mark.keys);
            self.origins.truncate(mark.keys);
            self.moments.truncate(mark.keys);
        }
        self.tables.truncate(mark.tables);
        self.tables.retain(|described| described.at < mark.body);
        self.first_table = self.first_table.min(self.tables.len());
        self.uses.truncate(mark.uses);
        self.ops = mark.ops;
        self.recent = [(0, 0); RECENT];
    }

    /// Hands what the subtransaction at `level` did to its parent.
    pub fn commit_subtransaction(&mut self, level: i32) {
        if let Some(last) = self.marks.last_mut()
            && last.level == level
        {
            last.level -= 1;
            let level = last.level;
            let parent_has_mark = self.marks.len() > 1 && self.marks[self.marks.len() - 2].level == level;
            if level == 1 || parent_has_mark {
                self.marks.pop();
            }
        }
    }

    /// Forgets everything. Never fails: COMMIT and ABORT callbacks call it.
    pub fn reset(&mut self) {
        if !self.is_open() {
            return;
        }
        self.counter = 0;
        self.flags = Flags(0);
        self.ops = 0;
        self.body.reset();
        self.keys.clear();
        self.origins.clear();
        self.moments.clear();
        self.tables.clear();
        self.first_table = 0;
        self.uses.clear();
        self.marks.clear();
        self.recent = [(0, 0); RECENT];
        self.collapsed = false;
        self.reads.clear();
        self.frame.clear();
    }

    /// Cuts the part of the body that does not fit into the writeset's own
    /// frame into fragments; returns how many there are. `send` gets each with
    /// its ordinal, and may say that the rest is not wanted.
    pub fn for_each_fragment(&mut self, mut send: impl FnMut(u32, &[u8]) -> ControlFlow<()>) -> u32 {
        let mut ordinal = 0;
        let mut send = |body: &[u8]| {
            let flow = send(ordinal, body);
            ordinal += 1;
            flow
        };
        let flow = self.body.try_for_each_spilled(FRAGMENT, &mut send);
        let tail = self.body.tail();
        if flow.is_continue() && tail.len() > FRAGMENT {
            let _ = tail.chunks(FRAGMENT).try_for_each(send);
        }
        ordinal
    }

    /// The encoded writeset, without what was sent as fragments.
    pub fn encode(&mut self, header: &Header) -> &[u8] {
        let Self { frame, uses, keys, moments, reads, body, .. } = self;
        frame.clear();
        let relations = uses.iter().map(|entry| &entry.locks);
        writeset::encode_header(frame, header, relations, keys.iter(), moments.as_slice());
        if header.flags.contains(Flags::SERIALIZABLE) {
            writeset::encode_reads(frame, reads.snapshot, reads.list.iter());
        }
        if body.tail().len() <= FRAGMENT {
            frame.put(body.tail());
        }
        frame.as_slice()
    }

    /// Gives back what only sending needed.
    pub fn close_file(&mut self) {
        self.body.close_file();
    }

    pub(super) fn used_relation(&self, ordinal: usize) -> Option<&str> {
        self.uses.get(ordinal).map(|entry| &*entry.name)
    }

    pub(super) fn read_relation(&self, ordinal: usize) -> Option<&str> {
        self.reads.names.get(ordinal).map(|name| &**name)
    }

    /// The ordinal of the key with that hash.
    pub(super) fn position_of(&self, hash: u64) -> Option<usize> {
        self.keys.iter().position(|key| key.hash == hash)
    }

    pub(super) fn key_origin(&self, ordinal: usize) -> Option<KeyOrigin> {
        self.origins.get(ordinal).copied()
    }
}

/// Refuses writes outside the replicated database.
fn check_database(database: pg_sys::Oid) {
    static CHECKED: BackendLocal<bool> = BackendLocal::new(false);
    if CHECKED.get() {
        return;
    }
    let replicated = settings::DATABASE.get().unwrap_or_default();
    // SAFETY: a catalog look-up inside a transaction; the name is palloc'd.
    let name = unsafe { std::ffi::CStr::from_ptr(pg_sys::get_database_name(database)) };
    if name != replicated.as_c_str() {
        refuse(
            format!("database \"{}\" is not replicated", name.to_string_lossy()),
            format!("Only database \"{}\" is.", replicated.to_string_lossy()),
            "Connect to that database.",
        );
    }
    CHECKED.set(true);
}
