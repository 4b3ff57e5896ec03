//! The catalog of recordings: the questions people ask ([`Catalog`]), and RocksDB behind them.
//!
//! Constraints: everything here is a projection of the journal. Nothing is stored that the journal does not hold, every
//! write carries the log position that it brings the catalog to, and no write is synced: after a crash the journal is
//! replayed from the position found. Applying the same records twice changes nothing. docs/formats.md has the keys.
#![forbid(unsafe_code)]

mod apply;
mod backup;
mod builder;
mod bytes;
mod catalog;
mod changes;
mod condition;
mod database;
mod document;
mod dump;
mod error;
mod filter;
mod keys;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod migrate;
mod order;
mod plan;
mod query;
mod rocks;
mod row;
mod search;
#[cfg(test)]
mod tests;

pub use backup::{purge_backups, restore};
pub use builder::CatalogBuilder;
pub use catalog::*;
pub use changes::Changes;
pub use database::CatalogOptions;
pub use dump::{digest, dump};
pub use error::CatalogError;
pub use filter::*;
#[cfg(any(test, feature = "testing"))]
pub use memory::MemoryCatalog;
pub use query::*;
pub use rocks::RocksCatalog;
