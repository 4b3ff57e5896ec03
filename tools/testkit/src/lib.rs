//! A test bed for the appliance: two phone networks joined by a switch with a mirror port, in network namespaces, real
//! SIP endpoints that speak over it, and the measuring of what was on the wire.
//!
//! Constraints:
//! * Needs root (namespaces, veth, tc, loop devices). Nothing here touches an interface that it did not make, except that the mirror
//!   port's far end appears in the caller's network namespace, where the appliance listens on it; it has no address.
//! * Everything that is started is ended by process id and everything that is made is removed when its value is dropped,
//!   also after Ctrl-C (`interrupt`). Names carry the process id, so that runs beside each other do not meet;
//!   `Bed::create` removes what runs have left behind that are no longer alive.
//! * Every wait has an end.
//! * This crate is built before anything else on a user's machine: no dependency that takes long to compile.
#![deny(unsafe_code)]

pub mod baresip;
pub mod bed;
#[allow(unsafe_code, reason = "the ioctl that shuts a file system down")]
pub mod disk;
pub mod g711;
pub mod http;
pub mod interrupt;
pub mod metrics;
pub mod process;
pub mod random;
pub mod recorder;
pub mod reference;
pub mod rtp_file;
pub mod sipp;
pub mod speech;
pub mod time;
pub mod wav;

pub use bed::Bed;
pub use recorder::Recorder;
