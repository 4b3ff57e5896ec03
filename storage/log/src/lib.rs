//! The journal: what is written first, all recordings interleaved, and what everything else can be made from again.
//!
//! Constraints: `unsafe` only in `block` and `ring` (memory the kernel writes from). One writer per directory (the store
//! holds the lock), any number of readers, also in other processes. Bytes read from a file are never trusted: lengths
//! are bounded, checksums come first. docs/formats.md describes every byte.
//!
//! * `entry` – what a record holds; [`format`] – file header and records as bytes
//! * `scan` – the records of one file, over damage and up to a torn tail
//! * `disk` – the seam to the file system; `ring`, `block` – io_uring behind it
//! * `journal` – the writer; `reader` – everything that reads

mod block;
mod disk;
mod entry;
mod error;
pub mod format;
mod journal;
mod reader;
mod ring;
mod scan;
#[cfg(test)]
mod tests;
mod types;

pub use entry::*;
pub use error::LogError;
pub use journal::{Journal, random_uuid};
pub use reader::{JournalReader, JournalScan};
pub use scan::scan_bytes;
pub use types::*;
