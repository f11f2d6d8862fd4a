//! Whether nodes are the same, and whether what each holds is what its constraints and indexes say.

use anyhow::{Result, ensure};
use pgrenga_testkit::cluster::Cluster;

use crate::everywhere::{NODES, ask};

/// Every B-tree against its table: no row is missing in it.
const INDEXES: &str = "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = relam JOIN pg_index ON indexrelid = c.oid
    WHERE relkind = 'i' AND amname = 'btree' AND indisvalid AND relnamespace = '$s'::regnamespace";

/// Checks all CHECKs and foreign keys once more, as if nobody had, and then unique and exclusion constraints by
/// building their indexes. Where a foreign key refers to a partitioned table it has an entry for each partition; only
/// that for the whole can be checked.
const CONSTRAINTS: &str = "BEGIN; SET LOCAL pgrenga.replicate = off;
    UPDATE pg_constraint c SET convalidated = false FROM pg_class WHERE pg_class.oid = conrelid AND relkind = 'r' AND convalidated
        AND contype IN ('c', 'f') AND connamespace = '$s'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = c.conparentid AND p.conrelid = c.conrelid);
    DO $do$ DECLARE command text; BEGIN
        FOR command IN SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname)
            FROM pg_constraint c JOIN pg_class ON pg_class.oid = conrelid
            WHERE c.xmin = pg_current_xact_id()::xid AND connamespace = '$s'::regnamespace
        UNION ALL SELECT format('REINDEX TABLE %s', oid::regclass) FROM pg_class
            WHERE relkind = 'r' AND relnamespace = '$s'::regnamespace
        LOOP EXECUTE command; END LOOP; END $do$;
    ROLLBACK";

/// Rows by `pgrenga verify`, definitions by pg_dump as well.
pub(super) async fn nodes_are_the_same(cluster: &Cluster, schema: &str) -> Result<()> {
    let verdict = cluster.verify().await?;
    ensure!(verdict.exit_code == 0, "{}", verdict.output);
    let arguments = ["--schema-only", "--schema", schema];
    let first = cluster.dump(0, &arguments).await?;
    for node in 1..NODES {
        let other = cluster.dump(node, &arguments).await?;
        ensure!(first == other, "nodes 0 and {node} differ in definitions: {}", difference(&first, &other));
    }
    Ok(())
}

fn difference(one: &str, other: &str) -> String {
    let lines = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    format!("{lines:?}; {} and {} lines", one.lines().count(), other.lines().count())
}

/// Whether its constraints hold and its indexes know all rows.
pub(super) async fn node_is_sound(cluster: &Cluster, node: usize, schema: &str) -> Result<()> {
    let session = cluster.connect(node).await?;
    ask(&session, &INDEXES.replace("$s", schema)).await?;
    session.batch_execute(&CONSTRAINTS.replace("$s", schema)).await?;
    Ok(())
}
