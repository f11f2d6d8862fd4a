//! The promise: a witness has a vote and a log, and nothing else; and it can be removed.

use anyhow::ensure;

use crate::{CLUSTER, PATIENCE, states, with_witness, write_within};

#[test]
fn a_witness_takes_no_sessions_and_can_be_removed() {
    CLUSTER.test(async |cluster| {
        with_witness(cluster).await?;
        let (code, _, errors) = cluster.run(&["detach", "witness"]).await?;
        ensure!(code != 0 && errors.contains("is a witness, and takes no sessions"), "{errors}");
        let status = cluster.status().await?;
        let witness = &status["nodes"][2];
        ensure!(witness["applied_seq"].is_null() && witness["postgres_port"].is_null(), "{witness}");

        let (code, output, errors) = cluster.run(&["remove", "witness"]).await?;
        ensure!(code == 0, "{output}{errors}");
        cluster.forget_witness(PATIENCE)?;
        let alone = |status: &serde_json::Value| states(status) == ["serving", "serving"];
        cluster.wait_until("only the nodes are left", PATIENCE, alone).await?;
        write_within(cluster, PATIENCE, 0, "CREATE TABLE IF NOT EXISTS without_witness (x int)").await?;
        // The next test makes another one, which has to take another name or directory.
        std::fs::remove_dir_all(cluster.dir().join("witness"))?;
        Ok(())
    });
}

#[test]
fn a_witness_cuts_its_log_as_the_nodes_do() {
    CLUSTER.test(async |cluster| {
        with_witness(cluster).await?;
        let snapshot = |status: &serde_json::Value| status["nodes"][2]["log_snapshot_index"].as_u64().unwrap_or(0);
        let before = snapshot(&cluster.status().await?);
        cluster.execute(0, "CREATE TABLE filler (id int, filler text)").await?;
        for id in 0..8 {
            let rows =
                "SELECT g, string_agg(md5(g::text || h), '') FROM generate_series(1, 60) g, generate_series(1, 200) h";
            cluster.execute(id % 2, &format!("INSERT INTO filler {rows} GROUP BY g")).await?;
        }
        cluster.wait_until("the witness has cut its log", PATIENCE, |status| snapshot(status) > before).await?;
        anyhow::Ok(())
    });
}
