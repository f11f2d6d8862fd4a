//! Whether a statement's objects exist on this node alone: temporary ones, and
//! for TRUNCATE foreign tables, whose rows are the foreign server's.

use std::ffi::c_char;

use pgrx::pg_sys::{self, NodeTag, ObjectType};

use super::tree::{self, items, names};
use crate::capture::stands_in_for;

/// Where a statement's objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// On every node, or nowhere: PostgreSQL will say so.
    Replicated,
    /// On this node alone.
    Local,
    /// Some here, some everywhere.
    Mixed,
}

impl Target {
    fn all(local: impl Iterator<Item = bool>) -> Self {
        local.map(Self::one).reduce(|all, one| if all == one { all } else { Self::Mixed }).unwrap_or(Self::Replicated)
    }

    fn one(local: bool) -> Self {
        if local { Self::Local } else { Self::Replicated }
    }
}

/// Where the objects are that `statement` creates, changes or drops.
///
/// # Safety
/// `statement` is a utility statement out of `query`; called inside a transaction.
pub(super) unsafe fn of(statement: *mut pg_sys::Node, query: *const c_char) -> Target {
    use NodeTag::*;
    // SAFETY: the tag tells what each node is.
    unsafe {
        match tree::tag(statement) {
            T_DropStmt => dropped(&*statement.cast()),
            T_TruncateStmt => Target::all(
                items((*statement.cast::<pg_sys::TruncateStmt>()).relations)
                    .map(|relation| is_local(relation) || is_foreign(relation)),
            ),
            T_GrantStmt => granted(&*statement.cast()),
            T_ViewStmt => Target::one(view(&*statement.cast(), query)),
            _ => Target::one(created(statement) || altered(statement)),
        }
    }
}

/// Whether a statement about permanent objects takes something from a temporary
/// one and leaves no trace of it: another node could not run it.
///
/// # Safety
/// As for [`of`].
pub(super) unsafe fn copies_from_temporary(statement: *mut pg_sys::Node) -> bool {
    use NodeTag::*;
    if !session_has_temporary_objects() {
        return false;
    }
    // SAFETY: the tag tells what each node is.
    unsafe {
        match tree::tag(statement) {
            T_CreateStmt => items::<pg_sys::Node>((*statement.cast::<pg_sys::CreateStmt>()).tableElts).any(|element| {
                tree::tag(element) == T_TableLikeClause
                    && is_local((*element.cast::<pg_sys::TableLikeClause>()).relation)
            }),
            T_CreateSchemaStmt => items((*statement.cast::<pg_sys::CreateSchemaStmt>()).schemaElts)
                .any(|element| copies_from_temporary(element)),
            T_CreateFunctionStmt => {
                let statement = &*statement.cast::<pg_sys::CreateFunctionStmt>();
                items::<pg_sys::FunctionParameter>(statement.parameters)
                    .map(|parameter| (*parameter).argType)
                    .chain([statement.returnType])
                    .any(|kind| is_type_of_temporary_column(kind))
            }
            _ => false,
        }
    }
}

/// Whether the type is written as `temporary_table.column%TYPE`.
unsafe fn is_type_of_temporary_column(kind: *const pg_sys::TypeName) -> bool {
    // SAFETY: a statement's type, or none; the list is copied before it is cut.
    unsafe {
        if kind.is_null() || !(*kind).pct_type {
            return false;
        }
        let name = pg_sys::list_copy((*kind).names);
        let table = pg_sys::list_truncate(name, (*name).length - 1);
        (1..=3).contains(&(*table).length) && is_local(pg_sys::makeRangeVarFromNameList(table))
    }
}

/// Whether the statement creates something temporary.
unsafe fn created(statement: *mut pg_sys::Node) -> bool {
    use NodeTag::*;
    // SAFETY: as in `of`.
    unsafe {
        match tree::tag(statement) {
            T_CreateStmt | T_CreateForeignTableStmt => {
                will_be_local((*statement.cast::<pg_sys::CreateStmt>()).relation)
            }
            T_CreateTableAsStmt => will_be_local((*(*statement.cast::<pg_sys::CreateTableAsStmt>()).into).rel),
            T_ExplainStmt => will_be_local((*(*tree::analyzed_creation(statement)).into).rel),
            T_CreateSeqStmt => will_be_local((*statement.cast::<pg_sys::CreateSeqStmt>()).sequence),
            T_CompositeTypeStmt => will_be_local((*statement.cast::<pg_sys::CompositeTypeStmt>()).typevar),
            T_DefineStmt => name_will_be_local((*statement.cast::<pg_sys::DefineStmt>()).defnames),
            T_CreateFunctionStmt => name_will_be_local((*statement.cast::<pg_sys::CreateFunctionStmt>()).funcname),
            T_CreateEnumStmt => name_will_be_local((*statement.cast::<pg_sys::CreateEnumStmt>()).typeName),
            T_CreateRangeStmt => name_will_be_local((*statement.cast::<pg_sys::CreateRangeStmt>()).typeName),
            T_CreateDomainStmt => name_will_be_local((*statement.cast::<pg_sys::CreateDomainStmt>()).domainname),
            T_CreateStatsStmt => {
                items((*statement.cast::<pg_sys::CreateStatsStmt>()).relations).any(|relation| is_local(relation))
            }
            _ => false,
        }
    }
}

