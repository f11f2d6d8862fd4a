//! Holding the turnstile at a marker, so that all nodes can be looked at in
//! the same state.
//!
//! A marker's seq changes nothing. Whoever holds it has everything before it
//! visible, and nothing after it.

use pgrx::pg_sys;

use super::failure;
use crate::backend::BackendLocal;
use crate::shmem::{self, shared};

/// The seq at which this session holds the turnstile; zero for none.
static HELD: BackendLocal<u64> = BackendLocal::new(0);
static EXIT_REGISTERED: BackendLocal<bool> = BackendLocal::new(false);

/// A place in the turnstile's queue. A seq's place belongs to one process at a
/// time, so it is the claim.
struct Place(u64);

impl Drop for Place {
    fn drop(&mut self) {
        shared().turnstile.unqueue(self.0);
    }
}

/// Waits until everything before `seq` is visible and holds the turnstile
/// there, beyond the transaction's end. False if `seq` is visible already.
pub(super) fn hold(seq: u64) -> bool {
    match HELD.get() {
        0 => {}
        held if held == seq => return true,
        held => failure::protocol(format!("This session holds the turnstile at seq {held}.")),
    }
    register_exit();
    let turnstile = &shared().turnstile;
    // SAFETY: every process with a transaction has a PGPROC.
    let procno = unsafe { (*pg_sys::MyProc).pgprocno };
    let mut place = None;
    loop {
        if turnstile.visible() >= seq {
            return false;
        }
        if place.is_none() && turnstile.queue(seq, procno) {
            place = Some(Place(seq));
        }
        if place.is_some() && turnstile.visible() + 1 == seq {
            HELD.set(seq);
            std::mem::forget(place);
            return true;
        }
        super::interrupt();
        shmem::sleep(if place.is_some() { 100 } else { 1 });
    }
}

/// Lets the next seq pass.
pub(super) fn release(seq: u64) {
    if HELD.get() == seq {
        open();
    } else if shared().turnstile.visible() < seq {
        failure::protocol(format!("This session does not hold the turnstile at seq {seq}."));
    }
}

/// Never fails: it runs when the process ends.
fn open() {
    let seq = HELD.get();
    if seq != 0 {
        HELD.set(0);
        shared().turnstile.open(seq..=seq);
        shared().turnstile.unqueue(seq);
    }
}

fn register_exit() {
    if !EXIT_REGISTERED.get() {
        // SAFETY: once for each process.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0usize)) };
        EXIT_REGISTERED.set(true);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    open();
}
