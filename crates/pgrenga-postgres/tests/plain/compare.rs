//! Two databases of one server stand for two nodes.

use pgrenga_postgres::compare::{Comparison, Content, View, compare};
use pgrenga_postgres::server::Server;
use tokio_postgres::Client;

use crate::scratch::Scratch;

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE accounts (id int PRIMARY KEY, balance numeric(12, 2) NOT NULL DEFAULT 0, m mood, \"t\" text);
    CREATE TABLE log (line text);
    CREATE TABLE parts (id int) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE UNLOGGED TABLE scratch (x int);
    CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 100;
    CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);
    CREATE INDEX by_balance ON accounts (balance) WHERE balance > 0;
    INSERT INTO accounts SELECT i, i * 10, 'good', NULL FROM generate_series(1, 20000) i;
    INSERT INTO log SELECT 'line ' || i % 3 FROM generate_series(1, 3000) i;
    INSERT INTO parts SELECT generate_series(1, 10);";

struct Pair {
    b: Client,
    scratch: Scratch,
}

impl Pair {
    async fn new() -> Self {
        let scratch = Scratch::started().await;
        let first = scratch.server.connect("postgres").await.unwrap();
        for database in ["a", "b"] {
            first.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
            scratch.server.connect(database).await.unwrap().batch_execute(SCHEMA).await.unwrap();
        }
        Self { b: scratch.server.connect("b").await.unwrap(), scratch }
    }

    async fn compare(&self) -> Comparison {
        let server = &self.scratch.server;
        let mut views = Vec::new();
        for (node, database) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
            views.push(view(server, node, database).await);
        }
        compare(&views, |_| {}).await.unwrap()
    }
}

async fn view(server: &Server, node: &str, database: &str) -> View {
    let exporter = server.connect(database).await.unwrap();
    exporter.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let snapshot: String = exporter.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    View::open(node, &server.connection_config(database), &snapshot).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_difference_is_named() {
    let pair = Pair::new().await;
    // What is local by its nature, or the same in another order, is no difference.
    pair.b.batch_execute("INSERT INTO scratch VALUES (1); UPDATE log SET line = line").await.unwrap();
    pair.b.batch_execute("CREATE SCHEMA pgrenga; CREATE TABLE pgrenga.own (x int)").await.unwrap();
    let same = pair.compare().await;
    assert_eq!(same.differences, []);
    // Large objects are compared like a table.
    assert_eq!((same.tables, same.rows), (4, 23010));
    assert!(same.objects >= 15, "{}", same.objects);

    one_row(&pair).await;
    rows_without_a_key(&pair).await;
    definitions(&pair).await;
}

async fn one_row(pair: &Pair) {
    pair.b.batch_execute("UPDATE accounts SET balance = balance + 0.01 WHERE id = 12345").await.unwrap();
    let found = pair.compare().await.differences;
    let [difference] = &found[..] else { panic!("{found:?}") };
    assert_eq!((difference.object.as_str(), difference.node.as_str()), ("table public.accounts", "n3"));
    assert_eq!(difference.reference, "n1");
    let Content::Rows { count_on_node: 20000, count_on_reference: 20000, rows } = &difference.content else {
        panic!("{difference:?}")
    };
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].key, "(12345)");
    assert_eq!(rows[0].on_node.as_deref(), Some("(12345,123450.01,good,)"));
    assert_eq!(rows[0].on_reference.as_deref(), Some("(12345,123450.00,good,)"));
    pair.b.batch_execute("UPDATE accounts SET balance = balance - 0.01 WHERE id = 12345").await.unwrap();
}

async fn rows_without_a_key(pair: &Pair) {
    pair.b.batch_execute("INSERT INTO log VALUES ('line 1')").await.unwrap();
    let found = pair.compare().await.differences;
    let [difference] = &found[..] else { panic!("{found:?}") };
    let Content::Rows { count_on_node: 3001, count_on_reference: 3000, rows } = &difference.content else {
        panic!("{difference:?}")
    };
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].on_node.as_deref(), &rows[0].on_reference), (Some("(\"line 1\")"), &None));
    pair.b.batch_execute("DELETE FROM log WHERE ctid = (SELECT max(ctid) FROM log)").await.unwrap();
    pair.b.batch_execute("DELETE FROM accounts WHERE id > 10000").await.unwrap();
    let found = pair.compare().await.differences;
    assert!(matches!(&found[..], [d] if matches!(&d.content, Content::Rows { rows, .. } if rows.len() == 10)));
    pair.b
        .batch_execute("INSERT INTO accounts SELECT i, i * 10, 'good', NULL FROM generate_series(10001, 20000) i")
        .await
        .unwrap();
}

async fn definitions(pair: &Pair) {
    let changes = "DROP INDEX by_balance; ALTER TABLE accounts ALTER m SET DEFAULT 'bad'; CREATE TABLE extra (x int);
        CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'; ALTER TYPE mood ADD VALUE 'so so'";
    pair.b.batch_execute(changes).await.unwrap();
    let found = pair.compare().await.differences;
    let objects: Vec<&str> = found.iter().map(|difference| difference.object.as_str()).collect();
    let expected = [
        "function public.one()",
        "index public.by_balance",
        "table public.accounts",
        "table public.extra",
        "type public.mood",
    ];
    assert_eq!(objects, expected);
    assert!(found.iter().all(|difference| difference.node == "n3"), "{found:?}");
    let missing = Content::Definition { on_node: None, on_reference: None };
    assert!(found.iter().all(|difference| difference.content != missing));
}
