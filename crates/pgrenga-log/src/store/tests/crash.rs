//! The power goes at every change of the disk in turn.

use std::sync::Arc;

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use super::memory_disk::{MemoryDisk, Unsynced};
use super::{append, entry, open};
use crate::raft::{Entry, LogId, Vote, log_id};
use crate::store::LogStore;

/// What a script does to the log, one step after the other.
#[derive(Debug, Clone, Copy)]
enum Step {
    Append { term: u64, first: u64, count: u64, len: usize },
    Vote(u64),
    Truncate(LogId),
    Purge(LogId),
}

/// The log as it should be.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

fn script() -> Vec<Step> {
    use Step::*;
    let append = |term, first, count, len| Append { term, first, count, len };
    vec![
        Vote(1),
        append(1, 0, 1, 10),
        append(1, 1, 3, 700),
        Vote(2),
        append(2, 4, 40, 900),
        Truncate(log_id(2, 30)),
        append(3, 31, 10, 5000),
        append(3, 41, 1, 40_000),
        Purge(log_id(2, 20)),
        append(3, 42, 20, 3000),
        Vote(5),
        Truncate(log_id(3, 45)),
        Purge(log_id(3, 43)),
        append(5, 46, 30, 4000),
        Purge(log_id(6, 100)),
        append(6, 101, 2, 100),
    ]
}

impl Model {
    /// What may be found when `step` was under way: an append need not be whole.
    fn during(&self, step: Step) -> Vec<Self> {
        let mut after = self.clone();
        after.apply(step);
        let whole = after.entries.len();
        let parts = match step {
            Step::Append { .. } => self.entries.len()..whole,
            _ => whole..whole,
        };
        let part = |len| Self { entries: after.entries[..len].to_vec(), ..after.clone() };
        parts.map(part).chain([after.clone()]).collect()
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Append { term, first, count, len } => {
                self.entries.extend((first..first + count).map(|index| entry(term, index, len)));
            }
            Step::Vote(term) => self.vote = Some(Vote::new(term, 1)),
            Step::Truncate(last) => self.entries.retain(|entry| entry.log_id.index <= last.index),
            Step::Purge(upto) => {
                self.purged = Some(upto);
                self.entries.retain(|entry| entry.log_id.index > upto.index);
            }
        }
    }
}

/// Returns whether the step is known to be durable.
async fn run(store: &mut LogStore, step: Step) -> bool {
    match step {
        Step::Append { term, first, count, len } => {
            append(store, (first..first + count).map(|index| entry(term, index, len)).collect()).await.is_ok()
        }
        Step::Vote(term) => store.save_vote(&Vote::new(term, 1)).await.is_ok(),
        // These are ordered before what follows, and need no answer.
        Step::Truncate(last) => store.truncate_after(Some(last)).await.is_err(),
        Step::Purge(upto) => store.purge(upto).await.is_err(),
    }
}

async fn found(disk: &MemoryDisk) -> Model {
    let (mut store, _writer) = open(Arc::new(disk.clone())).expect("a log that opens");
    Model {
        vote: store.read_vote().await.expect("readable"),
        purged: store.purged(),
        entries: store.try_get_log_entries(..).await.expect("readable"),
    }
}

#[tokio::test]
async fn what_was_answered_is_there_wherever_the_power_went() {
    let steps = script();
    let mut models = vec![Model::default()];
    for step in &steps {
        let mut next = models[models.len() - 1].clone();
        next.apply(*step);
        models.push(next);
    }
    let mut crashes = 0;
    for changes in 1.. {
        let disk = MemoryDisk::default();
        disk.fail_after(changes);
        let (mut answered, mut asked) = (0, 0);
        if let Ok((mut store, _writer)) = open(Arc::new(disk.clone())) {
            for step in &steps {
                asked += 1;
                if run(&mut store, *step).await {
                    answered = asked;
                } else if !matches!(step, Step::Truncate(_) | Step::Purge(_)) {
                    break;
                }
            }
        }
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Mixed(0x5a3c_96e1_0ff0_7b2d), Unsynced::Mixed(!3)] {
            let after = disk.after_crash(unsynced);
            let model = found(&after).await;
            let possible = (answered..asked).flat_map(|n| models[n].during(steps[n])).chain([models[answered].clone()]);
            assert!(
                possible.into_iter().any(|possible| possible == model),
                "power lost at change {changes}, {unsynced:?}, {answered} steps answered of {asked} asked: {:?}",
                (model.vote, model.purged, model.entries.len()),
            );
            assert_eq!(found(&after).await, model, "opening it again changes nothing");
        }
        if answered == steps.len() {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 60, "{crashes} crashes tried");
}
