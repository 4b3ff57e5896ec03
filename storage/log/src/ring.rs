//! Writing a file through io_uring: registered buffers, O_DIRECT where it is there, fdatasync behind completed writes.
//!
//! Constraints: the ring is not bound to a thread, for a journal is opened on one and used on another. Where the kernel has no
//! io_uring or forbids it (kernel before 5.6, seccomp, `kernel.io_uring_disabled`), writes are made one after the
//! other, and submitting waits for them; the log says so.

use crate::block::Memory;
use crate::format::ALIGNMENT_BYTES;
use crate::io::{OutputFile, Progress, Write};
use io_uring::{IoUring, opcode, types};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const SYNC_TOKEN: u64 = u64::MAX;
/// How often a write or sync is begun again that made no progress for a passing reason.
const ATTEMPTS_MAX: u8 = 100;
/// How often entering the kernel is tried again, with 100 µs between.
const ENTER_ATTEMPTS_MAX: u32 = 10_000;

pub(crate) struct RingFile {
    file: File,
    direct: bool,
    preallocated: bool,
    ring: Option<Ring>,
    /// By token.
    in_flight: Vec<Option<InFlight>>,
    in_flight_count: usize,
    /// The kernel was not told yet of all that is in the ring.
    has_unsubmitted: bool,
    /// A sync is in flight; how often it was begun.
    syncing: Option<u8>,
    /// Gathered for the next poll.
    progress: Progress,
}

struct Ring {
    uring: IoUring,
    /// What the kernel has mapped; the first buffer.
    registered: Option<Memory>,
}

struct InFlight {
    write: Write,
    done_bytes: usize,
    attempts: u8,
}

impl RingFile {
    /// Writes to `file`, mostly from `memory`; without a ring if `ring_allowed` is false.
    pub(crate) fn new(file: File, preallocated: bool, memory: &Memory, ring_allowed: bool) -> Self {
        let ring = ring_allowed.then(|| Ring::new(memory)).and_then(|made| {
            made.inspect_err(
                |error| tracing::warn!(%error, "no io_uring here: files are written with ordinary system calls"),
            )
            .ok()
        });
        Self {
            file,
            direct: false,
            preallocated,
            ring,
            in_flight: Vec::new(),
            in_flight_count: 0,
            has_unsubmitted: false,
            syncing: None,
            progress: Progress::default(),
        }
    }

    /// Past the page cache from now on.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where the file system cannot.
    pub(crate) fn set_direct(&mut self, direct: bool) -> io::Result<()> {
        let flags = fcntl_getfl(&self.file)?;
        let flags = if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
        fcntl_setfl(&self.file, flags)?;
        self.direct = direct;
        Ok(())
    }

    fn fail(&mut self, error: io::Error) {
        self.progress.failure.get_or_insert(error);
    }

    /// Begins the part of a write that is not done yet. Without a ring, does it.
    fn start(&mut self, in_flight: InFlight) {
        let InFlight { write, done_bytes, .. } = &in_flight;
        let offset = write.offset + *done_bytes as u64;
        let rest = &write.block[*done_bytes..write.length];
        let Some(ring) = &mut self.ring else {
            match self.file.write_all_at(rest, offset) {
                Err(error) if self.direct && error.kind() == io::ErrorKind::InvalidInput => {
                    self.go_on_cached(in_flight);
                }
                Err(error) => {
                    self.fail(error);
                    self.progress.writes.push(in_flight.write);
                }
                Ok(()) => self.progress.writes.push(in_flight.write),
            }
            return;
        };
        let token = self.in_flight.iter().position(Option::is_none).unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        let (pointer, length) = (rest.as_ptr(), rest.len() as u32);
        let fd = types::Fd(self.file.as_raw_fd());
        let is_registered = ring.registered.as_ref().is_some_and(|memory| memory.is_same(write.block.memory()));
        let entry = if is_registered {
            opcode::WriteFixed::new(fd, pointer, length, 0).offset(offset).build()
        } else {
            opcode::Write::new(fd, pointer, length).offset(offset).build()
        };
        // SAFETY: the block moves into `in_flight` and leaves it only when the completion was seen or the ring is gone:
        // its memory stays mapped and unchanged while the kernel may read it. The file stays open as long: dropping
        // waits.
        let pushed = unsafe { ring.push(&entry.user_data(token as u64)) };
        self.has_unsubmitted = true;
        self.in_flight[token] = Some(in_flight);
        self.in_flight_count += 1;
        if let Err(error) = pushed {
            self.abandon_ring(error);
        }
    }

