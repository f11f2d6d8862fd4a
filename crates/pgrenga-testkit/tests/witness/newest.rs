//! The promise: what only a witness and a lost node had is in the node that comes back.

use std::time::Duration;

use anyhow::ensure;

use crate::{CLUSTER, PATIENCE, lose, states, with_witness, write_within};

const ROWS: i64 = 500;
/// Written by one transaction.
const AT_ONCE: usize = 10;
/// It would hear of the first node's progress within a second.
const FOR_THE_WITNESS_TO_CUT: Duration = Duration::from_secs(2);

#[test]
fn a_witness_hands_on_the_newest_log() {
    CLUSTER.test(async |cluster| {
        with_witness(cluster).await?;
        cluster.execute(0, "CREATE TABLE newest (id int PRIMARY KEY, filler text)").await?;
        cluster.settle().await?;

        // The second node has nothing of what comes now.
        lose(cluster, 1)?;
        for first in (0..ROWS).step_by(AT_ONCE) {
            // Its answer may have been lost while who leads was another one.
            let rows = format!(
                "INSERT INTO newest SELECT id, repeat('x', 5000) FROM generate_series({first}, {first} + {AT_ONCE} - 1) AS id
                 ON CONFLICT DO NOTHING"
            );
            write_within(cluster, PATIENCE, 0, &rows).await?;
        }
        // All of it is flushed where it is, and more than one state would have taken its place: only
        // the second node still needs it.
        let flushed = |status: &serde_json::Value| {
            let first = &status["nodes"][0];
            first["flushed_seq"].as_u64() >= first["committed_seq"].as_u64()
        };
        cluster.wait_until("the first node has flushed it", PATIENCE, flushed).await?;
        tokio::time::sleep(FOR_THE_WITNESS_TO_CUT).await;
        lose(cluster, 0)?;

        let second = cluster.start_alone(1)?;
        let alone = |status: &serde_json::Value| {
            states(status) == ["detached", "serving", "witness"] && status["leader"] == "n2"
        };
        cluster.wait_until("the second node serves and leads", PATIENCE, alone).await?;
        let session = cluster.connect(1).await?;
        let rows: i64 = session.query_one("SELECT count(*) FROM newest", &[]).await?.get(0);
        ensure!(rows == ROWS, "the second node shows {rows} of {ROWS} acknowledged rows");
        let another = "INSERT INTO newest VALUES (-1, 'with the first node away') ON CONFLICT DO NOTHING";
        write_within(cluster, PATIENCE, 1, another).await?;

        drop((session, second));
        cluster.release_supervisor();
        cluster.wait_serving(PATIENCE).await?;
        let verdict = cluster.verify().await?;
        ensure!(verdict.exit_code == 0, "{}", verdict.output);
        Ok(())
    });
}
