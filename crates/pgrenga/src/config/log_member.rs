//! What every member of the log has: a node, and a witness, which has nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pgrenga_admin::{NewMember, PostgresAddress};

use super::Log;
use super::file::File;

/// A member's place in the cluster and on its machine.
#[derive(Clone, Debug)]
pub(crate) struct LogMember {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The member's name.
    pub(crate) name: String,
    /// Where the daemon keeps what it must remember.
    pub(crate) dir: PathBuf,
    /// Where connections of other daemons are taken.
    pub(crate) listen: SocketAddr,
    /// Where other daemons find this one.
    pub(crate) advertise: String,
    /// Where the admin API is served.
    pub(crate) admin: SocketAddr,
    /// Where others find the admin API.
    pub(crate) admin_url: String,
    /// How the replicated log is kept.
    pub(crate) log: Log,
}

impl LogMember {
    /// How it introduces itself.
    pub(crate) fn introduce(&self, postgres: Option<&PostgresAddress>) -> NewMember {
        NewMember {
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            admin_url: self.admin_url.clone(),
            postgres: postgres.cloned(),
            peer: self.advertise.clone(),
        }
    }

    /// The host in `advertise`.
    pub(super) fn host(&self) -> &str {
        self.advertise.rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// Completes what was left out.
    pub(super) fn check(file: &File, base: &Path, problems: &mut Vec<String>) -> Self {
        for (key, name) in [("cluster", &file.cluster), ("name", &file.name)] {
            if !is_name(name) {
                problems.push(format!("{key}: \"{name}\" is no name: 1 to 63 lower-case letters, digits, '-' and '_'"));
            }
        }
        let listen = address("listen", &file.listen, problems);
        let admin = address("admin", &file.admin, problems);
        if admin.ip().is_loopback() && !listen.ip().is_loopback() {
            problems.push(format!("admin: \"{admin}\" cannot be reached by the other nodes, which ask there"));
        }
        let advertise = advertised(file.advertise.clone(), listen, problems);
        let mut member = Self {
            cluster: file.cluster.clone(),
            name: file.name.clone(),
            dir: base.join(&file.dir),
            listen,
            advertise,
            admin,
            admin_url: format!("http://{admin}"),
            log: file.log.check(problems),
        };
        if admin.ip().is_unspecified() {
            member.admin_url = format!("http://{}:{}", member.host(), admin.port());
        }
        member
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

pub(super) fn address(key: &str, text: &str, problems: &mut Vec<String>) -> SocketAddr {
    text.parse().unwrap_or_else(|_| {
        problems.push(format!("{key}: \"{text}\" is not of the form ADDRESS:PORT"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn advertised(given: Option<String>, listen: SocketAddr, problems: &mut Vec<String>) -> String {
    let Some(given) = given else {
        if listen.ip().is_unspecified() {
            problems.push(format!("listen: \"{listen}\" is no address that others can use; set advertise"));
        }
        return listen.to_string();
    };
    if !is_host_and_port(&given) {
        problems.push(format!("advertise: \"{given}\" is not of the form HOST:PORT"));
    }
    given
}

pub(super) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
