//! How bytes get from one member to another: plain TCP. TLS belongs here, on
//! both sides of [`connect`] and [`accept`]; nothing else knows of sockets.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A connection, however it is secured.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Reaches the member at `address`, `HOST:PORT`.
pub(crate) async fn connect(address: &str) -> io::Result<impl Stream + use<>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits for another member to connect.
pub(crate) async fn accept(listener: &TcpListener) -> io::Result<impl Stream + use<>> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
