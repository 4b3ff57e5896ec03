// In a file of its own because dataplane/capture's build script includes it too: as a build dependency, this crate would
// draw its dev-dependencies' features into the build of everything else, and RocksDB would be compiled twice.

/// Version of the maps' layout and of the metadata in front of a frame.
pub const ABI_VERSION: u32 = 1;
