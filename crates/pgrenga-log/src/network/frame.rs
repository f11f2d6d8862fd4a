//! Frames on a connection between two members.
//!
//! ```text
//! frame    len u32 of what follows, kind u8, more u8, id u64, body
//! ```
//!
//! `id` pairs a reply with its request; `more` says that the message goes on
//! in the next frame with this id (snapshots only).

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Bytes of a frame that `len` counts, in front of the body.
const HEAD: usize = 10;
/// Frames written with one system call, in bytes.
const WRITE_BYTES: usize = 256 << 10;
/// A reader's buffer, in bytes. What is read from it keeps all of it alive, so it is filled before
/// the next one is begun: entries stay in the log's cache, and may be small.
const READ_BYTES: usize = 64 << 10;

/// What a frame carries. The numbers are the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Append = 10,
    AppendReply = 11,
    Vote = 12,
    PreVote = 13,
    VoteReply = 14,
    Snapshot = 15,
    SnapshotReply = 16,
    TransferLeader = 17,
    TransferLeaderReply = 18,
    Propose = 20,
    ProposeReply = 21,
    Call = 22,
    CallReply = 23,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        [
            Hello,
            Welcome,
            Refused,
            Append,
            AppendReply,
            Vote,
            PreVote,
            VoteReply,
            Snapshot,
            SnapshotReply,
            TransferLeader,
            TransferLeaderReply,
            Propose,
            ProposeReply,
            Call,
            CallReply,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) more: bool,
    pub(crate) id: u64,
    pub(crate) body: Bytes,
}

impl Frame {
    pub(crate) fn new(kind: Kind, id: u64, body: impl Into<Bytes>) -> Self {
        Self { kind, more: false, id, body: body.into() }
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Takes frames off a stream.
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `max` bounds a frame's body, in bytes.
    pub(crate) fn new(stream: R, max: usize) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(READ_BYTES), max }
    }

    /// Widens the bound once the other side has introduced itself.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            // A full buffer is followed by one of its first size.
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn buffered(&mut self) -> io::Result<Option<Frame>> {
        let Some(len) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*len) as usize;
        if !(HEAD..=HEAD + self.max).contains(&len) {
            return Err(invalid("frame length out of bounds"));
        }
        if self.buffer.len() < 4 + len {
            self.buffer.reserve(4 + len - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + len).freeze();
        frame.advance(4);
        let kind = Kind::from_byte(frame.get_u8()).ok_or_else(|| invalid("unknown kind of frame"))?;
        let more = match frame.get_u8() {
            0 => false,
            1 => true,
            _ => return Err(invalid("malformed frame")),
        };
        let id = frame.get_u64_le();
        Ok(Some(Frame { kind, more, id, body: frame }))
    }
}

/// Appends a frame's bytes, its body excepted if that is large.
fn put_head(to: &mut BytesMut, frame: &Frame) {
    to.put_u32_le((HEAD + frame.body.len()) as u32);
    to.put_u8(frame.kind as u8);
    to.put_u8(frame.more.into());
    to.put_u64_le(frame.id);
}

/// Writes one frame now.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let mut bytes = BytesMut::with_capacity(4 + HEAD + frame.body.len());
    put_head(&mut bytes, frame);
    bytes.put_slice(&frame.body);
    stream.write_all(&bytes).await
}

/// Writes the frames that come in, as many at once as wait, until their senders are gone.
pub(crate) async fn write_frames(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut bytes = BytesMut::with_capacity(READ_BYTES);
    while let Some(first) = frames.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next {
            put_head(&mut bytes, &frame);
            if frame.body.len() > WRITE_BYTES {
                stream.write_all(&bytes).await?;
                stream.write_all(&frame.body).await?;
                bytes.clear();
            } else {
                bytes.put_slice(&frame.body);
            }
            next = if bytes.len() < WRITE_BYTES { frames.try_recv().ok() } else { None };
        }
        stream.write_all(&bytes).await?;
        bytes.clear();
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_that_are_kept_fill_the_buffers_that_they_keep() {
        const FRAMES: u64 = 1000;
        let (mut here, there) = tokio::io::duplex(4096);
        let mut reader = FrameReader::new(there, 4096);
        let mut kept = Vec::new();
        for id in 0..FRAMES {
            write_frame(&mut here, &Frame::new(Kind::Propose, id, vec![0; 700])).await.expect("room for a frame");
            kept.push(reader.next().await.expect("a frame").expect("a frame").body);
        }
        let ends_at = |body: &Bytes| body.as_ptr_range().end.wrapping_add(4 + HEAD);
        let buffers = 1 + kept.windows(2).filter(|pair| ends_at(&pair[0]) != pair[1].as_ptr()).count();
        let bytes: usize = kept.iter().map(Bytes::len).sum();
        assert!(buffers <= bytes / READ_BYTES + 2, "{bytes} bytes keep {buffers} buffers alive");
    }
}
