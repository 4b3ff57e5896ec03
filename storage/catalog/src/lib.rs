//! The catalog of recordings: the questions people ask ([`Catalog`]), and RocksDB behind them.
//!
//! Constraints: everything here is a projection of the journal. Nothing is stored that the journal does not hold, every
//! write carries the log position that it brings the catalog to, and no write is synced: after a crash the journal is
//! replayed from the position found. Applying the same records twice changes nothing. docs/formats.md has the keys.
#![forbid(unsafe_code)]

mod error;
mod keys;
mod query;
mod rocks;
mod search;
#[cfg(test)]
mod tests;

pub use error::CatalogError;
pub use query::*;
pub use rocks::{Changes, RocksCatalog};
