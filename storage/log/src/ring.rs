//! The file system through io_uring: registered buffers, O_DIRECT where it is there, fdatasync behind completed writes.
//!
//! Constraints: a ring belongs to the thread that made it (SINGLE_ISSUER | DEFER_TASKRUN), so that a journal which was
//! opened on one thread and is used on another gets a new ring there. Where the kernel has no io_uring or forbids it (kernel
//! before 5.11, seccomp, `kernel.io_uring_disabled`), writes are made one after the other; the log says so.

use crate::block::Block;
use crate::disk::{Created, Disk, Write};
use crate::format::ALIGNMENT_BYTES;
use io_uring::{IoUring, opcode, types};
use rustix::fs::{FallocateFlags, OFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread::ThreadId;

const SYNC_TOKEN: u64 = u64::MAX;
/// How often a write is begun again that made no progress for a passing reason (EINTR, EAGAIN).
const ATTEMPTS_MAX: u8 = 100;

pub(crate) struct RingDisk {
    ring: Option<Ring>,
    /// The kernel has no io_uring for us; do not ask again.
    ring_refused: bool,
    file: Option<File>,
    allow_direct: bool,
    #[cfg(test)]
    direct_refused: bool,
    /// By block number.
    in_flight: Vec<Option<InFlight>>,
    in_flight_count: usize,
    settled: Vec<Write>,
    failure: Option<io::Error>,
    /// Address and size of every block, for registration.
    blocks: Vec<(usize, usize)>,
    header_block: Block,
}

struct Ring {
    uring: IoUring,
    thread: ThreadId,
    buffers_registered: bool,
}

struct InFlight {
    write: Write,
    done_bytes: usize,
    attempts: u8,
}

impl RingDisk {
    /// `blocks` are all that will be submitted; they stay with the caller.
    pub(crate) fn new(blocks: &[Block], allow_direct: bool) -> io::Result<Self> {
        let header_block = Block::allocate(1, ALIGNMENT_BYTES)?.pop().expect("one block was asked for");
        let mut disk = Self {
            ring: None,
            ring_refused: false,
            file: None,
            allow_direct,
            #[cfg(test)]
            direct_refused: false,
            in_flight: blocks.iter().map(|_| None).collect(),
            in_flight_count: 0,
            settled: Vec::with_capacity(blocks.len()),
            failure: None,
            blocks: blocks.iter().map(|block| (block.as_ptr() as usize, block.len())).collect(),
            header_block,
        };
        disk.ensure_ring();
        Ok(disk)
    }

    /// A ring that this thread may use. What another thread's ring had in flight is written again: the same bytes to
    /// the same places.
    fn ensure_ring(&mut self) {
        let thread = std::thread::current().id();
        if self.ring_refused || self.ring.as_ref().is_some_and(|ring| ring.thread == thread) {
            return;
        }
        self.ring = None;
        match self.make_ring(thread) {
            Ok(ring) => self.ring = Some(ring),
            Err(error) => {
                tracing::warn!(%error, "no io_uring here: the journal is written with ordinary system calls");
                self.ring_refused = true;
            }
        }
        for index in 0..self.in_flight.len() {
            if let Some(in_flight) = self.in_flight[index].take() {
                self.in_flight_count -= 1;
                self.start(in_flight);
            }
        }
    }

    /// As on a file system without O_DIRECT.
    #[cfg(test)]
    pub(crate) fn refuse_direct_for_tests(&mut self) {
        self.direct_refused = true;
    }

    /// As on a kernel without io_uring.
    #[cfg(test)]
    pub(crate) fn refuse_ring_for_tests(&mut self) {
        self.ring = None;
        self.ring_refused = true;
    }

    fn make_ring(&self, thread: ThreadId) -> io::Result<Ring> {
        // All blocks and one sync can be in flight.
        let entries = (self.blocks.len() as u32 + 1).next_power_of_two();
        let uring = match IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries) {
            // Kernels before 6.1.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => IoUring::builder().build(entries)?,
            other => other?,
        };
        let vectors: Vec<libc::iovec> = self
            .blocks
            .iter()
            .map(|&(address, bytes)| libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes })
            .collect();
        // SAFETY: the blocks' mapping lives as long as any block; every write that names a buffer holds its block in
        // `in_flight` until its completion was seen or the ring is gone.
        let buffers_registered = match unsafe { uring.submitter().register_buffers(&vectors) } {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the journal's buffers cannot be pinned (RLIMIT_MEMLOCK?): writes cost a little more");
                false
            }
        };
        Ok(Ring { uring, thread, buffers_registered })
    }

    /// Begins the part of a write that is not done yet. Without a ring, does it.
    fn start(&mut self, in_flight: InFlight) {
        let Some(file) = &self.file else {
            self.failure.get_or_insert_with(|| io::Error::other("no journal file is open"));
            self.settled.push(in_flight.write);
            return;
        };
        let InFlight { write, done_bytes, .. } = &in_flight;
        let offset = write.offset + *done_bytes as u64;
        let rest = &write.block[*done_bytes..write.length];
        let Some(ring) = &mut self.ring else {
            if let Err(error) = file.write_all_at(rest, offset) {
                self.failure.get_or_insert(error);
            }
            self.settled.push(in_flight.write);
            return;
        };
        let index = write.block.index();
        let (pointer, length) = (rest.as_ptr(), rest.len() as u32);
        let fd = types::Fd(file.as_raw_fd());
        let entry = if ring.buffers_registered {
            opcode::WriteFixed::new(fd, pointer, length, index).offset(offset).build()
        } else {
            opcode::Write::new(fd, pointer, length).offset(offset).build()
        };
        let entry = entry.user_data(u64::from(index));
        // SAFETY: the block moves into `in_flight` and leaves it only when the completion was seen or the ring is gone:
        // its memory stays mapped and unchanged while the kernel may read it. The file stays open as long: `create`
        // asserts that nothing is in flight.
        unsafe { ring.uring.submission().push(&entry) }.expect("the queue has room for every block");
        self.in_flight[usize::from(index)] = Some(in_flight);
        self.in_flight_count += 1;
    }

    /// Takes completions that are there.
    fn reap(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let completions: Vec<(u64, i32)> =
            ring.uring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (token, result) in completions {
            let slot = usize::try_from(token).ok().and_then(|index| self.in_flight.get_mut(index));
            let mut in_flight = slot.and_then(Option::take).expect("a completion belongs to a write in flight");
            self.in_flight_count -= 1;
            let length = in_flight.write.length;
            match result {
                written if written > 0 => {
                    in_flight.done_bytes += written as usize;
                    if in_flight.done_bytes >= length {
                        self.settled.push(in_flight.write);
                        continue;
                    }
                    // O_DIRECT takes whole blocks only: write the last, partial one again.
                    in_flight.done_bytes -= in_flight.done_bytes % ALIGNMENT_BYTES;
                    in_flight.attempts += 1;
                }
                interrupted if interrupted == -libc::EINTR || interrupted == -libc::EAGAIN => in_flight.attempts += 1,
                0 => {
                    self.failure.get_or_insert_with(|| io::ErrorKind::WriteZero.into());
                    self.settled.push(in_flight.write);
                    continue;
                }
                error => {
                    self.failure.get_or_insert_with(|| io::Error::from_raw_os_error(-error));
                    self.settled.push(in_flight.write);
                    continue;
                }
            }
            if in_flight.attempts >= ATTEMPTS_MAX {
                self.failure.get_or_insert_with(|| io::ErrorKind::TimedOut.into());
                self.settled.push(in_flight.write);
            } else {
                self.start(in_flight);
            }
        }
    }

    /// Gives up the ring with everything in it. The kernel may still write from the blocks, to the file they were meant
    /// for; they carry nothing secret and that file is not trusted behind its last sync.
    fn abandon_ring(&mut self, error: io::Error) {
        self.ring = None;
        self.failure.get_or_insert(error);
        for slot in &mut self.in_flight {
            if let Some(in_flight) = slot.take() {
                self.settled.push(in_flight.write);
            }
        }
        self.in_flight_count = 0;
    }
}

