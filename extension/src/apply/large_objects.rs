//! Changes of large objects, by PostgreSQL's own functions for them. They check no rights here: the applier is a
//! superuser, and the origin has checked its user's.

use pgrenga_writeset::large_object::{Change, LargeObject};
use pgrx::IntoDatum as _;
use pgrx::pg_sys::{self, Datum, Oid};

use super::failure;
use super::owner::run_as;
use crate::capture::{LARGE_OBJECTS, large_object_key};
use crate::ddl::from_utf8;
use crate::large_object::{exists, lock};
use crate::shmem::shared;

/// `libpq/libpq-fs.h`.
const INV_WRITE: i32 = 0x0002_0000;

/// Does to a large object what was done to it at the origin. What it allocates goes with the current memory context.
pub(super) fn change(seq: u64, object: &LargeObject<'_>) {
    let needs = &shared().my_slot().needs;
    needs.set_relation(LARGE_OBJECTS);
    needs.set_keys(&[large_object_key(object.oid)]);
    let oid = Oid::from(object.oid);
    let differs = |what: &str| failure::diverged(seq, LARGE_OBJECTS, format!("large object {} {what}", object.oid));
    if let Change::Create { owner } = object.change {
        // SAFETY: a catalog look-up inside a transaction.
        let role = unsafe { pg_sys::get_role_oid(from_utf8(owner).as_ptr(), true) };
        if role == pg_sys::InvalidOid {
            differs("has an owner who does not exist here");
        }
        run_as(role, || call(pg_sys::F_LO_CREATE, &[oid.into()]));
        return;
    }
    lock(oid);
    if !exists(oid) {
        differs("does not exist here");
    }
    match object.change {
        Change::Create { .. } => unreachable!("created above"),
        Change::Write { offset, data } => {
            call(pg_sys::F_LO_PUT, &[oid.into(), word(offset), data.into_datum().expect("not null")]);
        }
        Change::Truncate { length } => {
            let descriptor = call(pg_sys::F_LO_OPEN, &[oid.into(), Datum::from(INV_WRITE)]);
            call(pg_sys::F_LO_TRUNCATE64, &[descriptor, word(length)]);
            call(pg_sys::F_LO_CLOSE, &[descriptor]);
        }
        Change::Unlink => {
            call(pg_sys::F_LO_UNLINK, &[oid.into()]);
        }
    }
}

fn word(value: u64) -> Datum {
    Datum::from(value as i64)
}

fn call(function: u32, arguments: &[Datum]) -> Datum {
    let (function, none) = (Oid::from(function), pg_sys::InvalidOid);
    // SAFETY: each call above has its function's arguments.
    unsafe {
        match *arguments {
            [first] => pg_sys::OidFunctionCall1Coll(function, none, first),
            [first, second] => pg_sys::OidFunctionCall2Coll(function, none, first, second),
            [first, second, third] => pg_sys::OidFunctionCall3Coll(function, none, first, second, third),
            _ => unreachable!("no other number of arguments above"),
        }
    }
}
