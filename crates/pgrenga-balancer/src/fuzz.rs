//! What must hold of everything that reads what strangers send, whatever they
//! send. Given bytes, each function makes up a case of them and panics if
//! something does not hold. Tests try random bytes; `fuzz/` lets a fuzzer look for bad ones.

use std::net::{IpAddr, Ipv4Addr};

use crate::rules::Visitor;
use crate::session::{Binding, Talk};
use crate::wire::{Broken, HEADER_BYTES, Scanner, frame, frame_length, packet, packet_length, parameters};

type Messages = Vec<(u8, Vec<u8>)>;

/// Panics if anything does not hold for these bytes.
pub fn check(data: &[u8]) {
    frames(data);
    talk(data);
    greeting(data);
    greeting(&data[data.len().min(2)..]);
    binding(data);
}

/// The first bytes say how the others are cut.
fn cut(data: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let (seed, stream) = data.split_at(data.len().min(2));
    let step = 1 + seed.iter().fold(0, |sum, byte| sum + usize::from(*byte));
    // Pieces get longer, so that headers are cut at every place.
    let (mut rest, mut pieces, mut length) = (stream, Vec::new(), 1);
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rest.len().min(length));
        pieces.push(piece);
        (rest, length) = (others, 1 + (length * 7 + 3) % step);
    }
    (stream, pieces)
}

/// Messages are found where they are, however they are cut, and what is none is refused.
fn frames(data: &[u8]) {
    let (stream, pieces) = cut(data);
    let (mut expected, mut rest) = (Messages::new(), stream);
    let ending = loop {
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else { break Ok(rest.is_empty()) };
        let Ok(length) = frame_length(header) else { break Err(Broken) };
        let Some(message) = rest.get(..length) else { break Ok(false) };
        assert_eq!(frame(header[0], &message[HEADER_BYTES..]), message);
        expected.push((header[0], message[HEADER_BYTES..].to_vec()));
        rest = &rest[length..];
    };
    let (mut scanner, mut found, mut body) = (Scanner::default(), Messages::new(), Vec::new());
    let mut scan = |mut piece: &[u8]| {
        while let Some(part) = scanner.next(&mut piece)? {
            body.extend(part.body);
            if part.is_last {
                found.push((part.kind, std::mem::take(&mut body)));
            }
        }
        assert!(piece.is_empty(), "a piece is used up");
        Ok(scanner.is_at_boundary())
    };
    let scanned = pieces.into_iter().try_fold(true, |_, piece| scan(piece));
    assert_eq!((found, scanned), (expected, ending));
}

/// What a session has under way does not depend on how its messages are cut.
fn talk(data: &[u8]) {
    let (stream, pieces) = cut(data);
    let (from_client, from_server) = stream.split_at(stream.len() / 2);
    let mut whole = Talk::default();
    let ending = (whole.client_said(from_client), whole.server_said(from_server).map(drop));
    let mut cut = Talk::default();
    let (mut at, mut said) = (0, (Ok(()), Ok(())));
    for piece in pieces {
        let client = &piece[..piece.len().min(from_client.len().saturating_sub(at))];
        at += piece.len();
        said.0 = said.0.and_then(|()| cut.client_said(client));
        said.1 = said.1.and_then(|()| cut.server_said(&piece[client.len()..]).map(drop));
    }
    assert_eq!(said, ending);
    if said == (Ok(()), Ok(())) {
        assert_eq!((cut.standing(), cut.may_speak()), (whole.standing(), whole.may_speak()));
    }
}

/// Whatever comes first is taken for something or refused, and what is compared with rules is what the server will use.
fn greeting(data: &[u8]) {
    if let Some(head) = data.first_chunk() {
        assert!(
            packet_length(*head).is_err() || packet_length(*head).is_ok_and(|length| (8..=10_000).contains(&length))
        );
    }
    let _ = packet(data);
    let visitor = Visitor::new(data, IpAddr::V4(Ipv4Addr::LOCALHOST), None, false);
    for name in [visitor.user, visitor.database] {
        assert!(name.len() <= 63 && !name.contains(&0));
    }
    let users = parameters(data).filter(|(name, _)| name == b"user");
    let last = users.last().map_or(&b""[..], |(_, value)| value);
    assert_eq!(visitor.user, &last[..last.len().min(63)]);
}

/// Offers of SASL lose what binds and nothing else; clients' choices are read however they are cut.
fn binding(data: &[u8]) {
    let (stream, pieces) = cut(data);
    let offer = [&[0, 0, 0, 10][..], stream].concat();
    let mut binding = Binding::EndsHere;
    match binding.replace(&offer) {
        Some(left) => {
            assert!(left.len() < offer.len());
            assert!(Binding::EndsHere.replace(&left).is_none(), "nothing is left that binds");
        }
        None => assert!(!offer.split(|byte| *byte == 0).any(|name| name.ends_with(b"-PLUS"))),
    }
    let (mut whole, mut cut) = (Binding::Withheld(Vec::new()), Binding::Withheld(Vec::new()));
    let mut said = Ok(());
    for piece in pieces {
        said = said.and_then(|()| cut.client_said(piece));
    }
    assert_eq!(whole.client_said(stream), said);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    const BYTES_MAX: usize = 300;
    const SEED: u64 = 15;

    /// Random bytes are seldom messages: half of them are made of some.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let kinds = proptest::sample::select(b"QPBDECSXFHdcfpRSKZGINT".to_vec());
        let message =
            (kinds, proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, body)| frame(kind, &body));
        let texts = proptest::sample::select(vec![
            &b"user\0"[..],
            b"database\0",
            b"SCRAM-SHA-256-PLUS\0",
            b"SCRAM-SHA-256\0",
            b"y,,n=",
            b"\0\0\0\x09\0\x03\0\0",
        ]);
        let part = prop_oneof![
            4 => message,
            2 => texts.prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..8),
        ];
        let made = proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat());
        let seed = proptest::collection::vec(any::<u8>(), 2);
        let stream = prop_oneof![3 => made, 1 => proptest::collection::vec(any::<u8>(), 0..BYTES_MAX)];
        (seed, stream).prop_map(|(seed, stream)| [seed, stream].concat())
    }

    proptest! {
        // The same bytes each time: what fails, fails again.
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(SEED), ..ProptestConfig::with_cases(4_000) })]

        #[test]
        fn whatever_strangers_send_is_read_or_refused(data in streams()) {
            check(&data);
        }
    }
}
