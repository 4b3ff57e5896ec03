//! The threads of the data plane: receive, calls, encoders, writer; and the rings between them.
//!
//! Each thread's work is a state machine with a `step` that is told the time: [`Engine`] runs them on threads against
//! live ports, [`replay`] runs the same ones in turn over a capture file.
//!
//! Invariants: a live thread never waits for the next one; every ring is bounded; every frame has exactly one end
//! ([`Kept`] or [`DropReason`]) or is held in the pre-roll; per packet there is no allocation, lock, system call, clock read or
//! log once its stream exists.
#![forbid(unsafe_code)]

mod affinity;
mod assemble;
mod call;
mod clock;
mod config;
mod counters;
mod encode;
mod flows;
mod flush;
mod keep;
mod live;
mod message;
mod metrics;
mod receive;
mod replay;
mod restore;
mod ring;
#[cfg(test)]
mod tests;
mod write;

pub use assemble::{Observed, Setup};
pub use call::{CallStatistics, LiveCalls};
pub use config::EngineConfig;
pub use counters::{
    CallCounters, Counter, DropReason, Durations, EncoderCounters, Kept, PacketEnd, ReceiveCounters, WriterCounters,
};
pub use keep::Room;
pub use live::{Engine, EngineError};
pub use message::{EngineEvent, EventSink};
pub use metrics::{EngineMetrics, PortInfo, StoreSource};
pub use replay::{PacketSummary, ReplayError, ReplaySummary, replay};
