//! What all backends of this server share: the visible seq with its turnstile,
//! the commit slots, and the ring through which backends reach the port worker.
//!
//! Plain atomics in PostgreSQL's shared memory; one LWLock, for the ring. The
//! postmaster zeroes the memory when it starts after a crash, so nothing here
//! outlives the server: progress comes back from PostgreSQL's own recovery.

mod conflicts;
mod inbox;
mod needs;
mod notices;
pub mod ring;
pub mod slot;
mod text;
pub mod turnstile;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use pgrenga_writeset::port::{MAX_PROBLEM, Standing};
use pgrx::pg_sys;

pub use conflicts::{Conflict, Conflicts};
pub use inbox::Inbox;
pub use needs::KEYS as NEEDED_KEYS;
pub use notices::{Notice, Notices};
pub use slot::{Fence, Slot, State};
use text::Text;
pub use turnstile::Turnstile;

/// The fixed part of the shared memory. Slots, inboxes and the ring's bytes follow it.
#[repr(C)]
pub struct Shared {
    /// Order of commits on this server.
    pub turnstile: Turnstile,
    /// What callbacks that may not wait have to tell the daemon.
    pub notices: Notices,
    /// What transactions of this server lost over.
    pub conflicts: Conflicts,
    /// This node's id; zero until the daemon has told it.
    pub node: AtomicU32,
    /// The life of this node that transactions name; zero until the daemon has told it.
    pub incarnation: AtomicU32,
    /// Which slot of each sequence's lattice is this node's.
    pub sequence_slot: AtomicU32,
    /// How many slots a sequence's lattice has; zero until the daemon has told it.
    pub sequence_slots: AtomicU32,
    /// Tells this life of the server from the next.
    pub server_start: AtomicU64,
    /// Until when (milliseconds of the monotonic clock) the daemon lets this server serve.
    serving_until: AtomicU64,
    /// Why it does so no longer: [`Standing::tag`], zero while there is no daemon.
    standing: AtomicU32,
    /// How the node's data differ, once they are known to.
    pub problem: Text<{ MAX_PROBLEM / 8 }>,
    /// Whether it ever has since the server started.
    has_served: AtomicBool,
    /// Whether the daemon told to turn new sessions away.
    turns_away: AtomicBool,
    /// Draws generations of slots.
    next_generation: AtomicU64,
    /// How many transactions of this server have written and are not over.
    pub writers: AtomicU32,
    /// The port worker's process number, -1 while there is none.
    port_worker: AtomicI32,
    slot_count: u32,
    ring: ring::Ring,
}

static mut SHARED: *mut Shared = std::ptr::null_mut();
static mut PREVIOUS_REQUEST_HOOK: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP_HOOK: pg_sys::shmem_startup_hook_type = None;

const NAME: &std::ffi::CStr = c"pgrenga";

/// Asks the postmaster for the memory. Call from `_PG_init`.
pub fn install() {
    // SAFETY: runs in the postmaster, single-threaded, before any backend exists.
    unsafe {
        PREVIOUS_REQUEST_HOOK = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

/// One slot for each process that can run transactions (`MaxBackends`).
fn slot_count() -> usize {
    // SAFETY: set before the request hook runs and constant from then on.
    unsafe { pg_sys::MaxBackends as usize }
}

fn bytes() -> usize {
    size_of::<Shared>() + slot_count() * (size_of::<Slot>() + size_of::<Inbox>()) + ring::CAPACITY
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: the hook's contract: called once, when shared memory may be requested.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST_HOOK {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(bytes());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the postmaster alone runs this, before it starts anything else;
    // the area is as large as requested, zeroed and MAXALIGNed.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP_HOOK {
            previous();
        }
        let mut found = false;
        let area = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes(), &mut found).cast::<Shared>();
        if !found {
            area.cast::<u8>().write_bytes(0, bytes());
            (*area).port_worker = AtomicI32::new(-1);
            (*area).slot_count = slot_count() as u32;
            (*area).server_start = AtomicU64::new(pg_sys::GetCurrentTimestamp() as u64);
            (*area).next_generation = AtomicU64::new(1);
            (*area).ring = ring::Ring::new(&raw mut (*pg_sys::GetNamedLWLockTranche(NAME.as_ptr())).lock);
        }
        SHARED = area;
    }
}

/// The shared memory.
pub fn shared() -> &'static Shared {
    // SAFETY: set at server start before anything that could call this, never
    // unmapped while the process lives, and only changed through atomics.
    unsafe { &*SHARED }
}

