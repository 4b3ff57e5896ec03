//! The decision about a frame, and how it is counted.
//!
//! Every frame is counted once as received and has exactly one end: redirected for an [`Interest`], or dropped or
//! passed for a [`Reason`]. The order of both enums is part of the ABI.

use crate::{FOREVER, FlowKey, MediaKind, NANOS_PER_PORT_SECOND, PacketKind, PortEntry, Unparsed, View};
use crate::{media_kind, parse, rtp_ssrc};

/// Why a frame goes to user space.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// UDP or TCP on a signalling port.
    Signalling = 0,
    /// Part of a datagram that only user space can put together.
    Fragment = 1,
    /// A packet in a packet, opened in user space.
    Tunnel = 2,
    /// Looks like RTP, and no verdict says otherwise.
    Rtp = 3,
    /// Looks like RTCP.
    Rtcp = 4,
    /// UDP on a port that signalling named for media: STUN, DTLS, UDPTL, …
    Media = 5,
}

impl Interest {
    pub const ALL: [Self; 6] = [Self::Signalling, Self::Fragment, Self::Tunnel, Self::Rtp, Self::Rtcp, Self::Media];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Signalling => "signalling",
            Self::Fragment => "fragment",
            Self::Tunnel => "tunnel",
            Self::Rtp => "rtp",
            Self::Rtcp => "rtcp",
            Self::Media => "media",
        }
    }
}

/// Why a frame does not go to user space.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    NotIp = 0,
    Truncated = 1,
    Malformed = 2,
    TooManyHeaders = 3,
    /// User space said `discard` for this stream.
    Discarded = 4,
    /// UDP that is neither signalling nor media.
    OtherUdp = 5,
    /// TCP on no signalling port.
    OtherTcp = 6,
    /// Neither UDP nor TCP nor a tunnel.
    OtherProtocol = 7,
    /// Wanted, but no socket is open for the queue: the recorder is not running, or starting.
    NoSocket = 8,
}

impl Reason {
    pub const ALL: [Self; 9] = [
        Self::NotIp,
        Self::Truncated,
        Self::Malformed,
        Self::TooManyHeaders,
        Self::Discarded,
        Self::OtherUdp,
        Self::OtherTcp,
        Self::OtherProtocol,
        Self::NoSocket,
    ];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::TooManyHeaders => "too_many_headers",
            Self::Discarded => "discarded",
            Self::OtherUdp => "other_udp",
            Self::OtherTcp => "other_tcp",
            Self::OtherProtocol => "other_protocol",
            Self::NoSocket => "no_socket",
        }
    }
}

impl From<Unparsed> for Reason {
    #[inline(always)]
    fn from(unparsed: Unparsed) -> Self {
        match unparsed {
            Unparsed::NotIp => Self::NotIp,
            Unparsed::Truncated => Self::Truncated,
            Unparsed::Malformed => Self::Malformed,
            Unparsed::TooManyHeaders => Self::TooManyHeaders,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Redirect(Interest),
    /// Dropped on a dedicated mirror port, passed on a shared one.
    Unwanted(Reason),
}

/// A place in the counter map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    Received,
    Redirected(Interest),
    Dropped(Reason),
    Passed(Reason),
}

/// Entries of the counter map.
pub const COUNTERS: u32 = 1 + Interest::ALL.len() as u32 + 2 * Reason::ALL.len() as u32;

impl Counter {
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Received => 0,
            Self::Redirected(interest) => 1 + interest as u32,
            Self::Dropped(reason) => 1 + Interest::ALL.len() as u32 + reason as u32,
            Self::Passed(reason) => 1 + Interest::ALL.len() as u32 + Reason::ALL.len() as u32 + reason as u32,
        }
    }
}

/// What user space has told the program, and the clock.
pub trait Tables {
    /// `CLOCK_MONOTONIC`, nanoseconds. Asked for only when an entry with an end was found.
    fn now_ns(&self) -> u64;
    fn port(&self, port: u16) -> PortEntry;
    /// Until when the stream is to be discarded, if user space ever said so.
    fn discard_until_ns(&self, key: &FlowKey) -> Option<u64>;
}

/// Decides about an Ethernet frame.
#[inline(always)]
pub fn judge<V: View + ?Sized, T: Tables>(packet: &V, tables: &T) -> Verdict {
    let headers = match parse(packet) {
        Ok(headers) => headers,
        Err(unparsed) => return Verdict::Unwanted(unparsed.into()),
    };
    match headers.kind {
        PacketKind::Fragment => Verdict::Redirect(Interest::Fragment),
        PacketKind::Tunnel => Verdict::Redirect(Interest::Tunnel),
        PacketKind::Other => Verdict::Unwanted(Reason::OtherProtocol),
        PacketKind::Tcp => {
            let (source, destination) = (tables.port(headers.source_port), tables.port(headers.destination_port));
            if is_current(source.signalling_until, tables) || is_current(destination.signalling_until, tables) {
                Verdict::Redirect(Interest::Signalling)
            } else {
                Verdict::Unwanted(Reason::OtherTcp)
            }
        }
        PacketKind::Udp => {
            let (source, destination) = (tables.port(headers.source_port), tables.port(headers.destination_port));
            if is_current(source.signalling_until, tables) || is_current(destination.signalling_until, tables) {
                return Verdict::Redirect(Interest::Signalling);
            }
            match media_kind(packet, headers.payload_offset, headers.payload_length) {
                MediaKind::Rtp => {
                    let Some(ssrc) = rtp_ssrc(packet, headers.payload_offset) else {
                        return Verdict::Unwanted(Reason::Truncated);
                    };
                    match tables.discard_until_ns(&FlowKey::new(&headers, ssrc)) {
                        Some(until) if tables.now_ns() < until => Verdict::Unwanted(Reason::Discarded),
                        _ => Verdict::Redirect(Interest::Rtp),
                    }
                }
                MediaKind::Rtcp => Verdict::Redirect(Interest::Rtcp),
                _ if is_current(source.media_until, tables) || is_current(destination.media_until, tables) => {
                    Verdict::Redirect(Interest::Media)
                }
                _ => Verdict::Unwanted(Reason::OtherUdp),
            }
        }
    }
}

#[inline(always)]
fn is_current<T: Tables>(until: u32, tables: &T) -> bool {
    match until {
        0 => false,
        FOREVER => true,
        until => tables.now_ns() / NANOS_PER_PORT_SECOND < until as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_places_of_their_own() {
        let mut seen = std::vec![false; COUNTERS as usize];
        let mut take = |counter: Counter| {
            let place = &mut seen[counter.index() as usize];
            assert!(!*place, "{counter:?} shares its place");
            *place = true;
        };
        take(Counter::Received);
        Interest::ALL.into_iter().for_each(|interest| take(Counter::Redirected(interest)));
        Reason::ALL.into_iter().for_each(|reason| take(Counter::Dropped(reason)));
        Reason::ALL.into_iter().for_each(|reason| take(Counter::Passed(reason)));
        assert!(seen.into_iter().all(|taken| taken));
    }
}
