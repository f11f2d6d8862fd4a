//! What capture knows of a relation: how to encode its rows, and which keys
//! its rows have. Cached until PostgreSQL says that the relation changed.

use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;

use super::hash::Hash;
use super::key::UniqueIndex;
use super::value::Column;
use crate::backend::BackendLocal;

/// A table whose rows are captured.
pub struct Table {
    /// Schema.
    pub schema: String,
    /// Name in the schema.
    pub name: String,
    /// Hash of both.
    pub hash: Hash,
    /// See [`descriptor_hash`].
    pub descriptor: u64,
    /// By column position.
    pub columns: Vec<Column>,
    /// Every unique index and exclusion constraint.
    pub indexes: Vec<UniqueIndex>,
    /// Which of `indexes` identifies rows; `None` if only a whole row does.
    pub identity: Option<usize>,
    /// Whether an UPDATE that leaves all key columns alone leaves all keys
    /// alone: false with partial, expression and deferrable indexes.
    pub keys_follow_columns: bool,
}

impl Table {
    /// The index that identifies rows.
    pub fn identity(&self) -> Option<&UniqueIndex> {
        self.identity.map(|at| &self.indexes[at])
    }

    fn build(relation: pg_sys::Relation) -> Self {
        let (schema, name) = qualified_name(relation);
        let hash = Hash::relation(&schema, &name);
        let indexes = UniqueIndex::of_relation(relation, hash);
        // SAFETY: the relation is open and locked.
        let identity_oid = unsafe {
            let replica = pg_sys::RelationGetReplicaIndex(relation);
            if replica == pg_sys::InvalidOid { pg_sys::RelationGetPrimaryKeyIndex(relation) } else { replica }
        };
        Self {
            descriptor: descriptor_hash(relation),
            columns: Column::of_relation(relation),
            identity: indexes.iter().position(|index| index.oid == identity_oid && index.identifies_rows()),
            keys_follow_columns: indexes.iter().all(UniqueIndex::follows_columns),
            indexes,
            schema,
            name,
            hash,
        }
    }
}

/// Schema and name of an open relation.
pub fn qualified_name(relation: pg_sys::Relation) -> (String, String) {
    // SAFETY: the relation is open; a schema in use exists.
    unsafe {
        let class = (*relation).rd_rel;
        let schema = pg_sys::get_namespace_name((*class).relnamespace);
        let schema_name = CStr::from_ptr(schema).to_string_lossy().into_owned();
        pg_sys::pfree(schema.cast());
        (schema_name, CStr::from_ptr((*class).relname.data.as_ptr()).to_string_lossy().into_owned())
    }
}

/// Hash of a relation's column layout: names, types by name, dropped marks.
/// The applier compares it before it trusts column positions.
pub fn descriptor_hash(relation: pg_sys::Relation) -> u64 {
    // SAFETY: the relation is open, so its descriptor stays.
    let attributes = unsafe { (*(*relation).rd_att).attrs.as_slice((*(*relation).rd_att).natts as usize) };
    let mut hash = Hash::EMPTY;
    for attribute in attributes {
        if attribute.attisdropped {
            hash = hash.word(u64::MAX);
            continue;
        }
        // SAFETY: a NUL-terminated name inside the descriptor, and a palloc'd one.
        unsafe {
            let name = CStr::from_ptr(attribute.attname.data.as_ptr());
            let type_name =
                pg_sys::format_type_extended(attribute.atttypid, -1, pg_sys::FORMAT_TYPE_FORCE_QUALIFY as u16);
            hash = hash.bytes(name.to_bytes()).bytes(CStr::from_ptr(type_name).to_bytes());
            pg_sys::pfree(type_name.cast());
        }
    }
    hash.0
}

struct Cache {
    tables: Option<HashMap<pg_sys::Oid, Rc<Table>>>,
    /// Grows with every invalidation, so that a table built meanwhile is not kept.
    generation: u64,
}

static CACHE: BackendLocal<Cache> = BackendLocal::new(Cache { tables: None, generation: 0 });

/// Registers for PostgreSQL's invalidation messages. Call from `_PG_init`.
pub fn install() {
    // SAFETY: registration, inherited by all backends.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation_change), pg_sys::Datum::from(0usize));
        for cache in [pg_sys::SysCacheIdentifier::NAMESPACEOID, pg_sys::SysCacheIdentifier::TYPEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_catalog_change), pg_sys::Datum::from(0usize));
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_relation_change(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    super::locks::forget(relation);
    // SAFETY: nobody borrows the cache across calls into PostgreSQL.
    let cache = unsafe { CACHE.borrow() };
    cache.generation += 1;
    match &mut cache.tables {
        Some(tables) if relation == pg_sys::InvalidOid => tables.clear(),
        Some(tables) => drop(tables.remove(&relation)),
        None => {}
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_catalog_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    super::locks::forget(pg_sys::InvalidOid);
    // SAFETY: as above.
    let cache = unsafe { CACHE.borrow() };
    cache.generation += 1;
    if let Some(tables) = &mut cache.tables {
        tables.clear();
    }
}

/// What is known of an open relation.
pub fn lookup(relation: pg_sys::Relation) -> Rc<Table> {
    // SAFETY: the relation is open.
    let oid = unsafe { (*relation).rd_id };
    loop {
        // SAFETY: short borrows; `Table::build` runs between them, not inside.
        let cache = unsafe { CACHE.borrow() };
        if let Some(table) = cache.tables.as_ref().and_then(|tables| tables.get(&oid)) {
            return Rc::clone(table);
        }
        let generation = cache.generation;
        let table = Rc::new(Table::build(relation));
        // SAFETY: as above.
        let cache = unsafe { CACHE.borrow() };
        if cache.generation == generation {
            cache.tables.get_or_insert_default().insert(oid, Rc::clone(&table));
            return table;
        }
    }
}
