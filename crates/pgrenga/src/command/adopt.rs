//! `pgrenga init` on a data directory that is there: what it would change, whether that may be, and
//! the change. Until the change begins everything is as it was.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use pgrenga_postgres::adopt::{Found, Obstacle, list, look};
use pgrenga_postgres::server::{Ended, Server, StopMode};

use crate::config::Config;
use crate::report::{Problem, say};

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consent {
    /// Do not ask.
    pub(super) given: bool,
    /// Only say what would be done.
    pub(super) dry_run: bool,
}

/// Settings of which a node must not have less than the server that it was.
const CAPACITIES: [&str; 4] = ["max_connections", "max_worker_processes", "max_wal_senders", "autovacuum_max_workers"];
const LIBRARIES: &str = "shared_preload_libraries";

/// Makes the data directory ready to be a node's; false if that was not to be done, or not wished.
pub(super) async fn prepare(config: &Config, consent: Consent) -> Result<bool> {
    let server = config.server();
    if was_begun(config) {
        say("going on with an attempt that was not finished");
        server.stop(StopMode::Fast).await?;
    }
    let ended = check_files(config, &server).await?;
    say(format_args!("looking at the data directory \"{}\"", config.server.data_dir.display()));
    let (found, closed) = inspect(config, &server).await?;
    let mut obstacles = found.obstacles.clone();
    obstacles.extend(missing_settings(config, &found));
    if !obstacles.is_empty() {
        return Err(refusal(config, &obstacles));
    }
    say(plan(config, &found, &ended, closed));
    if consent.dry_run {
        say("nothing was changed");
        return Ok(false);
    }
    if !consent.given && !agreed()? {
        return Ok(false);
    }
    mark(config, true)?;
    server.configure(&config.settings.as_pairs()).await?;
    if closed {
        server.let_daemon_in()?;
    }
    Ok(true)
}

/// The data directory is a node's.
pub(super) fn finish(config: &Config) -> Result<()> {
    mark(config, false)
}

/// What the files say, before any server is started on them.
async fn check_files(config: &Config, server: &Server) -> Result<Ended> {
    let data_dir = config.server.data_dir.display();
    let refuse =
        |message: String, detail: &str, hint: &str| Err(Problem::new(message).detail(detail).hint(hint).into());
    match server.data_version().as_deref() {
        Some("15") => {}
        Some(version) => {
            return refuse(
                format!("the data directory \"{data_dir}\" is of PostgreSQL {version}"),
                "A node's PostgreSQL has version 15.",
                "Bring it to version 15 with pg_upgrade, or pg_dump and pg_restore, first.",
            );
        }
        None => return Err(pgrenga_postgres::Error::NotEmpty(config.server.data_dir.clone()).into()),
    }
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        if !config.server.data_dir.join(file).is_file() {
            return refuse(
                format!("there is no {file} in the data directory \"{data_dir}\""),
                "A node has its configuration in its data directory, so that it goes to whoever joins with it.",
                "Move postgresql.conf, pg_hba.conf, pg_ident.conf and conf.d there (Debian keeps them in /etc/postgresql).",
            );
        }
    }
    if let Some(pid) = server.running_pid() {
        return refuse(
            format!("PostgreSQL runs on the data directory \"{data_dir}\" (process {pid})"),
            "It has to be started with the library \"pgrenga\", and by the daemon.",
            "Stop it, and keep whatever started it from doing so again.",
        );
    }
    let is_standby =
        ["standby.signal", "recovery.signal"].iter().any(|file| config.server.data_dir.join(file).exists());
    match server.ended().await? {
        Ended::Otherwise(state) => refuse(
            format!("the data directory \"{data_dir}\" is not that of a primary"),
            &format!("Its control file says \"{state}\"."),
            "Promote it, or take the primary's; then shut it down.",
        ),
        _ if is_standby => refuse(
            format!("the data directory \"{data_dir}\" is not that of a primary"),
            "There is a standby.signal or recovery.signal in it.",
            "Promote it, or take the primary's; then shut it down.",
        ),
        ended => Ok(ended),
    }
}

/// Looks in with a server that nobody else can reach. Also says whether `pg_hba.conf` keeps us out.
async fn inspect(config: &Config, server: &Server) -> Result<(Found, bool)> {
    server.start_private(false).await?;
    let mut closed = false;
    let mut found = look(server, &config.database).await;
    if matches!(&found, Err(error) if is_closed(error)) {
        closed = true;
        server.stop(StopMode::Fast).await?;
        server.start_private(true).await?;
        found = look(server, &config.database).await;
    }
    server.stop(StopMode::Fast).await?;
    let role = &config.server.superuser;
    let found = found.with_context(|| format!("could not look into database \"{}\" as \"{role}\"", config.database))?;
    if !found.is_superuser {
        return Err(Problem::new(format!("role \"{role}\" is no superuser"))
            .hint("Set superuser in [postgres] to one that is.")
            .into());
    }
    if found.has_extension && !was_begun(config) {
        return Err(Problem::new(format!("database \"{}\" has the extension \"pgrenga\" already", config.database))
            .detail("It is, or was, a node's: where it stands in that cluster's order is in its data.")
            .hint("Start it as that node; or take what is in it with pg_dump to a new one.")
            .into());
    }
    Ok((found, closed))
}

/// Class 28: authentication, or `pg_hba.conf`.
fn is_closed(error: &pgrenga_postgres::Error) -> bool {
    match error {
        // A role that is not there is no matter of access.
        pgrenga_postgres::Error::Postgres(error) => match error.as_db_error() {
            Some(said) => said.code().code().starts_with("28") && !said.message().contains("does not exist"),
            // It asks for a password that we do not have.
            None => error.to_string().contains("password") || format!("{error:?}").contains("password"),
        },
        _ => false,
    }
}

