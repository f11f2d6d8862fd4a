//! Running a step as somebody else, with settings of our own.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Sets a parameter until the nesting level that is open now ends.
pub(super) fn set_nested(name: &CStr, value: &CStr) {
    // SAFETY: as functions with a SET clause do it (`fmgr_security_definer`).
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Runs `step` as role `user` with parameters that `set` sets. An error ends
/// the transaction or savepoint, which puts back both.
pub(super) fn run_as<R>(user: pg_sys::Oid, context: i32, set: impl FnOnce(), step: impl FnOnce() -> R) -> R {
    let (mut outer, mut outer_context) = (pg_sys::InvalidOid, 0);
    // SAFETY: saved and put back in pairs.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut outer, &mut outer_context);
        let level = pg_sys::NewGUCNestLevel();
        set();
        pg_sys::SetUserIdAndSecContext(user, context);
        let result = step();
        pg_sys::SetUserIdAndSecContext(outer, outer_context);
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}

/// Runs our own queries: as the bootstrap superuser, and so that names in them
/// mean PostgreSQL's own objects.
pub fn as_superuser<R>(step: impl FnOnce() -> R) -> R {
    let set = || {
        set_nested(c"search_path", c"pg_catalog, pg_temp");
        set_nested(c"row_security", c"on");
    };
    let context = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
    run_as(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), context, set, step)
}

/// Runs `step` as the owner of a relation, with the session's own settings.
pub fn as_owner_of<R>(relation: pg_sys::Oid, step: impl FnOnce() -> R) -> R {
    // SAFETY: a catalog look-up inside a transaction; the relation is closed
    // again and stays locked.
    let owner = unsafe {
        let relation = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        owner
    };
    run_as(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32, || {}, step)
}
