//! The network between the daemons, for tests that cut it.
//!
//! Each node is known to the others by an address of this network. What goes from one node to
//! another can be held up, each direction by itself: the connection stays, nothing arrives, and
//! what was under way arrives when the cut heals, as with packets that are lost and sent again.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked whether a cut has healed, or the network is gone.
const POLL: Duration = Duration::from_millis(5);
/// A daemon's first frame is shorter.
const HELLO_MAX: usize = 1024;

/// A node's id in the cluster.
type Id = u32;

/// Connections between daemons, and which of them are cut. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// From whom nothing gets to whom.
    cut: Mutex<BTreeSet<(Id, Id)>>,
    closed: AtomicBool,
}

impl State {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn is_cut(&self, from: Id, to: Id) -> bool {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).contains(&(from, to))
    }

    /// Waits until something can get from one node to the other; false if the network is gone.
    fn pass(&self, from: Id, to: Id) -> bool {
        while !self.is_closed() && self.is_cut(from, to) {
            std::thread::sleep(POLL);
        }
        !self.is_closed()
    }
}

impl Network {
    /// Gives whoever listens at `target` an address in this network.
    pub(super) fn publish(&self, target: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = self.0.clone();
        std::thread::spawn(move || {
            while !state.is_closed() {
                match listener.accept() {
                    Ok((client, _)) => {
                        let state = state.clone();
                        std::thread::spawn(move || drop(connect(&state, client, target)));
                    }
                    Err(_) => std::thread::sleep(POLL),
                }
            }
        });
        Ok(address)
    }

    /// Nothing gets from one node to the other any more.
    pub fn cut(&self, from: Id, to: Id) {
        self.0.cut.lock().unwrap_or_else(PoisonError::into_inner).insert((from, to));
    }

    /// Neither way.
    pub fn part(&self, one: Id, other: Id) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Everything gets everywhere again.
    pub fn heal(&self) {
        self.0.cut.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Ends all connections, and the network.
    pub(super) fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

fn connect(state: &Arc<State>, mut client: TcpStream, target: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    let hello = read_frame(&mut client)?;
    let (from, to) = parties(&hello).ok_or(io::ErrorKind::InvalidData)?;
    if !state.pass(from, to) {
        return Ok(());
    }
    let mut server = TcpStream::connect(target)?;
    server.set_nodelay(true)?;
    server.write_all(&hello)?;
    let (back_from, back_to) = (server.try_clone()?, client.try_clone()?);
    let shared = state.clone();
    std::thread::spawn(move || relay(&shared, back_from, back_to, (to, from)));
    relay(state, client, server, (from, to));
    Ok(())
}

/// Passes on what comes until either side ends.
fn relay(state: &State, mut source: TcpStream, mut sink: TcpStream, (from, to): (Id, Id)) {
    let mut buffer = vec![0; 64 << 10];
    let _ = source.set_read_timeout(Some(Duration::from_millis(200)));
    while !state.is_closed() {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if !state.pass(from, to) || sink.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = source.shutdown(Shutdown::Both);
    let _ = sink.shutdown(Shutdown::Both);
}

/// A frame with the length in front of it.
fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame)?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length > HELLO_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    frame.resize(4 + length, 0);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

/// Who speaks to whom, by the frame with which a daemon's connection begins: behind length, kind
/// and id stand the protocol's number, the cluster's identity, and the two ids.
fn parties(frame: &[u8]) -> Option<(Id, Id)> {
    let mut rest = frame.get(14..)?;
    number(&mut rest)?;
    let length = number(&mut rest)? as usize;
    rest = rest.get(length..)?;
    Some((number(&mut rest)?, number(&mut rest)?))
}

/// Seven bits a byte, the lowest first.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(first & 0x7F).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
