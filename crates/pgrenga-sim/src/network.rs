//! A network of byte streams, as TCP makes them: in order within a connection, in no order between
//! connections. A connection that one side has given up may still deliver what was on its way, after
//! what was sent again on the next one: that is how messages come late, twice, and out of order.
//!
//! A link that is cut holds bytes back until it is whole again, or until somebody loses patience.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use pgrenga_log::simulation::{Stream, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use crate::power::Power;

/// A member, by its id.
pub type Id = u32;

/// The network; all clones are one.
#[derive(Clone, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
    /// A link or a member changed.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    hosts: BTreeMap<Id, Host>,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(Id, Id)>,
    latency_ms_max: u64,
}

/// One direction of a connection.
struct Pipe {
    from: Id,
    to: Id,
    under_way: VecDeque<(Instant, Bytes)>,
    /// Nothing more will be sent.
    closed: bool,
    /// Broken: the reader hears of it at once.
    reset: bool,
    /// Nobody reads any more.
    unread: bool,
    reader: Option<Waker>,
}

#[derive(Default)]
struct Host {
    /// A daemon listens.
    listens: bool,
    /// The machine runs: it says so if no daemon listens.
    runs: bool,
    arrived: VecDeque<End>,
}

/// Where a member is reached.
pub fn address(id: Id) -> SocketAddr {
    SocketAddr::from(([10, 0, (id >> 8) as u8, id as u8], 5433))
}

