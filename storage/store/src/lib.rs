//! A store: where recordings are kept.
//!
//! ```text
//! HOME/sidetone-store.json   who this store is, its format version, and which volumes it has
//! HOME/lock                  held while a process writes; its text is the process id
//! HOME/catalog/              a projection of the rest (sidetone-catalog)
//! VOLUME/journal/            what is written first (sidetone-log): the truth, until it has moved to …
//! VOLUME/segments/           … where each recording's audio lies together, indexed and proven
//! VOLUME/sidetone-volume.json
//! ```
//!
//! `HOME` is volume 0. What is promised, and what proves it, stands in docs/durability.md.
//!
//! # The four sides of an open store
//!
//! [`Store::open`] gives a [`StoreWriter`], a [`Keeper`], an `Arc<`[`StoreReader`]`>` and a [`StoreHandle`].
//!
//! * The **writer** belongs to the thread that has the audio. [`append_chunk`](StoreWriter::append_chunk) and
//!   [`append_fact`](StoreWriter::append_fact) take records into memory; [`begin_flush`](StoreWriter::begin_flush), called once a
//!   second, and [`poll`](StoreWriter::poll), called often, make them durable without waiting;
//!   [`flush`](StoreWriter::flush) waits. An error of an append means that the record is not in the store and never
//!   will be: who appended it counts it.
//! * The **keeper** wants a thread of its own ([`run`](Keeper::run)), or to be called ([`step`](Keeper::step)) where one thread does
//!   all, after each flush: without it nothing that is written gets into the catalog. It tells
//!   what happens as [`StoreEvent`]s; that a recording is over, durable and in the catalog is one.
//! * The **reader** is for any number of threads: search, documents, audio, statistics.
//! * The **handle** is for everybody else who has facts: [`annotate`](StoreHandle::annotate) (tags, holds, retention),
//!   [`submit`](StoreHandle::submit).
//!
//! [`Keeper::close`] ends the store in order; a process that just ends loses nothing that was acknowledged.
//!
//! A store that no process writes is read with [`StoreReader::open`] (also beside one that does), checked with [`verify`], and given
//! a new catalog with [`rebuild`].
//!
//! Constraints: one writing process. Everything has a bound. The writer waits for its volume alone, never for the keeper, the
//! catalog or a segment.
#![forbid(unsafe_code)]

mod annotate;
mod backup;
mod batch;
mod catch_up;
mod description;
mod error;
mod handle;
mod keeper;
mod lane;
mod logs;
mod open;
mod options;
mod placement;
mod read_segments;
mod reader;
mod rebuild;
mod recover;
mod sabotage;
mod shared;
#[cfg(test)]
mod simulation;
mod space;
mod statistics;
mod verify;
mod volume;
mod writer;

pub use annotate::AnnotationChange;
pub use backup::{BackupOptions, BackupProgress, BackupReport, Differing, RestoreReport, backup, restore};
pub use error::StoreError;
pub use handle::{Receipt, StoreHandle};
pub use keeper::{Keeper, StoreEvent};
pub use open::{OpenCatalog, Store};
pub use options::{Limits, SealingOptions, SpaceOptions, StoreOptions, Watermark};
pub use reader::{ChunkLocation, ChunkPlace, StoreReader};
pub use rebuild::{RebuildOptions, RebuildProgress, RebuildReport, rebuild};
pub use sidetone_catalog::{
    BadCursor, CatalogStatistics, Count, Cursor, Filter, Measure, Query, RecordingPage, RecordingQuery, Span,
    TextField, TextMatch,
};
pub use sidetone_log::{Chunk, JournalConfig, JournalStatistics, SegmentConfig, VolumeNumber};
pub use space::VolumeState;
pub use statistics::{Faults, KeeperStatistics, StoreStatistics, VolumeStatistics, WriterStatistics};
pub use verify::{BadPlace, LogFileName, Skipped, VerifyOptions, VerifyProgress, VerifyReport, verify};
pub use writer::{AppendNumber, Durable, StoreWriter};
