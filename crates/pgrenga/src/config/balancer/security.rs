//! The sections about encryption, and the files that they name.

use std::path::{Path, PathBuf};

use pgrenga_balancer::{
    ClientTls, ClientTlsFiles, Rules, Security, ServerTls, ServerTlsFiles, ServerTlsMode, TlsError,
};
use serde::{Deserialize, Serialize};

/// The section `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFile {
    certificate: PathBuf,
    key: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ca: Option<PathBuf>,
}

/// The section `[server_tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerTlsFile {
    mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
}

/// libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    #[default]
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl ServerTlsFile {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn files(self, base: &Path, problems: &mut Vec<String>) -> Option<ServerTlsFiles> {
        let ca = self.ca.map(|path| base.join(path));
        let mode = match (self.mode, ca) {
            (Mode::Disable, None) => ServerTlsMode::Disable,
            (Mode::Prefer, None) => ServerTlsMode::Prefer,
            (Mode::Require, None) => ServerTlsMode::Require,
            (Mode::VerifyCa, Some(ca)) => ServerTlsMode::VerifyCa(ca),
            (Mode::VerifyFull, Some(ca)) => ServerTlsMode::VerifyFull(ca),
            (Mode::VerifyCa | Mode::VerifyFull, None) => {
                problems.push("server_tls.ca: is needed to verify servers".to_owned());
                return None;
            }
            (_, Some(_)) => {
                problems.push("server_tls.ca: is looked at in modes verify-ca and verify-full only".to_owned());
                return None;
            }
        };
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((base.join(certificate), base.join(key))),
            (None, None) => None,
            _ => {
                problems.push("server_tls: a certificate and its key come together".to_owned());
                return None;
            }
        };
        Some(ServerTlsFiles { mode, identity })
    }
}

/// Reads what they name.
pub(super) fn load(
    base: &Path,
    tls: Option<TlsFile>,
    server_tls: ServerTlsFile,
    rules: Rules,
    problems: &mut Vec<String>,
) -> Security {
    let asks_for_certificates = tls.as_ref().is_some_and(|file| file.client_ca.is_some());
    let clients = tls.map(|file| {
        ClientTls::load(&ClientTlsFiles {
            certificate: base.join(file.certificate),
            key: base.join(file.key),
            client_ca: file.client_ca.map(|path| base.join(path)),
        })
    });
    let servers = server_tls.files(base, problems).map(|files| ServerTls::load(&files));
    let mut told = |section: &str, error: TlsError| problems.push(format!("{section}: {error}"));
    let clients = clients.transpose().unwrap_or_else(|error| {
        told("tls", error);
        None
    });
    let servers = servers.transpose().unwrap_or_else(|error| {
        told("server_tls", error);
        None
    });
    let servers = servers.unwrap_or_default();
    if rules.need_certificates() {
        if !asks_for_certificates {
            problems.push("tls.client_ca: is needed by rules with method \"cert\"".to_owned());
        }
        if !servers.can_vouch() {
            let needed =
                "server_tls: rules with method \"cert\" need a certificate, its key, and a mode from require up";
            problems.push(needed.to_owned());
        }
    }
    Security { clients, servers, rules }
}