fn id_of(address: &str) -> Option<Id> {
    match address.parse().ok()? {
        SocketAddr::V4(address) => {
            let [_, _, high, low] = address.ip().octets();
            Some(u32::from(high) << 8 | u32::from(low))
        }
        SocketAddr::V6(_) => None,
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as a daemon sees it that lives by `power`. From now on it can be reached.
    pub fn attach(&self, id: Id, power: Arc<Power>) -> Arc<dyn Transport> {
        let mut state = self.lock();
        for pipe in state.pipes.values_mut().filter(|pipe| pipe.from == id || pipe.to == id) {
            // Who still waits for an answer of the last life is told now.
            pipe.reset();
        }
        state.hosts.insert(id, Host { listens: true, runs: true, arrived: VecDeque::new() });
        drop(state);
        self.changed.notify_waiters();
        Arc::new(Attached { network: self.clone(), id, power })
    }

    /// A daemon ended. If only it did, its system closes its connections; if the machine failed,
    /// nobody hears of it.
    pub fn detach(&self, id: Id, machine: bool) {
        let mut state = self.lock();
        state.pipes.retain(|_, pipe| pipe.to != id || !pipe.unread);
        for pipe in state.pipes.values_mut() {
            if pipe.from == id && !pipe.closed {
                // What had left the machine arrives.
                pipe.under_way.truncate(fastrand::usize(..=pipe.under_way.len()));
                pipe.closed = !machine;
                pipe.wake();
            }
            pipe.unread |= pipe.to == id;
        }
        state.hosts.insert(id, Host { listens: false, runs: !machine, arrived: VecDeque::new() });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Lets through exactly what is not in `cut`.
    pub fn set_cut(&self, cut: BTreeSet<(Id, Id)>) {
        let mut state = self.lock();
        state.cut = cut;
        state.pipes.values_mut().for_each(Pipe::wake);
        drop(state);
        self.changed.notify_waiters();
    }

    /// How long a message takes from now on, at most.
    pub fn set_latency(&self, ms_max: u64) {
        self.lock().latency_ms_max = ms_max;
    }

    /// Breaks a random connection.
    pub fn reset_one(&self) {
        let mut state = self.lock();
        let choice = (!state.pipes.is_empty()).then(|| fastrand::usize(..state.pipes.len()));
        if let Some(pipe) = choice.and_then(|choice| state.pipes.values_mut().nth(choice)) {
            pipe.reset();
        }
    }
}

impl State {
    /// Most are quick; some take much longer.
    fn latency(&self) -> Duration {
        let max = if fastrand::u8(..50) == 0 { self.latency_ms_max * 10 } else { self.latency_ms_max };
        Duration::from_millis(fastrand::u64(..=max))
    }

    fn pipe(&mut self, from: Id, to: Id) -> u64 {
        self.next_pipe += 1;
        let under_way = VecDeque::new();
        let pipe = Pipe { from, to, under_way, closed: false, reset: false, unread: false, reader: None };
        self.pipes.insert(self.next_pipe, pipe);
        self.next_pipe
    }
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn reset(&mut self) {
        self.reset = true;
        self.wake();
    }
}

struct Attached {
    network: Network,
    id: Id,
    power: Arc<Power>,
}

impl Transport for Attached {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let to = id_of(address).ok_or(io::ErrorKind::AddrNotAvailable)?;
            let latency = self.network.lock().latency();
            sleep(latency).await;
            loop {
                let changed = self.network.changed.notified();
                {
                    let mut state = self.network.lock();
                    let reaches = ![(self.id, to), (to, self.id)].iter().any(|link| state.cut.contains(link));
                    let (listens, runs) = state.hosts.get(&to).map_or((false, true), |host| (host.listens, host.runs));
                    if reaches && runs && !listens {
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    if reaches && listens {
                        let (there, back) = (state.pipe(self.id, to), state.pipe(to, self.id));
                        let end = |reads, writes| End {
                            network: self.network.clone(),
                            reads,
                            writes,
                            sleep: None,
                            power: None,
                        };
                        if let Some(host) = state.hosts.get_mut(&to) {
                            host.arrived.push_back(end(there, back));
                        }
                        drop(state);
                        self.network.changed.notify_waiters();
                        let stream: Box<dyn Stream> = Box::new(end(back, there).of(&self.power));
                        return Ok(stream);
                    }
                }
                changed.await;
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            loop {
                let changed = self.network.changed.notified();
                let arrived = self.network.lock().hosts.get_mut(&self.id).and_then(|host| host.arrived.pop_front());
                if let Some(end) = arrived {
                    let stream: Box<dyn Stream> = Box::new(end.of(&self.power));
                    return Ok(stream);
                }
                changed.await;
            }
        })
    }
}

/// One end of a connection.
struct End {
    network: Network,
    reads: u64,
    writes: u64,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Of the daemon that holds it; none until it was accepted.
    power: Option<Arc<Power>>,
}

impl End {
    fn of(mut self, power: &Arc<Power>) -> Self {
        self.power = Some(power.clone());
        self
    }

    fn is_on(&self) -> bool {
        self.power.as_ref().is_some_and(|power| power.is_on())
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let network = self.network.clone();
            let mut state = network.lock();
            let State { pipes, cut, .. } = &mut *state;
            let Some(pipe) = pipes.get_mut(&self.reads) else { return Poll::Ready(Ok(())) };
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            pipe.reader = Some(context.waker().clone());
            if cut.contains(&(pipe.from, pipe.to)) {
                return Poll::Pending;
            }
            match pipe.under_way.front_mut() {
                Some((at, bytes)) if *at <= Instant::now() => {
                    let len = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes[..len]);
                    bytes.advance(len);
                    if bytes.is_empty() {
                        pipe.under_way.pop_front();
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((at, _)) => {
                    let at = *at;
                    drop(state);
                    let mut sleep = Box::pin(tokio::time::sleep_until(at));
                    if sleep.as_mut().poll(context).is_pending() {
                        self.sleep = Some(sleep);
                        return Poll::Pending;
                    }
                }
                None if pipe.closed => return Poll::Ready(Ok(())),
                None => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.network.lock();
        let latency = state.latency();
        let Some(pipe) = state.pipes.get_mut(&self.writes) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if pipe.reset || pipe.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.power.as_ref().is_some_and(|power| power.act()) {
            let at = Instant::now() + latency;
            let at = pipe.under_way.back().map_or(at, |(last, _)| at.max(*last));
            pipe.under_way.push_back((at, Bytes::copy_from_slice(bytes)));
            pipe.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.network.lock();
        if let Some(pipe) = state.pipes.get_mut(&self.writes).filter(|_| self.is_on()) {
            pipe.closed = true;
            pipe.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    /// What is under way still arrives, unless nobody reads it.
    fn drop(&mut self) {
        if !self.is_on() {
            return;
        }
        let mut state = self.network.lock();
        if let Some(pipe) = state.pipes.get_mut(&self.writes) {
            pipe.closed = true;
            pipe.wake();
            if pipe.unread {
                state.pipes.remove(&self.writes);
            }
        }
        if let Some(pipe) = state.pipes.get_mut(&self.reads) {
            pipe.unread = true;
            if pipe.closed {
                state.pipes.remove(&self.reads);
            }
        }
    }
}
