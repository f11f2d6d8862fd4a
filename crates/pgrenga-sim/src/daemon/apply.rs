//! Applying what others wrote.

use std::time::Duration;

use pgrenga_core::Position;
use pgrenga_log::Handle;
use pgrenga_writeset::Seq;
use pgrenga_writeset::entry::{Item, Items};
use tokio::time::sleep;

use super::{Daemon, Input, Ordered, Setup, Work};
use crate::postgres::{Applied, Postgres};
use crate::writes::{Writes, last_piece};

/// How long a worker waits for its turn before it gives its rows back.
const PATIENCE: Duration = Duration::from_millis(500);

fn moment(ms_max: u64) -> Duration {
    Duration::from_millis(fastrand::u64(..=ms_max))
}

impl Daemon {
    /// Gives the workers what they can do now.
    pub(super) fn dispatch(&mut self) {
        while self.entered
            && let Some((worker, run)) = self.dispatcher.assign()
        {
            let places: Vec<(Seq, Vec<Position>)> =
                run.seqs().filter_map(|seq| Some((seq, places(self.ledger.get(&seq)?)?))).collect();
            if places.is_empty() {
                self.dispatcher.done(worker, run.first);
                continue;
            }
            let (log, setup, inputs) = (self.log.clone(), self.setup.clone(), self.inputs.clone());
            let (epoch, start) = (self.epoch, self.start);
            self.workers.spawn_local(async move {
                let applied = match read(&log, &places).await {
                    Ok(run_writes) => {
                        wait_for(&setup.postgres, run.after).await;
                        sleep(moment(2)).await;
                        apply(&setup, start, &run_writes).await
                    }
                    Err(reason) => {
                        setup.fail(&format!("it cannot apply {}: {reason}", run.first));
                        Applied::Again
                    }
                };
                let _ = inputs.send(Input::Applied { epoch, worker, first: run.first, applied });
            });
        }
    }

    /// Lets a marker pass when its turn comes.
    pub(super) fn pass_marker(&mut self, seq: Seq) {
        let setup = self.setup.clone();
        self.workers.spawn_local(async move {
            wait_for(&setup.postgres, Seq(seq.0 - 1)).await;
            if setup.power.act() {
                setup.postgres.pass_marker(seq);
            }
        });
    }
}

async fn wait_for(postgres: &Postgres, seq: Seq) {
    while postgres.visible() < seq {
        postgres.changed().await;
    }
}

/// Where the pieces of a writeset stand.
fn places(ordered: &Ordered) -> Option<Vec<Position>> {
    match &ordered.work {
        Work::Writeset { at, fragments, .. } => Some(fragments.iter().copied().chain([*at]).collect()),
        Work::Marker => None,
    }
}

/// Executes a run, and commits it when its turn comes.
async fn apply(setup: &Setup, start: u64, run: &[(Seq, Writes)]) -> Applied {
    // A worker's connection ends with the server.
    let connected = || setup.postgres.runs_since(start) && setup.power.act();
    let Some((first, _)) = run.first().filter(|_| connected()) else { return Applied::Again };
    // It sees what it needs already: rows are read before the turn comes.
    let mut table = setup.postgres.table();
    if table.visible < *first {
        for (seq, writes) in run {
            if let Err(reason) = table.fits(writes) {
                setup.fail(&format!("it executes {seq} too early: {reason}"));
            }
            table.apply(*seq, Some(writes));
        }
    }
    setup.postgres.execute(run);
    let turn = wait_for(&setup.postgres, Seq(first.0 - 1));
    if tokio::time::timeout(PATIENCE, turn).await.is_err() || !connected() {
        return Applied::Again;
    }
    setup.postgres.apply(run)
}

async fn read(log: &Handle, run: &[(Seq, Vec<Position>)]) -> Result<Vec<(Seq, Writes)>, String> {
    let mut writes = Vec::new();
    for (seq, places) in run {
        writes.push((*seq, body(log, places).await?));
    }
    Ok(writes)
}

/// Reads a writeset's body from the log, piece by piece.
async fn body(log: &Handle, places: &[Position]) -> Result<Writes, String> {
    let mut body = Vec::new();
    for place in places {
        let payload = log.read(place.index).await.map_err(|error| format!("entry {}: {error}", place.index))?;
        let mut items = Items::decode(&payload).map_err(|error| error.to_string())?;
        match items.nth(place.item as usize) {
            Some(Ok(Item::Fragment { body: piece, .. })) => body.extend_from_slice(piece),
            Some(Ok(Item::Writeset(bytes))) => {
                let (piece, _) = last_piece(bytes).ok_or("not a writeset")?;
                body.extend_from_slice(piece);
            }
            _ => return Err(format!("entry {} does not hold it", place.index)),
        }
    }
    Writes::decode(&body).ok_or_else(|| "its body cannot be read".into())
}
