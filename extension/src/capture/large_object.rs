//! Changes of large objects into ops and keys.

use pgrenga_writeset::large_object::LargeObject;
use pgrenga_writeset::op;
use pgrenga_writeset::writeset::{Access, RowLock};

use super::hash::Hash;
use super::transaction::{KeyOrigin, Transaction};

/// Where PostgreSQL keeps them, for messages and for the lock that stands for all of them.
pub const TABLE: &str = "pg_catalog.pg_largeobject";

pub(super) fn table_hash() -> Hash {
    Hash::relation("pg_catalog", "pg_largeobject")
}

/// The certification key of a large object.
pub fn large_object_key(oid: u32) -> u64 {
    table_hash().word(u64::from(oid)).0
}

impl Transaction {
    /// A large object changed, under a lock that nobody else can hold.
    pub fn record_large_object(&mut self, object: &LargeObject<'_>) {
        self.begin_write();
        self.mark_subtransaction();
        self.use_rows(table_hash(), || TABLE.into());
        op::large_object(self.body(), object);
        self.push_large_object_key(object.oid);
        self.count_op();
    }

    /// A statement that runs everywhere changes a large object.
    pub fn use_large_object(&mut self, oid: u32) {
        self.mark_subtransaction();
        self.use_rows(table_hash(), || TABLE.into());
        self.push_large_object_key(oid);
    }

    fn push_large_object_key(&mut self, oid: u32) {
        self.push_key(Hash(large_object_key(oid)), RowLock::Update, Access::Write, KeyOrigin::LargeObject(oid));
    }
}
