//! The journal: what is written first, all recordings interleaved, and what everything else can be made from again.
//!
//! Constraints: `unsafe` only in `block` and `ring` (memory the kernel writes from). One writer per directory (the store
//! holds the lock), any number of readers, also in other processes. Bytes read from a file are never trusted: lengths
//! are bounded, checksums come first. docs/formats.md describes every byte.
//!
//! * [`entry`](crate::ChunkHeader) – what a record holds
//! * `format` – file header and records as bytes
//! * `scan` – the records of one file, over damage and up to a torn tail
//! * `disk` – the seam to the file system, with io_uring behind it
//! * `journal` – the writer; `reader` – everything that reads

mod entry;
mod error;
mod types;

pub use entry::*;
pub use error::LogError;
pub use types::*;
