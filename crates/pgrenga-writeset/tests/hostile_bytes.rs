//! Promise: no bytes make a decoder panic, loop or allocate without bound.

mod support;

use pgrenga_writeset::entry::{self, Items};
use pgrenga_writeset::op::{Op, Ops};
use pgrenga_writeset::port::{FromPostgres, LENGTH_BYTES, ToPostgres};
use pgrenga_writeset::run::Bodies;
use pgrenga_writeset::writeset::Writeset;
use proptest::prelude::*;
use support::{OwnedFrame, OwnedItem, OwnedOp, OwnedWriteset};

/// Reads the bytes as everything that they could be, to the end.
fn read_all(bytes: &[u8]) {
    if let Ok(items) = Items::decode(bytes) {
        assert!(items.count() <= bytes.len());
    }
    if let Ok(writeset) = Writeset::decode(bytes) {
        let parts = writeset.relations().len() + writeset.keys().len() + writeset.body.len();
        assert!(writeset.relations().count() + writeset.keys().count() <= parts && parts <= bytes.len());
    }
    let mut ops = Ops::new(bytes);
    loop {
        let before = ops.rest().len();
        match ops.next_op() {
            Ok(Some(op)) => {
                assert!(ops.rest().len() < before, "each op takes bytes");
                if let Op::Insert { new: row, .. } | Op::Update { new: row, .. } | Op::Delete { old: row, .. } = op {
                    assert_eq!(row.values().count(), row.columns());
                }
            }
            Ok(None) => break,
            Err(_) => {
                assert_eq!(ops.rest().len(), before, "an op that cannot be read is not taken");
                break;
            }
        }
    }
    assert!(Bodies::new(bytes).count() <= bytes.len());
    let _ = FromPostgres::decode(bytes);
    let _ = ToPostgres::decode(bytes);
}

/// Valid bytes of one codec or another, and whether a cut must be noticed.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(OwnedItem::any(), 1..4).prop_map(|items| {
            let mut out = Vec::new();
            entry::begin(&mut out);
            items.iter().for_each(|item| entry::push(&mut out, &item.borrow()));
            out
        }),
        OwnedWriteset::any().prop_map(|writeset| writeset.encode()),
        prop::collection::vec(OwnedOp::any(), 1..4).prop_map(|ops| {
            let mut out = Vec::new();
            ops.iter().for_each(|op| op.encode(&mut out));
            out
        }),
        OwnedFrame::any().prop_map(|frame| {
            let mut out = Vec::new();
            frame.borrow().encode(&mut out);
            out.split_off(LENGTH_BYTES)
        }),
        support::to_postgres().prop_map(|frame| {
            let mut out = Vec::new();
            frame.encode(&mut out);
            out.split_off(LENGTH_BYTES)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    #[test]
    fn random_behind_a_version(mut bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        bytes[0] = 1;
        read_all(&bytes);
    }

    #[test]
    fn truncated(bytes in valid(), at in any::<prop::sample::Index>()) {
        read_all(&bytes[..at.index(bytes.len())]);
    }

    #[test]
    fn mutated(mut bytes in valid(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_all(&bytes);
    }

    /// Fixed-size frames and items have no shorter form.
    #[test]
    fn a_cut_frame_is_refused(frame in support::to_postgres()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let payload = &bytes[LENGTH_BYTES..];
        for length in 0..payload.len() {
            prop_assert!(ToPostgres::decode(&payload[..length]).is_err());
        }
        prop_assert!(ToPostgres::decode(&[payload, &[0]].concat()).is_err());
    }
}

#[test]
fn counts_without_content_are_refused() {
    let mut bytes = OwnedWriteset {
        header: Default::default(),
        relations: vec![],
        keys: vec![],
        moments: vec![],
        reads: Default::default(),
        body: vec![],
    }
    .encode();
    let relations_at = bytes.len() - 8;
    bytes[relations_at..relations_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Writeset::decode(&bytes).is_err());
}
