//! RocksDB against the catalog in memory, and what happens to it on a disk.

mod disk;
mod fixture;
mod registers;
mod rows;
mod searching;
