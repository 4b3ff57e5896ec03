//! Pinning a thread to a core.

use rustix::thread::{CpuSet, sched_setaffinity};

/// Lets the calling thread run on this core only.
pub(crate) fn pin_to(core: u16) -> Result<(), rustix::io::Errno> {
    let mut set = CpuSet::new();
    set.set(usize::from(core));
    sched_setaffinity(None, &set)
}