/// `io_uring_enter` failed for a reason that passes.
fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Disk for RingDisk {
    fn create(&mut self, path: &Path, bytes: u64, header: &[u8; ALIGNMENT_BYTES]) -> io::Result<Created> {
        assert_eq!(self.in_flight_count, 0, "a new journal file while writes are in flight");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
        let created = self.fill_new(path, file, bytes, header).inspect_err(|_| {
            // Ours, made a moment ago, and empty: leave nothing half-made.
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a journal file that could not be finished");
            }
        })?;
        self.ensure_ring();
        Ok(created)
    }

    fn submit(&mut self, write: Write) {
        self.ensure_ring();
        self.start(InFlight { write, done_bytes: 0, attempts: 0 });
        if let Some(ring) = &self.ring
            && let Err(error) = ring.uring.submit()
            && !passes(&error)
        {
            self.abandon_ring(error);
        }
    }

    fn settle(&mut self) -> (Vec<Write>, io::Result<()>) {
        self.ensure_ring();
        let mut attempts = 0;
        while self.in_flight_count > 0 {
            let Some(ring) = &self.ring else { break };
            match ring.uring.submit_and_wait(1) {
                Ok(_) => self.reap(),
                Err(error) if passes(&error) && attempts < 10_000 => {
                    attempts += 1;
                    self.reap();
                    std::thread::sleep(std::time::Duration::from_micros(100));
                }
                Err(error) => self.abandon_ring(error),
            }
        }
        (std::mem::take(&mut self.settled), self.failure.take().map_or(Ok(()), Err))
    }

    fn sync(&mut self) -> io::Result<()> {
        assert_eq!(self.in_flight_count, 0, "a sync while writes are in flight");
        self.ensure_ring();
        let Some(file) = &self.file else { return Err(io::Error::other("no journal file is open")) };
        let Some(ring) = &mut self.ring else { return file.sync_data() };
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build()
            .user_data(SYNC_TOKEN);
        // SAFETY: the entry names no memory; the file stays open while this function waits.
        unsafe { ring.uring.submission().push(&entry) }.expect("nothing else is in the queue");
        loop {
            match ring.uring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if passes(&error) => {}
                Err(error) => {
                    self.ring = None;
                    return Err(error);
                }
            }
            if let Some(completion) = ring.uring.completion().next() {
                assert_eq!(completion.user_data(), SYNC_TOKEN, "only the sync is in flight");
                let result = completion.result();
                return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
            }
        }
    }

    fn trim(&mut self, bytes: u64) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.set_len(bytes))
    }

    fn uses_ring(&self) -> bool {
        self.ring.is_some()
    }
}