    /// O_DIRECT was accepted and does not work: writes once more, through the page cache.
    fn go_on_cached(&mut self, in_flight: InFlight) {
        if let Err(error) = self.set_direct(false) {
            self.fail(error);
            self.progress.writes.push(in_flight.write);
            return;
        }
        tracing::warn!("this file system refuses O_DIRECT writes: the file goes through the page cache");
        self.start(in_flight);
    }

    fn start_sync(&mut self, attempts: u8) {
        self.syncing = Some(attempts);
        let Some(ring) = &mut self.ring else {
            let result = self.file.sync_data();
            self.end_sync(result);
            return;
        };
        let entry = opcode::Fsync::new(types::Fd(self.file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
        self.has_unsubmitted = true;
        // SAFETY: the entry names no memory; the file stays open while it is in flight: dropping waits.
        if let Err(error) = unsafe { ring.push(&entry.user_data(SYNC_TOKEN)) } {
            self.abandon_ring(error);
        }
    }

    fn end_sync(&mut self, result: io::Result<()>) {
        self.syncing = None;
        match result {
            Ok(()) => self.progress.synced = true,
            Err(error) => self.fail(error),
        }
    }

    /// Takes completions that are there.
    fn reap(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let completions: Vec<(u64, i32)> =
            ring.uring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (token, result) in completions {
            if self.ring.is_none() {
                // Given up with all that was in it, while a write was begun again.
                return;
            }
            if token == SYNC_TOKEN {
                let attempts = self.syncing.expect("a sync is in flight");
                match result {
                    passing if passes(-passing) && attempts < ATTEMPTS_MAX => self.start_sync(attempts + 1),
                    0.. => self.end_sync(Ok(())),
                    error => self.end_sync(Err(io::Error::from_raw_os_error(-error))),
                }
            } else {
                let slot = usize::try_from(token).ok().and_then(|index| self.in_flight.get_mut(index));
                let in_flight = slot.and_then(Option::take).expect("a completion belongs to a write in flight");
                self.in_flight_count -= 1;
                self.complete(in_flight, result);
            }
        }
    }

    fn complete(&mut self, mut in_flight: InFlight, result: i32) {
        let failure = match result {
            1.. => {
                in_flight.done_bytes += result as usize;
                if in_flight.done_bytes >= in_flight.write.length {
                    self.progress.writes.push(in_flight.write);
                    return;
                }
                // O_DIRECT takes whole blocks only: write the last, partial one again.
                in_flight.done_bytes -= in_flight.done_bytes % ALIGNMENT_BYTES;
                io::ErrorKind::TimedOut.into()
            }
            0 => io::ErrorKind::WriteZero.into(),
            error if error == -libc::EINVAL && self.direct => {
                self.go_on_cached(in_flight);
                return;
            }
            error => io::Error::from_raw_os_error(-error),
        };
        let worth_another = result > 0 || passes(-result);
        if worth_another && in_flight.attempts < ATTEMPTS_MAX {
            in_flight.attempts += 1;
            self.start(in_flight);
        } else {
            self.fail(failure);
            self.progress.writes.push(in_flight.write);
        }
    }

    /// Tells the kernel of what was pushed; with `wait`, waits for a completion.
    fn enter(&mut self, wait: bool) {
        let mut attempts = 0;
        while let Some(ring) = &mut self.ring {
            match ring.uring.submit_and_wait(usize::from(wait)) {
                Ok(_) => {
                    // The kernel stops behind an entry that it refuses: the others are for the next call.
                    self.has_unsubmitted = !ring.uring.submission().is_empty();
                    return;
                }
                Err(error) if error.raw_os_error().is_some_and(passes) && attempts < ENTER_ATTEMPTS_MAX => {
                    attempts += 1;
                    if !wait {
                        return;
                    }
                    std::thread::sleep(std::time::Duration::from_micros(100));
                }
                Err(error) => self.abandon_ring(error),
            }
        }
    }

    /// Gives up the ring with everything in it. The kernel may still write from the blocks, to the places they were meant
    /// for; they carry nothing secret, and a file that has failed is not trusted behind its last sync.
    fn abandon_ring(&mut self, error: io::Error) {
        tracing::error!(%error, "io_uring has failed: the file is given up");
        self.ring = None;
        self.fail(error);
        self.syncing = None;
        for slot in &mut self.in_flight {
            self.progress.writes.extend(slot.take().map(|in_flight| in_flight.write));
        }
        self.in_flight_count = 0;
        self.has_unsubmitted = false;
    }

    fn is_idle(&self) -> bool {
        self.in_flight_count == 0 && self.syncing.is_none()
    }
}

impl Ring {
    fn new(memory: &Memory) -> io::Result<Self> {
        // All blocks and one sync can be in flight.
        let uring = IoUring::new((u32::from(memory.blocks()) + 1).next_power_of_two())?;
        let (address, bytes) = memory.range();
        let vector = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes };
        // SAFETY: the mapping lives as long as `registered` holds it, which goes with the ring; every write that names it
        // holds its block until its completion was seen or the ring is gone.
        let registered = match unsafe { uring.submitter().register_buffers(&[vector]) } {
            Ok(()) => Some(memory.clone()),
            Err(error) => {
                tracing::warn!(%error, "buffers cannot be pinned (RLIMIT_MEMLOCK?): writes cost a little more");
                None
            }
        };
        Ok(Self { uring, registered })
    }

    /// # Safety
    /// What the entry names stays as it is until its completion was seen or the ring is gone.
    unsafe fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: as above, by the caller.
        if unsafe { self.uring.submission().push(entry) }.is_err() {
            self.uring.submit()?;
            // SAFETY: as above, by the caller.
            unsafe { self.uring.submission().push(entry) }.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Something that was not done for a reason that passes: interrupted, out of memory for the moment, or the thread that had begun
/// it ended.
fn passes(error: i32) -> bool {
    matches!(error, libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ECANCELED)
}

impl OutputFile for RingFile {
    fn submit(&mut self, write: Write) {
        self.start(InFlight { write, done_bytes: 0, attempts: 0 });
        self.enter(false);
    }

    fn begin_sync(&mut self) {
        assert!(self.is_idle(), "a sync while something is in flight");
        assert!(self.progress.failure.is_none(), "a sync after a failure");
        self.start_sync(0);
        self.enter(false);
    }

    fn poll(&mut self, wait: bool) -> Progress {
        self.reap();
        let has_nothing =
            |progress: &Progress| progress.writes.is_empty() && !progress.synced && progress.failure.is_none();
        while wait && !self.is_idle() && has_nothing(&self.progress) {
            self.enter(true);
            self.reap();
        }
        if self.has_unsubmitted {
            // What was begun again.
            self.enter(false);
        }
        let mut progress = std::mem::take(&mut self.progress);
        progress.idle = self.is_idle();
        progress
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        assert!(self.is_idle(), "a file is cut while something is in flight");
        self.file.set_len(bytes)
    }

    fn direct(&self) -> bool {
        self.direct
    }

    fn preallocated(&self) -> bool {
        self.preallocated
    }

    fn uses_ring(&self) -> bool {
        self.ring.is_some()
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        while !self.is_idle() {
            if let Some(error) = self.poll(true).failure {
                tracing::error!(%error, "the last writes to a file failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use io_uring::squeue::Flags;
    use std::time::{Duration, Instant};

    #[test]
    fn what_the_kernel_did_not_take_at_first_is_submitted_by_a_later_poll() {
        let mut blocks = Block::allocate(2, ALIGNMENT_BYTES).unwrap();
        blocks.iter_mut().for_each(|block| block.fill(7));
        let memory = blocks[0].memory().clone();
        let file = tempfile::tempfile().unwrap();
        let mut ring = RingFile::new(file.try_clone().unwrap(), false, &memory, true);
        let mut in_flight = |offset| {
            let write = Write { block: blocks.pop().unwrap(), length: ALIGNMENT_BYTES, offset };
            InFlight { write, done_bytes: 0, attempts: 0 }
        };
        // An entry that no kernel takes, and a write behind it: the kernel stops between the two.
        let refused = opcode::Nop::new().build().flags(Flags::BUFFER_SELECT).user_data(0);
        // SAFETY: the entry names no memory.
        unsafe { ring.ring.as_mut().expect("these tests need io_uring").push(&refused) }.unwrap();
        ring.in_flight.push(Some(in_flight(0)));
        ring.in_flight_count = 1;
        ring.start(in_flight(ALIGNMENT_BYTES as u64));
        ring.enter(false);
        assert!(ring.has_unsubmitted, "the kernel took both");

        let (mut writes, mut failure) = (0, None);
        let began = Instant::now();
        while writes < 2 {
            assert!(began.elapsed() < Duration::from_secs(10), "{writes} of two writes are over");
            let progress = ring.poll(false);
            writes += progress.writes.len();
            failure = failure.or(progress.failure);
        }
        assert!(failure.is_some(), "the refused entry is told");
        let mut read = [0; ALIGNMENT_BYTES];
        FileExt::read_exact_at(&file, &mut read, ALIGNMENT_BYTES as u64).unwrap();
        assert_eq!(read, [7; ALIGNMENT_BYTES]);
    }
}
