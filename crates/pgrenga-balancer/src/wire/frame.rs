//! Where messages begin and end in a stream that comes in arbitrary chunks.
//!
//! Nothing is copied and nothing allocated: bodies are seen where they lie in
//! the chunk, and skipped in one step however long they are.

/// A message's type and the length of the rest.
pub(crate) const HEADER_BYTES: usize = 5;
/// The length counts itself.
const LENGTH_BYTES: usize = 4;

/// The stream is not PostgreSQL's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// A part of a message's body, as much of it as lies in one chunk. A body that spans several chunks, or that is
/// empty, still has exactly one piece with `is_last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// The message's type.
    pub(crate) kind: u8,
    /// The bytes.
    pub(crate) body: &'a [u8],
    /// Whether the message begins here.
    pub(crate) is_first: bool,
    /// Whether the message ends here.
    pub(crate) is_last: bool,
}

/// Follows one direction of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanner {
    header: [u8; HEADER_BYTES],
    /// How much of the header is there. All of it: the body is under way, with `left` bytes to come.
    have: usize,
    left: usize,
    /// Something of the body was seen.
    is_begun: bool,
}

impl Scanner {
    /// Whether what was scanned so far ends with a whole message.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.have == 0
    }

    /// The next piece in `chunk`, which is advanced past it; nothing when the chunk is used up.
    pub(crate) fn next<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Broken> {
        if self.have < HEADER_BYTES {
            let taken = chunk.len().min(HEADER_BYTES - self.have);
            let (head, rest) = chunk.split_at(taken);
            self.header[self.have..self.have + taken].copy_from_slice(head);
            self.have += taken;
            *chunk = rest;
            if self.have < HEADER_BYTES {
                return Ok(None);
            }
            self.left = frame_length(&self.header)? - HEADER_BYTES;
        }
        if chunk.is_empty() && self.left > 0 {
            return Ok(None);
        }
        let (body, rest) = chunk.split_at(chunk.len().min(self.left));
        *chunk = rest;
        self.left -= body.len();
        let (is_first, is_last) = (!self.is_begun, self.left == 0);
        self.is_begun = !is_last;
        if is_last {
            self.have = 0;
        }
        Ok(Some(Piece { kind: self.header[0], body, is_first, is_last }))
    }
}

/// A whole message. Nothing that we say ourselves is longer than the protocol allows.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + LENGTH_BYTES).unwrap_or(u32::MAX);
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// The whole message's length, by its header.
pub(crate) fn frame_length(header: &[u8; HEADER_BYTES]) -> Result<usize, Broken> {
    let [_, length @ ..] = *header;
    let length = usize::try_from(i32::from_be_bytes(length)).map_err(|_| Broken)?;
    if length < LENGTH_BYTES { Err(Broken) } else { Ok(length + 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Message = (u8, Vec<u8>);

    fn encode(frames: &[Message]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (kind, body) in frames {
            stream.push(*kind);
            stream.extend(i32::try_from(body.len() + LENGTH_BYTES).unwrap().to_be_bytes());
            stream.extend(body);
        }
        stream
    }

    /// What a reader of whole messages sees.
    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<Message>, bool), Broken> {
        let (mut scanner, mut frames, mut body) = (Scanner::default(), Vec::new(), Vec::new());
        let mut is_between = true;
        for mut chunk in chunks {
            while let Some(piece) = scanner.next(&mut chunk)? {
                assert_eq!(piece.is_first, is_between, "it begins where the one before has ended");
                is_between = piece.is_last;
                body.extend(piece.body);
                if piece.is_last {
                    frames.push((piece.kind, std::mem::take(&mut body)));
                }
            }
            assert!(chunk.is_empty(), "a chunk is always used up");
        }
        Ok((frames, scanner.is_at_boundary()))
    }

    proptest! {
        #[test]
        fn messages_are_found_however_they_are_cut(
            frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in proptest::collection::vec(1_usize..9, 1..30),
        ) {
            let stream = encode(&frames);
            let (mut rest, mut chunks) = (&stream[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, others) = rest.split_at(rest.len().min(*cut));
                chunks.push(chunk);
                rest = others;
            }
            prop_assert_eq!(scan(chunks), Ok((frames.clone(), true)));
            prop_assert_eq!(scan([&stream[..]]), Ok((frames, true)));
        }

        #[test]
        fn hostile_bytes_are_scanned_or_refused(stream in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..7) {
            let whole = scan([&stream[..]]);
            let cut = scan(stream.chunks(cut));
            prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_message_is_not_at_a_boundary() {
        let stream = encode(&[(b'D', vec![1, 2, 3])]);
        for cut in 1..stream.len() {
            assert_eq!(scan([&stream[..cut]]), Ok((vec![], false)), "{cut}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [[0, 0, 0, 3], [0xff; 4], [0x80, 0, 0, 0]] {
            assert_eq!(scan([&[b'D'][..], &length[..]]), Err(Broken));
        }
        assert_eq!(frame_length(&[b'D', 0x7f, 0xff, 0xff, 0xff]), Ok(0x8000_0000));
    }

    #[test]
    fn a_long_body_costs_one_piece_for_each_chunk() {
        let stream = encode(&[(b'd', vec![7; 100_000])]);
        let mut scanner = Scanner::default();
        let mut pieces = 0;
        for mut chunk in stream.chunks(10_000) {
            while scanner.next(&mut chunk).unwrap().is_some() {
                pieces += 1;
            }
        }
        assert_eq!(pieces, 11);
    }
}
