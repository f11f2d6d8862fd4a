//! The answering side: accepts other members and does what they ask.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use openraft::raft::AppendEntriesRequest;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::frame::{Frame, FrameReader, Kind, write_frame, write_frames};
use super::max_frame;
use super::message::{self, Hello, PROTOCOL};
use super::transport::{Stream, Transport};
use crate::codec::Malformed;
use crate::leader::Leader;
use crate::raft::TypeConfig;
use crate::runtime;

/// Replies waiting to be written before requests wait.
const QUEUE: usize = 1024;
/// Append requests handed to openraft ahead of their replies.
const APPENDS: usize = 64;
/// A first frame's largest body: nobody has introduced themselves yet.
const MAX_HELLO: usize = 1 << 10;
/// How long a newcomer has to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts members until it is dropped.
pub(crate) async fn serve(transport: Arc<dyn Transport>, leader: Arc<Leader>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = transport.accept() => match accepted {
                Ok(stream) => {
                    let leader = leader.clone();
                    runtime::spawn_into(&mut connections, async move {
                        if let Err(error) = connection(stream, leader).await {
                            tracing::debug!(%error, "closed the connection of a member of the log");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close some.
                    tracing::warn!(%error, "could not accept a member of the log");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

fn protocol_error(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn connection(stream: impl Stream, leader: Arc<Leader>) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, MAX_HELLO);
    let hello = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await??;
    let Some(hello) = hello.filter(|frame| frame.kind == Kind::Hello) else {
        return Err(protocol_error(Malformed::new("greeting")));
    };
    let hello: Hello = message::from_bytes(&hello.body).map_err(protocol_error)?;
    if let Err(reason) = check(&hello, &leader) {
        tracing::warn!(from = hello.from, reason, "refused a connection to the log");
        return write_frame(&mut write, &Frame::new(Kind::Refused, 0, reason)).await;
    }
    write_frame(&mut write, &Frame::new(Kind::Welcome, 0, Bytes::new())).await?;
    reader.set_max(max_frame(leader.options()));
    let (replies, outgoing) = mpsc::channel(QUEUE);
    let mut requests = Requests { leader, replies, tasks: JoinSet::new(), appends: None, snapshot: BytesMut::new() };
    tokio::select! {
        biased;
        ended = requests.serve(reader) => ended,
        ended = write_frames(write, outgoing) => ended,
    }
}

fn check(hello: &Hello, leader: &Leader) -> Result<(), String> {
    let options = leader.options();
    if hello.protocol != PROTOCOL {
        Err(format!("node {} speaks log protocol {PROTOCOL}, not {}", options.node_id, hello.protocol))
    } else if hello.cluster != options.cluster {
        Err(format!("node {} belongs to cluster {:?}, not {:?}", options.node_id, options.cluster, hello.cluster))
    } else if hello.to != options.node_id.0 {
        Err(format!("this is node {}, not {}", options.node_id, hello.to))
    } else {
        Ok(())
    }
}

struct Requests {
    leader: Arc<Leader>,
    replies: mpsc::Sender<Frame>,
    /// Requests under way; they end with the connection.
    tasks: JoinSet<()>,
    /// The stream of appends that is served, by its id.
    appends: Option<(u64, mpsc::Sender<AppendEntriesRequest<TypeConfig>>)>,
    /// The pieces of a snapshot that have come so far.
    snapshot: BytesMut,
}

impl Requests {
    async fn serve(&mut self, mut reader: FrameReader<impl AsyncRead + Unpin>) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                Some(_) = self.tasks.join_next() => {}
                frame = reader.next() => match frame? {
                    Some(frame) => self.request(frame).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// Begins what is asked. Only the order of appends and of proposals matters.
    async fn request(&mut self, frame: Frame) -> io::Result<()> {
        match frame.kind {
            Kind::Append => self.append(frame).await?,
            Kind::Snapshot => self.snapshot(frame)?,
            Kind::Propose => {
                let proposed = self.leader.submit(frame.body).await;
                self.spawn(frame.id, Kind::ProposeReply, async move { Some(message::to_bytes(&proposed.await)) });
            }
            Kind::Call => {
                let call = message::from_bytes(&frame.body).map_err(protocol_error)?;
                let leader = self.leader.clone();
                self.spawn(frame.id, Kind::CallReply, async move { Some(message::to_bytes(&leader.call(call).await)) });
            }
            Kind::Vote | Kind::PreVote => {
                let request = message::decode_vote(frame.body).map_err(protocol_error)?;
                let leader = self.leader.clone();
                self.spawn(frame.id, Kind::VoteReply, async move {
                    let raft = leader.raft();
                    let reply =
                        if frame.kind == Kind::Vote { raft.vote(request).await } else { raft.pre_vote(request).await };
                    reply.ok().map(|reply| message::encode_vote_reply(&reply))
                });
            }
            Kind::TransferLeader => {
                let request = message::decode_transfer(frame.body).map_err(protocol_error)?;
                let leader = self.leader.clone();
                self.spawn(frame.id, Kind::TransferLeaderReply, async move {
                    let reply = leader.raft().handle_transfer_leader(request).await;
                    reply.ok().map(|reply| message::encode_transfer_reply(&reply))
                });
            }
            _ => return Err(protocol_error(Malformed::new("request"))),
        }
        Ok(())
    }

    /// Answers a request when `reply` is there. Without one the asker's time-out
    /// tells: this member is closing.
    fn spawn(&mut self, id: u64, kind: Kind, reply: impl Future<Output = Option<Bytes>> + Send + 'static) {
        let replies = self.replies.clone();
        runtime::spawn_into(&mut self.tasks, async move {
            if let Some(body) = reply.await {
                // A connection that ended needs no reply.
                let _ = replies.send(Frame::new(kind, id, body)).await;
            }
        });
    }

    async fn append(&mut self, frame: Frame) -> io::Result<()> {
        let (request, scarce) = message::decode_append(frame.body).map_err(protocol_error)?;
        let space = self.leader.space();
        space.set_scarce(scarce);
        if !space.admits(&request.entries) {
            // The leader begins another stream, later; what follows in this one is dropped.
            self.appends = Some((frame.id, mpsc::channel(1).0));
            let refusal = Frame::new(Kind::AppendReply, frame.id, message::encode_append_refusal());
            // Whoever writes replies ends with the connection.
            let _ = self.replies.send(refusal).await;
            return Ok(());
        }
        if self.appends.as_ref().is_none_or(|(id, _)| *id != frame.id) {
            self.begin_appends(frame.id);
        }
        if let Some((_, appends)) = &self.appends {
            // What follows a conflict in the same stream is dropped: the leader begins another.
            let _ = appends.send(request).await;
        }
        Ok(())
    }

    /// Begins a stream of appends in place of the one before.
    fn begin_appends(&mut self, id: u64) {
        let (appends, input) = mpsc::channel(APPENDS);
        let input = futures::stream::unfold(input, |mut input| async move { Some((input.recv().await?, input)) });
        let mut results = Box::pin(self.leader.raft().stream_append(input));
        let (replies, space) = (self.replies.clone(), self.leader.space().clone());
        runtime::spawn_into(&mut self.tasks, async move {
            while let Some(Ok(result)) = results.next().await {
                let body = message::encode_append_reply(&result, space.is_full());
                let reply = Frame::new(Kind::AppendReply, id, body);
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
        });
        self.appends = Some((id, appends));
    }

    fn snapshot(&mut self, frame: Frame) -> io::Result<()> {
        if self.snapshot.len() + frame.body.len() > self.leader.options().max_snapshot_bytes {
            return Err(protocol_error(Malformed::new("snapshot: too large")));
        }
        self.snapshot.extend_from_slice(&frame.body);
        if frame.more {
            return Ok(());
        }
        let body = std::mem::take(&mut self.snapshot).freeze();
        let (vote, snapshot) = message::decode_snapshot(body).map_err(protocol_error)?;
        let leader = self.leader.clone();
        self.spawn(frame.id, Kind::SnapshotReply, async move {
            let reply = leader.raft().install_full_snapshot(vote, snapshot).await;
            reply.ok().map(|reply| message::encode_snapshot_reply(&reply))
        });
        Ok(())
    }
}
