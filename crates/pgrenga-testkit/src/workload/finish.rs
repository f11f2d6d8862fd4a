//! The reads that end a run.

use std::time::Instant;

use tokio::time::sleep;

use super::drive::PAUSE;
use super::session::{Failure, Session};
use super::{Config, Workload};
use crate::history::{FinalRead, History, NodeIndex, Step};

/// Records what each node holds, as soon as all of them can be read and hold the
/// same in two rounds; or what they hold when the time to settle is over. Nodes
/// are numbered as they were for the clients.
///
/// Rounds are needed because a transaction whose client gave up may still commit.
pub async fn finish<W: Workload>(
    workload: &W,
    nodes: &[tokio_postgres::Config],
    config: &Config,
    history: &mut History<W::Step>,
) {
    let deadline = Instant::now() + config.settle;
    let mut sessions: Vec<Session> = nodes.iter().map(|node| Session::new(node, config.patience)).collect();
    let mut before = None;
    loop {
        let mut reads = Vec::new();
        for (node, session) in (0..).map(NodeIndex).zip(&mut sessions) {
            reads.push(read(workload, session, &config.schema, node).await);
        }
        let first = reads.first().and_then(|read| read.state.clone());
        let agreed = reads.iter().all(|read| read.state == first);
        let settled = agreed && first.is_some() && first == before;
        if settled || Instant::now() > deadline {
            history.final_reads = reads;
            return;
        }
        before = first.filter(|_| agreed);
        sleep(PAUSE).await;
    }
}

async fn read<W: Workload>(
    workload: &W,
    session: &mut Session,
    schema: &str,
    node: NodeIndex,
) -> FinalRead<<W::Step as Step>::State> {
    let result: Result<_, Failure> = async {
        session.connect().await?;
        workload.read_state(schema, session).await
    }
    .await;
    let (state, error) = match result {
        Ok(state) => (Some(state), None),
        Err(failure) => (None, Some(failure.to_string())),
    };
    FinalRead { node, state, error }
}
