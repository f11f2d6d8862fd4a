//! The relay between a client and its server: both directions in one task, with
//! no buffer of its own while nothing is stuck.
//!
//! A chunk is read into the thread's scratch, looked through where it lies, and
//! written in one go. What the other side does not take is kept, and nothing
//! more is read until it is gone: so a slow reader slows the writer down, and a
//! session holds one chunk for each direction at most, and none when idle.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::End;
use super::repetition::{Repetition, Ruling};
use super::talk::Talk;
use crate::tls::Stream;
use crate::wire::Broken;

/// What is read at once. PostgreSQL writes 8 kB at once; a busy one fills several of these in the socket.
const CHUNK_BYTES: usize = 32 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK_BYTES]);
}

/// Both directions of a session.
pub(super) struct Relay {
    up: Lane,
    down: Lane,
    repetition: Repetition,
    /// Which direction is looked after first. They take turns, so that a flood in one never starves the other.
    is_up_first: bool,
    /// The client sends nothing more, and the server is to hear of it.
    is_leaving: bool,
    /// Stop when nothing is under way, and so many requests were made in all.
    pub(super) stops_quiet_after: Option<u64>,
}

/// Who takes part in it.
pub(super) struct Parties<'a> {
    pub(super) client: &'a mut Stream,
    pub(super) server: &'a mut Stream,
    pub(super) talk: &'a mut Talk,
}

impl Relay {
    /// `rest` is for the client, and the talk knows it already.
    /// A transaction is repeated `max_repetitions` times at most.
    pub(super) fn new(rest: Vec<u8>, max_repetitions: u32) -> Self {
        Self {
            up: Lane::default(),
            down: Lane { stuck: rest, ..Lane::default() },
            repetition: Repetition::new(max_repetitions),
            is_up_first: false,
            is_leaving: false,
            stops_quiet_after: None,
        }
    }

    /// Relays until one side is done. May be cancelled at any time.
    pub(super) async fn run(&mut self, mut parties: Parties<'_>) -> End {
        std::future::poll_fn(|context| {
            self.is_up_first = !self.is_up_first;
            let first = if self.is_up_first { Self::poll_up } else { Self::poll_down };
            let second = if self.is_up_first { Self::poll_down } else { Self::poll_up };
            let end = match first(self, &mut parties, context) {
                Poll::Pending => second(self, &mut parties, context),
                end => end,
            };
            match end {
                Poll::Pending if self.should_stop(parties.talk) => Poll::Ready(End::Quiet),
                end => end,
            }
        })
        .await
    }

    fn poll_up(&mut self, parties: &mut Parties<'_>, context: &mut Context<'_>) -> Poll<End> {
        let Parties { client, server, talk } = parties;
        let repetition = &mut self.repetition;
        let look = |chunk: &[u8]| {
            let is_first = talk.is_quiet();
            talk.client_said(chunk)?;
            repetition.client_said(chunk, is_first, talk.is_one_request());
            Ok(Passed::all(chunk))
        };
        let polled = self.up.poll(client, server, look, context);
        if polled.is_ready() {
            // Nothing more can be sent.
            self.repetition.stop();
        }
        match polled {
            Poll::Ready(Stop::Broken) => return Poll::Ready(End::ClientBroken),
            Poll::Ready(Stop::Source) => {
                // It may have closed its half only, and still wait for what the server says last.
                talk.client_left();
                self.is_leaving = true;
            }
            // A server that takes nothing more may have said why. That is still to be read.
            Poll::Ready(Stop::Sink) | Poll::Pending => {}
        }
        if self.is_leaving && Pin::new(&mut **server).poll_shutdown(context).is_ready() {
            self.is_leaving = false;
        }
        Poll::Pending
    }

