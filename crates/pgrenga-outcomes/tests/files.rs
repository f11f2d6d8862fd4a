//! The promise: what a crash, a damaged disk or old age takes away is missing, never wrong.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use pgrenga_outcomes::{Limits, Mark, Outcomes, Recalled};
use pgrenga_writeset::{Incarnation, LogIndex, NodeId, TransactionId};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIMITS: Limits = Limits { age: DAY, bytes: 1 << 30 };

/// The n-th transaction of the second segment for `segment` 1, and so on.
fn txid(segment: u64, n: u64) -> TransactionId {
    let counter = (segment << 20 | n) << TransactionId::SLOT_BITS | 3;
    TransactionId { node: NodeId(1), incarnation: Incarnation(2), counter }
}

fn file(segment: u64) -> String {
    format!("00000001-00000002-{segment:08x}")
}

fn open(directory: &Path, limits: Limits) -> Outcomes {
    Outcomes::open(directory, limits).unwrap()
}

/// A directory in which each of three segments has a commit (1) and an abort (2); the log up to 10 is kept.
fn three_segments() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut outcomes = open(directory.path(), LIMITS);
    for segment in 0..3 {
        outcomes.note(&txid(segment, 1), Mark::Committed);
        outcomes.note(&txid(segment, 2), Mark::Aborted);
    }
    outcomes.keep(LogIndex(10)).run().unwrap();
    directory
}

/// What is recalled of a commit, an abort, and what was never decided.
fn recalled(outcomes: &Outcomes, segment: u64) -> [Recalled; 3] {
    [1, 2, 3].map(|n| outcomes.look(&txid(segment, n)).recall())
}

const ALL: [Recalled; 3] = [Recalled::Committed, Recalled::Aborted, Recalled::Undecided];
const NONE: [Recalled; 3] = [Recalled::Missing; 3];
const COMMITS: [Recalled; 3] = [Recalled::Committed, Recalled::Missing, Recalled::Missing];

#[test]
fn what_was_kept_is_there_again() {
    let directory = three_segments();
    let mut outcomes = open(directory.path(), LIMITS);
    outcomes.begin(LogIndex(10), [(NodeId(1), Incarnation(2))]);
    assert_eq!([0, 1, 2].map(|segment| recalled(&outcomes, segment)), [ALL; 3]);
    let names = |directory: &Path| fs::read_dir(directory).unwrap().count();
    assert_eq!(names(directory.path()), 4, "three segments and the floors");
}

#[test]
fn a_state_beyond_what_was_kept_leaves_a_gap() {
    let directory = three_segments();
    let mut outcomes = open(directory.path(), LIMITS);
    outcomes.begin(LogIndex(11), [(NodeId(1), Incarnation(2))]);
    assert_eq!(recalled(&outcomes, 2), COMMITS);
    let next_life = TransactionId { incarnation: Incarnation(3), ..txid(0, 1) };
    assert_eq!(outcomes.look(&next_life).recall(), Recalled::Undecided, "nothing is missing of it");
    outcomes.keep(LogIndex(12)).run().unwrap();
    drop(outcomes);
    let mut outcomes = open(directory.path(), LIMITS);
    outcomes.begin(LogIndex(12), [(NodeId(1), Incarnation(3))]);
    assert_eq!(recalled(&outcomes, 2), COMMITS, "the gap is remembered");
    assert_eq!(outcomes.look(&next_life).recall(), Recalled::Undecided);
}

#[test]
fn what_was_being_written_when_it_crashed_does_not_count() {
    let directory = three_segments();
    fs::write(directory.path().join(format!("{}.new", file(0))), b"half of it").unwrap();
    fs::write(directory.path().join("floors.new"), b"").unwrap();
    let outcomes = open(directory.path(), LIMITS);
    assert_eq!(recalled(&outcomes, 0), ALL);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4, "it was cleared away");
}

