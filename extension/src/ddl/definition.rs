//! The definition of a table that came out of a query. CREATE TABLE AS travels
//! as the table that it made, never as its query: another node that ran that
//! could get other columns, and its rows travel as rows.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::tree::items;

/// What the statement itself says of the storage: `WITH (..)`, or nothing.
///
/// # Safety
/// `into` is a statement's clause.
pub(super) unsafe fn options(into: *const pg_sys::IntoClause) -> Vec<u8> {
    // SAFETY: the grammar's list of options; names and values are C strings.
    let options = unsafe {
        items::<pg_sys::DefElem>((*into).options).map(|option| {
            let mut text = Vec::new();
            if !(*option).defnamespace.is_null() {
                text.extend(quoted((*option).defnamespace));
                text.push(b'.');
            }
            text.extend(quoted((*option).defname));
            if !(*option).arg.is_null() {
                text.push(b'=');
                let value = pg_sys::quote_literal_cstr(pg_sys::defGetString(option));
                text.extend(CStr::from_ptr(value).to_bytes());
            }
            text
        })
    };
    let options = options.collect::<Vec<_>>();
    if options.is_empty() { Vec::new() } else { [&b" WITH ("[..], &options.join(&b", "[..]), b")"].concat() }
}

/// The CREATE TABLE statement that makes a table like this one, with `options`
/// at its end, in this server's encoding.
///
/// The relation may have come into being this moment, before any catalog
/// shows it: what is read here is what PostgreSQL keeps of it in memory.
pub(super) fn of_table(oid: pg_sys::Oid, options: &[u8]) -> Vec<u8> {
    // SAFETY: the relation exists, as this transaction has just made it; it is
    // released again.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(oid);
        let class = &*(*relation).rd_rel;
        let unlogged = class.relpersistence as u8 == pg_sys::RELPERSISTENCE_UNLOGGED;
        let attributes = (*(*relation).rd_att).attrs.as_slice((*(*relation).rd_att).natts as usize);
        let text = [
            if unlogged { &b"CREATE UNLOGGED TABLE "[..] } else { &b"CREATE TABLE "[..] },
            &qualified(class.relnamespace, class.relname.data.as_ptr()),
            b" (",
            &attributes.iter().map(|attribute| column(attribute)).collect::<Vec<_>>().join(&b", "[..]),
            b") USING ",
            &quoted(pg_sys::get_am_name(class.relam)),
            options,
        ]
        .concat();
        pg_sys::RelationClose(relation);
        text
    }
}

/// A column's name, type and collation: a query gives it nothing else.
///
/// # Safety
/// Called inside a transaction.
unsafe fn column(attribute: &pg_sys::FormData_pg_attribute) -> Vec<u8> {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: catalog look-ups of a type that a column uses; the texts are palloc'd.
    unsafe {
        let kind = pg_sys::format_type_extended(attribute.atttypid, attribute.atttypmod, flags as pg_sys::bits16);
        let mut text = [&quoted(attribute.attname.data.as_ptr()), &b" "[..], CStr::from_ptr(kind).to_bytes()].concat();
        if attribute.attcollation != pg_sys::get_typcollation(attribute.atttypid) {
            text.extend(b" COLLATE ");
            text.extend(collation(attribute.attcollation));
        }
        text
    }
}

/// # Safety
/// The collation exists.
unsafe fn collation(oid: pg_sys::Oid) -> Vec<u8> {
    // SAFETY: a catalog look-up; the entry is released when its name is copied.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::COLLOID as i32, pg_sys::Datum::from(oid));
        assert!(!tuple.is_null(), "cache lookup failed for collation {oid:?}");
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_collation>();
        let name = qualified(form.collnamespace, form.collname.data.as_ptr());
        pg_sys::ReleaseSysCache(tuple);
        name
    }
}

/// # Safety
/// The schema exists and `name` is a C string.
unsafe fn qualified(schema: pg_sys::Oid, name: *const c_char) -> Vec<u8> {
    // SAFETY: the caller's promise; the result is palloc'd.
    unsafe {
        let schema = pg_sys::get_namespace_name(schema);
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)).to_bytes().to_vec()
    }
}

/// # Safety
/// `name` is a C string.
unsafe fn quoted(name: *const c_char) -> Vec<u8> {
    // SAFETY: the caller's promise; the result is `name` or palloc'd.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name)).to_bytes().to_vec() }
}
