//! The commit port: accepts the extension's port worker and carries frames.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use pgrenga_writeset::port::{LENGTH_BYTES, MAX_FRAME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::Error;
use crate::engine::Event;

/// Encoded frames that wait to be written to PostgreSQL. Verdicts are bounded
/// by the commit slots, so this only fills while the worker is stopped.
const QUEUE: usize = 64 << 10;

/// Bytes of frames that PostgreSQL sent and the log does not have yet. Beyond
/// them nothing more is read: the socket fills, then the ring, and backends wait.
const UNDER_WAY: usize = 16 << 20;

/// Part of [`UNDER_WAY`], given back when nobody holds it any more.
pub(crate) type Room = Arc<OwnedSemaphorePermit>;

/// Names one connection, so that a late event of an old one is known as such.
pub(crate) type ConnectionId = u64;

/// Sends encoded frames to one connection of the port worker.
pub(crate) type FrameSender = mpsc::Sender<Vec<u8>>;

/// Listens on `path` and reports connections and frames as events.
pub(crate) fn listen(path: &Path, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let failed = |source| Error::Socket { path: path.display().to_string(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // PostgreSQL runs as another user when the daemon is root; the directory
    // decides who gets here.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    tokio::spawn(async move {
        for id in 1.. {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(id, stream, events.clone()))),
                Err(error) => tracing::warn!(%error, "could not accept the port worker"),
            }
        }
    });
    Ok(())
}

async fn serve(id: ConnectionId, stream: UnixStream, events: mpsc::Sender<Event>) {
    let (reader, writer) = stream.into_split();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writing = tokio::spawn(write(writer, receiver));
    if events.send(Event::PortOpened { id, frames: sender }).await.is_ok() {
        if let Err(error) = read(id, reader, &events).await {
            tracing::warn!(%error, "the port worker's connection ended");
        }
        let _ = events.send(Event::PortClosed { id }).await;
    }
    writing.abort();
}

async fn read(id: ConnectionId, mut reader: OwnedReadHalf, events: &mpsc::Sender<Event>) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let mut frames = Vec::new();
        while let Some(frame) = split_frame(&mut buffer)? {
            frames.push(frame);
        }
        if frames.is_empty() {
            continue;
        }
        let bytes = frames.iter().map(Bytes::len).sum::<usize>().min(UNDER_WAY);
        let Ok(room) = Arc::clone(&room).acquire_many_owned(bytes as u32).await else { return Ok(()) };
        if events.send(Event::PortFrames { id, frames, room: Arc::new(room) }).await.is_err() {
            return Ok(());
        }
    }
}

fn split_frame(buffer: &mut BytesMut) -> std::io::Result<Option<Bytes>> {
    let Some(head) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_FRAME {
        let message = format!("a frame of {length} bytes is longer than {MAX_FRAME}");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    let mut frames = Vec::new();
    while queue.recv_many(&mut frames, 256).await > 0 {
        let bytes = frames.concat();
        frames.clear();
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
