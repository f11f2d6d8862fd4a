//! The utility statements that run in this process now, outermost first.
//!
//! PostgreSQL's errors jump over our functions' frames without running
//! destructors (so that they keep all their fields), hence the stack is a
//! variable of the process: a statement takes its own entry off at its end, and
//! the abort of its (sub)transaction does so after an error.

use pgrx::pg_sys;

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
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// To be recorded at the first change, or at the end.
    pub(super) pending: Option<Statement>,
    /// Wait for the end even when something changes.
    pub(super) at_end: bool,
    pub(super) created: Vec<Object>,
    pub(super) altered: Vec<Object>,
    /// Names that relations had before they were altered.
    pub(super) renamed: Vec<(pg_sys::Oid, Name)>,
}

/// What a running statement is to the tripwire.
#[derive(Debug)]
pub(super) enum Kind {
    /// Its own changes to the catalogs are none of the other nodes' business.
    Physical,
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

/// A statement ends, and whatever it left behind. Returns what a captured one did.
pub(super) fn pop(place: usize) -> Option<Changes> {
    let frames = frames();
    frames.truncate(place + 1);
    // A procedure's ROLLBACK took everything off, its own CALL too.
    let frame = if frames.len() > place { frames.pop() } else { None };
    match frame?.kind {
        Kind::Captured(changes) => Some(changes),
        Kind::Physical | Kind::Transparent => None,
    }
}

/// The innermost running statement.
pub(super) fn innermost() -> Option<&'static mut Kind> {
    frames().last_mut().map(|frame| &mut frame.kind)
}

/// Whether the innermost statement answers for its subcommands.
pub(super) fn covers_subcommands() -> bool {
    matches!(innermost(), Some(Kind::Physical | Kind::Captured(_)))
}

/// Puts the innermost statement into the writeset, if it is captured and was
/// not put there yet.
pub(super) fn record_pending() {
    if let Some(Kind::Captured(changes)) = innermost()
        && !changes.at_end
        && let Some(statement) = changes.pending.take()
    {
        capture::transaction().record_ddl(&statement.op());
    }
}

/// The (sub)transaction at `level` was rolled back: its statements are over.
pub(super) fn forget_from(level: i32) {
    let frames = frames();
    let keep = frames.iter().position(|frame| frame.level >= level).unwrap_or(frames.len());
    frames.truncate(keep);
}
