//! Recordings as files, put together when they are read.
//!
//! Constraints: a [`Rendition`] is a pure function of the recording and of what is asked for: the same bytes in whichever
//! ranges they are read, so that HTTP ranges and entity tags are true. Its memory does not depend on the recording's
//! length but for 16 bytes for each 10 s of an .opus file. No clock, no threads; reading blocks on the disk.
#![forbid(unsafe_code)]

mod choice;
mod error;
mod rendition;

pub use choice::{Channels, Format};
pub use error::{PlaybackError, UnknownName};
pub use rendition::{Rendition, write_to};
