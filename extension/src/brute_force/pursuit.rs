//! Signals to victims, again and again until they are gone.

use pgrx::pg_sys;

use super::blockers::{self, Blocker};
use crate::backend::BackendLocal;
use crate::shmem::{self, State, monotonic_ms, shared};

/// Milliseconds between signals to the same victim.
const RESEND_MS: u64 = 20;
/// For so long a victim may finish its statement,
const STATEMENT_GRACE_MS: u64 = 10;
/// and for so long may its client take to send the next one.
const IDLE_GRACE_MS: u64 = 100;
/// For so long a victim that has heard of it may take to roll back.
const HEARD_GRACE_MS: u32 = 1000;
/// After so long a victim's session is told to end, and the log says so.
const ESCALATE_MS: u64 = 10_000;
/// Milliseconds between signals from then on.
const RESEND_SLOWLY_MS: u64 = 1000;
/// A pursuit that nobody asked for so long is over.
const FORGET_MS: u64 = 1000;
/// Victims remembered at a time; what is beyond is signalled every time.
const REMEMBERED: usize = 64;

/// What was done about one blocker. Zeros are nobody.
#[derive(Clone, Copy)]
struct Pursuit {
    backend: pg_sys::BackendId,
    transaction: pg_sys::LocalTransactionId,
    since_ms: u64,
    asked_ms: u64,
    sent_ms: u64,
    escalated: bool,
}

const NOBODY: Pursuit = Pursuit { backend: 0, transaction: 0, since_ms: 0, asked_ms: 0, sent_ms: 0, escalated: false };

static PURSUITS: BackendLocal<[Pursuit; REMEMBERED]> = BackendLocal::new([NOBODY; REMEMBERED]);

/// The pursuit of this blocker, begun now if there is none.
fn of(blocker: &Blocker, now: u64) -> Option<&'static mut Pursuit> {
    // SAFETY: callers use it up before the next call.
    let all = unsafe { PURSUITS.borrow() };
    let vxid = &blocker.vxid;
    let is_same = |it: &Pursuit| it.backend == vxid.backendId && it.transaction == vxid.localTransactionId;
    let alive = |it: &Pursuit| it.asked_ms + FORGET_MS > now;
    let at = all.iter().position(|it| is_same(it) && alive(it)).or_else(|| {
        let free = all.iter().position(|it| !alive(it))?;
        all[free] = Pursuit { backend: vxid.backendId, transaction: vxid.localTransactionId, since_ms: now, ..NOBODY };
        Some(free)
    })?;
    all[at].asked_ms = now;
    Some(&mut all[at])
}

/// For how many milliseconds it has been in the way.
pub(super) fn blocked_for(blocker: &Blocker) -> u64 {
    let now = monotonic_ms();
    of(blocker, now).map_or(0, |pursuit| now - pursuit.since_ms)
}

/// Whether it is time for the next signal, and how long the pursuit lasts.
fn due(blocker: &Blocker) -> Option<u64> {
    let now = monotonic_ms();
    let Some(pursuit) = of(blocker, now) else { return Some(0) };
    let pause = if pursuit.escalated { RESEND_SLOWLY_MS } else { RESEND_MS };
    if pursuit.sent_ms + pause > now {
        return None;
    }
    pursuit.sent_ms = now;
    let lasts = now - pursuit.since_ms;
    pursuit.escalated = lasts >= ESCALATE_MS;
    Some(lasts)
}

/// Goes on ending a transaction that is a victim already. Whoever made it one
/// may have signalled it just now, before it could hear of it: pause first.
pub(super) fn end_again(blocker: &Blocker) {
    let now = monotonic_ms();
    if let Some(pursuit) = of(blocker, now)
        && pursuit.sent_ms == 0
    {
        pursuit.sent_ms = now;
    }
    end(blocker);
}

/// Ends the blocker's transaction. A victim that is between statements is left
/// to find out by itself at the next one: the signal would end its session. So would one that finds it rolling
/// back already, when it is idle next: whoever has heard of it gets time for that. It may have caught the error,
/// and go on.
pub(super) fn end(blocker: &Blocker) {
    let waits_for_lock = blocker.procno.is_some_and(|procno| blockers::waiting_pid(procno).is_some());
    let patience = if blocker.is_idle() { IDLE_GRACE_MS } else { STATEMENT_GRACE_MS };
    if !waits_for_lock && !blocker.is_autovacuum() && blocked_for(blocker) < patience {
        return;
    }
    if blocker.has_heard_within(HEARD_GRACE_MS) {
        return;
    }
    let Some(lasts) = due(blocker) else { return };
    let pid = blocker.pid();
    if lasts >= ESCALATE_MS {
        pgrx::log!("pgrenga: process {pid} has kept an ordered transaction waiting for {lasts} ms: ending its session");
        return kill(pid, libc::SIGTERM);
    }
    if blocker.is_autovacuum() {
        return kill(pid, libc::SIGINT);
    }
    signal(blocker);
}

/// Makes the applier of `seq`, which has to yield, notice it. At the turnstile
/// or between ops its latch does; from the wait for a lock only a cancel gets
/// it out. (A cancel, because one that comes too late does nothing to a
/// session that is idle.) Nothing happens unless its slot says that it yields.
pub(super) fn end_applier(blocker: &Blocker, procno: usize, seq: u64) {
    if shared().slots()[procno].state() != State::Yielded(seq) {
        return;
    }
    shmem::wake(procno as i32);
    if let Some(pid) = blockers::waiting_pid(procno)
        && due(blocker).is_some()
    {
        kill(pid, libc::SIGINT);
    }
}

/// A prepared transaction cannot be ended from here: it takes a person.
pub(super) fn report_prepared(blocker: &Blocker) {
    let now = monotonic_ms();
    let Some(pursuit) = of(blocker, now) else { return };
    if pursuit.sent_ms + ESCALATE_MS <= now {
        pursuit.sent_ms = now;
        pgrx::log!("pgrenga: a prepared transaction keeps an ordered one waiting: end it with ROLLBACK PREPARED");
    }
}

fn signal(blocker: &Blocker) {
    // SAFETY: looks the transaction up under ProcArrayLock and signals its
    // process; nothing happens if it has ended.
    unsafe {
        let conflict = pg_sys::ProcSignalReason::PROCSIG_RECOVERY_CONFLICT_LOCK;
        pg_sys::SignalVirtualTransaction(blocker.vxid, conflict, true);
    }
}

fn kill(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: a plain system call.
        unsafe { libc::kill(pid, signal) };
    }
}
