//! The parts of the extension that know nothing of PostgreSQL, tested without
//! it: the library itself can only be linked inside a server.

#[allow(dead_code)]
#[path = "../src/sequence/lattice.rs"]
mod lattice;
#[allow(dead_code)]
#[path = "../src/ddl/text.rs"]
mod text;
