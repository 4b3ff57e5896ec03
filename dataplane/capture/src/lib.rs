//! Where frames come from: AF_XDP, AF_PACKET, capture files. Loads and keeps the XDP program.
//!
//! Constraints: a frame is borrowed for the length of one call and never copied on the way (jumbo frames and restored
//! VLAN tags excepted); memory is set up when a port is opened and does not grow; one clock read and one doorbell per
//! batch, nothing per frame. Every frame that a NIC or ring missed is in [`SourceStatistics`]. This crate starts no
//! thread; a [`FrameSource`] belongs to the one thread that calls it.

mod af_packet;
mod af_xdp;
mod clock;
mod error;
mod file;
mod interface;
mod port;
mod source;
mod system;
mod tap;

pub use clock::{CaptureClock, monotonic_ns};
pub use error::CaptureError;
pub use file::CaptureFile;
pub use port::{CaptureMode, Mirror, Mode, Port, PortConfig};
pub use sidetone_tap_abi::{ABI_VERSION, Interest, Reason};
pub use source::{Frame, FrameSource, LinkLayer, SourceStatistics};
pub use tap::{TAP_OBJECT, TapControl, TapCounters};
