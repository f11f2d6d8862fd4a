//! What a SERIALIZABLE transaction has read, for certification.

use std::collections::HashMap;
use std::rc::Rc;

use pgrenga_writeset::Seq;
use pgrenga_writeset::writeset::{Flags, Read, Reading};
use pgrx::pg_sys::{self, Datum, Oid};

use super::locks::{for_each_relation_lock, name_of};
use super::table;
use super::transaction::Transaction;
use crate::error::refuse;

/// How a transaction has looked into a table.
#[derive(Default)]
pub struct Lookups {
    /// In another way than by whole keys.
    pub whole: bool,
    /// By keys of these unique indexes.
    pub indexes: Vec<Oid>,
    /// The keys' hashes.
    pub keys: Vec<u64>,
}

/// The reads of a transaction, and the names of their relations for error messages.
pub(super) struct Reads {
    pub(super) snapshot: Seq,
    pub(super) list: Vec<Read>,
    pub(super) names: Vec<Rc<str>>,
}

impl Reads {
    pub(super) const fn new() -> Self {
        Self { snapshot: Seq(0), list: Vec::new(), names: Vec::new() }
    }

    fn push(&mut self, hash: u64, what: Reading, name: &Rc<str>) {
        self.list.push(Read { hash, what });
        self.names.push(Rc::clone(name));
    }

    /// Forgets everything. Never fails.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.names.clear();
    }
}

impl Transaction {
    /// Says what was read in the snapshot that includes `snapshot`: by the relations with predicate locks, tables
    /// and indexes, and, unless some scans went unseen, by how tables were looked into. Of every relation that the
    /// transaction has locked, it has seen the definition.
    pub fn set_reads(&mut self, snapshot: Seq, locked: &[Oid], lookups: Option<&HashMap<Oid, Lookups>>) {
        self.add_flag(Flags::SERIALIZABLE);
        let reads = self.reads();
        reads.clear();
        reads.snapshot = snapshot;
        for_each_relation_lock(|relation, _| {
            let Some(name) = name_of(relation) else { return };
            if name.is_unlogged {
                refuse(
                    "a SERIALIZABLE transaction that writes replicated tables cannot use unlogged ones",
                    format!(
                        "Rows of \"{}\" are this node's own, and the other nodes cannot tell what was read of them.",
                        name.text
                    ),
                    "Use REPEATABLE READ.",
                );
            }
            // Not in all versions does SSI watch these.
            let what = if name.is_materialized_view { Reading::Rows } else { Reading::Definition };
            reads.push(name.hash, what, &name.text);
        });
        for (table, indexes) in by_table(locked) {
            let Some(name) = name_of(table) else { continue };
            match lookups.and_then(|lookups| lookups.get(&table)) {
                Some(seen) if !seen.whole && indexes.iter().all(|index| seen.indexes.contains(index)) => {
                    seen.keys.iter().for_each(|key| reads.push(*key, Reading::Key, &name.text));
                }
                _ => reads.push(name.hash, Reading::Rows, &name.text),
            }
        }
    }
}

/// Tables, each with those of its indexes that are among the relations.
fn by_table(relations: &[Oid]) -> HashMap<Oid, Vec<Oid>> {
    let mut tables: HashMap<Oid, Vec<Oid>> = HashMap::new();
    for &relation in relations {
        // SAFETY: catalog look-ups inside a transaction; zero for what this transaction has dropped.
        unsafe {
            match pg_sys::get_rel_relkind(relation) as u8 {
                pg_sys::RELKIND_INDEX => {
                    tables.entry(pg_sys::IndexGetRelation(relation, true)).or_default().push(relation);
                }
                _ => drop(tables.entry(relation).or_default()),
            }
        }
    }
    tables
}

/// The key that an index is scanned for, if it is unique and all of its columns are given: then nothing but a row with
/// this very key can be found.
///
/// # Safety
/// Both are open, and the keys are those of a scan of that index.
pub unsafe fn looked_up_key(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    keys: &[pg_sys::ScanKeyData],
) -> Option<u64> {
    let table = table::lookup(relation);
    // SAFETY: the caller's promise; the arrays have one element for each key column.
    unsafe {
        let unique = table.indexes.iter().find(|unique| unique.oid == (*index).rd_id)?;
        let count = unique.columns().count();
        if count == 0 || keys.len() != count || !unique.follows_columns() {
            return None;
        }
        let mut arguments = vec![None; count];
        for key in keys {
            let at = usize::try_from(key.sk_attno - 1).ok().filter(|at| *at < count)?;
            let is_own_type = key.sk_subtype == pg_sys::InvalidOid || key.sk_subtype == *(*index).rd_opcintype.add(at);
            let is_equality = key.sk_flags == 0 && u32::from(key.sk_strategy) == pg_sys::BTEqualStrategyNumber;
            if !is_own_type || !is_equality || key.sk_collation != *(*index).rd_indcollation.add(at) {
                return None;
            }
            arguments[at] = Some(key.sk_argument);
        }
        let arguments = arguments.into_iter().collect::<Option<Vec<Datum>>>()?;
        Some(unique.key_of(&table.columns, &arguments).0)
    }
}