/// Milliseconds of the monotonic clock, which all processes of a machine share.
pub fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a plain system call that fills the struct.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Shared {
    /// All commit slots, by process number.
    pub fn slots(&self) -> &[Slot] {
        // SAFETY: `startup` laid out `slot_count` zeroed slots behind the fixed part.
        unsafe {
            let first = std::ptr::from_ref(self).add(1).cast::<Slot>();
            std::slice::from_raw_parts(first, self.slot_count as usize)
        }
    }

    /// All inboxes, by process number.
    pub fn inboxes(&self) -> &[Inbox] {
        // SAFETY: as many zeroed inboxes follow the slots, which are aligned better.
        unsafe { std::slice::from_raw_parts(self.slots().as_ptr_range().end.cast::<Inbox>(), self.slot_count as usize) }
    }

    /// The ring to the port worker.
    pub fn ring(&self) -> ring::Handle<'_> {
        // SAFETY: the ring's bytes follow the inboxes, `ring::CAPACITY` of them.
        unsafe {
            let bytes = self.inboxes().as_ptr_range().end.cast::<u8>().cast_mut();
            ring::Handle::new(&self.ring, bytes)
        }
    }

    /// This process's slot.
    pub fn my_slot(&self) -> &Slot {
        // SAFETY: every process with a transaction has a PGPROC.
        &self.slots()[unsafe { (*pg_sys::MyProc).pgprocno } as usize]
    }

    /// This process's inbox.
    pub fn my_inbox(&self) -> &Inbox {
        // SAFETY: as in `my_slot`.
        &self.inboxes()[unsafe { (*pg_sys::MyProc).pgprocno } as usize]
    }

    /// A counter for a new transaction of this process, see
    /// [`pgrenga_writeset::TransactionId::counter`]. Also names a question: never zero,
    /// unique as long as the server lives, and tells this process's number.
    pub fn draw_counter(&self) -> u64 {
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as in `my_slot`.
        let slot = unsafe { (*pg_sys::MyProc).pgprocno } as u64;
        (generation << pgrenga_writeset::TransactionId::SLOT_BITS) | slot
    }

    /// Whether the daemon lets this server serve now.
    pub fn serving(&self) -> bool {
        self.serving_until.load(Ordering::Acquire) > monotonic_ms()
    }

    /// Lets the server serve until then; zero ends it.
    pub fn grant_lease(&self, until: u64) {
        self.serving_until.store(until, Ordering::Release);
        if until > monotonic_ms() {
            self.has_served.store(true, Ordering::Release);
        }
    }

    /// What the daemon said of its node last; nothing while there is no daemon.
    pub fn standing(&self) -> Option<Standing> {
        Standing::of(self.standing.load(Ordering::Acquire) as u8)
    }

    /// Keeps what the daemon says of its node, or that it is gone.
    pub fn set_standing(&self, standing: Option<Standing>) {
        self.standing.store(standing.map_or(0, |standing| standing.tag().into()), Ordering::Release);
    }

    /// Whether this server shows at least what it showed before it started:
    /// the daemon grants the first lease once everything ordered before is visible.
    pub fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Acquire)
    }

    /// Lets new sessions in, or not. Without a daemon it stays as it was.
    pub fn set_admission(&self, open: bool) {
        self.turns_away.store(!open, Ordering::Release);
    }

    /// Whether new sessions have to go to another node.
    pub fn turns_away(&self) -> bool {
        self.turns_away.load(Ordering::Acquire)
    }

    /// Says that the calling process is the port worker, or that there is none.
    pub fn set_port_worker(&self, procno: Option<i32>) {
        self.port_worker.store(procno.unwrap_or(-1), Ordering::Release);
    }

    /// Wakes the port worker, if there is one. Never waits, never fails.
    pub fn wake_port_worker(&self) {
        wake(self.port_worker.load(Ordering::Acquire));
    }
}

/// Sets the latch of process `procno`; -1 is nobody.
pub fn wake(procno: i32) {
    if procno >= 0 {
        // SAFETY: PGPROCs are never freed; a latch set for a process that has
        // meanwhile gone wakes its successor once too often, which all waits bear.
        unsafe { pg_sys::SetLatch(&raw mut (*(*pg_sys::ProcGlobal).allProcs.add(procno as usize)).procLatch) };
    }
}

/// Sleeps until this process's latch is set or `timeout_ms` is over, then
/// resets the latch. Ends the process if the postmaster is gone; does not
/// handle interrupts: the caller decides which ones count.
pub fn sleep(timeout_ms: i64) {
    // SAFETY: MyLatch is this process's own.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            timeout_ms,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}
