//! The predicate locks of this process's transaction.

use pgrx::pg_sys;

/// `PREDICATELOCKTARGETTAG` (`storage/predicate_internals.h`).
#[repr(C)]
struct Target {
    database: u32,
    relation: pg_sys::Oid,
    page: u32,
    offset: u32,
}

/// `SERIALIZABLEXACT`.
#[repr(C)]
struct Holder {
    vxid: pg_sys::VirtualTransactionId,
    sequence_numbers: [u64; 3],
    lists: [pg_sys::SHM_QUEUE; 4],
    lock: pg_sys::LWLock,
    possible_conflicts: pg_sys::SHM_QUEUE,
    xids: [u32; 3],
    flags: u32,
    pid: i32,
    procno: i32,
}

/// `PredicateLockData`.
#[repr(C)]
struct All {
    count: i32,
    targets: *const Target,
    holders: *const Holder,
}

unsafe extern "C-unwind" {
    /// `storage/predicate_internals.h`: a copy of all, in the current memory context.
    #[link_name = "GetPredicateLockStatusData"]
    fn unguarded_all() -> *const All;
}

/// The relations, tables and indexes, of all that this transaction has read.
pub(super) fn held() -> Vec<pg_sys::Oid> {
    // SAFETY: PostgreSQL fills the arrays that the count describes.
    let (targets, holders, me) = unsafe {
        let all = &*pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded_all());
        if all.count == 0 {
            return Vec::new();
        }
        let count = all.count as usize;
        (
            std::slice::from_raw_parts(all.targets, count),
            std::slice::from_raw_parts(all.holders, count),
            &*pg_sys::MyProc,
        )
    };
    let is_mine = |holder: &Holder| {
        holder.pid == me.pid && holder.vxid.backendId == me.backendId && holder.vxid.localTransactionId == me.lxid
    };
    let mine = targets.iter().zip(holders).filter(|(_, holder)| is_mine(holder));
    let mut relations: Vec<_> = mine.map(|(target, _)| target.relation).collect();
    relations.sort_unstable_by_key(|relation| relation.to_u32());
    relations.dedup();
    relations
}
