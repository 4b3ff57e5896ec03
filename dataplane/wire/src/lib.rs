//! From frames to datagrams and byte streams: classification of single packets, IP fragments, TCP.
//!
//! Constraints: no I/O, no clock, no threads, no `unsafe`; nothing here panics or grows without bound on any bytes.
//! [`classify`] runs on the receive threads and does not allocate; the two reassemblers belong to the call thread, since
//! a NIC may spread the fragments of one datagram, or the two directions of one connection, over its queues.
#![forbid(unsafe_code)]

mod classify;
mod fragment;
mod tcp;

pub use classify::{Kind, Link, MediaKind, Packet, classify};
pub use fragment::{Datagram, FragmentDrop, FragmentOutcome, FragmentStatistics, Reassembler, ReassemblerLimits};
pub use sidetone_tap_abi::Unparsed;
pub use tcp::{StreamId, TcpDrop, TcpEnd, TcpEvent, TcpLimits, TcpOutcome, TcpReassembler, TcpStatistics};
