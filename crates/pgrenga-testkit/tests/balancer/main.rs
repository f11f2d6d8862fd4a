//! The promise: through the balancer, clients and drivers work as with one server, and every server is used; a node
//! that fails takes no sessions with it, and what they hear of their transactions is true.

mod clients;
mod conflicts;
mod moves;
mod nodes;
mod pooled;
mod reload;
mod truth;

use anyhow::Result;
use pgrenga_testkit::cluster::{Cluster, Shared};
use tokio_postgres::{Client, NoTls};

static CLUSTER: Shared = Shared::new(3);

async fn connect(cluster: &Cluster) -> Result<Client> {
    let (client, connection) = cluster.through_balancer()?.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The number of the node that a session is on.
async fn node_of(cluster: &Cluster, session: &Client) -> Result<usize> {
    let port: i32 = session.query_one("SELECT inet_server_port()", &[]).await?.get(0);
    let ports = cluster.configs().into_iter().map(|config| i32::from(config.get_ports()[0]));
    ports.into_iter().position(|own| own == port).ok_or_else(|| anyhow::anyhow!("no node has port {port}"))
}
