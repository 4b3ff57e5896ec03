//! The one interface to frames, whatever they come from.

use crate::CaptureError;
use sidetone_model::CaptureTime;
use std::time::Duration;

/// What a frame's first byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkLayer {
    /// Destination address first; VLAN tags are in the frame.
    Ethernet,
    /// IPv4 or IPv6, by the version nibble.
    RawIp,
    /// LINKTYPE_LINUX_SLL: 16 bytes, the protocol (an EtherType) in the last two.
    LinuxCooked,
    /// LINKTYPE_LINUX_SLL2: 20 bytes, the protocol (an EtherType) in the first two.
    LinuxCooked2,
    /// LINKTYPE_NULL and LINKTYPE_LOOP: 4 bytes of address family in either byte order.
    Null,
}

/// A frame as it arrived. The bytes are only there during the call that hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub arrived_at: CaptureTime,
    pub bytes: &'a [u8],
    /// Length on the wire; greater than `bytes.len()` when the capture cut the frame.
    pub original_length: u32,
    pub link: LinkLayer,
}

/// A source of frames: one queue of a port, or a capture file.
pub trait FrameSource: Send {
    /// Hands over what has arrived, at most `budget` frames; waits up to `timeout` when nothing has. Returns the
    /// number of frames handed over, 0 when the time ran out.
    ///
    /// A handler that panics loses its own frame; the source stays usable.
    ///
    /// # Errors
    /// [`CaptureError::EndOfCapture`] when a capture file has been handed over whole; anything else when the source
    /// is no longer of use.
    fn receive(
        &mut self,
        timeout: Duration,
        budget: usize,
        handler: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<usize, CaptureError>;

    /// Totals since the source was opened. Costs system calls: once a second is right, once a batch is not.
    fn statistics(&mut self) -> SourceStatistics;
}

/// Totals since the source was opened, in frames unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceStatistics {
    /// Handed over.
    pub frames: u64,
    /// The NIC had no room (`rx_missed_errors` and `rx_fifo_errors` of the interface, reported by its first source).
    pub missed_by_nic: u64,
    /// The ring to this process was full: the receive thread was too slow.
    pub missed_ring_full: u64,
    /// The kernel had no buffer for the frame: the fill ring was empty, or the frame too large.
    pub missed_no_buffer: u64,
    /// How often the kernel found the fill ring empty; an occurrence need not lose a frame.
    pub fill_ring_empty_events: u64,
    /// Frames with a link layer that is not understood (capture files with several interfaces).
    pub unsupported: u64,
    /// The interface is down or gone: nothing arrives.
    pub is_down: bool,
    /// Frames without a usable arrival time from the kernel, which got the time of their batch.
    pub unstamped: u64,
}

impl SourceStatistics {
    /// Frames that were on the wire and were not handed over.
    pub fn missed(&self) -> u64 {
        self.missed_by_nic + self.missed_ring_full + self.missed_no_buffer
    }
}
