//! Passwords of roles: nothing but a verifier leaves this function's caller.

use pgrx::pg_sys::{self, NodeTag, PasswordType};

use super::tree;

/// A statement whose password was replaced by its verifier.
pub(super) struct Concealed {
    /// The statement to run in place of the original.
    pub(super) planned: *mut pg_sys::PlannedStmt,
    /// Where in the query string the option begins.
    pub(super) option: usize,
    /// What stands in its place.
    pub(super) verifier: String,
}

/// Computes the verifier of a password that `planned` sets in plain text.
///
/// # Safety
/// `planned` is a utility statement; called inside a transaction.
pub(super) unsafe fn conceal(planned: *const pg_sys::PlannedStmt) -> Option<Concealed> {
    // SAFETY: the tag tells what the statement is; names and constants are C strings.
    unsafe {
        let element = tree::option(options((*planned).utilityStmt)?, "password")?;
        if (*element).arg.is_null() {
            return None;
        }
        let plain = (*(*element).arg.cast::<pg_sys::String>()).sval;
        if pg_sys::get_password_type(plain) != PasswordType::PASSWORD_TYPE_PLAINTEXT {
            return None;
        }
        let role = role((*planned).utilityStmt);
        check(role, plain);
        let kind = pg_sys::Password_encryption as PasswordType::Type;
        let verifier = pg_sys::encrypt_password(kind, role, plain);
        let planned = pg_sys::copyObjectImpl(planned.cast()).cast::<pg_sys::PlannedStmt>();
        (*tree::option(options((*planned).utilityStmt)?, "password")?).arg = pg_sys::makeString(verifier).cast();
        let option = usize::try_from((*element).location).unwrap_or(usize::MAX);
        Some(Concealed { planned, option, verifier: tree::str(verifier).into_owned() })
    }
}

/// The options of a statement that may set a role's password.
unsafe fn options(statement: *mut pg_sys::Node) -> Option<*mut pg_sys::List> {
    // SAFETY: the tag tells what the statement is.
    unsafe {
        match tree::tag(statement) {
            NodeTag::T_CreateRoleStmt => Some((*statement.cast::<pg_sys::CreateRoleStmt>()).options),
            NodeTag::T_AlterRoleStmt => Some((*statement.cast::<pg_sys::AlterRoleStmt>()).options),
            _ => None,
        }
    }
}

/// The role whose password it is.
unsafe fn role(statement: *mut pg_sys::Node) -> *const std::ffi::c_char {
    // SAFETY: `options` knew the statement.
    unsafe {
        match tree::tag(statement) {
            NodeTag::T_CreateRoleStmt => (*statement.cast::<pg_sys::CreateRoleStmt>()).role,
            _ => pg_sys::get_rolespec_name((*statement.cast::<pg_sys::AlterRoleStmt>()).role),
        }
    }
}

/// PostgreSQL will show a password checker the verifier only, so it sees the
/// password here.
unsafe fn check(role: *const std::ffi::c_char, plain: *const std::ffi::c_char) {
    // SAFETY: the hook's contract; an error of it goes on to our caller.
    unsafe {
        if let Some(hook) = pg_sys::check_password_hook {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                hook(role, plain, PasswordType::PASSWORD_TYPE_PLAINTEXT, pg_sys::Datum::from(0), true);
            });
        }
    }
}
