//! What the tests share: scripts' commands, and their words for decisions.

mod core_script;
mod print;
mod schedule_script;

pub use core_script::CoreScript;
pub use schedule_script::ScheduleScript;
