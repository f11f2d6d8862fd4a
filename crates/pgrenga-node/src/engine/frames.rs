//! The talk with PostgreSQL, frame by frame.

use std::time::Duration;

use pgrenga_admin::{Fate, Member};
use pgrenga_core::sessions;
use pgrenga_writeset::entry::Item;
use pgrenga_writeset::port::{FromPostgres, ToPostgres, Topic};
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, LogIndex, TransactionId};
use tokio::sync::oneshot;

use super::{Engine, Hello};
use crate::abandoned;
use crate::port::Room;
use crate::question::{self, QuestionId, Subject};

impl Engine {
    pub(super) async fn on_frame(&mut self, frame: &[u8], room: &Room) {
        match FromPostgres::decode(frame) {
            Ok(FromPostgres::Hello { server_start, visible, .. }) => {
                if let Some(port) = &mut self.port {
                    port.hello = Some(Hello { server_start, visible });
                }
                self.begin_life().await;
            }
            Ok(FromPostgres::Submit(bytes)) => match Writeset::decode(bytes) {
                Ok(writeset) => self.submit(&writeset, bytes, room).await,
                Err(error) => tracing::error!(%error, "PostgreSQL sent a writeset that cannot be read"),
            },
            Ok(FromPostgres::Fragment { txid, ordinal, body }) => {
                match sessions::turn_away(txid, self.life(), self.log.takes_writes()) {
                    Some(answer) => self.tell(answer).await,
                    None => self.proposer.propose_in(room, &Item::Fragment { txid, ordinal, body }).await,
                }
            }
            Ok(FromPostgres::FenceRequest(txid)) => {
                if self.is_current(txid) {
                    self.proposer.propose(&Item::FenceRequest(txid)).await;
                } else {
                    self.tell(ToPostgres::FenceLost(txid)).await;
                }
            }
            Ok(FromPostgres::GiveUp(txid)) => self.proposer.propose(&Item::GiveUp(txid)).await,
            Ok(FromPostgres::Waiting(txid)) => {
                if let Some(answer) = sessions::remind(&self.core, txid) {
                    self.tell(answer).await;
                }
            }
            Ok(FromPostgres::Orphan(seq)) => {
                if let Some(ordered) = self.ledger.get(seq).filter(|_| seq > self.visible) {
                    self.dispatcher.push(ordered.task);
                }
            }
            Ok(FromPostgres::Progress(seq)) => self.on_visible(seq),
            Ok(FromPostgres::Question { id, millis, topic }) => {
                self.on_question(id, Duration::from_millis(millis.into()), topic).await;
            }
            Err(error) => tracing::error!(%error, "PostgreSQL sent a frame that cannot be read"),
        }
    }

    async fn on_question(&mut self, id: u64, patience: Duration, topic: Topic) {
        let Some(port) = &self.port else { return };
        let question = QuestionId { port: port.id, id };
        let text = match topic {
            Topic::Transaction(txid) => return self.place(question, Subject::Transaction(txid), patience),
            Topic::Present => return self.place(question, Subject::Present, patience),
            Topic::Everywhere(seq) => {
                self.everywhere.take(question, seq, patience, &self.others());
                return self.ask_everywhere().await;
            }
            Topic::Status => question::status(&self.options, &self.positions()),
            Topic::Member(ordinal) => {
                let own = (self.options.node, self.shown().0);
                question::member(ordinal, &self.core, &self.log, self.members(), own)
            }
        };
        self.answer(question, &text).await;
    }

    /// Has a majority tell at which position of the log the question is to be answered.
    fn place(&mut self, question: QuestionId, subject: Subject, patience: Duration) {
        if self.questions.has_room_for(question) {
            let round = self.rounds.join(&self.log, &self.events);
            self.questions.take(question, subject, patience, round);
        }
    }

