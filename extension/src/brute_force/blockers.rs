//! Who holds, or queues ahead for, what a process waits for.

use pgrx::pg_sys;

use crate::shmem::shared;

/// A transaction in the way.
#[derive(Clone, Copy)]
pub(super) struct Blocker {
    /// Names this transaction and no later one of the same process.
    pub(super) vxid: pg_sys::VirtualTransactionId,
    /// Its process (the leader's, if a parallel worker holds the lock);
    /// `None` for a prepared transaction.
    pub(super) procno: Option<usize>,
}

impl Blocker {
    fn process(&self) -> Option<&'static pg_sys::PGPROC> {
        self.procno.map(process)
    }

    /// The process's id, zero if it is gone.
    pub(super) fn pid(&self) -> i32 {
        self.process().map_or(0, |process| process.pid)
    }

    /// Whether this transaction was told within the last `ms` milliseconds that it is ended.
    pub(super) fn has_heard_within(&self, ms: u32) -> bool {
        let slot = self.procno.and_then(|procno| shared().slots().get(procno));
        slot.is_some_and(|slot| slot.heard_within(self.vxid.localTransactionId, ms))
    }

    /// Whether it is over and gives up its locks just now. Such a one has no id any more, as little as a
    /// session that is idle: a signal for it would end that.
    pub(super) fn has_ended(&self) -> bool {
        self.vxid.localTransactionId == 0
    }

    pub(super) fn is_autovacuum(&self) -> bool {
        self.process().is_some_and(|process| u32::from(process.statusFlags) & pg_sys::PROC_IS_AUTOVACUUM != 0)
    }

    /// Whether it waits for its client.
    pub(super) fn is_idle(&self) -> bool {
        let client_read = pg_sys::WaitEventClient::WAIT_EVENT_CLIENT_READ;
        self.process().is_some_and(|process| process.wait_event_info == client_read)
    }
}

fn processes() -> &'static [pg_sys::PGPROC] {
    // SAFETY: allocated at server start and never freed. Fields change under
    // us; each use reads one word and bears a stale one.
    unsafe {
        let all = &*pg_sys::ProcGlobal;
        std::slice::from_raw_parts(all.allProcs, all.allProcCount as usize)
    }
}

fn process(procno: usize) -> &'static pg_sys::PGPROC {
    &processes()[procno]
}

/// The process's id, if it waits for a heavyweight lock.
pub(super) fn waiting_pid(procno: usize) -> Option<i32> {
    let process = process(procno);
    let waits = process.waitStatus == pg_sys::ProcWaitStatus::PROC_WAIT_STATUS_WAITING && !process.waitLock.is_null();
    (waits && process.pid != 0).then_some(process.pid)
}

/// What blocks a process, as `pg_blocking_pids` finds it (`lockfuncs.c`):
/// holders of conflicting locks, and conflicting requests ahead in the queue.
pub(super) fn of_process(pid: i32) -> Vec<Blocker> {
    in_scratch(|| {
        let mut blockers = Vec::new();
        // SAFETY: PostgreSQL fills the arrays that the counts describe, in the
        // scratch context.
        unsafe {
            let data = &*pg_sys::GetBlockerStatusData(pid);
            for process in slice(data.procs, data.nprocs) {
                let locks = slice(data.locks.add(process.first_lock as usize), process.num_locks);
                let ahead = slice(data.waiter_pids.add(process.first_waiter as usize), process.num_waiters);
                blockers_of(process.pid, locks, ahead, &mut blockers);
            }
        }
        blockers
    })
}

/// Locks that are held for one step of one statement, whatever the transaction
/// does, such as that for extending a table: they go by themselves.
fn is_momentary(tag: &pg_sys::LOCKTAG) -> bool {
    use pg_sys::LockTagType::{LOCKTAG_DATABASE_FROZEN_IDS, LOCKTAG_PAGE, LOCKTAG_RELATION_EXTEND};
    let kind = u32::from(tag.locktag_type);
    [LOCKTAG_RELATION_EXTEND, LOCKTAG_PAGE, LOCKTAG_DATABASE_FROZEN_IDS].contains(&kind)
}

/// The entries of one lock that stand in the way of process `pid`'s request.
fn blockers_of(pid: i32, locks: &[pg_sys::LockInstanceData], ahead: &[i32], blockers: &mut Vec<Blocker>) {
    let Some(blocked) = locks.iter().find(|lock| lock.pid == pid) else { return };
    if is_momentary(&blocked.locktag) {
        return;
    }
    // SAFETY: the lock's own conflict table, one mask for each mode.
    let conflicts = unsafe {
        let method = pg_sys::GetLockTagsMethodTable(&blocked.locktag);
        *(*method).conflictTab.add(blocked.waitLockMode as usize)
    };
    for lock in locks {
        let holds = lock.holdMask & conflicts != 0;
        let queues = conflicts & (1 << lock.waitLockMode) != 0 && ahead.contains(&lock.pid);
        if lock.leaderPid != blocked.leaderPid && (holds || queues) {
            blockers.push(Blocker::of_lock(lock));
        }
    }
}

