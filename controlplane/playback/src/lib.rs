//! Recordings as files, put together when they are read.
//!
//! * `select` – which tracks a channel plays; `source`, `lane` – their packets on the grid
//! * `opus_packet`, `ogg`, `wav` – the bytes of the formats; `decode` – samples, and mixes
//! * `grid`, `sizes` – the blocks of a file, and tables that say how long they are without reading them
//! * `copy`, `filler` – a block of stored packets; silence where they are lost
//! * `rendition` – where every byte of the file lies; `label` – what the file says of itself
//!
//! Constraints: a [`Rendition`] is a pure function of the recording and of what is asked for: the same bytes in whichever
//! ranges they are read, so that HTTP ranges and entity tags are true. Its memory does not depend on the recording's
//! length but for 16 bytes for each 10 s of an .opus file. No clock, no threads; reading blocks on the disk.
#![forbid(unsafe_code)]

mod choice;
mod copy;
mod decode;
mod error;
mod filler;
mod grid;
mod label;
mod lane;
mod ogg;
mod opus_packet;
#[cfg(test)]
mod players;
mod rendition;
mod select;
mod sizes;
mod source;
#[cfg(test)]
mod testing;
mod wav;

pub use choice::{Channels, Format};
pub use error::{PlaybackError, UnknownName};
pub use lane::Lost;
pub use rendition::{Rendition, write_to};
pub use sizes::size_tables;
