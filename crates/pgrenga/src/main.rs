//! pgrenga.
fn main() {}
