use pgrenga_writeset::{Incarnation, NodeId};

use super::*;

/// Of a transaction that was decided before this node began, if ever.
fn missing(directory: &std::path::Path) -> (Known, TransactionId) {
    let limits = pgrenga_outcomes::Limits { age: Duration::from_secs(3600), bytes: 1 << 30 };
    let mut outcomes = Outcomes::open(directory, limits).unwrap();
    let txid = TransactionId { node: NodeId(1), incarnation: Incarnation(1), counter: 1 << TransactionId::SLOT_BITS };
    outcomes.begin(LogIndex(10), [(txid.node, txid.incarnation)]);
    (Known::Kept { look: outcomes.look(&txid), undecided: Fate::Aborted }, txid)
}

/// Nobody listens there.
fn silent_member() -> Member {
    Member {
        id: NodeId(2),
        name: "n2".to_owned(),
        admin_url: "http://127.0.0.1:1".to_owned(),
        postgres: None,
        peer: "127.0.0.1:1".to_owned(),
        voter: true,
    }
}

#[tokio::test]
async fn unknown_is_only_what_nobody_knows() {
    let directory = tempfile::tempdir().unwrap();
    let (known, _) = missing(directory.path());
    assert_eq!(known.here().await, Fate::Unknown);
    let (known, txid) = missing(directory.path());
    assert_eq!(known.anywhere(txid, LogIndex(10), &[silent_member()]).await, None, "who may know does not answer");
    let (known, txid) = missing(directory.path());
    assert_eq!(known.anywhere(txid, LogIndex(10), &[]).await, Some(Fate::Unknown), "nobody else is there");
}
