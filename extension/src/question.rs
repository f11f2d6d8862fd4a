//! What sessions ask their daemon, through SQL.
//!
//! The question goes through the ring, the answer comes into this process's inbox.
//! The daemon may be restarted meanwhile, and the question be lost: so it is asked
//! again from time to time, under the same number.

use pgrenga_writeset::TransactionId;
use pgrenga_writeset::port::{FromPostgres, Topic};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::{SetOfIterator, TableIterator};
use pgrx::{name, pg_extern, pg_sys};

use crate::error::{PgSqlErrorCode, raise};
use crate::settings;
use crate::shmem::{self, shared};

/// Milliseconds after which a question without an answer is asked again.
const REPEAT_MS: u64 = 1000;

/// What became of a transaction of any node, by the name that error 08007 gave.
#[pg_extern]
fn pgrenga_transaction_status(id: &str) -> String {
    let Ok(txid) = id.parse::<TransactionId>() else {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("invalid transaction id: \"{id}\""),
            "A transaction id has the form NODE-INCARNATION-COUNTER.",
            "Take it from the DETAIL of the error that left the transaction's outcome open; PostgreSQL's own transaction ids are not meant.",
        )
    };
    ask(Topic::Transaction(txid))
}

/// This node as its daemon sees it: a JSON object.
#[pg_extern]
fn pgrenga_status_json() -> String {
    ask(Topic::Status)
}

/// The members as this node knows them: a JSON object each.
#[pg_extern]
fn pgrenga_nodes_json() -> SetOfIterator<'static, String> {
    let members = (0..).map(|ordinal| ask(Topic::Member(ordinal))).take_while(|text| !text.is_empty());
    SetOfIterator::new(members.collect::<Vec<_>>())
}

/// The last conflicts that transactions of this server lost. From shared memory: the
/// daemon knows only those that it decided.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn pgrenga_lost_conflicts() -> TableIterator<
    'static,
    (
        name!(at, TimestampWithTimeZone),
        name!(table_name, Option<String>),
        name!(key_name, Option<String>),
        name!(winner_node, i32),
        name!(winner_seq, i64),
    ),
> {
    let known = |text: String| Some(text).filter(|text| !text.is_empty());
    let rows = shared().conflicts.all().filter_map(|conflict| {
        let at = TimestampWithTimeZone::try_from(conflict.at).ok()?;
        Some((at, known(conflict.table), known(conflict.key), conflict.node as i32, conflict.seq as i64))
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Asks the daemon, and waits for its answer for `pgrenga.commit_timeout`.
fn ask(topic: Topic) -> String {
    let deadline = shmem::monotonic_ms() + settings::COMMIT_TIMEOUT_MS.get() as u64;
    ask_until(topic, deadline).unwrap_or_else(|| no_answer(&topic))
}

/// Asks the daemon; nothing if it has not answered by `deadline`. To be called where
/// the statement may be interrupted.
pub fn ask_until(topic: Topic, deadline: u64) -> Option<String> {
    ask_unless(topic, deadline, || {
        // SAFETY: inside a statement, where interrupts are welcome.
        unsafe { pg_sys::ProcessInterrupts() };
        false
    })
}

/// Asks the daemon; nothing if it has not answered by `deadline`, or is not to be waited for any more.
pub fn ask_unless(topic: Topic, deadline: u64, is_given_up: impl Fn() -> bool) -> Option<String> {
    let shared = shared();
    let (id, inbox) = (shared.draw_counter(), shared.my_inbox());
    inbox.expect(id);
    let mut ask_at = 0;
    loop {
        if is_given_up() {
            return None;
        }
        if let Some(text) = inbox.take(id) {
            return Some(text);
        }
        let now = shmem::monotonic_ms();
        let left = deadline.checked_sub(now).filter(|left| *left > 0)?;
        if now >= ask_at {
            if shared.ring().push(&FromPostgres::Question { id, millis: left as u32, topic }) {
                ask_at = now + REPEAT_MS;
            }
            shared.wake_port_worker();
        }
        shmem::sleep(left.min(100) as i64);
    }
}

fn no_answer(topic: &Topic) -> ! {
    let timeout = settings::COMMIT_TIMEOUT_MS.get();
    let (message, detail) = match topic {
        Topic::Transaction(txid) => (
            format!("no majority of the nodes told the outcome of transaction {txid} within {timeout} ms"),
            "The daemon is not running, is catching up, or is cut off from the majority of the nodes. The transaction may be committed or not.",
        ),
        _ => (
            format!("this node's daemon did not answer within {timeout} ms"),
            "It is not running, or it is still reading the log.",
        ),
    };
    raise(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        message,
        detail,
        "Try again, or ask another node; \"pgrenga status\" shows which ones serve.",
    )
}
