//! The promise: any node tells about itself and the others, and what became of
//! any node's transaction.

use anyhow::{Result, ensure};

use crate::CLUSTER;
use crate::everywhere::{NODES, ask, said};

#[test]
fn every_node_says_how_it_is() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA asked; CREATE TABLE asked.t (id int PRIMARY KEY)").await?;
        cluster.settle().await?;
        let visible = ask(&cluster.connect(0).await?, "SELECT pgrenga.visible()").await?;
        for node in 0..NODES {
            let session = cluster.connect(node).await?;
            let sql = format!(
                "SELECT id, name, state, applied_seq BETWEEN 1 AND committed_seq, committed_seq >= {visible}, lag_seq >= 0, leader BETWEEN 1 AND 3,
                 flushed_seq <= applied_seq FROM pgrenga.status()"
            );
            let (id, name) = (node + 1, format!("n{}", node + 1));
            let status = ask(&session, &sql).await?;
            ensure!(status == format!("{id}|{name}|serving|t|t|t|t|t"), "node {id}: {status}");
            let members = "SELECT string_agg(concat_ws(' ', id, name, voter, host IS NOT NULL AND port > 0, state), ', ' ORDER BY id)
                FROM pgrenga.nodes";
            let expected: Vec<_> = (1..=NODES)
                .map(|member| format!("{member} n{member} t t{}", if member == id { " serving" } else { "" }))
                .collect();
            let members = ask(&session, members).await?;
            ensure!(members == expected.join(", "), "node {id}: {members}");
        }
        Ok(())
    });
}

#[test]
fn an_id_that_is_none_is_refused_and_one_that_never_was_is_unknown() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE ROLE asker").await?;
        cluster.settle().await?;
        for node in 0..NODES {
            let session = cluster.connect(node).await?;
            for bad in ["", "12", "1-1", "1-1-1-1", "a-b-c", "1-1-99999999999999999999"] {
                let error = session.query_one("SELECT pgrenga.transaction_status($1)", &[&bad]).await.unwrap_err();
                let error = said(&error)?;
                ensure!(error.code().code() == "22023", "{bad}: {error:?}");
                ensure!(error.detail().is_some() && error.hint().is_some(), "{bad}: {error:?}");
            }
            // Anybody may ask.
            session.batch_execute("SET ROLE asker").await?;
            let never =
                "SELECT pgrenga.transaction_status('99-1-65536'), pgrenga.transaction_status('1-4000000000-65536')";
            ensure!(ask(&session, never).await? == "unknown|unknown");
            ensure!(ask(&session, "SELECT count(*) FROM pgrenga.nodes, pgrenga.status()").await? == "3");
        }
        Ok(())
    });
}

#[test]
fn the_loser_of_a_conflict_is_remembered_where_it_lost() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA lost; CREATE TABLE lost.t (id int CONSTRAINT lost_key PRIMARY KEY, n int)";
        cluster.execute(0, create).await?;
        cluster.execute(0, "INSERT INTO lost.t SELECT i, 0 FROM generate_series(1, 20) AS i").await?;
        cluster.settle().await?;
        let mut losers = [0; NODES];
        for round in 1..=10 {
            let (here, there) = (round % NODES, (round + 1) % NODES);
            let (first, second) = (cluster.connect(here).await?, cluster.connect(there).await?);
            let update = format!("BEGIN; UPDATE lost.t SET n = n + 1 WHERE id = {round}");
            tokio::try_join!(first.batch_execute(&update), second.batch_execute(&update))?;
            match tokio::join!(first.batch_execute("COMMIT"), second.batch_execute("COMMIT")) {
                (Ok(()), Err(_)) => losers[there] += 1,
                (Err(_), Ok(())) => losers[here] += 1,
                both => anyhow::bail!("round {round}: not exactly one committed: {both:?}"),
            }
        }
        // One that has not come to its commit, and is told when it writes on.
        let (waiting, row) = (cluster.connect(1).await?, "UPDATE lost.t SET n = 1 WHERE id = 20");
        waiting.batch_execute(&format!("BEGIN; {row}")).await?;
        let update = "SET statement_timeout = '20s'; SELECT pg_sleep(10)";
        let (ended, done) = tokio::join!(waiting.batch_execute(update), cluster.execute(0, row));
        done?;
        ensure!(ended.is_err(), "it was in the way of an ordered transaction");
        losers[1] += 1;
        for (node, lost) in losers.into_iter().enumerate() {
            let remembered = format!(
                "SELECT count(*) FROM pgrenga.conflicts WHERE table_name = 'lost.t' AND key_name = 'lost_key'
                 AND winner_node BETWEEN 1 AND 3 AND winner_node <> {} AND winner_seq > 0
                 AND at BETWEEN now() - interval '10 min' AND now()",
                node + 1
            );
            let remembered = ask(&cluster.connect(node).await?, &remembered).await?;
            ensure!(remembered == lost.to_string(), "node {node} lost {lost} and remembers {remembered}");
        }
        Ok(())
    });
}