    fn poll_down(&mut self, parties: &mut Parties<'_>, context: &mut Context<'_>) -> Poll<End> {
        let Parties { client, server, talk } = parties;
        let (repetition, mut repeats) = (&mut self.repetition, false);
        let look = |chunk: &[u8]| {
            let bytes = talk.server_said(chunk)?;
            let text = |name: &[u8]| talk.known().statements.text(name);
            Ok(match repetition.server_said(&chunk[..bytes], text) {
                Ruling::Pass(before) => Passed { before, bytes },
                Ruling::Withhold => Passed { before: Vec::new(), bytes: 0 },
                Ruling::Repeat(before) => {
                    repeats = true;
                    Passed { before, bytes: 0 }
                }
            })
        };
        let stop = self.down.poll(server, client, look, context);
        if repeats {
            self.repeat(talk);
        }
        match stop {
            Poll::Pending if repeats => Poll::Ready(End::Conflict),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Stop::Source) => {
                self.server_is_lost(talk);
                Poll::Ready(End::Server)
            }
            Poll::Ready(Stop::Sink) => Poll::Ready(End::Client),
            Poll::Ready(Stop::Broken) => Poll::Ready(End::ServerBroken),
        }
    }

    /// Whether what is under way can be repeated, if it was rolled back.
    pub(super) fn may_repeat(&self, talk: &Talk) -> bool {
        self.repetition.may_repeat(|name| talk.known().statements.text(name))
    }

    /// As if the client had sent it again. Nothing is stuck: it is answered, or the server is another one.
    pub(super) fn repeat(&mut self, talk: &mut Talk) {
        let request = self.repetition.repeat();
        // What was read once can be read again.
        let _ = talk.client_said(&request);
        self.up.stuck = request;
    }

    /// The server says nothing more, and what was withheld of it goes with it.
    pub(super) fn server_is_lost(&mut self, talk: &mut Talk) {
        if self.repetition.drop_answer() {
            talk.unsay();
        }
    }

    /// How often what is under way was repeated.
    pub(super) fn repetitions(&self) -> u32 {
        self.repetition.count()
    }

    /// The session goes on with another server. What was meant for the one before is dropped; `bytes` are for the client.
    pub(super) fn resume(&mut self, bytes: &[u8], repeats: bool) {
        if !repeats {
            self.repetition.stop();
        }
        self.up = Lane::default();
        let stuck = self.down.stuck.split_off(self.down.taken);
        self.down = Lane { stuck: [&*stuck, bytes].concat(), is_unflushed: self.down.is_unflushed, ..Lane::default() };
        self.stops_quiet_after = None;
    }

    fn should_stop(&self, talk: &Talk) -> bool {
        self.stops_quiet_after.is_some_and(|requests| talk.requests() >= requests) && self.is_quiet(talk)
    }

    /// Whether nothing is under way, and nothing stuck.
    pub(super) fn is_quiet(&self, talk: &Talk) -> bool {
        talk.is_quiet() && self.is_clear() && self.up.stuck.len() == self.up.taken && !self.is_leaving
    }

    /// Whether the client has taken all that came for it.
    pub(super) fn is_clear(&self) -> bool {
        self.down.taken == self.down.stuck.len() && !self.down.is_unflushed
    }
}

/// Why a direction carries nothing more.
enum Stop {
    /// Nothing more comes, and all that came is passed on.
    Source,
    /// Nothing more is taken.
    Sink,
    /// It is not the protocol.
    Broken,
}

/// What of a chunk is passed on.
struct Passed {
    /// These bytes,
    before: Vec<u8>,
    /// and so many of the chunk's.
    bytes: usize,
}

impl Passed {
    fn all(chunk: &[u8]) -> Self {
        Self { before: Vec::new(), bytes: chunk.len() }
    }
}

/// One direction.
#[derive(Default)]
struct Lane {
    /// What was read and not taken yet, from `taken` on.
    stuck: Vec<u8>,
    taken: usize,
    /// What was taken may be held back by the encryption.
    is_unflushed: bool,
    is_closed: bool,
}

impl Lane {
    fn poll(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        mut look: impl FnMut(&[u8]) -> Result<Passed, Broken>,
        context: &mut Context<'_>,
    ) -> Poll<Stop> {
        if self.is_closed {
            return Poll::Pending;
        }
        loop {
            while self.taken < self.stuck.len() {
                match ready!(Pin::new(&mut *to).poll_write(context, &self.stuck[self.taken..])) {
                    Ok(bytes) if bytes > 0 => {
                        self.taken += bytes;
                        self.is_unflushed = true;
                    }
                    _ => return self.close(Stop::Sink),
                }
            }
            // Give the memory back rather than keep it for each session that was ever busy.
            (self.stuck, self.taken) = (Vec::new(), 0);
            if self.is_unflushed {
                if ready!(Pin::new(&mut *to).poll_flush(context)).is_err() {
                    return self.close(Stop::Sink);
                }
                self.is_unflushed = false;
            }
            if let Err(stop) = ready!(self.carry(from, to, &mut look, context)) {
                return self.close(stop);
            }
        }
    }

    fn close(&mut self, why: Stop) -> Poll<Stop> {
        self.is_closed = true;
        Poll::Ready(why)
    }

    /// Reads one chunk and writes as much of it as is taken. `look` tells what is to be passed on.
    fn carry(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        look: &mut impl FnMut(&[u8]) -> Result<Passed, Broken>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(from).poll_read(context, &mut buffer));
            let chunk = buffer.filled();
            if read.is_err() || chunk.is_empty() {
                return Poll::Ready(Err(Stop::Source));
            }
            let Ok(Passed { before, bytes }) = look(chunk) else { return Poll::Ready(Err(Stop::Broken)) };
            let chunk = &chunk[..bytes];
            if !before.is_empty() || chunk.is_empty() {
                self.stuck = [&before, chunk].concat();
                return Poll::Ready(Ok(()));
            }
            let taken = match Pin::new(to).poll_write(context, chunk) {
                Poll::Ready(Ok(bytes)) => bytes,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Sink)),
                Poll::Pending => 0,
            };
            self.is_unflushed = taken > 0;
            self.stuck = chunk[taken..].to_vec();
            Poll::Ready(Ok(()))
        })
    }
}
