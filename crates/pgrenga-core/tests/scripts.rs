//! Promise: each scenario under `tests/scripts` decides exactly what it shows.
//! One file for one property; `UPDATE_GOLDENFILES=1` writes the output anew.

#[allow(unused_imports)]
mod support;

use std::path::Path;

use support::{CoreScript, ScheduleScript};

fn run_all(directory: &str, run: impl Fn(&Path)) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(directory);
    let mut files: Vec<_> = directory.read_dir().expect("the scripts are there").map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{directory:?} is empty");
    files.iter().for_each(|file| run(file));
}

fn core(directory: &str) {
    run_all(directory, |file| goldenscript::run(&mut CoreScript::default(), file).expect("the script runs"));
}

#[test]
fn certify() {
    core("certify");
}

#[test]
fn apply_order() {
    core("apply_order");
}

#[test]
fn fence() {
    core("fence");
}

#[test]
fn incarnation() {
    core("incarnation");
}

#[test]
fn membership() {
    core("membership");
}

#[test]
fn duplicate() {
    core("duplicate");
}

#[test]
fn fate() {
    core("fate");
}

#[test]
fn fragments() {
    core("fragments");
}

#[test]
fn snapshot() {
    core("snapshot");
}

#[test]
fn malformed() {
    core("malformed");
}

#[test]
fn schedule() {
    run_all("schedule", |file| {
        goldenscript::run(&mut ScheduleScript::default(), file).expect("the script runs");
    });
}
