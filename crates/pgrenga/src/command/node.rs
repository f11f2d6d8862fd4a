//! `pgrenga node`: a daemon and its PostgreSQL.

use anyhow::Result;
use pgrenga_node::Postgres;

use super::daemon::Daemon;
use crate::config::Config;

/// Runs until told to stop, or until the node cannot go on.
pub(crate) async fn run(config: &Config) -> Result<()> {
    let daemon = Daemon::prepare(config, false).await?;
    let server = config.server();
    let settings = config.settings.as_pairs();
    server.configure(&settings).await?;
    let postgres = Postgres {
        server,
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        database: config.database.clone(),
        address: config.postgres.clone(),
        socket: config.port_socket(),
    };
    daemon.run(Some(postgres), config.serving, config.check).await
}
