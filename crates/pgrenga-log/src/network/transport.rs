//! How bytes get from one member to another: plain TCP. TLS belongs here, on
//! both sides of [`Transport`]; nothing else knows of sockets.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A connection, however it is secured.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// A member's way to the others, and theirs to it.
pub trait Transport: Send + Sync + 'static {
    /// Reaches the member at `address`, `HOST:PORT`.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;

    /// Waits for another member to connect.
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
}

/// The network of the operating system.
pub(crate) struct Tcp(pub(crate) TcpListener);

fn ready(stream: TcpStream) -> io::Result<Box<dyn Stream>> {
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

impl Transport for Tcp {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { ready(TcpStream::connect(address).await?) })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { ready(self.0.accept().await?.0) })
    }
}
