//! Applying what others wrote.

use std::time::Duration;

use pgrenga_core::Position;
use pgrenga_log::Handle;
use pgrenga_writeset::entry::{Item, Items};
use pgrenga_writeset::Seq;
use tokio::time::sleep;

use super::{Daemon, Input, Work};
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
        while self.entered && let Some((worker, seq)) = self.dispatcher.assign() {
            let Some(ordered) = self.ledger.get(&seq) else {
                self.dispatcher.done(worker, seq);
                continue;
            };
            let Work::Writeset { at, ref fragments, .. } = ordered.work else { continue };
            let places: Vec<Position> = fragments.iter().copied().chain([at]).collect();
            let (log, setup, inputs, epoch) = (self.log.clone(), self.setup.clone(), self.inputs.clone(), self.epoch);
            let (after, start) = (ordered.task.after, self.start);
            self.workers.spawn_local(async move {
                let applied = match writes(&log, &places).await {
                    Ok(writes) => {
                        wait_for(&setup.postgres, after).await;
                        sleep(moment(2)).await;
                        apply(&setup, start, seq, &writes).await
                    }
                    Err(reason) => {
                        setup.invariants.fail(format!("node {} cannot apply {seq}: {reason}", setup.id));
                        Applied::Again
                    }
                };
                let _ = inputs.send(Input::Applied { epoch, worker, seq, applied });
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

async fn apply(setup: &super::Setup, start: u64, seq: Seq, writes: &Writes) -> Applied {
    // A worker's connection ends with the server.
    let connected = || setup.postgres.runs_since(start) && setup.power.act();
    if !connected() {
        return Applied::Again;
    }
    // It sees what it needs already: rows may be read before the turn comes.
    if let Err(reason) = setup.postgres.table().fits(writes).map_err(|reason| (reason, setup.postgres.visible()))
        && reason.1 < seq
    {
        setup.invariants.fail(format!("node {} executes {seq} too early: {}", setup.id, reason.0));
    }
    setup.postgres.execute(writes);
    if tokio::time::timeout(PATIENCE, wait_for(&setup.postgres, Seq(seq.0 - 1))).await.is_err() || !connected() {
        return Applied::Again;
    }
    setup.postgres.apply(seq, writes)
}

/// Reads a writeset's body from the log, piece by piece.
async fn writes(log: &Handle, places: &[Position]) -> Result<Writes, String> {
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
