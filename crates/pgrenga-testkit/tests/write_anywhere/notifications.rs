//! The promise: who listens, on whichever node, hears what any node's committed transactions say, once and in the
//! order of their commits.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use nix::sys::signal::Signal;
use pgrenga_testkit::cluster::{Cluster, Part};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::CLUSTER;
use crate::everywhere::{NODES, said, same, sqlstate, within};

const PATIENCE: Duration = Duration::from_secs(60);
/// What each test says last: whoever has heard it has heard everything.
const LAST: &str = "that was all";

/// A session that listens, on channels `news` and `"連歌"`.
struct Listener {
    _session: Client,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn on(cluster: &Cluster, node: usize) -> Result<Self> {
        let (session, mut connection) = cluster.configs()[node].connect(NoTls).await?;
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = sender.send(format!("{} {}", notification.channel(), notification.payload()));
                }
            }
        });
        session.batch_execute("LISTEN news; LISTEN \"連歌\"").await?;
        Ok(Self { _session: session, heard })
    }

    async fn everywhere(cluster: &Cluster) -> Result<Vec<Self>> {
        let mut listeners = Vec::new();
        for node in 0..NODES {
            listeners.push(Self::on(cluster, node).await?);
        }
        Ok(listeners)
    }

    /// What came before [`LAST`].
    async fn hear(&mut self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        within(PATIENCE, "hearing what was said last", async {
            loop {
                let one = self.heard.recv().await.context("the listener's session ended")?;
                if one.ends_with(LAST) {
                    return Ok(());
                }
                all.push(one);
            }
        })
        .await?;
        Ok(all)
    }
}

/// What all listeners heard, which must be the same.
async fn heard(cluster: &Cluster, listeners: &mut [Listener]) -> Result<Vec<String>> {
    cluster.settle().await?;
    cluster.execute(0, &format!("SELECT pg_notify('news', '{LAST}')")).await?;
    let mut all = Vec::new();
    for listener in listeners {
        all.push(listener.hear().await?);
    }
    let first = all.swap_remove(0);
    for other in all {
        ensure!(other == first, "listeners heard\n{first:?}\nand\n{other:?}");
    }
    Ok(first)
}

/// What a node's listeners hear of these statements, each a message of its own.
const SAID: [(&str, &[&str]); 15] = [
    ("NOTIFY news", &["news "]),
    ("NOTIFY \"連歌\", 'it''s'", &["連歌 it's"]),
    ("SELECT pg_notify('news', x::text) FROM generate_series(1, 3) AS x", &["news 1", "news 2", "news 3"]),
    // PostgreSQL says the same thing once in a transaction, and as often as there are transactions.
    ("BEGIN; NOTIFY news, 'a'; NOTIFY news, 'b'; NOTIFY news, 'a'; COMMIT", &["news a", "news b"]),
    ("NOTIFY news, 'a'", &["news a"]),
    ("BEGIN; NOTIFY news, 'no'; ROLLBACK", &[]),
    (
        "BEGIN; NOTIFY news, '1'; SAVEPOINT s; NOTIFY news, 'no'; ROLLBACK TO s; NOTIFY news, '2'; SAVEPOINT t; \
         NOTIFY news, '1'; NOTIFY news, '3'; RELEASE t; COMMIT",
        &["news 1", "news 2", "news 3"],
    ),
    ("BEGIN; SAVEPOINT s; NOTIFY news, 'no'; ROLLBACK TO s; INSERT INTO said.plain VALUES (0); COMMIT", &[]),
    (
        "DO $$ BEGIN PERFORM pg_notify('news', 'kept'); BEGIN PERFORM pg_notify('news', 'no'); RAISE 'x'; \
         EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
        &["news kept"],
    ),
    ("INSERT INTO said.t VALUES (1), (2); UPDATE said.t SET x = -x", &["news 1", "news 2", "news -1", "news -2"]),
    ("INSERT INTO said.ruled VALUES (1)", &["news by rule"]),
    ("SELECT said.notify_too('news', 'alias')", &["news alias"]),
    (
        "SET jit = on; SET jit_above_cost = 0; SELECT pg_notify('news', 'compiled'); RESET jit_above_cost",
        &["news compiled"],
    ),
    ("SELECT pg_notify('news', repeat('x', 3))", &["news xxx"]),
    ("BEGIN; CREATE TABLE said.made (x int); NOTIFY news, 'made'; DROP TABLE said.made; COMMIT", &["news made"]),
];

const PREPARATION: &str = "
    CREATE SCHEMA said; CREATE TABLE said.plain (x int); CREATE TABLE said.t (x int); CREATE TABLE said.ruled (x int);
    CREATE FUNCTION said.tell() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_notify(''news'', NEW.x::text); RETURN NEW; END';
    CREATE TRIGGER tell AFTER INSERT OR UPDATE ON said.t FOR EACH ROW EXECUTE FUNCTION said.tell();
    CREATE RULE tell AS ON INSERT TO said.ruled DO ALSO NOTIFY news, 'by rule';
    CREATE FUNCTION said.notify_too(text, text) RETURNS void LANGUAGE internal AS 'pg_notify'";

