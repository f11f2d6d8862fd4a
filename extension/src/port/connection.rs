//! A non-blocking connection to the daemon.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use pgrenga_writeset::port::{LENGTH_BYTES, MAX_FRAME};

/// A stream of frames in both directions.
pub struct Connection {
    stream: UnixStream,
    /// Bytes to send: the ring's content, and our own frames.
    pub outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
}

impl Connection {
    /// Connects to the daemon's socket.
    pub fn open(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, outgoing: Vec::new(), sent: 0, incoming: Vec::new() })
    }

    /// To wait for.
    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether bytes wait until the daemon reads.
    pub fn is_blocked(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// Sends as much as goes without waiting.
    pub fn send(&mut self) -> io::Result<()> {
        while self.is_blocked() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads what is there and calls `each` with the payload of each whole frame.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.incoming.extend_from_slice(&chunk[..count]);
                    if count < chunk.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut at = 0;
        while let Some((head, rest)) = self.incoming[at..].split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*head) as usize;
            if length > MAX_FRAME {
                return Err(io::Error::new(ErrorKind::InvalidData, "a frame from the daemon is too long"));
            }
            let Some(payload) = rest.get(..length) else { break };
            each(payload)?;
            at += LENGTH_BYTES + length;
        }
        self.incoming.drain(..at);
        Ok(())
    }
}
