//! The journal: what is written first, all recordings interleaved, and what everything else can be made from again.
//!
//! Constraints: `unsafe` only in `block` and `ring` (memory the kernel writes from). One writer per directory (the store
//! holds the lock), any number of readers, also in other processes. Bytes read from a file are never trusted: lengths
//! are bounded, checksums come first. docs/formats.md describes every byte.
//!
//! * `entry` – what a record holds; [`format`] – file header and records as bytes
//! * `scan` – the records of one file, over damage and up to a torn tail
//! * `io` – the outside world; `system` – the real one; `ring`, `block` – io_uring behind it
//! * `output` – a log file being written; `backlog` – what is not durable in it yet
//! * `journal` – the writer; `recover` – the end of what a crash left; `reader` – everything that reads

mod backlog;
mod bad_blocks;
mod block;
mod entry;
mod error;
mod files;
pub mod format;
mod io;
mod journal;
pub mod merkle;
mod open_segment;
mod output;
mod reader;
mod recover;
mod ring;
mod scan;
mod segment;
mod segment_reader;
mod segment_recover;
mod segment_walk;
mod segment_writer;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod system;
#[cfg(test)]
mod tests;
mod types;
mod verify;
mod verify_segment;

pub use entry::*;
pub use block::{Block, Memory};
pub use error::LogError;
pub use files::{OpenFiles, Owner};
pub use io::{FileSize, InputFile, Io, NewFile, OutputFile, Progress, SMALL_FILE_BYTES_MAX, Space, Write, random_id};
pub use journal::Journal;
pub use reader::{JournalReader, JournalScan, KnownEnd};
pub use scan::scan_bytes;
pub use system::RingIo;
pub use segment::*;
pub use segment_reader::{SegmentContents, SegmentFacts, SegmentReader};
pub use segment_recover::close_left_open;
pub use segment_writer::{RunWriter, SegmentConfig, SegmentWriter};
pub use types::*;
pub use verify::{Damage, Fault, Finding, Verified};
pub use verify_segment::read_segment_bytes;
