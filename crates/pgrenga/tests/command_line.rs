//! What people type wrong gets PostgreSQL's kind of answer and the documented exit code.

use std::path::Path;
use std::process::{Command, Stdio};

fn pgrenga(arguments: &[&str], directory: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgrenga"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const CONFIG: &str = r#"
cluster = "test"
name = "n1"
dir = "n1"
listen = "127.0.0.1:1"
admin = "127.0.0.1:2"
[postgres]
port = 3
"#;

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(pgrenga(&["dmeo"], directory.path()).0, 2);
    assert_eq!(pgrenga(&["demo", "--nodes", "0"], directory.path()).0, 2);
    assert_eq!(pgrenga(&["status", "--dir", "x", "--config", "y"], directory.path()).0, 2);
    let (code, help, _) = pgrenga(&["--help"], directory.path());
    assert_eq!(code, 0);
    for taught in ["pgrenga demo", "pgrenga join --config", "Exit codes"] {
        assert!(help.contains(taught), "{help}");
    }
}

#[test]
fn a_bad_configuration_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    let (code, _, said) = pgrenga(&["node", "--config", "node.toml"], directory.path());
    assert_eq!(code, 1);
    assert!(said.starts_with("ERROR:  could not read \"node.toml\"\nDETAIL:  No such file"), "{said}");

    std::fs::write(&path, format!("colour = 1\n{CONFIG}")).unwrap();
    let (code, _, said) = pgrenga(&["node", "--config", "node.toml"], directory.path());
    assert_eq!(code, 1);
    assert!(said.starts_with("ERROR:  configuration file \"node.toml\" is not valid\nDETAIL:  "), "{said}");
    assert!(said.contains("unknown field `colour`"), "{said}");
}

#[test]
fn a_node_that_was_not_made_is_not_run() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("node.toml"), CONFIG).unwrap();
    let (code, _, said) = pgrenga(&["node", "--config", "node.toml"], directory.path());
    assert_eq!(code, 1);
    assert!(
        said.contains("ERROR:  there is no node in") && said.contains("HINT:  Make one with 'pgrenga init'"),
        "{said}"
    );
}

#[test]
fn a_data_directory_that_is_not_ours_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("node.toml"), CONFIG).unwrap();
    let precious = directory.path().join("n1/data/precious");
    std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, "x").unwrap();
    let (code, _, said) = pgrenga(&["init", "--config", "node.toml"], directory.path());
    assert_eq!(code, 1);
    assert!(said.contains("is not empty") && said.contains("HINT:  "), "{said}");
    assert!(precious.exists());
}

#[test]
fn asking_where_nothing_runs_says_so() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("node.toml"), CONFIG).unwrap();
    let (code, _, said) = pgrenga(&["status", "--dir", "."], directory.path());
    assert_eq!(code, 1);
    assert!(said.starts_with("ERROR:  there is no demo cluster in"), "{said}");
    let (code, _, said) = pgrenga(&["status", "--json", "--config", "node.toml"], directory.path());
    assert_eq!(code, 1);
    assert!(said.starts_with("ERROR:  no node of the cluster answers"), "{said}");
    assert_eq!(pgrenga(&["verify", "--config", "node.toml"], directory.path()).0, 2);
    let (code, _, said) = pgrenga(&["join", "--config", "node.toml", "--peer", "127.0.0.1:1"], directory.path());
    assert_eq!(code, 1);
    assert!(said.starts_with("ERROR:  could not register the node\nDETAIL:  no answer from 127.0.0.1:1"), "{said}");
}
