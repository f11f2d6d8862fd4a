//! Certification keys: hashes of the values of unique indexes.
//!
//! Values that an index takes for equal hash equal, on every node. Where that
//! cannot be had (expressions, predicates, types whose hash would contain an
//! OID, collations that depend on a library) one key stands for the whole
//! index: needless conflicts, never a missed one.

use std::ffi::CStr;

use pgrenga_writeset::writeset::Access;
use pgrx::pg_sys;

use super::hash::Hash;
use super::value::{self, Column};

/// How one column of a unique index is hashed.
#[derive(Clone, Copy)]
enum Hasher {
    /// The Datum itself: integers, dates, booleans.
    Word,
    /// The type's own extended hash function, from PostgreSQL's type cache.
    Function(*mut pg_sys::TypeCacheEntry),
    /// An enum: the label, by the type's output function.
    Label(pg_sys::Oid),
}

#[derive(Clone, Copy)]
struct Part {
    /// Column position, from 0.
    column: usize,
    hasher: Hasher,
    collation: pg_sys::Oid,
}

/// A unique index or exclusion constraint of a table.
pub struct UniqueIndex {
    /// On this node.
    pub oid: pg_sys::Oid,
    /// Name in the table's schema.
    pub name: String,
    /// Where its keys' hashes begin: relation and index, by name.
    seed: Hash,
    /// Empty when one key stands for the whole index.
    parts: Vec<Part>,
    nulls_are_equal: bool,
    immediate: bool,
}

/// For which index REINDEX CONCURRENTLY made the one with that name (`ReindexRelationConcurrently` in `indexcmds.c`).
pub fn stands_in_for(index: &str) -> Option<&str> {
    let stem = index.trim_end_matches(|letter: char| letter.is_ascii_digit());
    stem.strip_suffix("_ccnew").or_else(|| stem.strip_suffix("_ccold"))
}

impl UniqueIndex {
    /// All indexes of a relation that can refuse a row because of another row.
    pub fn of_relation(relation: pg_sys::Relation, table: Hash) -> Vec<Self> {
        let mut indexes = Vec::new();
        // SAFETY: the relation is open and locked, so its indexes stay.
        unsafe {
            let list = pg_sys::RelationGetIndexList(relation);
            let length = if list.is_null() { 0 } else { (*list).length as usize };
            for at in 0..length {
                let oid = (*(*list).elements.add(at)).oid_value;
                let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
                let form = (*index).rd_index;
                if (*form).indisunique || (*form).indisexclusion {
                    indexes.push(Self::build(index, table));
                }
                pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
            }
            pg_sys::list_free(list);
        }
        indexes
    }

