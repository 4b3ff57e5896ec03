#![forbid(unsafe_code)]
mod command;
mod config;
mod tracker;
pub use command::*;
pub use config::{FinishAll, Orphans, RestoreError, TrackerConfig, TrackerStatistics, UnclaimedStream};
pub use tracker::Tracker;
