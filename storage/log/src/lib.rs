//! The log files of a store: journals, which are written first, all recordings interleaved, and segments, in which recordings are
//! kept. Everything else can be made from them again.
//!
//! Constraints: `unsafe` only in `block` and `ring` (memory the kernel writes from). One writer per directory (the store
//! holds the lock), any number of readers, also in other processes. Bytes read from a file are never trusted: lengths
//! are bounded, checksums come first. docs/formats.md describes every byte.
//!
//! * `entry`, `segment` – what records hold; [`format`] – file header and records as bytes; [`merkle`] – roots and proofs
//! * `scan` – the records of one file, over damage and up to a torn tail; `bad_blocks` – over what a device cannot read
//! * `io` – the outside world; `system` – the real one; `ring`, `block` – io_uring behind it
//! * `simulation` – a machine in memory that crashes and fails, for tests (feature `simulation`)
//! * `output` – a log file being written; `backlog` – what is not durable in it yet
//! * `journal` – the writer; `recover` – the end of what a crash left; `reader` – everything that reads
//! * `segment_writer`, `segment_recover`, `segment_reader` – the same of segments; `open_segment`, `segment_walk`,
//!   `run_indexes` behind them
//! * `files` – names, and files open for reading; `verify`, `verify_segment` – every byte checked

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
mod run_indexes;
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

pub use block::{Block, Memory};
pub use entry::*;
pub use error::LogError;
pub use files::{OpenFiles, Owner};
pub use io::{FileSize, InputFile, Io, NewFile, OutputFile, Progress, SMALL_FILE_BYTES_MAX, Space, Write, random_id};
pub use journal::Journal;
pub use reader::{JournalReader, JournalScan, KnownEnd};
pub use scan::scan_bytes;
pub use segment::*;
pub use segment_reader::{SegmentContent, SegmentContents, SegmentReader, SegmentRecord, SegmentScan};
pub use segment_recover::close_left_open;
pub use segment_writer::{RunWriter, SegmentConfig, SegmentWriter};
pub use system::RingIo;
pub use types::*;
pub use verify::{Damage, Fault, Finding, Verified};
pub use verify_segment::read_segment_bytes;
