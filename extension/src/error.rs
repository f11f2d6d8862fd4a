//! Errors as PostgreSQL reports them: message, DETAIL, HINT, SQLSTATE.

use pgrx::PgLogLevel;
pub use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// Ends the transaction with an ERROR.
pub fn raise(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> ! {
    let (detail, hint) = (detail.into(), hint.into());
    let mut report = ErrorReport::new(code, message.into(), "pgrenga");
    if !detail.is_empty() {
        report = report.set_detail(detail);
    }
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Refuses what cannot be replicated (`0A000`).
pub fn refuse(message: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> ! {
    raise(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message, detail, hint)
}
