//! A transaction that came whole and lost a conflict is run again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::CLUSTER;
use crate::moves::session_on;

const PATIENCE: Duration = Duration::from_secs(60);
/// Its first run waits, with a row of its own written, until that has cost it the conflict; the second one does not.
const SLOW: &str = "UPDATE conflicts.t SET n = n + 1 WHERE id = 1; \
    UPDATE conflicts.t SET slept = pg_sleep(CASE WHEN (SELECT n FROM conflicts.t WHERE id = 1) < 10 THEN 120 ELSE 0 END)::text \
    WHERE id = 2";

#[test]
fn who_loses_a_conflict_with_one_message_does_not_notice() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let (winner, watcher) = (cluster.connect(0).await?, cluster.connect(1).await?);
        let make = "CREATE SCHEMA conflicts; CREATE TABLE conflicts.t (id int PRIMARY KEY, n int, slept text);
            INSERT INTO conflicts.t VALUES (1, 0), (2, 0)";
        winner.batch_execute(make).await?;
        cluster.settle().await?;
        let session = session_on(cluster, 1).await?;
        let own = session.query_one("SELECT pg_backend_pid()", &[]).await?.get::<_, i32>(0);
        // Now the driver has closed its prepared statements: what is sent while something else is under way is not repeated.
        session.batch_execute("SELECT 1").await?;
        let slow = tokio::spawn(async move { session.batch_execute(SLOW).await });
        let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
        let begun = Instant::now();
        while watcher.query_one(sleeps, &[&own]).await?.get::<_, i64>(0) == 0 {
            ensure!(begun.elapsed() < PATIENCE && !slow.is_finished(), "it does not wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It is not ordered before the other one, which waits for nothing.
        winner.batch_execute("UPDATE conflicts.t SET n = n + 10 WHERE id = 1").await?;
        slow.await??;
        cluster.settle().await?;
        let n: i32 = winner.query_one("SELECT n FROM conflicts.t WHERE id = 1", &[]).await?.get(0);
        ensure!(n == 11, "{n}: both count, each once");
        Ok(())
    });
}
