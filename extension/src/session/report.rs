//! What a session has: the text of `pgrenga.session`. Everything here is known without a transaction.

use std::ffi::{CStr, CString, c_char};

use pgrenga_writeset::session::{Deallocated, Report, State, TEXT_BYTES_MAX};
use pgrx::pg_sys;

use super::{IS_MARKED, settings};
use crate::backend::BackendLocal;
use crate::capture;

/// More names than that are not kept for one report.
const NAMES_MAX: usize = 256;

/// What no list of PostgreSQL's tells outside of a transaction.
#[derive(Default)]
struct Names {
    /// Of statements that `PREPARE` made; some may be gone.
    prepared: Vec<CString>,
    /// Of cursors `WITH HOLD`; some may be closed.
    held: Vec<CString>,
    /// What was deallocated since the last report.
    deallocated: Deallocated,
    /// How many reports told of deallocations.
    deallocations: u64,
    /// There were more names than are kept.
    is_overfull: bool,
}

static NAMES: BackendLocal<Option<Names>> = BackendLocal::new(None);
/// What the hook returned last.
static SHOWN: BackendLocal<Option<CString>> = BackendLocal::new(None);
/// Whether the last report told of temporary objects.
static TOLD_TEMPORARIES: BackendLocal<bool> = BackendLocal::new(false);

fn with_names<T>(step: impl FnOnce(&mut Names) -> T) -> T {
    // SAFETY: no step calls what could come back here.
    step(unsafe { NAMES.borrow() }.get_or_insert_default())
}

/// `PREPARE` is about to make a statement.
pub(super) fn prepared(name: &CStr) {
    with_names(|names| {
        let Names { prepared, is_overfull, .. } = names;
        *is_overfull |= !note(prepared, name, |known| !statement(known).is_null());
    });
}

/// A cursor that outlives its transaction is about to be declared.
pub(super) fn held(name: &CStr) {
    // SAFETY: a look-up by name.
    let is_open = |known: &CStr| unsafe { !pg_sys::GetPortalByName(known.as_ptr()).is_null() };
    with_names(|names| names.is_overfull |= !note(&mut names.held, name, is_open));
}

/// A prepared statement is about to be deallocated; all, if it has no name.
pub(super) fn deallocated(name: Option<&CStr>) {
    with_names(|names| match (name, &mut names.deallocated) {
        (None, deallocated) => *deallocated = Deallocated::All,
        (Some(_), Deallocated::All) => {}
        (Some(name), Deallocated::Named(gone)) if gone.len() < NAMES_MAX => gone.push(name.to_bytes().to_vec()),
        _ => names.is_overfull = true,
    });
}

/// Adds a name; forgets those that mean nothing any more, when there are many.
fn note(names: &mut Vec<CString>, name: &CStr, lives: impl Fn(&CStr) -> bool) -> bool {
    if names.iter().any(|known| known.as_c_str() == name) {
        return true;
    }
    if names.len() >= NAMES_MAX {
        names.retain(|known| lives(known));
    }
    let has_room = names.len() < NAMES_MAX;
    if has_room {
        names.push(name.to_owned());
    }
    has_room
}

/// Whether the session has temporary objects, and the last report did not say so.
pub(super) fn has_other_temporaries() -> bool {
    has_temporaries() != TOLD_TEMPORARIES.get()
}

/// The value of `pgrenga.session`.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn show() -> *const c_char {
    // SAFETY: plain looks at this process's state.
    let is_idle = unsafe { !pg_sys::IsTransactionOrTransactionBlock() && !pg_sys::MyProc.is_null() };
    if !settings::REPORT_SESSION.get() {
        return c"".as_ptr();
    }
    if is_idle {
        IS_MARKED.set(false);
        let text = CString::new(report().encode()).unwrap_or_default();
        // SAFETY: a plain assignment.
        *unsafe { SHOWN.borrow() } = Some(text);
    }
    // SAFETY: the borrow ends before PostgreSQL is called again; the text lives until the next call.
    unsafe { SHOWN.borrow() }.get_or_insert_default().as_ptr()
}

fn report() -> Report {
    let mut kept = Vec::new();
    TOLD_TEMPORARIES.set(has_temporaries());
    if TOLD_TEMPORARIES.get() {
        kept.push("temporary tables");
    }
    if with_names(|names| names.held.iter().any(|name| is_held(name))) {
        kept.push("cursors WITH HOLD");
    }
    if listens() {
        kept.push("LISTEN");
    }
    if capture::holds_advisory_lock() {
        kept.push("advisory locks");
    }
    let state = State { settings: settings_of_session(), prepared: prepared_by_sql() }.encode();
    let (deallocated, deallocations, is_overfull) = with_names(|names| {
        let mut deallocated = std::mem::take(&mut names.deallocated);
        if let Deallocated::Named(gone) = &mut deallocated {
            // Some were prepared again.
            gone.retain(|name| CString::new(&**name).is_ok_and(|name| statement(&name).is_null()));
        }
        names.deallocations += u64::from(deallocated != Deallocated::default());
        (deallocated, names.deallocations, names.is_overfull)
    });
    let mut report = Report { kept: owned(&kept), deallocations, deallocated, state };
    if is_overfull || report.encode().len() > TEXT_BYTES_MAX {
        // What is left out now is not known later, either.
        with_names(|names| names.is_overfull = true);
        kept.push("more settings and prepared statements than are reported");
        report = Report { kept: owned(&kept), deallocations, ..Report::default() };
    }
    report
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|words| (*words).to_owned()).collect()
}

