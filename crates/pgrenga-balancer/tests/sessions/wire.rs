//! The client's and the server's side of the protocol, by hand.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const STARTUP: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0somebody\0\0";

pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// One end of a connection.
pub(crate) struct Wire<S = TcpStream>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the other side takes it");
        self.0.flush().await.expect("the other side takes it");
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> (u8, Vec<u8>) {
        let kind =
            tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("a message in time").expect("a message");
        let length = usize::try_from(self.0.read_u32().await.unwrap()).unwrap();
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).await.unwrap();
        (kind, body)
    }

    /// A packet without a type, its length included.
    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.unwrap();
        let mut packet = length.to_be_bytes().to_vec();
        packet.resize(usize::try_from(length).unwrap(), 0);
        self.0.read_exact(&mut packet[4..]).await.unwrap();
        packet
    }

    /// The fields of the error that comes next.
    pub(crate) async fn error(&mut self) -> String {
        let (kind, body) = self.next().await;
        assert_eq!(kind, b'E', "{}", String::from_utf8_lossy(&body));
        String::from_utf8(body).unwrap().replace('\0', "\n")
    }

    /// Reads up to the end of the connection; what was left.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("an end in time");
        let _ = read;
        rest
    }

    /// Reads up to and including `ReadyForQuery`; all messages.
    pub(crate) async fn until_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut messages = vec![self.next().await];
        while messages.last().is_some_and(|(kind, _)| *kind != b'Z') {
            messages.push(self.next().await);
        }
        messages
    }
}