    pub(super) async fn answer_questions(&mut self) {
        for (question, subject) in self.questions.answerable(self.present.position()) {
            match subject {
                Subject::Transaction(txid) => self.tell_fate(question, txid),
                Subject::Present => self.answer(question, &self.core.seq().to_string()).await,
            }
        }
    }

    /// Tells what became of a transaction, now or when files were read or other nodes were asked.
    fn tell_fate(&self, question: QuestionId, txid: TransactionId) {
        let (known, others) = (self.past.look(&self.core, txid), self.others());
        let (Some(port), Some(index)) = (&self.port, self.present.position()) else { return };
        if port.id != question.port {
            return;
        }
        let origin = others.iter().find(|member| member.id == txid.node).cloned();
        let (frames, log) = (port.frames.clone(), self.log.clone());
        // As many of them as sessions ask, each once a second.
        tokio::spawn(async move {
            if let Some(fate) = known.anywhere(txid, index, &others).await {
                let mut bytes = Vec::with_capacity(64);
                ToPostgres::Answer { question: question.id, text: &fate.to_string() }.encode(&mut bytes);
                let _ = frames.send(bytes).await;
                if let Some(origin) = origin.filter(|_| fate == Fate::InProgress) {
                    abandoned::settle(&log, &origin, txid).await;
                }
            }
        });
    }

    /// Tells another node, if this one is not behind it. What is in progress here, though its server is not there any more,
    /// is given up.
    pub(super) fn recall(&self, txid: TransactionId, index: LogIndex, reply: oneshot::Sender<Fate>) {
        if self.present.position() >= Some(index) {
            let known = self.past.look(&self.core, txid);
            let is_abandoned = txid.node == self.options.node && !self.is_current(txid);
            let log = self.log.clone();
            tokio::spawn(async move {
                let fate = known.here().await;
                let _ = reply.send(fate);
                if is_abandoned && fate == Fate::InProgress {
                    abandoned::give_up(&log, txid).await;
                }
            });
        }
    }

    /// The other nodes with data.
    fn others(&self) -> Vec<Member> {
        let own = self.options.node;
        self.shared.members().into_iter().filter(|member| member.id != own && member.postgres.is_some()).collect()
    }

    /// Tells who waits what every node shows by now, and asks the nodes for the rest.
    pub(super) async fn ask_everywhere(&mut self) {
        let others = self.others();
        for question in self.everywhere.answerable(&others) {
            self.answer(question, "").await;
        }
        self.everywhere.ask(&others, &self.events);
    }

    /// Answers by the connection that asked: another one's ids begin anew.
    async fn answer(&self, question: QuestionId, text: &str) {
        if self.port.as_ref().is_some_and(|port| port.id == question.port) {
            self.tell(ToPostgres::Answer { question: question.id, text }).await;
        }
    }

    /// Proposes a writeset, unless that is of no use.
    async fn submit(&mut self, writeset: &Writeset<'_>, bytes: &[u8], room: &Room) {
        if let Some(answer) = sessions::turn_away(writeset.header.txid, self.life(), self.log.takes_writes()) {
            self.tell(answer).await;
        } else if let Some(answer) = sessions::doom(&self.core, writeset) {
            self.shared.count_abort(true);
            self.tell(answer).await;
        } else {
            self.proposer.propose_in(room, &Item::Writeset(bytes)).await;
        }
    }

    /// The life that PostgreSQL has entered, if it has.
    pub(super) fn life(&self) -> Option<Incarnation> {
        self.port.as_ref().filter(|port| port.entered).map(|port| port.incarnation)
    }

    pub(super) fn is_current(&self, txid: TransactionId) -> bool {
        self.life() == Some(txid.incarnation)
    }

    /// Sends a frame to PostgreSQL. If the connection is gone, the next one
    /// asks for whatever it carried.
    pub(super) async fn tell(&self, frame: ToPostgres<'_>) {
        if let Some(port) = &self.port {
            let mut bytes = Vec::with_capacity(64);
            frame.encode(&mut bytes);
            let _ = port.frames.send(bytes).await;
        }
    }
}
