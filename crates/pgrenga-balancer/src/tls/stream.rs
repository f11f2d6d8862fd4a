//! A connection, encrypted or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::names;

/// Which of the two is asked once for each chunk, so that one without encryption costs what it did before.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// Much larger, hence the box. What is written may stay in it until it is flushed.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What the other side has shown, its own certificate first.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        match self {
            Self::Plain(_) => &[],
            Self::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap_or_default(),
        }
    }

    /// The common name in the certificate that the other side has shown, and proven to be its own.
    pub(crate) fn common_name(&self) -> Option<String> {
        names::common_name(self.peer_certificates().first()?)
    }

    /// The first byte of what the other side says next, which can still be read. Nothing if it has closed the connection.
    pub(crate) async fn glance(&mut self) -> Option<u8> {
        match self {
            Self::Plain(stream) => {
                let mut byte = [0];
                stream.peek(&mut byte).await.ok().filter(|bytes| *bytes > 0).map(|_| byte[0])
            }
            Self::Tls(stream) => stream.fill_buf().await.ok()?.first().copied(),
        }
    }

    /// Whether the other side has said nothing, and is still there as far as is known.
    pub(crate) fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Resolves when the other side has closed the connection; never if it has said something more meanwhile.
    pub(crate) async fn gone(&mut self) {
        let has_said = match self {
            Self::Plain(stream) => stream.peek(&mut [0]).await.map(|bytes| bytes > 0),
            Self::Tls(stream) => stream.fill_buf().await.map(|bytes| !bytes.is_empty()),
        };
        if has_said.unwrap_or(false) {
            std::future::pending().await
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
