//! What the daemon's frames do to commit slots, and what slots and callbacks
//! have to tell the daemon.

use std::sync::atomic::Ordering;

use pgrenga_writeset::port::{FromPostgres, ToPostgres};
use pgrenga_writeset::{Incarnation, LogIndex, Seq, TransactionId};

use crate::commit;
use crate::shmem::{Fence, Notice, Slot, State, shared, wake};

/// Acts on a frame; what there is to answer is appended to `answers`.
pub fn obey(frame: &ToPostgres<'_>, answers: &mut Vec<u8>) {
    let shared = shared();
    match *frame {
        ToPostgres::Welcome { node, incarnation, sequence_slot, sequence_slots } => {
            shared.node.store(node.0, Ordering::Release);
            shared.incarnation.store(incarnation.0, Ordering::Release);
            shared.sequence_slot.store(u32::from(sequence_slot), Ordering::Release);
            shared.sequence_slots.store(u32::from(sequence_slots), Ordering::Release);
            report_waiting(answers);
        }
        ToPostgres::Admission { open } => shared.set_admission(open),
        ToPostgres::Lease { until } => shared.grant_lease(until),
        ToPostgres::Problem(problem) => shared.problem.set(problem),
        ToPostgres::Standing(standing) => shared.set_standing(Some(standing)),
        ToPostgres::Commit { txid, seq } => order(&txid, seq, answers),
        ToPostgres::Abort { txid, reason } => {
            settle(&txid, State::Aborted(txid.counter), |slot| slot.set_reason(&reason))
        }
        ToPostgres::Resubmit(txid) => settle(&txid, State::Resubmit(txid.counter), |_| {}),
        ToPostgres::Refused(txid) => settle(&txid, State::Refused(txid.counter), |_| {}),
        ToPostgres::Forgotten(txid) => settle(&txid, State::Forgotten(txid.counter), |_| {}),
        ToPostgres::FenceGranted { txid, fence, after } => grant(&txid, fence, after, answers),
        ToPostgres::FenceLost(txid) => lose_fence(&txid),
        ToPostgres::Taken { txid, fragments } => note_taken(&txid, fragments),
        ToPostgres::Answer { question, text } => deliver(question, text),
    }
}

fn slot_of(txid: &TransactionId) -> Option<(&'static Slot, i32)> {
    shared().slots().get(txid.slot()).map(|slot| (slot, txid.slot() as i32))
}

/// Whether the slot's transaction, if it waits, is of the named life: counters
/// begin anew when the server does.
fn same_life(slot: &Slot, txid: &TransactionId) -> bool {
    slot.incarnation.load(Ordering::Acquire) == txid.incarnation.0
}

/// Delivers a commit verdict. If nobody waits for it, and nobody is about to
/// make that seq visible, the applier has to.
fn order(txid: &TransactionId, seq: Seq, answers: &mut Vec<u8>) {
    let Some((slot, procno)) = slot_of(txid) else { return };
    if same_life(slot, txid) && slot.advance(State::Waiting(txid.counter), State::Ordered(seq.0)) {
        // It has nothing to do before its turn: who opens it wakes it.
        if !shared().turnstile.queue(seq.0, procno) || shared().turnstile.visible() + 1 >= seq.0 {
            wake(procno);
        }
    } else if slot.state().seq() != Some(seq.0) && shared().turnstile.visible() < seq.0 {
        FromPostgres::Orphan(seq).encode(answers);
    }
}

fn settle(txid: &TransactionId, to: State, prepare: impl FnOnce(&Slot)) {
    let Some((slot, procno)) = slot_of(txid) else { return };
    let waiting = State::Waiting(txid.counter);
    if same_life(slot, txid) && slot.state() == waiting {
        prepare(slot);
        if slot.advance(waiting, to) {
            wake(procno);
        }
    }
}

/// Fragments are in the log: there is room for the next ones.
fn note_taken(txid: &TransactionId, fragments: u32) {
    let Some((slot, procno)) = slot_of(txid) else { return };
    if same_life(slot, txid) && slot.state() == State::Waiting(txid.counter) {
        slot.taken.store(fragments, Ordering::Release);
        wake(procno);
    }
}

/// A question's number tells who asks, as a transaction's counter does.
fn deliver(question: u64, text: &str) {
    let asker = TransactionId { counter: question, ..TransactionId::default() }.slot();
    if shared().inboxes().get(asker).is_some_and(|inbox| inbox.put(question, text)) {
        wake(asker as i32);
    }
}

fn grant(txid: &TransactionId, fence: LogIndex, after: Seq, answers: &mut Vec<u8>) {
    let Some((slot, procno)) = slot_of(txid) else { return };
    let requested = Fence::Requested(txid.counter);
    if slot.fence() == requested {
        slot.fence_after.store(after.0, Ordering::Release);
        if slot.advance_fence(requested, Fence::Held(fence.0)) {
            wake(procno);
            return;
        }
    }
    FromPostgres::GiveUp(*txid).encode(answers);
}

fn lose_fence(txid: &TransactionId) {
    let Some((slot, procno)) = slot_of(txid) else { return };
    // The fence word first: `Held` names a log index that only one transaction
    // ever has, so if the slot has another owner by now, the swap fails.
    let fence = slot.fence();
    if slot.state() == State::Open(txid.counter) && slot.advance_fence(fence, Fence::Lost) {
        wake(procno);
    }
}

/// After a daemon's restart: fences of the old life are gone, and transactions
/// that wait for a verdict ask for it again.
fn report_waiting(answers: &mut Vec<u8>) {
    for (procno, slot) in shared().slots().iter().enumerate() {
        let fence = slot.fence();
        if fence != Fence::None && slot.advance_fence(fence, Fence::Lost) {
            wake(procno as i32);
        }
        // Whoever was handed over in the new life already is in the ring.
        let incarnation = Incarnation(slot.incarnation.load(Ordering::Acquire));
        if let State::Waiting(counter) = slot.state()
            && incarnation.0 != shared().incarnation.load(Ordering::Acquire)
        {
            let txid = TransactionId { incarnation, ..commit::transaction_id(counter) };
            FromPostgres::Waiting(txid).encode(answers);
        }
    }
}

/// Tells what COMMIT and ABORT callbacks left.
pub fn report_notices(out: &mut Vec<u8>) {
    shared().notices.take(|notice| match notice {
        Notice::Orphan(seq) => FromPostgres::Orphan(Seq(seq)).encode(out),
        Notice::GiveUp(counter) => FromPostgres::GiveUp(commit::transaction_id(counter)).encode(out),
    });
}
