//! The relations that a writeset names.

use std::ffi::{CStr, CString};

use pgrenga_writeset::op::Relation;
use pgrx::pg_sys;

use super::failure;
use super::owner::run_as;
use super::search::Identity;
use super::value::Decoder;
use crate::capture;
use crate::shmem::shared;

/// What a writeset says of a relation; it lives from piece to piece.
#[derive(PartialEq, Eq)]
pub(super) struct Described {
    schema: CString,
    name: CString,
    /// Empty if rows are found by comparing all columns.
    identity: CString,
    descriptor: u64,
}

impl Described {
    pub(super) fn new(relation: &Relation<'_>) -> Self {
        let text =
            |text: &str| CString::new(text).unwrap_or_else(|_| failure::malformed("a name contains a zero byte"));
        Self {
            schema: text(relation.schema),
            name: text(relation.name),
            identity: text(relation.identity),
            descriptor: relation.descriptor,
        }
    }

    fn qualified_name(&self) -> String {
        format!("{}.{}", self.schema.to_string_lossy(), self.name.to_string_lossy())
    }
}

/// A relation, open and locked for writing rows. Its resources belong to the
/// call's resource owner and memory context; [`Opened::close`] returns them
/// when all went well.
pub(super) struct Opened {
    pub(super) relation: pg_sys::Relation,
    pub(super) name: String,
    pub(super) decoder: Decoder,
    pub(super) identity: Option<Identity>,
    /// Without an identity, what helps to find a row by all of its columns.
    pub(super) whole: Option<Identity>,
    /// For the table access method.
    pub(super) insert_options: i32,
    /// The version that was found.
    pub(super) old: *mut pg_sys::TupleTableSlot,
    /// The row to write.
    pub(super) new: *mut pg_sys::TupleTableSlot,
    indexes: Option<Indexes>,
}

/// All indexes of a relation, open for insertion.
struct Indexes {
    result: *mut pg_sys::ResultRelInfo,
    /// Whether inserting runs expressions that users wrote.
    run_as: Option<pg_sys::Oid>,
}

const ROW_EXCLUSIVE: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
const NO_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;
/// `InvalidSubTransactionId`, which the bindings lack.
const NO_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

