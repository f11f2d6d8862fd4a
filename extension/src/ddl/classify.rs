//! What each kind of utility statement is to replication. One table, by the
//! statement's node tag; a tag that is not in it is refused.

use pgrx::pg_sys::{self, AlterTableType, NodeTag, ObjectType, TransactionStmtKind};

use super::refusal::{self, Refusal};
use super::tree::{self, items};

/// What to do about a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Changes no catalog.
    Plain,
    /// Local; other statements may run inside, which count for themselves.
    Transparent,
    /// Local, though the catalogs change with it: it reorganizes what is there.
    Physical,
    /// Local as well, but the rows that come out of it replace a relation's content everywhere.
    Content,
    /// Runs on every node.
    Replicated {
        /// It changes what writesets refer to by name without locking a
        /// relation: schemas, types, and what hashes their values.
        catalog: bool,
        /// Its place among the transaction's other changes.
        place: Place,
    },
    /// Not supported, unless its objects are temporary.
    Refused(Refusal),
}

/// Where in the writeset a statement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it began: it tells nobody of its changes (`object_access_hook`).
    Beginning,
    /// At its first change: event triggers for `ddl_command_start` come before.
    FirstChange,
    /// Where its table came into being: its text is made of that.
    Definition,
    /// Where it ended: its final text is known only then.
    End,
}

/// Relations by their names and locks, and things no writeset refers to.
const REPLICATED: Class = Class::Replicated { catalog: false, place: Place::FirstChange };
/// Schemas, types, and what hashes their values.
const CATALOG: Class = Class::Replicated { catalog: true, place: Place::FirstChange };
/// Privileges and comments.
const SILENT: Class = Class::Replicated { catalog: false, place: Place::Beginning };
/// What a query's result is stored as.
const DEFINITION: Class = Class::Replicated { catalog: false, place: Place::Definition };
const EXTENSION: Class = Class::Replicated { catalog: true, place: Place::End };

/// The statement's class.
///
/// # Safety
/// `statement` is a utility statement.
pub(super) unsafe fn classify(statement: *mut pg_sys::Node) -> Class {
    // SAFETY: the caller's promise.
    unsafe { local(statement).or_else(|| of_relations(statement)).or_else(|| of_other_objects(statement)) }
        .or_else(|| not_yet(statement))
        .unwrap_or(Class::Refused(refusal::UNKNOWN))
}

/// Statements that concern this session or this node alone.
unsafe fn local(statement: *mut pg_sys::Node) -> Option<Class> {
    use NodeTag::*;
    // SAFETY: the tag tells what the node is; so in the tables below.
    let class = unsafe {
        match tree::tag(statement) {
            T_VariableSetStmt | T_VariableShowStmt | T_ListenStmt | T_UnlistenStmt | T_NotifyStmt
            | T_CheckPointStmt | T_LoadStmt | T_PrepareStmt | T_DeallocateStmt | T_ClosePortalStmt | T_LockStmt
            | T_AlterSystemStmt => Class::Plain,
            T_TransactionStmt => transaction(statement.cast()),
            T_DoStmt
            | T_CallStmt
            | T_ExecuteStmt
            | T_CopyStmt
            | T_DeclareCursorStmt
            | T_FetchStmt
            | T_ConstraintsSetStmt
            | T_ImportForeignSchemaStmt => Class::Transparent,
            T_VacuumStmt | T_ClusterStmt | T_ReindexStmt | T_DiscardStmt => Class::Physical,
            T_ExplainStmt if tree::analyzed_creation(statement).is_null() => Class::Transparent,
            _ => return None,
        }
    };
    Some(class)
}

/// Relations and what hangs on them: their names and locks say what conflicts.
unsafe fn of_relations(statement: *mut pg_sys::Node) -> Option<Class> {
    use NodeTag::*;
    // SAFETY: see `local`.
    let class = unsafe {
        match tree::tag(statement) {
            T_CreateStmt
            | T_CreateForeignTableStmt
            | T_ViewStmt
            | T_CreateSeqStmt
            | T_AlterSeqStmt
            | T_CreateTrigStmt
            | T_RuleStmt
            | T_IndexStmt
            | T_CreatePolicyStmt
            | T_AlterPolicyStmt
            | T_CreateStatsStmt
            | T_AlterStatsStmt
            | T_TruncateStmt => REPLICATED,
            T_CreateTableAsStmt => create_table_as(statement.cast()),
            T_ExplainStmt => explained_creation(tree::analyzed_creation(statement)),
            T_RefreshMatViewStmt => refresh(statement.cast()),
            T_AlterTableStmt => alter_table(statement.cast()),
            T_DropStmt => drop_objects(statement.cast()),
            T_RenameStmt => object_change((*statement.cast::<pg_sys::RenameStmt>()).renameType),
            T_AlterObjectSchemaStmt => object_change((*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).objectType),
            T_AlterOwnerStmt => owner((*statement.cast::<pg_sys::AlterOwnerStmt>()).objectType),
            _ => return None,
        }
    };
    Some(class)
}

