//! A statement as it travels: its own text, and what its meaning depends on.

use std::ffi::{CStr, CString};

use pgrenga_writeset::op::Ddl;
use pgrx::pg_sys::{self, NodeTag};

use super::tree;
use super::{concurrently, definition, password, refusal, text};

/// Settings that change what a DDL statement means. Not among them: where it
/// puts files (each node's own business), and what only checks function
/// bodies (settled at the origin).
const SETTINGS: [&CStr; 16] = [
    c"search_path",
    c"standard_conforming_strings",
    c"backslash_quote",
    c"DateStyle",
    c"IntervalStyle",
    c"TimeZone",
    c"timezone_abbreviations",
    c"extra_float_digits",
    c"bytea_output",
    c"array_nulls",
    c"transform_null_equals",
    c"xmlbinary",
    c"xmloption",
    c"lc_monetary",
    c"default_table_access_method",
    c"default_toast_compression",
];

/// A statement with everything that other nodes need to run it.
#[derive(Debug)]
pub(super) struct Statement {
    role: String,
    settings: Vec<(&'static str, String)>,
    text: String,
}

/// What of a statement's text must not travel.
pub(super) enum Edit<'a> {
    Nothing,
    Password(&'a password::Concealed),
    Concurrently(concurrently::Stands),
}

impl Statement {
    /// Takes the statement that is about to run, edited like its text.
    ///
    /// # Safety
    /// `planned` is a utility statement out of `query`; called inside a transaction.
    pub(super) unsafe fn capture(
        planned: *const pg_sys::PlannedStmt,
        query: *const std::ffi::c_char,
        edit: &Edit<'_>,
    ) -> Self {
        // SAFETY: the caller's promise.
        let (query, statement, location, length) =
            unsafe { (CStr::from_ptr(query), (*planned).utilityStmt, (*planned).stmt_location, (*planned).stmt_len) };
        let Some(own) = text::cut(query.to_bytes(), location, length) else { refusal::TEXT_DIFFERS.raise() };
        let mut text = to_utf8(own);
        let backslashes = setting(c"standard_conforming_strings").as_deref() == Some("off");
        match edit {
            Edit::Nothing => {}
            Edit::Password(concealed) => {
                // What was trimmed off the statement's front stands before `own`.
                let option = concealed.option.checked_sub(own.as_ptr() as usize - query.as_ptr() as usize);
                text = option
                    .and_then(|option| text::replace_password(&text, option, &concealed.verifier, backslashes))
                    .unwrap_or_else(|| refusal::PASSWORD.raise());
            }
            Edit::Concurrently(stands) => {
                let last = *stands == concurrently::Stands::Last;
                text = text::without(&text, concurrently::WORD, last, backslashes)
                    .unwrap_or_else(|| refusal::TEXT_DIFFERS.raise());
            }
        }
        // SAFETY: plain reads of this process's identity.
        let (user, session_user) = unsafe { (pg_sys::GetUserId(), pg_sys::GetSessionUserId()) };
        if user != session_user && text::mentions(&text, "session_user", backslashes) {
            refusal::SESSION_USER.raise();
        }
        // SAFETY: the caller's promise.
        unsafe {
            if tree::tag(statement) == NodeTag::T_CreateTableAsStmt
                && !(*(*statement.cast::<pg_sys::CreateTableAsStmt>()).into).skipData
            {
                text = text::without_data(&text, backslashes);
            }
            check_text(&text, statement);
        }
        Self { role: role(user), settings: settings(), text }
    }

    /// A statement whose text is that of the table that it makes, see [`Statement::define`].
    ///
    /// # Safety
    /// `into` is a statement's clause; called inside a transaction.
    pub(super) unsafe fn of_definition(into: *const pg_sys::IntoClause) -> Self {
        // SAFETY: a plain read of this process's identity, and the caller's promise.
        let (user, options) = unsafe { (pg_sys::GetUserId(), definition::options(into)) };
        Self { role: role(user), settings: settings(), text: to_utf8(&options) }
    }

    /// Gives it the text that makes `table` elsewhere.
    pub(super) fn define(&mut self, table: pg_sys::Oid) {
        let options = from_utf8(&self.text);
        self.text = to_utf8(&definition::of_table(table, options.as_bytes()));
    }

    /// Adds an option at the statement's end.
    pub(super) fn append(&mut self, option: &str) {
        self.text = text::append_option(&self.text, option);
    }

    /// The op.
    pub(super) fn op(&self) -> Ddl<'_> {
        Ddl {
            role: &self.role,
            settings: self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            statement: &self.text,
        }
    }
}

/// A role's name.
pub fn role(user: pg_sys::Oid) -> String {
    // SAFETY: inside a transaction; the name is palloc'd.
    let name = unsafe { tree::str(pg_sys::GetUserNameFromId(user, false)) };
    to_utf8(name.as_bytes())
}

/// A setting's present value.
fn setting(name: &CStr) -> Option<String> {
    // SAFETY: the value stays where it is until it is copied here.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| tree::str(value).into_owned())
    }
}

fn settings() -> Vec<(&'static str, String)> {
    SETTINGS.iter().filter_map(|name| Some((name.to_str().ok()?, to_utf8(setting(name)?.as_bytes())))).collect()
}

/// Text of this server's encoding as UTF-8.
fn to_utf8(text: &[u8]) -> String {
    let source = CString::new(text).expect("no NUL in a C string");
    // SAFETY: the result is `source` itself or palloc'd; copied at once.
    unsafe {
        let converted = pg_sys::pg_server_to_any(source.as_ptr(), text.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        tree::str(converted).into_owned()
    }
}

/// UTF-8 as text of this server's encoding.
pub fn from_utf8(text: &str) -> CString {
    let source = CString::new(text).expect("no NUL in a C string");
    // SAFETY: as in `to_utf8`.
    unsafe {
        let converted = pg_sys::pg_any_to_server(source.as_ptr(), text.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        CStr::from_ptr(converted).to_owned()
    }
}

/// Makes sure that the text means the statement that runs: some extensions
/// run trees that never were text, and a setting may have changed since the
/// text was parsed.
unsafe fn check_text(text: &str, statement: *const pg_sys::Node) {
    let source = from_utf8(text);
    // SAFETY: parsing needs no more than a transaction; trees are compared as they are.
    let same = unsafe {
        let parsed = tree::items::<pg_sys::RawStmt>(pg_sys::pg_parse_query(source.as_ptr())).collect::<Vec<_>>();
        match parsed.as_slice() {
            // Its query was analyzed since, and it brings no rows any more.
            [raw] if tree::tag(statement) == NodeTag::T_CreateTableAsStmt => {
                tree::tag((**raw).stmt) == NodeTag::T_CreateTableAsStmt
                    && (*(*(**raw).stmt.cast::<pg_sys::CreateTableAsStmt>()).into).skipData
            }
            [raw] => pg_sys::equal((**raw).stmt.cast(), statement.cast()),
            _ => false,
        }
    };
    if !same {
        refusal::TEXT_DIFFERS.raise();
    }
}
