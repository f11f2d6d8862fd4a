//! What PostgreSQL's own programs say of a node.

use std::process::Stdio;

use super::{Cluster, Error, files};

impl Cluster {
    /// What `pg_dump` writes for a node with these arguments.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what it said if it failed.
    pub async fn dump(&self, node: usize, arguments: &[&str]) -> Result<String, Error> {
        let output = self.postgres_program("pg_dump", node, arguments).await?;
        let text = String::from_utf8_lossy(&output).into_owned();
        // Lines that are different each time (`\restrict`, since 15.14).
        let is_token = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
        Ok(text.lines().filter(|line| !is_token(line)).collect::<Vec<_>>().join("\n"))
    }

    /// Runs a script, such as `pg_dump` writes, on a node.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what psql said if a statement failed.
    pub async fn restore(&self, node: usize, script: &str) -> Result<(), Error> {
        let path = self.dir().join("restore.sql");
        std::fs::write(&path, script).map_err(|source| files::failed(path.display(), source))?;
        let file = path.display().to_string();
        self.postgres_program("psql", node, &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", &file]).await?;
        Ok(())
    }

    /// Runs one of PostgreSQL's client programs against a node.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] with what it said if it failed.
    pub async fn postgres_program(&self, name: &str, node: usize, arguments: &[&str]) -> Result<Vec<u8>, Error> {
        let mut command = tokio::process::Command::new(files::postgres_programs().join(name));
        let port = self.nodes()[node].postgres_port.to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "postgres"]).args(arguments);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|source| files::failed(name, source))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Ended(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))))
    }
}