/// Everything else that has a catalog entry.
unsafe fn of_other_objects(statement: *mut pg_sys::Node) -> Option<Class> {
    use NodeTag::*;
    // SAFETY: see `local`.
    let class = unsafe {
        match tree::tag(statement) {
            // What is new is in nobody's way, and writesets name no function.
            T_CreateSchemaStmt
            | T_DefineStmt
            | T_CompositeTypeStmt
            | T_CreateEnumStmt
            | T_CreateRangeStmt
            | T_CreateDomainStmt
            | T_CreateFunctionStmt
            | T_AlterFunctionStmt
            | T_CreateCastStmt
            | T_CreateConversionStmt
            | T_CreateOpFamilyStmt
            | T_CreateTransformStmt
            | T_CreatePLangStmt
            | T_CreateAmStmt
            | T_AlterTSDictionaryStmt
            | T_AlterTSConfigurationStmt
            | T_AlterObjectDependsStmt => REPLICATED,
            T_AlterDomainStmt | T_AlterEnumStmt | T_AlterTypeStmt | T_AlterOperatorStmt | T_CreateOpClassStmt
            | T_AlterOpFamilyStmt | T_AlterCollationStmt | T_DropOwnedStmt => CATALOG,
            T_CreateRoleStmt
            | T_AlterRoleStmt
            | T_DropRoleStmt
            | T_AlterRoleSetStmt
            | T_AlterDatabaseSetStmt
            | T_AlterDefaultPrivilegesStmt
            | T_ReassignOwnedStmt
            | T_CreateFdwStmt
            | T_AlterFdwStmt
            | T_CreateForeignServerStmt
            | T_AlterForeignServerStmt
            | T_CreateUserMappingStmt
            | T_AlterUserMappingStmt
            | T_DropUserMappingStmt
            | T_CreateEventTrigStmt
            | T_CreatePublicationStmt
            | T_AlterPublicationStmt => REPLICATED,
            T_AlterEventTrigStmt => alter_event_trigger(statement.cast()),
            T_CommentStmt | T_SecLabelStmt | T_GrantStmt | T_GrantRoleStmt => SILENT,
            T_CreateExtensionStmt => create_extension(&*statement.cast()),
            T_AlterExtensionStmt => extension((*statement.cast::<pg_sys::AlterExtensionStmt>()).extname),
            T_AlterExtensionContentsStmt => {
                match extension((*statement.cast::<pg_sys::AlterExtensionContentsStmt>()).extname) {
                    EXTENSION => CATALOG,
                    refused => refused,
                }
            }
            _ => return None,
        }
    };
    Some(class)
}

/// Statements that are refused whatever they say.
fn not_yet(statement: *mut pg_sys::Node) -> Option<Class> {
    use NodeTag::*;
    // SAFETY: see `local`.
    let refusal = match unsafe { tree::tag(statement) } {
        T_CreatedbStmt | T_DropdbStmt | T_AlterDatabaseStmt | T_AlterDatabaseRefreshCollStmt => refusal::DATABASE,
        T_CreateTableSpaceStmt | T_DropTableSpaceStmt | T_AlterTableSpaceOptionsStmt | T_AlterTableMoveAllStmt => {
            refusal::TABLESPACE
        }
        T_CreateSubscriptionStmt | T_AlterSubscriptionStmt | T_DropSubscriptionStmt => refusal::SUBSCRIPTION,
        _ => return None,
    };
    Some(Class::Refused(refusal))
}

unsafe fn transaction(statement: *const pg_sys::TransactionStmt) -> Class {
    // SAFETY: the caller looked at the tag; so in all functions below.
    if unsafe { (*statement).kind } == TransactionStmtKind::TRANS_STMT_PREPARE {
        Class::Refused(refusal::PREPARE_TRANSACTION)
    } else {
        Class::Plain
    }
}

unsafe fn create_table_as(statement: *const pg_sys::CreateTableAsStmt) -> Class {
    // SAFETY: see `transaction`.
    unsafe { if (*statement).objtype != ObjectType::OBJECT_MATVIEW { DEFINITION } else { REPLICATED } }
}