    /// # Safety
    /// `index` is an open index.
    unsafe fn build(index: pg_sys::Relation, table: Hash) -> Self {
        // SAFETY: the relcache entry of an open index is complete.
        unsafe {
            let form = &*(*index).rd_index;
            let mut name = CStr::from_ptr((*(*index).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned();
            // The swap at the end of REINDEX CONCURRENTLY can be seen a moment before PostgreSQL tells of it, so
            // that either index may be found under either name: they have the same keys.
            if !form.indisvalid
                && let Some(other) = stands_in_for(&name)
            {
                name = other.to_owned();
            }
            let simple = !form.indisexclusion
                && pg_sys::RelationGetIndexPredicate(index).is_null()
                && pg_sys::RelationGetIndexExpressions(index).is_null();
            let columns = form.indkey.values.as_slice(form.indnkeyatts as usize);
            let parts = if simple {
                (0..columns.len()).map(|at| Part::build(index, at, columns[at])).collect::<Option<Vec<_>>>()
            } else {
                None
            };
            Self {
                oid: form.indexrelid,
                seed: table.bytes(name.as_bytes()),
                name,
                parts: parts.unwrap_or_default(),
                nulls_are_equal: form.indnullsnotdistinct,
                immediate: form.indimmediate,
            }
        }
    }

    /// Whether its keys can change only when its columns do, and PostgreSQL
    /// counts these among a row's key columns.
    pub fn follows_columns(&self) -> bool {
        !self.parts.is_empty() && self.immediate
    }

    /// How a row that comes in or goes uses its key.
    pub fn write_access(&self) -> Access {
        if self.immediate { Access::Write } else { Access::Deferred }
    }

    /// Whether rows can be found by it.
    pub fn identifies_rows(&self) -> bool {
        self.follows_columns()
    }

    /// Column positions, from 0. Empty when one key stands for the whole index.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().map(|part| part.column)
    }

    /// The key of a row, or `None` if a NULL keeps the row from conflicting.
    pub fn key(&self, columns: &[Column], values: &[pg_sys::Datum], nulls: &[bool]) -> Option<Hash> {
        let mut hash = self.seed;
        for part in &self.parts {
            hash = match (nulls[part.column], self.nulls_are_equal) {
                (true, false) => return None,
                (true, true) => hash.word(u64::MAX),
                (false, _) => hash.word(part.hash(&columns[part.column], values[part.column])),
            };
        }
        Some(hash)
    }
}

impl UniqueIndex {
    /// The key of a row with these values in the index's columns.
    pub fn key_of(&self, columns: &[Column], values: &[pg_sys::Datum]) -> Hash {
        let parts = self.parts.iter().zip(values);
        parts.fold(self.seed, |hash, (part, value)| hash.word(part.hash(&columns[part.column], *value)))
    }
}

impl Part {
    /// # Safety
    /// `index` is an open index with a key column at position `at`.
    unsafe fn build(index: pg_sys::Relation, at: usize, attribute: i16) -> Option<Self> {
        // SAFETY: arrays of an open index's relcache entry, one element for each key column.
        unsafe {
            let heap_column = usize::try_from(attribute - 1).ok()?;
            let operator_type = *(*index).rd_opcintype.add(at);
            let key_type = (*(*index).rd_att).attrs.as_slice(at + 1)[at].atttypid;
            let polymorphic = pg_sys::get_typtype(operator_type) == b'p' as i8;
            let type_oid = pg_sys::getBaseType(if polymorphic { key_type } else { operator_type });
            let collation = *(*index).rd_indcollation.add(at);
            if collation != pg_sys::InvalidOid && !pg_sys::get_collation_isdeterministic(collation) {
                return None;
            }
            let entry = pg_sys::lookup_type_cache(
                type_oid,
                (pg_sys::TYPECACHE_EQ_OPR
                    | pg_sys::TYPECACHE_HASH_EXTENDED_PROC
                    | pg_sys::TYPECACHE_HASH_EXTENDED_PROC_FINFO) as i32,
            );
            let equality = pg_sys::get_opfamily_member(
                *(*index).rd_opfamily.add(at),
                operator_type,
                operator_type,
                pg_sys::BTEqualStrategyNumber as i16,
            );
            if equality != (*entry).eq_opr {
                return None;
            }
            Some(Self { column: heap_column, hasher: Hasher::of_type(entry)?, collation })
        }
    }

    fn hash(&self, column: &Column, datum: pg_sys::Datum) -> u64 {
        match self.hasher {
            Hasher::Word => {
                // Only the type's own bytes: the rest of a Datum is unspecified.
                let bits = 8 * column.length as u32;
                (datum.value() as u64) & (u64::MAX >> (64 - bits))
            }
            // SAFETY: a value of the type whose cache entry this is; entries are never freed.
            Hasher::Function(entry) => unsafe {
                pg_sys::FunctionCall2Coll(
                    &raw mut (*entry).hash_extended_proc_finfo,
                    self.collation,
                    datum,
                    pg_sys::Datum::from(0_i64),
                )
                .value() as u64
            },
            // SAFETY: a value of that enum; the function returns a palloc'd C string.
            Hasher::Label(function) => unsafe {
                Hash::EMPTY.bytes(CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, datum)).to_bytes()).0
            },
        }
    }
}

impl Hasher {
    /// # Safety
    /// `entry` is a type cache entry with its hash function looked up.
    unsafe fn of_type(entry: *mut pg_sys::TypeCacheEntry) -> Option<Self> {
        use pg_sys::{
            BOOLOID, CHAROID, DATEOID, INT2OID, INT4OID, INT8OID, OIDOID, TIMEOID, TIMESTAMPOID, TIMESTAMPTZOID,
        };
        const WORDS: [pg_sys::Oid; 10] =
            [BOOLOID, CHAROID, DATEOID, INT2OID, INT4OID, INT8OID, OIDOID, TIMEOID, TIMESTAMPOID, TIMESTAMPTZOID];
        // SAFETY: the entry is valid for ever.
        let (type_oid, kind, function) =
            unsafe { ((*entry).type_id, (*entry).typtype as u8, (*entry).hash_extended_proc) };
        if WORDS.contains(&type_oid) {
            Some(Self::Word)
        } else if kind == b'e' {
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            // SAFETY: the type exists: a column uses it.
            unsafe { pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena) };
            Some(Self::Label(output))
        } else if value::is_oid_free(type_oid) && function != pg_sys::InvalidOid {
            Some(Self::Function(entry))
        } else {
            None
        }
    }
}