/// Whether the statement changes something temporary that exists.
unsafe fn altered(statement: *mut pg_sys::Node) -> bool {
    use NodeTag::*;
    macro_rules! relation {
        ($statement:ty, $field:ident) => {
            // SAFETY: as in `of`.
            unsafe { is_local((*statement.cast::<$statement>()).$field) }
        };
    }
    macro_rules! object {
        ($statement:ty, $kind:ident) => {{
            // SAFETY: as in `of`.
            let statement = unsafe { &*statement.cast::<$statement>() };
            if statement.relation.is_null() {
                // SAFETY: as in `of`.
                unsafe { is_local_object(statement.$kind, statement.object) }
            } else {
                // SAFETY: as in `of`.
                unsafe { is_local(statement.relation) }
            }
        }};
    }
    // SAFETY: as in `of`.
    match unsafe { tree::tag(statement) } {
        T_AlterTableStmt => relation!(pg_sys::AlterTableStmt, relation),
        T_IndexStmt => relation!(pg_sys::IndexStmt, relation),
        T_ReindexStmt => relation!(pg_sys::ReindexStmt, relation),
        T_AlterSeqStmt => relation!(pg_sys::AlterSeqStmt, sequence),
        T_CreateTrigStmt => relation!(pg_sys::CreateTrigStmt, relation),
        T_RuleStmt => relation!(pg_sys::RuleStmt, relation),
        T_CreatePolicyStmt => relation!(pg_sys::CreatePolicyStmt, table),
        T_AlterPolicyStmt => relation!(pg_sys::AlterPolicyStmt, table),
        T_RenameStmt => object!(pg_sys::RenameStmt, renameType),
        T_AlterObjectSchemaStmt => object!(pg_sys::AlterObjectSchemaStmt, objectType),
        T_AlterObjectDependsStmt => object!(pg_sys::AlterObjectDependsStmt, objectType),
        T_AlterOwnerStmt => object!(pg_sys::AlterOwnerStmt, objectType),
        T_CommentStmt => {
            // SAFETY: as in `of`.
            let statement = unsafe { &*statement.cast::<pg_sys::CommentStmt>() };
            // SAFETY: as in `of`.
            unsafe { is_local_object(statement.objtype, statement.object) }
        }
        T_SecLabelStmt => {
            // SAFETY: as in `of`.
            let statement = unsafe { &*statement.cast::<pg_sys::SecLabelStmt>() };
            // SAFETY: as in `of`.
            unsafe { is_local_object(statement.objtype, statement.object) }
        }
        _ => false,
    }
}

unsafe fn dropped(statement: &pg_sys::DropStmt) -> Target {
    // SAFETY: as in `of`.
    unsafe {
        Target::all(items(statement.objects).map(|object| {
            is_local_object(statement.removeType, object)
                || (statement.removeType == ObjectType::OBJECT_INDEX && is_left_behind(object))
        }))
    }
}

/// Whether the name is that of an index that REINDEX CONCURRENTLY made on this node and did not finish,
/// and which is not valid.
unsafe fn is_left_behind(object: *mut pg_sys::Node) -> bool {
    // SAFETY: a statement's name of an index; look-ups inside a transaction.
    unsafe {
        find(pg_sys::makeRangeVarFromNameList(object.cast())).is_some_and(|oid| {
            stands_in_for(&tree::str(pg_sys::get_rel_name(oid))).is_some()
                && pg_sys::get_rel_relkind(oid) as u8 == pg_sys::RELKIND_INDEX
                && !pg_sys::get_index_isvalid(oid)
        })
    }
}

unsafe fn granted(statement: &pg_sys::GrantStmt) -> Target {
    let relations = matches!(statement.objtype, ObjectType::OBJECT_TABLE | ObjectType::OBJECT_SEQUENCE)
        && statement.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT;
    if !relations {
        return Target::Replicated;
    }
    // SAFETY: as in `of`; the objects are RangeVars then.
    unsafe { Target::all(items(statement.objects).map(|relation| is_local(relation))) }
}

/// A view over temporary relations becomes temporary by itself (`DefineView`).
unsafe fn view(statement: &pg_sys::ViewStmt, query: *const c_char) -> bool {
    // SAFETY: as in `of`; parse analysis changes the tree, so it gets a copy.
    unsafe {
        if will_be_local(statement.view) {
            return true;
        }
        if !session_has_temporary_objects() {
            return false;
        }
        let raw = pg_sys::palloc0(size_of::<pg_sys::RawStmt>()).cast::<pg_sys::RawStmt>();
        (*raw).type_ = NodeTag::T_RawStmt;
        (*raw).stmt = pg_sys::copyObjectImpl(statement.query.cast()).cast();
        let analyzed = pg_sys::parse_analyze_fixedparams(raw, query, std::ptr::null(), 0, std::ptr::null_mut());
        pg_sys::isQueryUsingTempRelation(analyzed)
    }
}

