//! Transactions whose server is gone, and of which somebody wants to know.
//!
//! What a node had in flight may still come until its life is ended, which takes seconds (`engine/silent.rs`). Who asks what became
//! of one of its transactions need not wait so long: if the node does not answer, the transaction is given up in the log. What
//! comes first there counts, its writeset or this, so the answer is true whether the node is gone or not. One that answers
//! does the same with what its own server left behind.

use std::time::Duration;

use pgrenga_admin::{Client, Error, Member};
use pgrenga_log::Handle;
use pgrenga_writeset::entry::{self, Item};
use pgrenga_writeset::{LogIndex, TransactionId};
use tokio::time::Instant;

/// Of a dead machine there is no answer. One that is only slow costs its transaction a `40001`.
const PATIENCE: Duration = Duration::from_secs(1);
/// Who still wants to know asks again.
const DEADLINE: Duration = Duration::from_secs(2);

/// Asks `origin`, where the transaction ran, and gives it up in its place if there is no answer.
pub(crate) async fn settle(log: &Handle, origin: &Member, txid: TransactionId) {
    let client = Client::new().with_timeout(PATIENCE);
    let answer = client.transaction(&origin.admin_url, txid, LogIndex(0)).await;
    if matches!(answer, Err(Error::Unreachable { .. })) {
        give_up(log, txid).await;
    }
}

/// Proposes it once, and not again and again as other things: long after the question it might come when nobody remembers
/// that the transaction is committed.
pub(crate) async fn give_up(log: &Handle, txid: TransactionId) {
    let mut entry = Vec::new();
    entry::begin(&mut entry);
    entry::push(&mut entry, &Item::GiveUp(txid));
    if let Err(error) = log.propose(entry.into(), Instant::now() + DEADLINE).await {
        tracing::debug!(%txid, %error, "could not give it up");
    }
}
