//! Running what users wrote with no more rights than they have.

use pgrx::pg_sys;

/// Runs `step` as role `owner` in a security-restricted context, as
/// PostgreSQL's own maintenance commands do: expressions of indexes must not
/// reach the applier's rights. An error restores the role with the transaction.
pub(super) fn run_as<R>(owner: pg_sys::Oid, step: impl FnOnce() -> R) -> R {
    // SAFETY: the saved identity comes back right after; settings that the
    // code may have changed end with the nest level.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
        let level = pg_sys::NewGUCNestLevel();
        let result = step();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}
