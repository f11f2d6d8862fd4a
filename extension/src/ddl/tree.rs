//! Reading PostgreSQL's parse trees.

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::pg_sys::{self, NodeTag};

/// Called for a node; true ends the walk.
pub type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

unsafe extern "C-unwind" {
    /// `nodes/nodeFuncs.h`; the bindings lack it. Calls the walker for what is directly below the node.
    pub fn expression_tree_walker(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool;
    /// The same for a query.
    pub fn query_tree_walker(query: *mut pg_sys::Query, walker: Walker, context: *mut c_void, flags: c_int) -> bool;
}

/// A node's type.
///
/// # Safety
/// `node` points to a node.
pub(super) unsafe fn tag<T>(node: *const T) -> NodeTag {
    // SAFETY: every node begins with its tag.
    unsafe { (*node.cast::<pg_sys::Node>()).type_ }
}

/// The pointers in a list; none for NIL.
///
/// # Safety
/// `list` is NIL or a list of pointers to `T` that nobody changes meanwhile.
pub unsafe fn items<T>(list: *const pg_sys::List) -> impl DoubleEndedIterator<Item = *mut T> + Clone {
    let cells = if list.is_null() {
        &[][..]
    } else {
        // SAFETY: a list holds `length` initialized cells.
        unsafe { std::slice::from_raw_parts((*list).elements, (*list).length as usize) }
    };
    // SAFETY: the caller's promise about what the cells hold.
    cells.iter().map(|cell| unsafe { cell.ptr_value }.cast())
}

/// A C string as text; empty for a null pointer.
///
/// # Safety
/// `text` is null or a C string that outlives the result.
pub(super) unsafe fn str<'a>(text: *const c_char) -> Cow<'a, str> {
    if text.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy()
}

/// The parts of a possibly qualified name.
///
/// # Safety
/// `list` is a list of `String` nodes that outlives the result.
pub(super) unsafe fn names<'a>(list: *const pg_sys::List) -> Vec<Cow<'a, str>> {
    // SAFETY: the caller's promise.
    unsafe { items::<pg_sys::String>(list).map(|name| str((*name).sval)).collect() }
}

/// What an EXPLAIN ANALYZE really creates; null if nothing.
///
/// # Safety
/// `statement` is a utility statement.
pub(super) unsafe fn analyzed_creation(statement: *const pg_sys::Node) -> *mut pg_sys::CreateTableAsStmt {
    // SAFETY: each tag tells what the node is; parse analysis made a query of what is explained.
    unsafe {
        if tag(statement) != NodeTag::T_ExplainStmt {
            return std::ptr::null_mut();
        }
        let statement = &*statement.cast::<pg_sys::ExplainStmt>();
        let runs = option(statement.options, "analyze").is_some_and(|option| pg_sys::defGetBoolean(option));
        let query = &*statement.query.cast::<pg_sys::Query>();
        let creates = runs && !query.utilityStmt.is_null() && tag(query.utilityStmt) == NodeTag::T_CreateTableAsStmt;
        if creates { query.utilityStmt.cast() } else { std::ptr::null_mut() }
    }
}

/// The option called `name` in a list of `DefElem` nodes.
///
/// # Safety
/// `options` is a list of `DefElem` nodes.
pub(super) unsafe fn option(options: *const pg_sys::List, name: &str) -> Option<*mut pg_sys::DefElem> {
    // SAFETY: the caller's promise.
    unsafe { items::<pg_sys::DefElem>(options).find(|element| str((**element).defname) == name) }
}
