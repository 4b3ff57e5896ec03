#![forbid(unsafe_code)]
mod command;
pub use command::*;
