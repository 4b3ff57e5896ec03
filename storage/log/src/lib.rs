mod entry;
pub use entry::*;