#[test]
fn damage_is_missing_and_stays_so() {
    for damage in ["shorter", "garbled", "longer"] {
        let directory = three_segments();
        let path = directory.path().join(file(1));
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            "shorter" => bytes.truncate(bytes.len() - 1),
            "longer" => bytes.push(0),
            _ => *bytes.last_mut().unwrap() ^= 1,
        }
        fs::write(&path, bytes).unwrap();
        let mut outcomes = open(directory.path(), LIMITS);
        assert_eq!([0, 1, 2].map(|segment| recalled(&outcomes, segment)), [ALL, NONE, ALL], "{damage}");
        outcomes.note(&txid(1, 4), Mark::Committed);
        outcomes.keep(LogIndex(11)).run().unwrap();
        drop(outcomes);
        let outcomes = open(directory.path(), LIMITS);
        assert_eq!([0, 1, 2].map(|segment| recalled(&outcomes, segment)), [COMMITS, NONE, ALL], "{damage}");
        assert_eq!(outcomes.look(&txid(1, 4)).recall(), Recalled::Committed);
    }
}

#[test]
fn damaged_floors_are_a_gap() {
    let directory = three_segments();
    let path = directory.path().join("floors");
    let length = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let mut outcomes = open(directory.path(), LIMITS);
    outcomes.begin(LogIndex(10), [(NodeId(1), Incarnation(2))]);
    assert_eq!(recalled(&outcomes, 2), COMMITS);
}

#[test]
fn old_files_go() {
    let directory = three_segments();
    let path = directory.path().join(file(1));
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - 2 * DAY).unwrap();
    let mut outcomes = open(directory.path(), LIMITS);
    outcomes.keep(LogIndex(11)).run().unwrap();
    assert!(!directory.path().join(file(1)).exists());
    // What is below the floor is not gone, but may lack something.
    assert_eq!([0, 1, 2].map(|segment| recalled(&outcomes, segment)), [COMMITS, NONE, ALL]);
    drop(outcomes);
    let outcomes = open(directory.path(), LIMITS);
    assert_eq!([0, 1, 2].map(|segment| recalled(&outcomes, segment)), [COMMITS, NONE, ALL]);
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let directory = three_segments();
    let size = fs::metadata(directory.path().join(file(0))).unwrap().len();
    let path = directory.path().join(file(0));
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - DAY / 2).unwrap();
    let mut outcomes = open(directory.path(), Limits { bytes: 2 * size, ..LIMITS });
    outcomes.keep(LogIndex(11)).run().unwrap();
    assert_eq!([0, 1, 2].map(|segment| directory.path().join(file(segment)).exists()), [false, true, true]);
    assert_eq!([0, 1, 2].map(|segment| recalled(&outcomes, segment)), [NONE, ALL, ALL]);
}

#[test]
fn what_could_not_be_written_is_not_lost() {
    let directory = three_segments();
    let mut outcomes = open(directory.path(), LIMITS);
    outcomes.note(&txid(0, 3), Mark::Committed);
    // A directory is in the way of the file that is to be replaced.
    let in_the_way = directory.path().join(format!("{}.new", file(0)));
    fs::create_dir(&in_the_way).unwrap();
    outcomes.keep(LogIndex(11)).run().unwrap_err();
    assert_eq!(outcomes.look(&txid(0, 3)).recall(), Recalled::Committed, "it is in memory");
    fs::remove_dir(&in_the_way).unwrap();
    outcomes.keep(LogIndex(12)).run().unwrap();
    drop(outcomes);
    assert_eq!(open(directory.path(), LIMITS).look(&txid(0, 3)).recall(), Recalled::Committed);
}

/// Files of a released format stay readable.
#[test]
fn the_format_is_kept() {
    let directory = three_segments();
    let segment = fs::read(directory.path().join(file(0))).unwrap();
    assert_eq!(segment, b"pgrout\x01\x00\xf1\xcc\xfa\xc8\x18");
    let floors = fs::read(directory.path().join("floors")).unwrap();
    assert_eq!(&floors[12..], b"\x01\x0a\x00\x00\x00\x00\x00\x00\x00");
}