fn has_temporaries() -> bool {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: plain variables of this process.
    unsafe { pg_sys::GetTempNamespaceState(&raw mut schema, &raw mut toast) };
    schema != pg_sys::InvalidOid
}

fn is_held(name: &CStr) -> bool {
    // SAFETY: a look-up by name; what it finds stays while nothing runs.
    unsafe {
        let portal = pg_sys::GetPortalByName(name.as_ptr());
        !portal.is_null() && (*portal).cursorOptions as u32 & pg_sys::CURSOR_OPT_HOLD != 0
    }
}

/// Whether there is a channel: the first that `pg_listening_channels()` would return.
fn listens() -> bool {
    // SAFETY: a call as the executor makes it, up to the first row, in a context of its own that
    // goes at once with what the function has left in it.
    unsafe {
        let context = pg_sys::CreateStandaloneExprContext();
        let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_query_memory);
        let mut function =
            pg_sys::FmgrInfo { fn_mcxt: (*context).ecxt_per_tuple_memory, fn_retset: true, ..Default::default() };
        let mut rows = pg_sys::ReturnSetInfo {
            type_: pg_sys::NodeTag::T_ReturnSetInfo,
            econtext: context,
            allowedModes: pg_sys::SetFunctionReturnMode::SFRM_ValuePerCall as i32,
            ..Default::default()
        };
        let mut call = pg_sys::FunctionCallInfoBaseData {
            flinfo: &raw mut function,
            resultinfo: (&raw mut rows).cast(),
            ..Default::default()
        };
        pg_sys::pg_listening_channels(&raw mut call);
        let found = rows.isDone == pg_sys::ExprDoneCond::ExprMultipleResult;
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::FreeExprContext(context, true);
        found
    }
}

/// The statement of that name, or null.
fn statement(name: &CStr) -> *mut pg_sys::PreparedStatement {
    // SAFETY: a look-up by name, which raises no error.
    unsafe { pg_sys::FetchPreparedStatement(name.as_ptr(), false) }
}

/// The texts of what `PREPARE` made and is there still.
fn prepared_by_sql() -> Vec<Vec<u8>> {
    with_names(|names| {
        names.prepared.retain(|name| {
            let found = statement(name);
            // SAFETY: as found.
            !found.is_null() && unsafe { (*found).from_sql }
        });
        names.prepared.iter().map(|name| text_of(statement(name))).collect()
    })
}

/// One statement's part of the message that it came in.
fn text_of(statement: *mut pg_sys::PreparedStatement) -> Vec<u8> {
    // SAFETY: a statement that is there, with the text that it was made of.
    unsafe {
        let source = (*statement).plansource;
        let text = CStr::from_ptr((*source).query_string).to_bytes();
        let tree = &*(*source).raw_parse_tree;
        let begin = usize::try_from(tree.stmt_location).unwrap_or(0).min(text.len());
        let rest = &text[begin..];
        let length = usize::try_from(tree.stmt_len).ok().filter(|length| *length > 0).unwrap_or(rest.len());
        rest[..length.min(rest.len())].to_vec()
    }
}

/// Who runs what is set last, as it may take away the right to set the others.
const IDENTITY: [&CStr; 2] = [c"session_authorization", c"role"];

fn settings_of_session() -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut found, mut identity) = (Vec::new(), Vec::new());
    // SAFETY: PostgreSQL's own list, which does not change meanwhile.
    unsafe {
        let all = pg_sys::get_guc_variables();
        for index in 0..usize::try_from(pg_sys::GetNumConfigOptions()).unwrap_or(0) {
            let setting = *all.add(index);
            let name = CStr::from_ptr((*setting).name);
            if (*setting).source != pg_sys::GucSource::PGC_S_SESSION || is_of_a_transaction(name) {
                continue;
            }
            let Some(value) = value_of(setting) else { continue };
            let list = if IDENTITY.contains(&name) { &mut identity } else { &mut found };
            list.push((name.to_bytes().to_vec(), value));
        }
    }
    identity.sort_by_key(|(name, _)| IDENTITY.iter().position(|known| known.to_bytes() == name));
    found.append(&mut identity);
    found
}

/// What no other session is to be given: what each transaction has of its own, and what this library tells itself.
fn is_of_a_transaction(name: &CStr) -> bool {
    let own = [settings::COMMIT_SEQ_NAME, settings::TRANSACTION_ID_NAME, settings::SESSION_NAME];
    own.contains(&name) || name == c"seed" || name.to_bytes().starts_with(b"transaction_")
}

/// The value, as it can be set.
///
/// # Safety
/// `setting` is one of PostgreSQL's list.
unsafe fn value_of(setting: *mut pg_sys::config_generic) -> Option<Vec<u8>> {
    // SAFETY: the kind tells what it is; `GetConfigOption` shows numbers in the setting's own unit.
    unsafe {
        if (*setting).vartype == pg_sys::config_type::PGC_REAL {
            // PostgreSQL would show six digits.
            return Some(format!("{:?}", *(*setting.cast::<pg_sys::config_real>()).variable).into_bytes());
        }
        let value = pg_sys::GetConfigOption((*setting).name, true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
    }
}
