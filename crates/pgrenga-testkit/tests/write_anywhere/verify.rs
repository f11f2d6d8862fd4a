//! The promise: `pgrenga verify` compares all nodes at one position while
//! writes go on, and finds a single row that differs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;

use crate::CLUSTER;
use crate::everywhere::{retry, same};

#[test]
fn verify_finds_identical_nodes_identical_while_writes_go_on() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA busy; CREATE TABLE busy.t (id bigint PRIMARY KEY, n int)").await?;
        cluster.execute(0, "INSERT INTO busy.t SELECT i, 0 FROM generate_series(1, 5000) AS i").await?;
        cluster.settle().await?;
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let write = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            while !stop.load(Ordering::Relaxed) {
                let id = fastrand::u32(1..=5000);
                retry(&session, &format!("UPDATE busy.t SET n = n + 1 WHERE id = {id}")).await?;
                written.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let verify = async || -> Result<()> {
            for _ in 0..3 {
                let before = written.load(Ordering::Relaxed);
                let verdict = cluster.verify().await;
                let during = written.load(Ordering::Relaxed) - before;
                let verdict = verdict?;
                anyhow::ensure!(verdict.exit_code == 0, "{}", verdict.output);
                anyhow::ensure!(during > 0, "nothing was written meanwhile");
            }
            Ok(())
        };
        let verify = async {
            let result = verify().await;
            stop.store(true, Ordering::Relaxed);
            result
        };
        tokio::try_join!(verify, write(0), write(1), write(2))?;
        let expected = written.load(Ordering::Relaxed).to_string();
        assert_eq!(same(cluster, "SELECT sum(n) FROM busy.t").await?, expected);
        Ok(())
    });
}

#[test]
fn verify_names_a_row_planted_on_one_node() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE SCHEMA planted; CREATE TABLE planted.t (id int PRIMARY KEY, x text)").await?;
        cluster.execute(0, "INSERT INTO planted.t SELECT i, i FROM generate_series(1, 3000) AS i").await?;
        cluster.settle().await?;
        let behind = "SET pgrenga.replicate = off;";
        cluster.execute(2, &format!("{behind} UPDATE planted.t SET x = 'odd' WHERE id = 777")).await?;
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 1, "{}", verdict.output);
        for part in ["table planted.t", "n3", "(777)", "(777,odd)", "(777,777)"] {
            assert!(verdict.output.contains(part), "{part}: {}", verdict.output);
        }
        assert!(!verdict.output.contains("(776"), "{}", verdict.output);
        cluster.execute(2, &format!("{behind} UPDATE planted.t SET x = '777' WHERE id = 777")).await?;
        let verdict = cluster.verify().await?;
        assert_eq!(verdict.exit_code, 0, "{}", verdict.output);
        Ok(())
    });
}

#[test]
fn only_a_superuser_writes_behind_the_others_backs() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, "CREATE ROLE somebody").await?;
        let error = cluster.execute(0, "SET ROLE somebody; SET pgrenga.replicate = off").await;
        let error = format!("{:?}", error.expect_err("not allowed"));
        assert!(error.contains("permission denied"), "{error}");
        cluster.execute(0, "DROP ROLE somebody").await?;
        Ok(())
    });
}