unsafe fn explained_creation(statement: *const pg_sys::CreateTableAsStmt) -> Class {
    // SAFETY: see `transaction`.
    if unsafe { (*statement).objtype } == ObjectType::OBJECT_MATVIEW {
        Class::Refused(refusal::EXPLAINED_MATERIALIZED_VIEW)
    } else {
        DEFINITION
    }
}

unsafe fn refresh(statement: *const pg_sys::RefreshMatViewStmt) -> Class {
    // SAFETY: see `transaction`.
    match unsafe { &*statement } {
        statement if statement.skipData => REPLICATED,
        // It changes single rows.
        statement if statement.concurrent => Class::Physical,
        _ => Class::Content,
    }
}

unsafe fn alter_table(statement: *const pg_sys::AlterTableStmt) -> Class {
    // SAFETY: see `transaction`.
    unsafe {
        for command in items::<pg_sys::AlterTableCmd>((*statement).cmds) {
            let refusal = match (*command).subtype {
                AlterTableType::AT_SetLogged | AlterTableType::AT_SetUnLogged => refusal::PERSISTENCE,
                AlterTableType::AT_SetTableSpace => refusal::TABLESPACE,
                AlterTableType::AT_DetachPartitionFinalize => refusal::DETACH_FINALIZE,
                AlterTableType::AT_EnableTrig
                | AlterTableType::AT_DisableTrig
                | AlterTableType::AT_EnableAlwaysTrig
                | AlterTableType::AT_EnableReplicaTrig
                    if tree::str((*command).name).starts_with("RI_ConstraintTrigger_") =>
                {
                    refusal::FOREIGN_KEY_TRIGGER
                }
                _ => continue,
            };
            return Class::Refused(refusal);
        }
        if (*statement).objtype == ObjectType::OBJECT_TYPE { CATALOG } else { REPLICATED }
    }
}

unsafe fn drop_objects(statement: *const pg_sys::DropStmt) -> Class {
    // SAFETY: see `transaction`.
    unsafe {
        match (*statement).removeType {
            ObjectType::OBJECT_EXTENSION
                if items::<pg_sys::String>((*statement).objects).any(|name| tree::str((*name).sval) == "pgrenga") =>
            {
                Class::Refused(refusal::OWN_EXTENSION)
            }
            kind => object_change(kind),
        }
    }
}

/// Renaming, moving or dropping an object of that kind.
fn object_change(kind: ObjectType::Type) -> Class {
    use ObjectType::*;
    match kind {
        OBJECT_DATABASE => Class::Refused(refusal::DATABASE),
        OBJECT_TABLESPACE => Class::Refused(refusal::TABLESPACE),
        OBJECT_SUBSCRIPTION => Class::Refused(refusal::SUBSCRIPTION),
        OBJECT_SCHEMA | OBJECT_TYPE | OBJECT_DOMAIN | OBJECT_ATTRIBUTE | OBJECT_COLLATION | OBJECT_OPERATOR
        | OBJECT_OPCLASS | OBJECT_OPFAMILY | OBJECT_EXTENSION | OBJECT_ACCESS_METHOD | OBJECT_CAST => CATALOG,
        _ => REPLICATED,
    }
}

fn owner(kind: ObjectType::Type) -> Class {
    match kind {
        ObjectType::OBJECT_TABLESPACE => Class::Refused(refusal::TABLESPACE),
        ObjectType::OBJECT_SUBSCRIPTION => Class::Refused(refusal::SUBSCRIPTION),
        _ => REPLICATED,
    }
}

unsafe fn alter_event_trigger(statement: *const pg_sys::AlterEventTrigStmt) -> Class {
    // SAFETY: see `transaction`.
    match unsafe { (*statement).tgenabled } as u8 {
        b'O' | b'D' => REPLICATED,
        _ => Class::Refused(refusal::EVENT_TRIGGER_ON_APPLY),
    }
}

unsafe fn create_extension(statement: &pg_sys::CreateExtensionStmt) -> Class {
    // SAFETY: see `transaction`.
    match unsafe { extension(statement.extname) } {
        // A dump of a whole database says so, and every node has it.
        Class::Refused(refusal::OWN_EXTENSION) if statement.if_not_exists => Class::Plain,
        class => class,
    }
}

unsafe fn extension(name: *const std::ffi::c_char) -> Class {
    // SAFETY: see `transaction`.
    match &*unsafe { tree::str(name) } {
        "pgrenga" => Class::Refused(refusal::OWN_EXTENSION),
        "pg_surgery" => Class::Refused(refusal::PG_SURGERY),
        _ => EXTENSION,
    }
}
