//! Reproducible telephone traffic: SIP and RTP frames from a seed, with the truth about every call.
//!
//! # Constraints
//!
//! The frames and the truth depend on [`Options`] alone: no clock, no system randomness, no order of a hash map. Memory grows
//! with the number of simultaneous calls, not with the length of the traffic. Frames come in the order of their times.
//!
//! ```
//! let options = sidetone_callgen::Options { calls: 2, ..Default::default() };
//! let mut traffic = sidetone_callgen::Traffic::new(&options).unwrap();
//! let frames = traffic.by_ref().count();
//! let truth = traffic.into_truth();
//! assert_eq!(truth.frames, frames as u64);
//! assert_eq!(truth.calls.len(), 2);
//! ```
#![forbid(unsafe_code)]

mod call;
mod frame;
pub mod g711;
mod options;
mod pcap;
mod random;
mod sip;
pub mod speech;
mod traffic;
mod truth;

pub use options::{CallShape, Change, Codec, Ending, Impairment, Options, OptionsError, Outcome, Ports, Transport};
pub use pcap::write_pcap;
pub use speech::{Speech, load_speech};
pub use traffic::{Frame, Traffic};
pub use truth::{CallTruth, Side, StreamTruth, Truth};
