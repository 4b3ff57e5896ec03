//! Signalling: from messages on the wire to [`event::CallEvent`]s, the input of the call tracker.
//!
//! Constraints: no I/O, no clock, no threads. Every function takes bytes and a time and says what they mean; the live
//! path, `sidetone replay`, the fuzzers and the tests run the same code. Bytes come from anybody: nothing here
//! panics on them, and every table has a bound ([`SipConfig`]).
//!
//! SIP today: [`SipFramer`] cuts the messages out of a TCP stream, [`message`] and [`sdp`] read them, and
//! [`SipDecoder`] follows the dialogs. Another protocol comes in beside them and ends in the same events.
#![forbid(unsafe_code)]

mod body;
mod decoder;
pub mod event;
mod framer;
mod header;
pub mod message;
pub mod sdp;

pub use decoder::{Datagram, MalformedReason, MessageOutcome, SipConfig, SipDecoder, SipStatistics, Transport};
pub use framer::{FramerStatistics, MESSAGE_BYTES_MAX, SipFramer};
pub use message::looks_like_sip;
