//! Recordings as files, put together when they are read.
//!
//! * `select` – which tracks a channel plays; `lane` – their packets on the grid
//! * `opus_packet`, `ogg`, `wav` – the bytes of the formats; `decode` – samples, and mixes
//! * `rendition` – where every byte of the file lies
//!
//! Constraints: a [`Rendition`] is a pure function of the recording and of what is asked for: the same bytes in whichever
//! ranges they are read, so that HTTP ranges and entity tags are true. Its memory does not depend on the recording's
//! length but for 16 bytes for each 10 s of an .opus file. No clock, no threads; reading blocks on the disk.
#![forbid(unsafe_code)]

mod choice;
mod decode;
mod error;
mod lane;
mod ogg;
mod opus_packet;
#[cfg(test)]
mod players;
mod rendition;
mod select;
#[cfg(test)]
mod testing;
mod wav;

pub use choice::{Channels, Format};
pub use error::{PlaybackError, UnknownName};
pub use rendition::{Rendition, write_to};
