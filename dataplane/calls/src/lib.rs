//! The call tracker: call events and stream sightings become commands about streams, and recordings.
//!
//! # Constraints
//!
//! No I/O, no clock, no threads: a state machine whose only sense of time is the times of its inputs. The same inputs
//! give the same commands in the same order, in every process. Whatever the wire says, nothing panics and every table
//! is bounded by [`TrackerConfig`]; what there is no room for is counted. The work per input does not grow with the
//! number of calls.
//!
//! # From a stream to a side of a call
//!
//! A session description says where the side that wrote it *receives* (RFC 3264, RFC 8866). So a stream is the voice
//! of the side opposite to the one whose address is its **destination**. That is looked at first. A phone behind an
//! address translator receives elsewhere than it says; then a stream counts by its **source**, if that is where the
//! other side receives (symmetric RTP, RFC 4961) and something else speaks for it: media that flows the other way,
//! or an agreed payload type while no second call uses that source or the stream goes to where the receiver's
//! signalling comes from. Domain (VLAN, tunnel) must be the same in every case. `a=label`, RTCP and STUN play no part.
//!
//! Addresses are used again. A binding lives from its description until [`TrackerConfig::end_grace`] after the end of
//! its call; a live call goes before one that is over, and a newer binding before an older one. A stream that runs on
//! while a call is over and a new one names its address goes over to the new call when that is answered, from that
//! moment (`Release`, then `Record`). A running stream of a live call is never taken away.
//!
//! Some PBXs and generators send all calls from one port to one port, told apart by SSRC alone, and signalling does
//! not name SSRCs. Then time decides: a stream goes to the call that was answered within the last five seconds and has no
//! stream of this side yet, the one answered first before the others, which is right as long as answer and first packet
//! follow each other at about the same distance in every call. The opposite direction goes to the call that has the same
//! SSRC already, if there is one.
//!
//! # One voice, one stream
//!
//! A track is one side of a recording. Everything that reaches one receiver goes to the same track: a changed SSRC,
//! forks, music on hold from elsewhere. But a mirror may show the same voice twice, before and behind a box. Two
//! simultaneous streams of one side are the same voice when they differ in path (addresses, ports, domain) and
//! either have the same SSRC (a relay that forwards packets) or belong to different legs that do not share their
//! addresses (a box that makes new packets). Then one feeds the track, and the others stand by: the one that matches
//! both ends (source and destination both named) goes before one that matches one end; among equals the first one
//! stays. One that stands by takes over when the feeding stream leaves the flow table, loses its binding, its leg ends,
//! or its track had no packet for two seconds. Streams that only stood by are listed as unclaimed.
//!
//! # Which legs are one call
//!
//! * A decoder says so ([`Relation::SameCall`](sidetone_signalling::event::Relation)).
//! * The same leg seen in another domain.
//! * A box between the legs passes descriptions through, so that both name the same receiver: on the same side, when
//!   one leg's callee and the other's caller signal from the same host (B2BUA with direct media); on opposite sides, when
//!   both callers signal from the same host to different callees (third-party call control, RFC 3725). A shared address
//!   alone is no sign: a PBX may use one port for all calls.
//!
//! The calls become one with both legs. When both already have a recording, the younger recording ends as
//! `replaced`, and its legs and streams go on in the older one, with the same conversation id. A leg that *replaces*
//! another (transfer, RFC 3891) makes a call of its own in the same conversation.
//!
//! # From a call to a recording
//!
//! A recording begins when a call is established (answered, or in progress when the capture began; with
//! `keep_unanswered` at once) and has an audio stream. Until then streams wait in the receive threads' pre-roll, whose
//! length bounds how much from before the answer is kept. Calls that end without a recording are reported with a
//! reason. Media that is not audio makes no recording. Encrypted audio does, flagged.
//!
//! A call ends when its last leg ends; when its session timer has run out and nobody speaks (RFC 4028: the refresh may
//! have been missed, so that a call with media is not cut off); and when there was neither media nor signalling for
//! as long as the configuration says, longer on hold. Packets in flight belong to it for `end_grace` more. Then the
//! tracks are finished, and when the encoder has said its last word the recording is saved as complete or incomplete.
//!
//! With `orphans = record`, a stream that outlives the pre-roll without a call becomes a recording without legs,
//! together with its reverse direction. If a call names its addresses later, the stream goes over to it.
#![forbid(unsafe_code)]

mod binding;
mod call;
mod clock;
mod command;
mod config;
mod flow;
mod legs;
mod recordings;
mod resume;
mod streams;
mod take;
mod tracker;
mod unclaimed;

pub use command::*;
pub use config::{FinishAll, Orphans, RestoreError, TrackerConfig, TrackerStatistics, UnclaimedStream};
pub use tracker::Tracker;
