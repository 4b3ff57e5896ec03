//! One store directory: the lock, and journal and catalog kept in step.
//!
//! ```text
//! sidetone-store.json   who this store is, and its format version
//! lock                  held while a process writes; its text is the process id
//! journal/              the truth (sidetone-log)
//! catalog/              a projection of it (sidetone-catalog)
//! ```
//!
//! Constraints: one writing process. What [`StoreWriter::flush`] returned is durable, and in the catalog. Appending a
//! recording's fact or a chunk twice gives the same catalog as once.
#![forbid(unsafe_code)]

mod description;
mod error;
mod lock;
mod reader;
mod writer;

pub use error::StoreError;
pub use reader::{StoreReader, StoreStatistics};
pub use sidetone_catalog::{BadCursor, CatalogStatistics, ChunkLocation, Cursor, RecordingPage, RecordingQuery};
pub use sidetone_log::{Chunk, JournalConfig, JournalStatistics};
pub use writer::{Flushed, Store, StoreOptions, StoreWriter, WriterStatistics};
