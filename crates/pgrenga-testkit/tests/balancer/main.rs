//! The promise: through the balancer, clients and drivers work as with one server, and every server is used; a node
//! that fails takes no sessions with it, and what they hear of their transactions is true.

mod clients;
mod conflicts;
mod moves;
mod nodes;
mod pooled;
mod reload;
mod truth;

use anyhow::{Context as _, Result};
use pgrenga_testkit::cluster::{Cluster, Shared};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

static CLUSTER: Shared = Shared::new(3);

async fn connect(cluster: &Cluster) -> Result<Client> {
    let (client, connection) = cluster.through_balancer()?.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The number of the node that a session is on.
async fn node_of(cluster: &Cluster, session: &Client) -> Result<usize> {
    // Not by query_one(): its `Close` would be under way yet when the next thing happens.
    let answer = session.simple_query("SELECT inet_server_port()").await?;
    let port = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i32>().ok(),
        _ => None,
    });
    let port = port.context("a session knows its port")?;
    let ports = cluster.configs().into_iter().map(|config| i32::from(config.get_ports()[0]));
    ports.into_iter().position(|own| own == port).ok_or_else(|| anyhow::anyhow!("no node has port {port}"))
}