impl Opened {
    /// Opens the relation in the current memory context, as [`open`] does.
    pub(super) fn open(seq: u64, described: &Described) -> Self {
        let name = described.qualified_name();
        let relation = open(seq, described, ROW_EXCLUSIVE);
        // SAFETY: the relation is open; slots and scans are made for it.
        unsafe {
            let class = (*relation).rd_rel;
            // Rows of a materialized view's new content are there for everybody who looks
            // at it, as PostgreSQL's REFRESH makes them.
            let is_new = (*relation).rd_newRelfilenodeSubid != NO_SUBTRANSACTION;
            let frozen = (*class).relkind as u8 == pg_sys::RELKIND_MATVIEW && is_new;
            let identity = (!described.identity.is_empty()).then(|| {
                let index = pg_sys::get_relname_relid(described.identity.as_ptr(), (*class).relnamespace);
                Identity::open(relation, index).unwrap_or_else(|| {
                    failure::diverged(seq, &name, format!("it has no unique index {:?} here", described.identity))
                })
            });
            let whole = if identity.is_none() { Identity::any(relation) } else { None };
            Self {
                relation,
                name,
                decoder: Decoder::new(relation),
                identity,
                whole,
                insert_options: if frozen { pg_sys::TABLE_INSERT_FROZEN as i32 } else { 0 },
                old: pg_sys::table_slot_create(relation, std::ptr::null_mut()),
                // Holds values first and then the tuple that heap makes of them.
                new: pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsHeapTuple),
                indexes: None,
            }
        }
    }

    /// Makes index entries for the row in `new`. Checks uniqueness and
    /// exclusion as any insertion does, except where they are deferrable: what
    /// the origin deferred it has checked since.
    pub(super) fn insert_index_entries(&mut self, estate: *mut pg_sys::EState, is_update: bool) {
        let slot = self.new;
        let indexes = self.indexes(estate);
        let result = indexes.result;
        // SAFETY: the row was just stored, so the slot knows its place.
        let insert = || unsafe {
            if (*result).ri_NumIndices > 0 {
                // `is_update` with no list of changed columns hints that no
                // index's key changed: at worst a full page is searched for
                // dead versions before it is split.
                let no_list = std::ptr::null_mut();
                pg_sys::ExecInsertIndexTuples(result, slot, estate, is_update, false, std::ptr::null_mut(), no_list);
            }
        };
        match indexes.run_as {
            Some(owner) => run_as(owner, insert),
            None => insert(),
        }
    }

    fn indexes(&mut self, estate: *mut pg_sys::EState) -> &Indexes {
        let relation = self.relation;
        self.indexes.get_or_insert_with(|| unsafe {
            // SAFETY: `estate` and what is made here live until the relation is closed.
            let outer = pg_sys::MemoryContextSwitchTo((*estate).es_query_cxt);
            // Not InitResultRelInfo: it copies triggers, which never fire here.
            let result = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            (*result).ri_RelationDesc = relation;
            let owner = (*(*relation).rd_rel).relowner;
            // Reading an index's expressions folds constants: that runs functions.
            run_as(owner, || pg_sys::ExecOpenIndices(result, false));
            pg_sys::MemoryContextSwitchTo(outer);
            let count = (*result).ri_NumIndices as usize;
            let runs_code = (0..count).any(|at| {
                let info = *(*result).ri_IndexRelationInfo.add(at);
                !(*info).ii_Expressions.is_null() || !(*info).ii_Predicate.is_null()
            });
            Indexes { result, run_as: runs_code.then_some(owner) }
        })
    }

    /// Lets go of the row: its buffer and its memory.
    pub(super) fn clear(&mut self) {
        // SAFETY: our own slots.
        unsafe {
            pg_sys::ExecClearTuple(self.old);
            pg_sys::ExecClearTuple(self.new);
        }
    }

    /// Closes everything; the lock stays until the transaction ends.
    pub(super) fn close(self) {
        // SAFETY: opened by `open` and `indexes`, closed once.
        unsafe {
            if let Some(indexes) = self.indexes {
                pg_sys::ExecCloseIndices(indexes.result);
            }
            self.identity.into_iter().chain(self.whole).for_each(Identity::close);
            pg_sys::ExecDropSingleTupleTableSlot(self.old);
            pg_sys::ExecDropSingleTupleTableSlot(self.new);
            pg_sys::table_close(self.relation, NO_LOCK);
        }
    }
}

/// Opens and locks the relation, and checks that it is what the origin had.
pub(super) fn open(seq: u64, described: &Described, mode: pg_sys::LOCKMODE) -> pg_sys::Relation {
    let name = described.qualified_name();
    shared().my_slot().needs.set_relation(&name);
    let Some(relation) = lock(described, mode) else {
        failure::diverged(seq, &name, "it does not exist here");
    };
    // SAFETY: the relation is open.
    let kind = unsafe { (*(*relation).rd_rel).relkind } as u8;
    if kind != pg_sys::RELKIND_RELATION && kind != pg_sys::RELKIND_MATVIEW {
        failure::diverged(seq, &name, "it is not a table here");
    }
    let here = capture::descriptor_hash(relation);
    if here != described.descriptor {
        let there = described.descriptor;
        let what = format!("its columns are not those of the origin (descriptor {here:016x}, not {there:016x})");
        failure::diverged(seq, &name, what);
    }
    relation
}

/// Opens and locks the relation of that name. Names are looked up without a
/// lock, so the name may belong to another relation once the lock is there.
fn lock(described: &Described, mode: pg_sys::LOCKMODE) -> Option<pg_sys::Relation> {
    loop {
        // SAFETY: look-ups by NUL-terminated names; the relation stays open.
        unsafe {
            let schema = pg_sys::get_namespace_oid(described.schema.as_ptr(), true);
            let oid = pg_sys::get_relname_relid(described.name.as_ptr(), schema);
            if schema == pg_sys::InvalidOid || oid == pg_sys::InvalidOid {
                return None;
            }
            let relation = pg_sys::try_relation_open(oid, mode);
            if relation.is_null() {
                continue;
            }
            let class = (*relation).rd_rel;
            let name = CStr::from_ptr((*class).relname.data.as_ptr());
            if name == described.name.as_c_str() && (*class).relnamespace == schema {
                return Some(relation);
            }
            pg_sys::relation_close(relation, mode);
        }
    }
}