#[test]
fn listeners_of_every_node_hear_it_once() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, PREPARATION).await?;
        cluster.settle().await?;
        let mut listeners = Listener::everywhere(cluster).await?;
        for (number, (sql, expected)) in SAID.iter().enumerate() {
            cluster.execute(number % NODES, sql).await.with_context(|| (*sql).to_owned())?;
            let heard = heard(cluster, &mut listeners).await.with_context(|| (*sql).to_owned())?;
            ensure!(heard == *expected, "{sql}: heard {heard:?}");
        }

        // As drivers do it, with parameters; the longest payload, and one that is too long.
        let session = cluster.connect(1).await?;
        let longest = "x".repeat(7999);
        session.execute("SELECT pg_notify($1, $2)", &[&"news", &longest]).await?;
        let too_long = session.execute("SELECT pg_notify($1, $2)", &[&"news", &"x".repeat(8000)]).await;
        ensure!(sqlstate(&too_long).as_deref() == Some("22023"), "{too_long:?}");
        ensure!(heard(cluster, &mut listeners).await? == [format!("news {longest}")]);
        Ok(())
    });
}

#[test]
fn they_come_in_the_order_of_commits() {
    CLUSTER.test(async |cluster| -> Result<()> {
        const EACH: usize = 60;
        cluster.execute(0, "CREATE SCHEMA sung; CREATE TABLE sung.t (node int, line int)").await?;
        cluster.settle().await?;
        let mut listeners = Listener::everywhere(cluster).await?;
        let sing = async |node: usize| -> Result<()> {
            let session = cluster.connect(node).await?;
            for line in 0..EACH {
                let sql = format!("INSERT INTO sung.t VALUES ({node}, {line}); NOTIFY news, '{node} {line}'");
                session.batch_execute(&sql).await?;
            }
            Ok(())
        };
        tokio::try_join!(sing(0), sing(1), sing(2))?;
        let heard = heard(cluster, &mut listeners).await?;
        ensure!(heard.len() == NODES * EACH, "{} of {}", heard.len(), NODES * EACH);
        for node in 0..NODES {
            let own = heard.iter().filter_map(|line| line.strip_prefix(&format!("news {node} ")));
            ensure!(own.eq((0..EACH).map(|line| line.to_string())), "node {node}: {heard:?}");
        }
        Ok(())
    });
}

/// A node that lags applies several transactions in one; each of them still says what it says.
#[test]
fn transactions_that_are_applied_together_say_the_same_thing_each() {
    CLUSTER.test(async |cluster| -> Result<()> {
        const TIMES: usize = 40;
        let mut listeners = Listener::everywhere(cluster).await?;
        let status = cluster.status().await?;
        let leads = |node: &usize| status["leader"] == cluster.name(*node);
        let leader = (0..NODES).find(leads).context("a node leads")?;
        let lagging = (leader + 1) % NODES;
        let session = cluster.connect(leader).await?;
        cluster.signal(lagging, Part::Daemon, Signal::SIGSTOP);
        let said = async {
            for _ in 0..TIMES {
                session.batch_execute("NOTIFY news, 'again'").await?;
            }
            anyhow::Ok(())
        };
        let said = said.await;
        cluster.signal(lagging, Part::Daemon, Signal::SIGCONT);
        said?;
        cluster.wait_serving(PATIENCE).await?;
        ensure!(heard(cluster, &mut listeners).await? == vec!["news again"; TIMES]);
        Ok(())
    });
}

/// The applier says it where the session could not.
#[test]
fn what_is_ordered_is_said_whatever_becomes_of_the_session() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let mut listeners = Listener::everywhere(cluster).await?;
        for failpoint in ["ordered_error", "committing_error"] {
            let session = cluster.connect(1).await?;
            session.batch_execute(&format!("SET pgrenga.failpoint = '{failpoint}'")).await?;
            let answer = session.batch_execute(&format!("NOTIFY news, '{failpoint}'")).await;
            ensure!(sqlstate(&answer).as_deref() == Some("08007"), "{failpoint}: {answer:?}");
        }
        ensure!(heard(cluster, &mut listeners).await? == ["news ordered_error", "news committing_error"]);
        Ok(())
    });
}

/// A function in C that hands notifications to PostgreSQL itself is found out, whoever calls it.
#[test]
fn what_cannot_be_captured_is_refused() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let preparation = "CREATE EXTENSION tcn; CREATE SCHEMA unheard; CREATE TABLE unheard.t (x int PRIMARY KEY);
            CREATE TRIGGER tell AFTER INSERT ON unheard.t FOR EACH ROW
                EXECUTE FUNCTION triggered_change_notification('news')";
        cluster.execute(0, preparation).await?;
        cluster.settle().await?;
        let mut listeners = Listener::everywhere(cluster).await?;
        let session = cluster.connect(1).await?;
        let error = session.batch_execute("INSERT INTO unheard.t VALUES (1)").await.err().context("it went through")?;
        let error = said(&error)?;
        ensure!(error.code().code() == "0A000" && error.message().contains("notification"), "{error:?}");
        ensure!(same(cluster, "SELECT count(*) FROM unheard.t").await? == "0");
        ensure!(heard(cluster, &mut listeners).await?.is_empty());
        cluster.execute(0, "DROP SCHEMA unheard CASCADE; DROP EXTENSION tcn").await?;
        Ok(())
    });
}
