//! `object_access_hook`: PostgreSQL tells of every change to a catalog, and of
//! every function before it runs. From it come the place of a statement in the
//! writeset, the names that its relations had before, and the tripwire.

use std::ffi::c_void;

use pgrenga_writeset::writeset::TableLocks;
use pgrx::pg_sys::{self, ObjectAccessType};

use super::frame::{self, Changes, Kind, Name, Object};
use super::{is_watched, refusal, tree};
use crate::capture;
use crate::large_object;
use crate::sequence;
use crate::session;

static mut PREVIOUS: pg_sys::object_access_hook_type = None;

/// Installs the hook. Call from `_PG_init`.
pub(super) fn install() {
    // SAFETY: in the postmaster, single-threaded.
    unsafe {
        PREVIOUS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(on_object_access);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_object_access(
    access: ObjectAccessType::Type,
    class: pg_sys::Oid,
    oid: pg_sys::Oid,
    part: i32,
    argument: *mut c_void,
) {
    let object = Object { class, oid, part };
    match access {
        ObjectAccessType::OAT_FUNCTION_EXECUTE => {
            session::before_function(oid);
            if u32::from(oid) == pg_sys::F_NEXTVAL {
                sequence::note_drawn();
            }
        }
        ObjectAccessType::OAT_POST_CREATE => {
            note_sequence(object, true);
            created(object);
        }
        ObjectAccessType::OAT_POST_ALTER => {
            note_sequence(object, false);
            changed(object, |changes| altered(changes, object));
        }
        ObjectAccessType::OAT_DROP => {
            // SAFETY: the hook's contract for this kind of access.
            let flags = unsafe { (*argument.cast::<pg_sys::ObjectAccessDrop>()).dropflags } as u32;
            dropped(object, flags);
        }
        ObjectAccessType::OAT_TRUNCATE => {
            sequence::note_truncated(oid);
            changed(object, |_| truncated(oid));
        }
        _ => {}
    }
    // SAFETY: set once at server start; no destructor is alive.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(access, class, oid, part, argument);
        }
    }
}

fn note_sequence(object: Object, is_new: bool) {
    if object.class == pg_sys::RelationRelationId && object.part == 0 {
        sequence::note(object.oid, is_new);
    }
}

/// Something in a catalog changed: `step` tells the captured statement of it.
fn changed(_object: Object, step: impl FnOnce(&mut Changes)) {
    if !is_watched() {
        return;
    }
    match frame::innermost() {
        Some(Kind::Physical | Kind::Content) => {}
        Some(Kind::Captured(_)) => {
            frame::record_pending();
            if let Some(Kind::Captured(changes)) = frame::innermost() {
                step(changes);
            }
        }
        Some(Kind::Transparent) | None => refusal::TRIPWIRE.raise(),
    }
}

fn is_large_object(object: Object) -> bool {
    u32::from(object.class) == large_object::CLASS
}

fn created(object: Object) {
    if is_large_object(object) {
        return large_object::created(object.oid);
    }
    changed(object, |changes| changes.created.push(object));
    // After the types of its rows, which came first.
    if object.class == pg_sys::RelationRelationId && object.part == 0 && is_watched() {
        frame::record_definition(object.oid);
    }
}

/// The catalog caches still show what was before, so this is the moment to
/// take the old name.
fn altered(changes: &mut Changes, object: Object) {
    changes.altered.push(object);
    let known = changes.renamed.iter().any(|(oid, _)| *oid == object.oid);
    if object.class == pg_sys::RelationRelationId
        && !known
        && let Some(name) = name_of(object.oid)
    {
        changes.renamed.push((object.oid, name));
    }
}

fn dropped(object: Object, flags: u32) {
    if is_large_object(object) {
        let by_statement = matches!(frame::innermost(), Some(Kind::Captured(_)));
        return large_object::dropped(object.oid, by_statement);
    }
    // The end of temporary tables, at the end of their transaction or session.
    let own_doing = flags & pg_sys::PERFORM_DELETION_QUIETLY != 0;
    if own_doing && !matches!(frame::innermost(), Some(Kind::Captured(_))) {
        return;
    }
    changed(object, |_| {
        if object.part != 0 {
            return;
        }
        if object.class == pg_sys::RelationRelationId {
            use_exclusively(object.oid, name_of(object.oid));
        } else if object.class == pg_sys::TypeRelationId && !belongs_to_relation(object.oid) {
            capture::transaction().set_catalog();
        }
    });
}

/// Whether a type is a relation's row type, or the array type of something.
fn belongs_to_relation(oid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        pg_sys::get_typtype(oid) as u8 == pg_sys::TYPTYPE_COMPOSITE
            || pg_sys::get_element_type(oid) != pg_sys::InvalidOid
    }
}

fn truncated(oid: pg_sys::Oid) {
    // SAFETY: a catalog look-up inside a transaction.
    if unsafe { pg_sys::get_rel_relkind(oid) } as u8 == pg_sys::RELKIND_FOREIGN_TABLE {
        refusal::FOREIGN_TRUNCATE.raise();
    }
}

/// A relation's present name, as the catalog caches show it.
pub fn name_of(oid: pg_sys::Oid) -> Option<Name> {
    // SAFETY: catalog look-ups inside a transaction; the names are palloc'd.
    unsafe {
        let (name, namespace) = (pg_sys::get_rel_name(oid), pg_sys::get_rel_namespace(oid));
        if name.is_null() {
            return None;
        }
        let schema = pg_sys::get_namespace_name(namespace);
        (!schema.is_null())
            .then(|| Name { schema: tree::str(schema).into_owned(), relation: tree::str(name).into_owned() })
    }
}

/// Says that nobody else may have used the relation meanwhile. An index counts
/// as its table, whose rows writesets find by the index's name.
pub(super) fn use_exclusively(oid: pg_sys::Oid, name: Option<Name>) {
    // SAFETY: a catalog look-up inside a transaction; zero for what is gone, as
    // a rewrite's transient table is.
    let kind = unsafe { pg_sys::get_rel_relkind(oid) } as u8;
    // SAFETY: as above, of a relation that exists.
    if kind == 0 || unsafe { pg_sys::get_rel_persistence(oid) } as u8 == pg_sys::RELPERSISTENCE_TEMP {
        return;
    }
    let name = match kind {
        pg_sys::RELKIND_RELATION
        | pg_sys::RELKIND_PARTITIONED_TABLE
        | pg_sys::RELKIND_VIEW
        | pg_sys::RELKIND_MATVIEW
        | pg_sys::RELKIND_FOREIGN_TABLE
        | pg_sys::RELKIND_SEQUENCE => name,
        // SAFETY: as above.
        pg_sys::RELKIND_INDEX | pg_sys::RELKIND_PARTITIONED_INDEX => {
            name_of(unsafe { pg_sys::IndexGetRelation(oid, true) })
        }
        _ => None,
    };
    if let Some(Name { schema, relation }) = name {
        capture::transaction().use_relation(&schema, &relation, TableLocks::ACCESS_EXCLUSIVE, TableLocks::default());
    }
}