impl Blocker {
    fn of_lock(lock: &pg_sys::LockInstanceData) -> Self {
        let vxid = pg_sys::VirtualTransactionId { backendId: lock.backend, localTransactionId: lock.lxid };
        let of_pid = |pid: i32| processes().iter().position(|process| pid != 0 && process.pid == pid);
        if lock.leaderPid == lock.pid {
            return Self { vxid, procno: of_pid(lock.pid) };
        }
        match of_pid(lock.leaderPid) {
            Some(leader) => Self::of_process(leader),
            None => Self { vxid, procno: of_pid(lock.pid) },
        }
    }

    fn of_process(procno: usize) -> Self {
        let process = process(procno);
        let vxid = pg_sys::VirtualTransactionId { backendId: process.backendId, localTransactionId: process.lxid };
        Self { vxid, procno: Some(procno) }
    }
}

/// Who runs transaction or subtransaction `xid`; nobody if it has ended.
pub(super) fn of_transaction(xid: pg_sys::TransactionId) -> Vec<Blocker> {
    in_scratch(|| {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: xid.into_inner(),
            locktag_field2: 0,
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_TRANSACTION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let mut count = 0;
        // SAFETY: every transaction holds a lock on its id; the array has
        // `count` elements, in the scratch context.
        let holders = unsafe {
            let first = pg_sys::GetLockConflicts(&tag, pg_sys::ShareLock as i32, &mut count);
            slice(first, count)
        };
        holders
            .iter()
            .map(|&vxid| {
                let procno = processes().iter().position(|process| {
                    process.pid != 0 && process.backendId == vxid.backendId && process.lxid == vxid.localTransactionId
                });
                Blocker { vxid, procno }
            })
            .collect()
    })
}

/// The transactions whose hold on a row conflicts with row lock `mode`.
/// Without the buffer's lock: what changes meanwhile is found by [`of_process`].
///
/// # Safety
/// The slot holds a heap tuple, in its buffer.
pub(super) unsafe fn row_holders(
    slot: *mut pg_sys::TupleTableSlot,
    mode: pg_sys::LockTupleMode::Type,
) -> Vec<pg_sys::TransactionId> {
    // SAFETY: the caller's promise; the pin keeps the tuple in place.
    let (infomask, xmax) = unsafe {
        let header = (*(*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple).t_data;
        (u32::from((*header).t_infomask), (*header).t_choice.t_heap.t_xmax)
    };
    let keeps_key = mode == pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
    if infomask & pg_sys::HEAP_XMAX_INVALID != 0 {
        return Vec::new();
    }
    if infomask & pg_sys::HEAP_XMAX_IS_MULTI == 0 {
        let shares_key = infomask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0
            && infomask & pg_sys::HEAP_LOCK_MASK == pg_sys::HEAP_XMAX_KEYSHR_LOCK;
        return if shares_key && keeps_key { Vec::new() } else { vec![xmax] };
    }
    let is_lock_only = infomask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
    in_scratch(|| {
        let mut members = std::ptr::null_mut();
        // SAFETY: the array has that many elements (or the count is -1).
        let members = unsafe {
            let multi: pg_sys::MultiXactId = xmax.into_inner().into();
            let count = pg_sys::GetMultiXactIdMembers(multi, &mut members, false, is_lock_only);
            slice(members, count)
        };
        let shares_key = |member: &pg_sys::MultiXactMember| {
            member.status == pg_sys::MultiXactStatus::MultiXactStatusForKeyShare && keeps_key
        };
        members.iter().filter(|member| !shares_key(member)).map(|member| member.xid).collect()
    })
}

/// # Safety
/// `first` points to `count` elements, if there are any.
unsafe fn slice<'a, T>(first: *const T, count: i32) -> &'a [T] {
    if count <= 0 || first.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(first, count as usize) }
}

/// Runs `step` in a memory context that is deleted afterwards: the port worker
/// has no context that anything else would empty.
fn in_scratch<R>(step: impl FnOnce() -> R) -> R {
    // SAFETY: the caller's context is current again afterwards; nothing
    // palloc'd leaves `step`.
    unsafe {
        let scratch = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"pgrenga blockers".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let outer = pg_sys::MemoryContextSwitchTo(scratch);
        let result = step();
        pg_sys::MemoryContextSwitchTo(outer);
        pg_sys::MemoryContextDelete(scratch);
        result
    }
}
