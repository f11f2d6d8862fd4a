//! When a majority's disks are lost for good: what one member still has, and how it goes on alone.
//!
//! Nothing is served meanwhile. The log's last word on the membership counts whether it is
//! committed or not, so one more entry in the log, of a term above all that this member has seen,
//! makes it the only voter. At its next start it elects itself, and everything before that entry
//! counts as committed. What only the lost members had is not there, acknowledged or not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::impls::BasicNode;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use pgrenga_writeset::{LogIndex, NodeId};

use crate::committed::node_id;
use crate::error::Error;
use crate::options::Options;
use crate::raft::{Entry, LogId, Membership, Payload, StoredMembership, TypeConfig, Vote, log_id};
use crate::start::{Opened, directory, open};
use crate::status::Member;
use crate::store::OnFailure;

/// What a member has, as its disk says. Of two members the one with the higher `last_term` has more,
/// of two with the same the one with the higher `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// The last entry.
    pub last: LogIndex,
    /// In which term it was proposed.
    pub last_term: u64,
    /// The last entry that it knew to be committed. More may have been.
    pub committed: Option<LogIndex>,
    /// Everyone in the log, this member too, as the log's last word has it.
    pub members: Vec<Member>,
}

/// A member's log, which no daemon serves.
pub struct Recovery {
    id: u64,
    opened: Opened,
    last: LogId,
    membership: StoredMembership,
}

impl Recovery {
    /// Opens what the directory of a member holds.
    ///
    /// # Errors
    /// As [`crate::start()`]; [`Error::Membership`] if it never belonged to a cluster.
    pub async fn open(options: &Options) -> Result<Self, Error> {
        options.validate()?;
        let dir = options.dir.clone();
        let (disk, lock) =
            crate::runtime::blocking(move || directory(&dir)).await.map_err(Error::io("could not open the log"))??;
        let mut opened = open(options, disk, OnFailure::Stop).await?;
        opened.writer.hold(lock);
        let empty = || Error::Membership("the log is empty".to_owned());
        let snapshot = opened.applied.snapshot();
        let of_snapshot = snapshot.as_ref().and_then(|meta| meta.last_log_id);
        let held = opened.store.get_log_state().await.map_err(Error::io("could not read the log"))?.last_log_id;
        let last = held.max(of_snapshot).ok_or_else(empty)?;
        let membership = opened.store.membership_at(last.index).await;
        let membership = membership.map_err(Error::io("could not read the membership from the log"))?;
        let membership = membership.or(snapshot.map(|meta| meta.last_membership)).ok_or_else(empty)?;
        if held < of_snapshot {
            // The last start took a leader's snapshot over, and did not come to cut the log.
            opened.store.purge(last).await.map_err(Error::io("could not cut the log"))?;
        }
        Ok(Self { id: options.node_id.0.into(), opened, last, membership })
    }

    /// What there is.
    #[must_use]
    pub fn remains(&self) -> Remains {
        let membership = self.membership.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let member = |(id, node): (&u64, &BasicNode)| Member {
            node_id: node_id(*id),
            address: node.addr.clone(),
            voter: voters.contains(id),
            matching: None,
            last_contact: None,
            is_full: false,
        };
        Remains {
            last: LogIndex(self.last.index),
            last_term: self.last.leader_id.term,
            committed: self.opened.applied.committed().map(LogIndex),
            members: membership.nodes().map(member).collect(),
        }
    }

    /// Makes this member, at `address`, the only one; `entry` is the first that follows. Durable when
    /// it returns; cut off at any moment before, it can be done again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn take_over(mut self, address: &str, entry: Bytes) -> Result<(), Error> {
        let failed = || Error::io("could not write the log");
        let vote = openraft::RaftLogReader::read_vote(&mut self.opened.store).await.map_err(failed())?;
        let term = vote.map_or(0, |vote| vote.leader_id.term).max(self.last.leader_id.term) + 1;
        // In this term nobody else can have been voted for here.
        self.opened.store.save_vote(&Vote::new(term, self.id)).await.map_err(failed())?;
        let members = BTreeMap::from([(self.id, BasicNode { addr: address.to_owned() })]);
        let membership = Membership::new(vec![BTreeSet::from([self.id])], members)
            .map_err(|error| Error::Membership(error.to_string()))?;
        let at = |offset| log_id(term, self.last.index + offset);
        let entries = [
            Entry::new(at(1), EntryPayload::Membership(membership)),
            Entry::new(at(2), EntryPayload::Normal(Payload(entry))),
        ];
        let (sender, done) = TypeConfig::oneshot();
        self.opened.store.append(entries, IOFlushed::signal(sender)).await.map_err(failed())?;
        let written = done.await.map_err(|_| Error::Closed)?;
        written.map_err(failed())?;
        self.close().await;
        Ok(())
    }

    /// Leaves everything as it is.
    pub async fn close(self) {
        self.opened.writer.stopped().await;
    }
}

impl Remains {
    /// Who would be left behind.
    pub fn others(&self, own: NodeId) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.node_id != own)
    }
}
