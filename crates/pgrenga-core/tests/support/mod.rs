//! What the tests share: scripts' commands, their words for decisions, random
//! logs, and the model.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unreachable_pub, missing_docs, reason = "a test's own module")]

pub mod actions;
mod core_script;
pub mod model;
mod print;
mod schedule_script;

pub use core_script::CoreScript;
pub use schedule_script::ScheduleScript;