/// Settings that the data directory has, and would lose.
fn missing_settings(config: &Config, found: &Found) -> Vec<Obstacle> {
    let value = |name: &str| found.settings.get(name).map_or("", String::as_str);
    let mut lacking = Vec::new();
    for (name, new) in config.settings.as_pairs() {
        let old = value(name);
        if name == LIBRARIES {
            let has: Vec<&str> = libraries(&new).collect();
            let lost: Vec<&str> = libraries(old).filter(|library| !has.contains(library)).collect();
            if !lost.is_empty() {
                let all: Vec<&str> = has.into_iter().filter(|library| *library != "pgrenga").chain(lost).collect();
                lacking.push(format!("{name} = \"{}\"", all.join(",")));
            }
        } else if CAPACITIES.contains(&name)
            && !config.settings.is_given(name)
            && old.parse::<u32>().unwrap_or(0) > new.parse().unwrap_or(0)
        {
            lacking.push(format!("{name} = {old}"));
        }
    }
    let mut obstacles = Vec::new();
    if !lacking.is_empty() {
        obstacles.push(Obstacle {
            what: format!("settings that the configuration does not have ({})", lacking.join("; ")),
            why: "A node's settings come from its configuration, on every node.".to_owned(),
            hint: format!("Put into section [settings] of every node's configuration: {}", lacking.join("; ")),
        });
    }
    let pairs = config.settings.as_pairs();
    let is_ours = |name: &&String| {
        let ours = ["port", "listen_addresses", "unix_socket_directories"];
        ours.contains(&name.as_str()) || pairs.iter().any(|(ours, new)| ours == name && value(name) != new)
    };
    let altered: Vec<String> = found.altered.iter().filter(is_ours).cloned().collect();
    if !altered.is_empty() {
        obstacles.push(Obstacle {
            what: format!("settings made by ALTER SYSTEM ({})", list(&altered)),
            why: "They would be stronger than pgrenga's own.".to_owned(),
            hint: "ALTER SYSTEM RESET them.".to_owned(),
        });
    }
    obstacles
}

fn libraries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|library| library.trim().trim_matches('"')).filter(|library| !library.is_empty())
}

fn refusal(config: &Config, obstacles: &[Obstacle]) -> anyhow::Error {
    let details: Vec<String> =
        obstacles.iter().map(|found| format!("There are {}. {}", found.what, found.why)).collect();
    let hints: Vec<&str> = obstacles.iter().map(|found| found.hint.as_str()).collect();
    Problem::new(format!("the data directory \"{}\" cannot be a node's as it is", config.server.data_dir.display()))
        .detail(details.join("\n"))
        .hint(hints.join("\n"))
        .into()
}

/// All that will be different afterwards.
fn plan(config: &Config, found: &Found, ended: &Ended, closed: bool) -> String {
    let mut lines = vec![format!(
        "\"{}\" will be the first node of cluster \"{}\", with its database \"{}\" ({}, {} tables). What will change:",
        config.server.data_dir.display(),
        config.cluster,
        config.database,
        found.size,
        found.tables
    )];
    if *ended == Ended::Crashed {
        lines.push("  it was not shut down cleanly, and has been recovered to look at it".to_owned());
    }
    lines.push("  pgrenga.conf is written, and included at the end of postgresql.conf:".to_owned());
    let mut settings: Vec<(&str, String)> = vec![
        ("port", config.server.port.to_string()),
        ("listen_addresses", config.server.listen_addresses.clone()),
        ("unix_socket_directories", config.server.socket_dir.display().to_string()),
    ];
    settings.extend(config.settings.as_pairs());
    for (name, new) in settings {
        let old = found.settings.get(name).map_or("", String::as_str);
        if old != new && !name.starts_with("pgrenga.") {
            lines.push(format!("    {name}: {} -> {new}", if old.is_empty() { "(empty)" } else { old }));
        }
    }
    if closed {
        lines.push(format!(
            "  pg_hba.conf and pg_ident.conf let the daemon's user in as \"{}\" over the unix socket",
            config.server.superuser
        ));
    }
    lines.push(format!(
        "  extension \"pgrenga\" is created in database \"{}\", and replication origins",
        config.database
    ));
    if !found.sequences.is_empty() {
        lines.push(format!("  at the first start sequences step 16 times as far: {}", list(&found.sequences)));
    }
    if !found.notes.is_empty() {
        lines.push("To be known:".to_owned());
        lines.extend(found.notes.iter().map(|note| format!("  {note}")));
    }
    lines.join("\n")
}

/// Asks on the terminal.
fn agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Problem::new("not confirmed")
            .detail("There is no terminal to ask on. Nothing was changed.")
            .hint("Run it again with --yes.")
            .into());
    }
    let _ = write!(std::io::stdout(), "Go on? [y/N] ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        say("nothing was changed");
    }
    Ok(agreed)
}

fn mark_path(config: &Config) -> PathBuf {
    config.dir.join("adopt.incomplete")
}

/// Whether an earlier attempt had begun to change things.
pub(super) fn was_begun(config: &Config) -> bool {
    mark_path(config).exists()
}

fn mark(config: &Config, begun: bool) -> Result<()> {
    let path = mark_path(config);
    let done = if begun { std::fs::write(&path, "") } else { std::fs::remove_file(&path) };
    done.with_context(|| format!("could not write \"{}\"", path.display()))
}
