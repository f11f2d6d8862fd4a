//! The daemon's side of the commit port, played by the test.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use pgrenga_writeset::port::{AbortReason, FromPostgres, LENGTH_BYTES, Standing, ToPostgres};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, Seq, TransactionId};

pub struct Daemon {
    stream: UnixStream,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Submit(TransactionId, Vec<u8>),
    FenceRequest(TransactionId),
    Orphan(u64),
    Question(u64),
}

impl Daemon {
    /// Waits for the server and lets it accept writes.
    pub fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("the socket's directory exists");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("our own socket");
        let (stream, _) = listener.accept().expect("the port worker connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a valid timeout");
        let mut daemon = Self { stream };
        daemon.begin_life(1);
        daemon.say(&ToPostgres::Standing(Standing::Serving));
        daemon.say(&ToPostgres::Lease { until: u64::MAX });
        daemon
    }

    /// Begins a life of the node.
    pub fn begin_life(&mut self, life: u32) {
        let (node, incarnation) = (NodeId(1), Incarnation(life));
        self.say(&ToPostgres::Welcome { node, incarnation, sequence_slot: 0, sequence_slots: 16 });
    }

    fn say(&mut self, frame: &ToPostgres<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("the port worker reads");
    }

    /// The next frame of which there is something to tell.
    fn hear_of<T>(&mut self, tell: impl Fn(FromPostgres<'_>) -> Option<T>) -> T {
        loop {
            let mut length = [0; LENGTH_BYTES];
            self.stream.read_exact(&mut length).expect("the port worker says something");
            let mut payload = vec![0; u32::from_le_bytes(length) as usize];
            self.stream.read_exact(&mut payload).expect("a whole frame");
            if let Some(told) = tell(FromPostgres::decode(&payload).expect("a valid frame")) {
                return told;
            }
        }
    }

    /// The next submission, fence request, orphan or question.
    pub fn hear(&mut self) -> Said {
        self.hear_of(|frame| match frame {
            FromPostgres::Submit(bytes) => {
                let writeset = Writeset::decode(bytes).expect("a valid writeset");
                Some(Said::Submit(writeset.header.txid, writeset.body.to_vec()))
            }
            FromPostgres::FenceRequest(txid) => Some(Said::FenceRequest(txid)),
            FromPostgres::Orphan(seq) => Some(Said::Orphan(seq.0)),
            FromPostgres::Question { id, .. } => Some(Said::Question(id)),
            _ => None,
        })
    }

    /// The next transaction that is given up. Nothing may be submitted before.
    pub fn hear_given_up(&mut self) -> TransactionId {
        self.hear_of(|frame| match frame {
            FromPostgres::GiveUp(txid) => Some(txid),
            FromPostgres::Submit(_) => panic!("a writeset is submitted"),
            _ => None,
        })
    }

    /// Gives the next transaction that asks its place; returns its body.
    pub fn order_next(&mut self, seq: u64) -> Vec<u8> {
        let said = self.hear();
        let Said::Submit(txid, body) = said else { panic!("expected a submission, not {said:?}") };
        self.commit(txid, seq);
        body
    }

    /// Gives a transaction its place.
    pub fn commit(&mut self, txid: TransactionId, seq: u64) {
        self.say(&ToPostgres::Commit { txid, seq: Seq(seq) });
    }
}

impl Daemon {
    /// Lets the next transaction that asks lose its first key to node 9's at `winner`.
    pub fn abort_next(&mut self, winner: u64) {
        let said = self.hear();
        let Said::Submit(txid, _) = said else { panic!("expected a submission, not {said:?}") };
        let reason = AbortReason::Key { ordinal: 0, winner: Seq(winner), node: NodeId(9) };
        self.say(&ToPostgres::Abort { txid, reason });
    }

    /// Tells the next transaction that asks that its outcome is not remembered.
    pub fn forget_next(&mut self) {
        let said = self.hear();
        let Said::Submit(txid, _) = said else { panic!("expected a submission, not {said:?}") };
        self.say(&ToPostgres::Forgotten(txid));
    }

    /// Tells the next transaction that asks that its writeset was lost.
    pub fn lose_next(&mut self) -> TransactionId {
        let said = self.hear();
        let Said::Submit(txid, _) = said else { panic!("expected a submission, not {said:?}") };
        self.say(&ToPostgres::Resubmit(txid));
        txid
    }

    /// Grants the DDL fence to the next transaction that asks.
    pub fn grant_next(&mut self) {
        let said = self.hear();
        let Said::FenceRequest(txid) = said else { panic!("expected a fence request, not {said:?}") };
        self.say(&ToPostgres::FenceGranted { txid, fence: LogIndex(1), after: Seq(0) });
    }
}

impl Daemon {
    /// The number of the next question.
    pub fn hear_question(&mut self) -> u64 {
        let said = self.hear();
        let Said::Question(id) = said else { panic!("expected a question, not {said:?}") };
        id
    }

    /// Answers a question.
    pub fn answer(&mut self, question: u64, text: &str) {
        self.say(&ToPostgres::Answer { question, text });
    }
}