fn session_has_temporary_objects() -> bool {
    let (mut namespace, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads variables of this process.
    unsafe { pg_sys::GetTempNamespaceState(&mut namespace, &mut toast) };
    namespace != pg_sys::InvalidOid
}

fn names_temporary_schema(schema: &str) -> bool {
    schema == "pg_temp" || schema.starts_with("pg_temp_") || schema.starts_with("pg_toast_temp_")
}

/// Whether what is created without a schema is created in the temporary one.
fn creates_in_temporary_schema() -> bool {
    // SAFETY: a C string that lives as long as the setting.
    if !unsafe { tree::str(pg_sys::namespace_search_path) }.contains("pg_temp") {
        return false;
    }
    // SAFETY: inside a transaction; the list is palloc'd.
    unsafe {
        let path = pg_sys::fetch_search_path(false);
        !path.is_null() && pg_sys::isTempNamespace(pg_sys::list_nth_oid(path, 0))
    }
}

unsafe fn will_be_local(relation: *const pg_sys::RangeVar) -> bool {
    // SAFETY: the caller has a statement's RangeVar.
    unsafe {
        if (*relation).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP {
            true
        } else if (*relation).schemaname.is_null() {
            creates_in_temporary_schema()
        } else {
            names_temporary_schema(&tree::str((*relation).schemaname))
        }
    }
}

unsafe fn name_will_be_local(name: *const pg_sys::List) -> bool {
    // SAFETY: the caller has a statement's name.
    match unsafe { names(name) }.as_slice() {
        [.., schema, _] => names_temporary_schema(schema),
        _ => creates_in_temporary_schema(),
    }
}

/// The relation that a RangeVar means now, if any.
///
/// # Safety
/// `relation` is null or a statement's; called inside a transaction.
pub(super) unsafe fn find(relation: *const pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    if relation.is_null() {
        return None;
    }
    // SAFETY: a statement's RangeVar, inside a transaction. Without a lock: the
    // statement itself looks again.
    let oid = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            relation,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

unsafe fn is_local(relation: *const pg_sys::RangeVar) -> bool {
    // SAFETY: as in `find`.
    unsafe { find(relation).is_some_and(|oid| pg_sys::get_rel_persistence(oid) as u8 == pg_sys::RELPERSISTENCE_TEMP) }
}

unsafe fn is_foreign(relation: *const pg_sys::RangeVar) -> bool {
    // SAFETY: as in `find`.
    unsafe { find(relation).is_some_and(|oid| pg_sys::get_rel_relkind(oid) as u8 == pg_sys::RELKIND_FOREIGN_TABLE) }
}

unsafe fn is_local_object(kind: ObjectType::Type, object: *mut pg_sys::Node) -> bool {
    use ObjectType::*;
    if object.is_null() {
        // RENAME of schemas, roles and the like names them by a plain string.
        return false;
    }
    // SAFETY: the grammar's form of a name for each kind of object.
    unsafe {
        match kind {
            OBJECT_TABLE | OBJECT_VIEW | OBJECT_INDEX | OBJECT_SEQUENCE | OBJECT_MATVIEW | OBJECT_FOREIGN_TABLE => {
                is_local(pg_sys::makeRangeVarFromNameList(object.cast()))
            }
            OBJECT_SCHEMA => names_temporary_schema(&tree::str((*object.cast::<pg_sys::String>()).sval)),
            OBJECT_AGGREGATE
            | OBJECT_FUNCTION
            | OBJECT_PROCEDURE
            | OBJECT_ROUTINE
            | OBJECT_TYPE
            | OBJECT_DOMAIN
            | OBJECT_TRIGGER
            | OBJECT_RULE
            | OBJECT_POLICY
            | OBJECT_TABCONSTRAINT
            | OBJECT_DOMCONSTRAINT
            | OBJECT_COLUMN
            | OBJECT_OPERATOR
            | OBJECT_STATISTIC_EXT
            | OBJECT_COLLATION
            | OBJECT_CONVERSION
            | OBJECT_OPCLASS
            | OBJECT_OPFAMILY
            | OBJECT_TSPARSER
            | OBJECT_TSDICTIONARY
            | OBJECT_TSTEMPLATE
            | OBJECT_TSCONFIGURATION
                if session_has_temporary_objects() =>
            {
                is_in_temporary_schema(kind, object)
            }
            _ => false,
        }
    }
}

unsafe fn is_in_temporary_schema(kind: ObjectType::Type, object: *mut pg_sys::Node) -> bool {
    let mut relation = std::ptr::null_mut();
    // SAFETY: as in `is_local_object`; a relation comes back open, and stays locked.
    unsafe {
        let address = pg_sys::get_object_address(kind, object, &mut relation, pg_sys::AccessShareLock as i32, true);
        if !relation.is_null() {
            let temporary = (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP;
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            return temporary;
        }
        address.objectId != pg_sys::InvalidOid && pg_sys::isAnyTempNamespace(pg_sys::get_object_namespace(&address))
    }
}
