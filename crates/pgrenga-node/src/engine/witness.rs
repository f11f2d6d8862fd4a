//! A node without PostgreSQL. It votes, decides as the others do, and keeps the log for them;
//! it takes no sessions and proposes no writes, so it leads only as long as nobody else can.

use std::time::{Duration, Instant};

use pgrenga_log::{Handle, LogIndex, Status};
use pgrenga_writeset::NodeId;
use tokio::task::JoinHandle;

use super::Engine;

/// How often it tells the others what it decided.
const REPORT: Duration = Duration::from_secs(1);
/// A node that was heard of within this is there.
const PRESENT: Duration = Duration::from_millis(500);
/// And with so many entries or fewer missing it has them soon, and can lead.
const NEARLY: u64 = 64;
/// Between two attempts to hand over.
const PAUSE: Duration = Duration::from_secs(1);

/// Leadership on its way to a node with data.
#[derive(Debug, Default)]
pub(super) struct HandOver(Option<JoinHandle<()>>);

impl Engine {
    pub(super) fn is_witness(&self) -> bool {
        self.options.postgres.is_none()
    }

    /// What a witness does on every tick.
    pub(super) async fn bear_witness(&mut self) {
        if self.progress_sent.elapsed() >= REPORT {
            self.progress_sent = Instant::now();
            if let Some(report) = self.agreement.report(self.options.node) {
                self.proposer.propose(&report).await;
            }
        }
        self.hand_over();
    }

    /// A witness that holds the newest log has to win the election, so that a node with data gets
    /// it. Then that one is to lead: it is where the writes come from.
    fn hand_over(&mut self) {
        if !self.leads() || self.hand_over.0.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let with_data: Vec<NodeId> =
            self.members().into_iter().filter(|member| member.postgres.is_some()).map(|member| member.id).collect();
        self.hand_over.0 =
            successor(&self.log.status(), &with_data).map(|to| tokio::spawn(let_lead(self.log.clone(), to)));
    }
}

/// The voter with data that has most of the log, if it has nearly all of it.
fn successor(log: &Status, with_data: &[NodeId]) -> Option<NodeId> {
    let last = log.last?;
    let is_there = |contact: Option<Duration>| contact.is_some_and(|silent| silent < PRESENT);
    let able = log.members.iter().filter(|member| {
        member.voter
            && !member.is_full
            && with_data.contains(&member.node_id)
            && is_there(member.last_contact)
            && member.matching.is_some_and(|LogIndex(matching)| matching + NEARLY >= last.0)
    });
    able.max_by_key(|member| member.matching).map(|member| member.node_id)
}

async fn let_lead(log: Handle, to: NodeId) {
    match log.transfer_leader(to).await {
        Ok(()) => tracing::info!(%to, "a node with data leads now"),
        Err(error) => tracing::warn!(%to, %error, "could not hand leadership over yet"),
    }
    tokio::time::sleep(PAUSE).await;
}

#[cfg(test)]
mod tests {
    use pgrenga_log::Member;

    use super::*;

    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);
    const WITNESS: NodeId = NodeId(3);

    fn member(node_id: NodeId, voter: bool, matching: u64, silent_ms: u64) -> Member {
        let last_contact = Some(Duration::from_millis(silent_ms));
        Member {
            node_id,
            address: String::new(),
            voter,
            matching: Some(LogIndex(matching)),
            last_contact,
            is_full: false,
        }
    }

    fn chosen(members: Vec<Member>) -> Option<NodeId> {
        let index = Some(LogIndex(1000));
        let log = Status {
            node_id: WITNESS,
            leader: Some(WITNESS),
            term: 1,
            last: index,
            committed: index,
            applied: index,
            snapshot: None,
            purged: None,
            members,
            disk_bytes: 0,
            is_full: false,
        };
        successor(&log, &[N1, N2])
    }

    #[test]
    fn the_node_with_most_of_the_log_is_to_lead() {
        assert_eq!(chosen(vec![member(N1, true, 990, 10), member(N2, true, 999, 10)]), Some(N2));
    }

    #[test]
    fn nobody_leads_who_cannot() {
        assert_eq!(chosen(vec![member(N1, true, 900, 10)]), None, "it lacks too much");
        assert_eq!(chosen(vec![member(N1, true, 1000, 900)]), None, "it is silent");
        assert_eq!(chosen(vec![member(N1, false, 1000, 10)]), None, "it is no voter");
        assert_eq!(chosen(vec![member(NodeId(4), true, 1000, 10)]), None, "it has no data");
        assert_eq!(chosen(vec![Member { is_full: true, ..member(N1, true, 1000, 10) }]), None, "its disk is full");
    }
}
