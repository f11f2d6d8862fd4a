//! The state check: whether this node still holds what the others hold.
//!
//! Every node looks after itself. From time to time it orders a marker, at which all nodes keep a
//! snapshot of the same state, and compares the next few rows of the next table; when it has been
//! through all tables, it compares the definitions and begins again. What most nodes hold is right
//! ([`judge`]): a node that holds something else stops serving and replaces its data. Where no
//! version has a majority nobody is condemned, and the operator is told.
//!
//! What PostgreSQL tells of definitions is partly of now, not of the snapshot. So a difference is
//! believed only when it is there in several states one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use pgrenga_admin::{Client, Cluster, Marker, Member, State};
use pgrenga_core::divergence::{Finding, judge};
use pgrenga_postgres::compare::{Digest, Range, View, connection};

use crate::engine::Event;
use crate::{Node, Postgres};

/// How long a node may take to reach a marker: after that it is left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks that have to find a difference before it is believed, and how soon they follow.
const LOOKS: u32 = 3;
const AGAIN: Duration = Duration::from_secs(1);

type Definitions = BTreeMap<String, String>;
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How often, and how much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks.
    pub interval: Duration,
    /// Rows looked at.
    pub rows: u32,
}

/// Where the check has come to: in which table, after which key.
#[derive(Clone, Debug, Default)]
struct Cursor {
    table: Option<String>,
    after: Option<Vec<String>>,
}

/// Checks for as long as the node runs.
pub(crate) async fn run(node: Node, pace: Pace) {
    let Some(postgres) = node.options.postgres.clone() else { return };
    let mut cursor = Cursor::default();
    let mut doubts = 0;
    loop {
        tokio::time::sleep(if doubts == 0 { pace.interval } else { pace.interval.min(AGAIN) }).await;
        if node.shared.positions().state != State::Serving {
            continue;
        }
        let members: Vec<Member> = node.members().into_iter().filter(|member| member.postgres.is_some()).collect();
        if members.len() < 2 {
            continue;
        }
        let Ok(marker) = node.begin_marker().await else { continue };
        let look = Look { node: &node, postgres: &postgres, members: &members, marker: &marker, client: Client::new() };
        let before = cursor.clone();
        match look.at_the_next(&mut cursor, pace.rows).await {
            Ok((Finding::Same, _)) => doubts = 0,
            Ok(_) if doubts + 1 < LOOKS => {
                doubts += 1;
                cursor = before;
            }
            Ok((finding, what)) => {
                doubts = 0;
                look.conclude(finding, &what).await;
            }
            Err(error) => tracing::debug!(error, "could not check the state"),
        }
        look.end().await;
    }
}

/// One look at all nodes in the same state.
struct Look<'a> {
    node: &'a Node,
    postgres: &'a Postgres,
    members: &'a [Member],
    marker: &'a Marker,
    client: Client,
}

impl Look<'_> {
    async fn at_the_next(&self, cursor: &mut Cursor, rows: u32) -> Result<(Finding, String), Error> {
        let own = self.members.iter().find(|member| member.id == self.node.options.node).ok_or("not a member yet")?;
        let own = self.open(own).await?;
        let opened = futures::future::join_all(self.others().map(|other| self.open(other))).await;
        // A node that is not there, or late, has no say.
        let views: Vec<Option<View>> = opened.into_iter().map(Result::ok).collect();
        if let Some(range) = next_range(&own, cursor, rows).await? {
            let own_digest = own.digest(&range).await?;
            // One that lacks the table has no say here: its definitions will tell.
            let digests = digests(&views, &range).await;
            return Ok((judge(&own_digest, &digests, self.members.len()), range.to_string()));
        }
        let own_definitions = own.definitions().await?;
        let definitions = definitions(&views).await;
        let finding = judge(&own_definitions, &definitions, self.members.len());
        let object = definitions.iter().flatten().find_map(|theirs| first_difference(&own_definitions, theirs));
        Ok((finding, format!("the definition of {}", object.unwrap_or_default())))
    }

    fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|other| other.id != self.node.options.node)
    }

    async fn open(&self, member: &Member) -> Result<View, Error> {
        let reached = self.client.reached(&member.admin_url, self.marker.id, PATIENCE).await?;
        let snapshot = reached.ok_or("it did not reach the marker in time")?;
        let address = member.postgres.as_ref().ok_or("it has no data")?;
        let options = self.postgres.server.options();
        let login =
            connection(&address.host, address.port, &options.superuser, &self.postgres.database, "pgrenga check");
        Ok(View::open(&member.name, &login, &snapshot.snapshot).await?)
    }

    async fn conclude(&self, finding: Finding, what: &str) {
        let others: Vec<&Member> = self.others().collect();
        let seq = self.marker.seq;
        match finding {
            Finding::Same => {}
            Finding::OwnDiffers => {
                let reason = format!("{what}: most nodes hold something else");
                let _ = self.node.events.send(Event::Different { seq, reason }).await;
            }
            Finding::OthersDiffer(indexes) => {
                for index in indexes {
                    tracing::error!(%seq, node = others[index].name, what, "another node's data differs from what most nodes hold");
                }
            }
            Finding::Undecided => {
                tracing::error!(%seq, what, "nodes differ, and there is no majority that tells who is right; run 'pgrenga verify'");
            }
        }
    }

    /// Lets all nodes close their snapshots.
    async fn end(&self) {
        for member in self.members {
            let _ = self.client.end_marker(&member.admin_url, self.marker.id).await;
        }
    }
}

/// Of each node, if it is there and has the table.
async fn digests(views: &[Option<View>], range: &Range) -> Vec<Option<Digest>> {
    let mut digests = Vec::new();
    for view in views {
        digests.push(match view {
            Some(view) => view.digest(range).await.ok(),
            None => None,
        });
    }
    digests
}

/// Of each node, if it is there.
async fn definitions(views: &[Option<View>]) -> Vec<Option<Definitions>> {
    let mut definitions = Vec::new();
    for view in views {
        definitions.push(match view {
            Some(view) => view.definitions().await.ok(),
            None => None,
        });
    }
    definitions
}

fn first_difference(ours: &Definitions, theirs: &Definitions) -> Option<String> {
    let mut objects = ours.keys().chain(theirs.keys());
    objects.find(|object| ours.get(*object) != theirs.get(*object)).cloned()
}

/// What to look at next; nothing when all tables were looked at, and it is the definitions' turn.
async fn next_range(view: &View, cursor: &mut Cursor, rows: u32) -> Result<Option<Range>, Error> {
    let tables = view.tables().await?;
    loop {
        let table = match (&cursor.table, &cursor.after) {
            (Some(table), Some(_)) => Some(table),
            (Some(last), None) => tables.iter().find(|table| *table > last),
            (None, _) => tables.first(),
        };
        let Some(table) = table.cloned() else {
            *cursor = Cursor::default();
            return Ok(None);
        };
        let range = view.range(&table, cursor.after.as_deref(), rows).await?;
        *cursor = Cursor { table: Some(table), after: range.as_ref().and_then(Range::end).map(<[String]>::to_vec) };
        if range.is_some() {
            return Ok(range);
        }
    }
}
