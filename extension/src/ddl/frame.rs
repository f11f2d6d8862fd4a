//! The utility statements that run in this process now, outermost first.
//!
//! PostgreSQL's errors jump over our functions' frames without running
//! destructors (so that they keep all their fields), hence the stack is a
//! variable of the process: a statement takes its own entry off at its end, and
//! the abort of its (sub)transaction does so after an error.

use pgrx::pg_sys;

use super::classify::Place;
use super::ship::Statement;
use crate::backend::BackendLocal;
use crate::capture;

/// A relation's name as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its schema.
    pub schema: String,
    /// Its own name.
    pub relation: String,
}

/// An object of a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) class: pg_sys::Oid,
    pub(super) oid: pg_sys::Oid,
    /// A column's number; zero for the object itself.
    pub(super) part: i32,
}

/// What a captured statement has done so far.
#[derive(Debug)]
pub(super) struct Changes {
    /// To be recorded at its place, or at the end.
    pub(super) pending: Option<Statement>,
    pub(super) place: Place,
    /// Tables whose rows are no longer what they were: elsewhere they are emptied before
    /// the statement runs and filled after it.
    pub(super) replaced: Vec<pg_sys::Oid>,
    /// How many tables the writeset had described when the statement was recorded.
    pub(super) described: usize,
    pub(super) created: Vec<Object>,
    pub(super) altered: Vec<Object>,
    /// Names that relations had before they were altered.
    pub(super) renamed: Vec<(pg_sys::Oid, Name)>,
}

impl Changes {
    pub(super) fn new(place: Place) -> Self {
        Self {
            pending: None,
            place,
            replaced: Vec::new(),
            described: 0,
            created: Vec::new(),
            altered: Vec::new(),
            renamed: Vec::new(),
        }
    }
}

/// What a running statement is to the tripwire.
#[derive(Debug)]
pub(super) enum Kind {
    /// Its own changes to the catalogs are none of the other nodes' business.
    Physical,
    /// The same, but it replaces a relation's content.
    Content,
    /// It changes no catalog itself.
    Transparent,
    /// Its changes are captured.
    Captured(Changes),
}

struct Frame {
    kind: Kind,
    /// Nesting of subtransactions when it began.
    level: i32,
}

static FRAMES: BackendLocal<Vec<Frame>> = BackendLocal::new(Vec::new());

fn frames() -> &'static mut Vec<Frame> {
    // SAFETY: every borrow here ends before PostgreSQL is called again.
    unsafe { FRAMES.borrow() }
}

/// A statement begins. Returns its place, for [`pop`].
pub(super) fn push(kind: Kind) -> usize {
    // SAFETY: a plain read of the transaction state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    let frames = frames();
    frames.push(Frame { kind, level });
    frames.len() - 1
}

/// A statement ends, and whatever it left behind.
pub(super) fn pop(place: usize) -> Option<Kind> {
    let frames = frames();
    frames.truncate(place + 1);
    // A procedure's ROLLBACK took everything off, its own CALL too.
    if frames.len() > place { frames.pop().map(|frame| frame.kind) } else { None }
}

/// The innermost running statement.
pub(super) fn innermost() -> Option<&'static mut Kind> {
    frames().last_mut().map(|frame| &mut frame.kind)
}

/// Whether the innermost statement answers for its subcommands.
pub(super) fn covers_subcommands() -> bool {
    matches!(innermost(), Some(Kind::Physical | Kind::Content | Kind::Captured(_)))
}

/// A catalog changes: puts the innermost statement into the writeset, if that is
/// its place and it is not there yet.
pub(super) fn record_pending() {
    if let Some(statement) = take_pending(Place::FirstChange) {
        let replaced = match innermost() {
            Some(Kind::Captured(changes)) => changes.replaced.clone(),
            _ => Vec::new(),
        };
        replaced.into_iter().for_each(capture::record_emptied);
        let transaction = capture::transaction();
        transaction.record_ddl(&statement.op());
        if let Some(Kind::Captured(changes)) = innermost() {
            changes.described = transaction.described_tables();
        }
    }
}

/// A relation comes into being: puts the innermost statement into the writeset,
/// if it was to be defined by that relation.
pub(super) fn record_definition(relation: pg_sys::Oid) {
    if let Some(mut statement) = take_pending(Place::Definition) {
        statement.define(relation);
        capture::transaction().record_ddl(&statement.op());
    }
}

fn take_pending(place: Place) -> Option<Statement> {
    let Some(Kind::Captured(changes)) = innermost() else { return None };
    if changes.place == place { changes.pending.take() } else { None }
}

/// The (sub)transaction at `level` was rolled back: its statements are over.
pub(super) fn forget_from(level: i32) {
    let frames = frames();
    let keep = frames.iter().position(|frame| frame.level >= level).unwrap_or(frames.len());
    frames.truncate(keep);
}
