//! Promise: what is written is read back, by every codec.

mod support;

use pgrenga_writeset::entry::{self, Item, Items};
use pgrenga_writeset::op::{self, Ops};
use pgrenga_writeset::port::{FromPostgres, LENGTH_BYTES, ToPostgres};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Error, TransactionId};
use proptest::prelude::*;
use support::{OwnedFrame, OwnedItem, OwnedOp, OwnedWriteset};

proptest! {
    #[test]
    fn entry(items in prop::collection::vec(OwnedItem::any(), 0..12)) {
        let mut bytes = Vec::new();
        entry::begin(&mut bytes);
        items.iter().for_each(|item| entry::push(&mut bytes, &item.borrow()));
        let read: Result<Vec<Item<'_>>, Error> = Items::decode(&bytes).unwrap().collect();
        let expected: Vec<Item<'_>> = items.iter().map(OwnedItem::borrow).collect();
        prop_assert_eq!(read, Ok(expected));
    }

    #[test]
    fn writeset(writeset in OwnedWriteset::any()) {
        let bytes = writeset.encode();
        let read = Writeset::decode(&bytes).unwrap();
        prop_assert_eq!(read.header, writeset.header);
        prop_assert_eq!(read.relations().collect::<Vec<_>>(), writeset.relations);
        prop_assert_eq!(read.keys().collect::<Vec<_>>(), writeset.keys);
        prop_assert_eq!((read.snapshot(), read.reads().collect::<Vec<_>>()), writeset.reads);
        prop_assert_eq!(read.body, writeset.body);
    }

    #[test]
    fn ops(ops in prop::collection::vec(OwnedOp::any(), 0..12)) {
        let mut body = Vec::new();
        ops.iter().for_each(|op| op.encode(&mut body));
        let mut reader = Ops::new(&body);
        for op in &ops {
            op.assert_is(&reader.next_op().unwrap().unwrap());
        }
        prop_assert_eq!(reader.next_op(), Ok(None));
        prop_assert_eq!(reader.next_op(), Ok(None), "and stays there");
    }

    /// A body that is cut anywhere is read up to the op that goes on in the
    /// next piece, and from there on when that has come.
    #[test]
    fn ops_span_fragments(ops in prop::collection::vec(OwnedOp::any(), 1..8), cut in any::<prop::sample::Index>()) {
        let mut body = Vec::new();
        ops.iter().for_each(|op| op.encode(&mut body));
        let (first, second) = body.split_at(cut.index(body.len()));
        let mut head = Ops::new(first);
        let mut read = 0;
        while let Ok(Some(op)) = head.next_op() {
            ops[read].assert_is(&op);
            read += 1;
        }
        let rest = [head.rest(), second].concat();
        let mut tail = Ops::new(&rest);
        while let Some(op) = tail.next_op().unwrap() {
            ops[read].assert_is(&op);
            read += 1;
        }
        prop_assert_eq!(read, ops.len());
    }

    #[test]
    fn frames_from_postgres(frame in OwnedFrame::any()) {
        let frame = frame.borrow();
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let (length, payload) = bytes.split_at(LENGTH_BYTES);
        prop_assert_eq!(u32::from_le_bytes(length.try_into().unwrap()) as usize, payload.len());
        prop_assert_eq!(frame.encoded_len(), payload.len());
        prop_assert_eq!(FromPostgres::decode(payload), Ok(frame));
    }

    #[test]
    fn frames_to_postgres(frame in support::to_postgres()) {
        let mut bytes = vec![7];
        frame.encode(&mut bytes);
        let payload = &bytes[1 + LENGTH_BYTES..];
        prop_assert_eq!(u32::from_le_bytes(bytes[1..=LENGTH_BYTES].try_into().unwrap()) as usize, payload.len());
        prop_assert_eq!(ToPostgres::decode(payload), Ok(frame));
    }

    #[test]
    fn transaction_ids_as_text(txid in support::txid()) {
        prop_assert_eq!(txid.to_string().parse::<TransactionId>(), Ok(txid));
    }
}

#[test]
fn an_empty_body_has_no_ops() {
    assert_eq!(Ops::new(&[]).next_op(), Ok(None));
    let mut body = Vec::new();
    op::begin_insert(&mut body, 1);
    assert!(matches!(Ops::new(&body).next_op(), Err(Error::Truncated { .. })));
}