impl RingDisk {
    fn fill_new(&mut self, path: &Path, file: File, bytes: u64, header: &[u8; ALIGNMENT_BYTES]) -> io::Result<Created> {
        let preallocated = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => true,
            Err(rustix::io::Errno::OPNOTSUPP) => {
                tracing::warn!(path = %path.display(), "this file system cannot set space aside: a full disk shows late");
                false
            }
            Err(error) => return Err(error.into()),
        };
        self.header_block.copy_from_slice(header);
        let direct = if self.allow_direct { self.open_direct(path)? } else { None };
        let (file, direct) = match direct {
            Some(direct_file) => (direct_file, true),
            None => {
                file.write_all_at(&self.header_block, 0)?;
                (file, false)
            }
        };
        file.sync_all()?;
        let directory = path.parent().ok_or_else(|| io::Error::other("the journal file has no directory"))?;
        File::open(directory)?.sync_all()?;
        self.file = Some(file);
        Ok(Created { direct, preallocated })
    }

    /// Opens for writing past the page cache and writes the header so; `None` where the file system cannot.
    fn open_direct(&mut self, path: &Path) -> io::Result<Option<File>> {
        let flags = OFlags::DIRECT.bits() as i32;
        let attempt = OpenOptions::new().write(true).custom_flags(flags).open(path);
        #[cfg(test)]
        let attempt = attempt.and_then(|file| match self.direct_refused {
            true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            false => Ok(file),
        });
        let attempt = attempt.and_then(|file| file.write_all_at(&self.header_block, 0).map(|()| file));
        match attempt {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput || error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(path = %path.display(), %error, "no O_DIRECT on this file system: the journal goes through the page cache");
                self.allow_direct = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for RingDisk {
    fn drop(&mut self) {
        if let (_, Err(error)) = self.settle() {
            tracing::error!(%error, "the last writes to the journal failed");
        }
    }
}
