//! A server goes through every way in which it can start and end.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrenga_postgres::Error;
use pgrenga_postgres::backup;
use pgrenga_postgres::server::{Server, StopMode};

use crate::scratch::{Scratch, directory, options, value};

#[tokio::test]
async fn starts_stops_and_keeps_its_data() {
    let scratch = Scratch::started().await;
    let server = &scratch.server;
    assert_eq!(value(server, "SHOW data_checksums").await, "on");
    assert_eq!(value(server, "SHOW server_encoding").await, "UTF8");
    assert_eq!(value(server, "SHOW fsync").await, "off");
    assert_eq!(value(server, "SELECT current_setting('application_name')").await, "pgrenga");
    server.connect("postgres").await.unwrap().batch_execute("CREATE TABLE t AS SELECT 'kept' AS x").await.unwrap();

    assert!(server.pid().is_some());
    server.stop(StopMode::Fast).await.unwrap();
    assert_eq!(server.pid(), None);
    server.stop(StopMode::Fast).await.unwrap();

    assert!(matches!(server.init_db().await, Err(Error::NotEmpty(_))));
    server.start().await.unwrap();
    assert_eq!(value(server, "SELECT x FROM t").await, "kept");
}

#[tokio::test]
async fn adopts_a_server_that_runs_already() {
    let scratch = Scratch::started().await;
    let later = Server::new(scratch.server.options().clone());
    assert_eq!(later.pid(), None);
    later.start().await.unwrap();
    assert_eq!(later.pid(), scratch.server.pid());
    later.stop(StopMode::Immediate).await.unwrap();
    assert_eq!(scratch.server.pid(), None);
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_starts_again() {
    let scratch = Scratch::started().await;
    let server = &scratch.server;
    // A session that is too busy to look whether its postmaster still lives.
    let busy = server.connect("postgres").await.unwrap();
    let busy = tokio::spawn(async move { busy.batch_execute("SELECT sum(x) FROM generate_series(1, 1e9) x").await });
    tokio::time::sleep(Duration::from_millis(200)).await;

    let pid = server.pid().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    tokio::time::timeout(Duration::from_secs(5), server.exited()).await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(server.options().data_dir.join("postmaster.pid").exists());

    server.start().await.unwrap();
    assert_ne!(server.pid(), Some(pid));
    assert_eq!(value(server, "SELECT 'up'").await, "up");
    assert!(busy.await.unwrap().is_err());
}

#[tokio::test]
async fn a_pid_file_that_names_another_program_is_no_obstacle() {
    let scratch = Scratch::started().await;
    let server = &scratch.server;
    server.stop(StopMode::Fast).await.unwrap();
    let pid_file = server.options().data_dir.join("postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n/elsewhere\n0\n", std::process::id())).unwrap();
    let lock = server.options().socket_dir.join(".s.PGSQL.5432.lock");
    let data_dir = server.options().data_dir.display();
    std::fs::write(&lock, format!("{}\n{data_dir}\n0\n5432\n", std::process::id())).unwrap();
    server.start().await.unwrap();
    assert_eq!(value(server, "SELECT 'up'").await, "up");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let scratch = Scratch::new();
    let server = &scratch.server;
    server.init_db().await.unwrap();
    server.configure(&[("shared_preload_libraries", "no_such_library".to_owned())]).await.unwrap();
    match server.start().await {
        Err(Error::NotStarted { last_lines, .. }) => assert!(last_lines.contains("no_such_library"), "{last_lines}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.pid(), None);
}

#[tokio::test]
async fn a_directory_closed_to_the_servers_user_is_named() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let directory = directory(0o700);
    match Server::new(options(directory.path())).init_db().await {
        Err(Error::Unreachable { user, .. }) => assert_eq!(user, "postgres"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_base_backup_starts_as_a_server_of_its_own() {
    let donor = Scratch::started().await;
    let sql = "CREATE TABLE t AS SELECT 'copied' AS x; SELECT pg_create_physical_replication_slot('left', true)";
    donor.server.connect("postgres").await.unwrap().batch_execute(sql).await.unwrap();
    let from = donor.server.options();
    let conninfo = format!("host={} port={} user=postgres", from.socket_dir.display(), from.port);

    let joiner = Scratch::new();
    let copy = &joiner.server;
    let refused = backup::copy(copy, "host=/nowhere user=postgres", |_| {}).await;
    assert!(matches!(refused, Err(Error::Program { .. })), "{refused:?}");

    let mut last = None;
    let whole = backup::copy(copy, &conninfo, |progress| last = Some(progress)).await.unwrap();
    whole.place().unwrap();
    assert!(last.is_some_and(|progress| progress.done_kb > 0), "{last:?}");
    copy.configure(&[("fsync", "off".to_owned())]).await.unwrap();
    copy.start().await.unwrap();
    assert_eq!(value(copy, "SELECT x FROM t").await, "copied");
    assert_eq!(value(copy, "SELECT pg_is_in_recovery()::text").await, "false");
    assert_eq!(value(copy, "SELECT count(*)::text FROM pg_replication_slots").await, "0");

    // A later copy does not come there by itself, but can be put in the place of what is there.
    donor.server.connect("postgres").await.unwrap().batch_execute("UPDATE t SET x = 'again'").await.unwrap();
    let later = backup::copy(copy, &conninfo, |_| {}).await.unwrap();
    assert!(matches!(later.place(), Err(Error::NotEmpty(_))));
    let later = backup::copy(copy, &conninfo, |_| {}).await.unwrap();
    later.leave("note", b"left").unwrap();
    copy.stop(StopMode::Immediate).await.unwrap();
    later.replace().unwrap();
    backup::clear_attempts(copy).unwrap();
    copy.configure(&[]).await.unwrap();
    copy.start().await.unwrap();
    assert_eq!(value(copy, "SELECT x FROM t").await, "again");
    assert_eq!(std::fs::read(copy.options().data_dir.join("note")).unwrap(), b"left");
    let beside = std::fs::read_dir(copy.options().data_dir.parent().unwrap()).unwrap().flatten();
    assert!(beside.into_iter().all(|entry| !entry.file_name().to_string_lossy().contains("partial")));
}
