//! The appliance over HTTP: live calls, recordings and their audio, events, metrics, and the web page.
//!
//! Constraints:
//! * Handlers parse, ask and render; they decide nothing about calls or recordings. What runs is told by [`Live`], what is
//!   kept by the store's reader.
//! * It listens on loopback only ([`ApiError::NotLoopback`]) and answers only to loopback names (`guard.rs`), until it
//!   has accounts.
//! * Everything a client can hold is bounded: connections, header bytes and time, blocked writes, event subscribers, blocking
//!   reads, and the memory of a download, which does not grow with the file.
//! * Calls into the store block, so they run on tokio's blocking threads, a bounded number at a time.
//!
//! Beside the port there is a control socket (`control.rs`), whose file's permissions say who may do more.
//!
//! A request passes `server.rs` (connection) → `guard.rs` (who may ask) → `routes.rs` → a handler file per resource.
//! Refusals are documents of RFC 9457 with a remedy (`problem.rs`).
#![forbid(unsafe_code)]

mod annotations;
mod audio;
mod blocking;
mod control;
mod document;
mod events;
mod guard;
mod metrics;
#[cfg(test)]
mod openapi_tests;
mod page;
mod problem;
mod query;
mod range;
mod recordings;
mod renditions;
mod routes;
#[cfg(test)]
#[path = "../tests/support/sample.rs"]
mod sample;
mod search;
mod server;
mod status;
mod write_stall;

pub use events::{AudioGap, Event, EventBus, StoreAlert, StoreAlertKind, VolumeChange};
pub use routes::openapi_document;
pub use search::{NoTag, Search, StateCondition, TagCondition, UnusableCondition};
pub use server::{Api, ApiConfig, ApiError};
pub use status::{CapturePort, Live, Status, VolumeStatus};
