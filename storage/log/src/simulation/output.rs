//! Writing a simulated file: writes and syncs that take their time, end in any order, and fail.

use super::device::{Device, InodeId};
use super::{Defect, Operation, Random, SimulatedDisk, State};
use crate::io::{OutputFile, Progress, Write};
use std::io;

pub(super) struct Output {
    disk: SimulatedDisk,
    generation: u64,
    device: usize,
    inode: InodeId,
    direct: bool,
    preallocated: bool,
    flying: Vec<Flying>,
    /// Polls until the sync in flight is over.
    sync: Option<u32>,
}

struct Flying {
    write: Write,
    token: u64,
    polls: u32,
}

impl Output {
    pub(super) fn new(
        disk: SimulatedDisk,
        generation: u64,
        device: usize,
        inode: InodeId,
        direct: bool,
        preallocated: bool,
    ) -> Self {
        Self { disk, generation, device, inode, direct, preallocated, flying: Vec::new(), sync: None }
    }

    /// The file's device, unless the machine or the process went away since it was opened.
    fn alive<'a>(&self, state: &'a mut State) -> Option<(&'a mut Device, &'a mut Random)> {
        let State { random, devices, generation, .. } = state;
        (*generation == self.generation).then(|| (&mut devices[self.device], random))
    }

    /// Ends the write at `index`.
    fn land(&mut self, index: usize, state: &mut State, progress: &mut Progress) {
        let Flying { write, token, .. } = self.flying.swap_remove(index);
        let result = match self.alive(state) {
            Some((device, random)) => {
                let result = write_result(device, self.inode, &write, random);
                let is_late = device.defect == Some(Defect::SyncOvertakesWrites);
                match &result {
                    Ok(()) => device.file(self.inode).complete(token, is_late),
                    Err(_) => device.file(self.inode).fail(token, random),
                }
                result
            }
            None => Err(io::Error::from_raw_os_error(libc::EIO)),
        };
        if let Err(error) = result {
            progress.failure.get_or_insert(error);
        }
        progress.writes.push(write);
    }

    fn land_sync(&mut self, state: &mut State, progress: &mut Progress) {
        self.sync = None;
        let result = match self.alive(state) {
            Some((device, random)) => match device.check(Operation::Sync, random) {
                Ok(()) if device.defect == Some(Defect::SyncDoesNothing) => Ok(()),
                Ok(()) => {
                    device.file(self.inode).sync();
                    Ok(())
                }
                Err(error) => {
                    device.file(self.inode).fail_sync(random);
                    Err(error)
                }
            },
            None => Err(io::Error::from_raw_os_error(libc::EIO)),
        };
        match result {
            Ok(()) => progress.synced = true,
            Err(error) => progress.failure = Some(error),
        }
    }
}

/// Whether a write is to fail.
fn write_result(device: &mut Device, inode: InodeId, write: &Write, random: &mut Random) -> io::Result<()> {
    device.check(Operation::Write, random)?;
    let growth = (write.offset + write.length as u64).saturating_sub(device.file(inode).length());
    if growth > 0 && device.free_bytes() < growth {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    Ok(())
}

impl OutputFile for Output {
    fn submit(&mut self, write: Write) {
        assert!(self.sync.is_none(), "a write while a sync is in flight");
        assert!(write.offset.is_multiple_of(4096) && write.length.is_multiple_of(4096), "writes are aligned");
        let disk = self.disk.clone();
        let mut state = disk.state();
        state.next_token += 1;
        let token = state.next_token;
        let polls = self.alive(&mut state).map_or(0, |(device, random)| {
            device.file(self.inode).submit(token, write.offset, write.block[..write.length].to_vec());
            random.below(u64::from(device.delay_polls_max) + 1) as u32
        });
        self.flying.push(Flying { write, token, polls });
    }

    fn begin_sync(&mut self) {
        assert!(self.flying.is_empty() && self.sync.is_none(), "a sync while something is in flight");
        let disk = self.disk.clone();
        let mut state = disk.state();
        let delay =
            |(device, random): (&mut Device, &mut Random)| random.below(u64::from(device.delay_polls_max) + 1) as u32;
        self.sync = Some(self.alive(&mut state).map_or(0, delay));
    }

    fn poll(&mut self, wait: bool) -> Progress {
        let disk = self.disk.clone();
        let mut state = disk.state();
        let mut progress = Progress::default();
        while let Some(due) = self.flying.iter().position(|flying| flying.polls == 0) {
            self.land(due, &mut state, &mut progress);
        }
        if self.sync == Some(0) {
            self.land_sync(&mut state, &mut progress);
        }
        if wait && progress.writes.is_empty() && !progress.synced && progress.failure.is_none() {
            if !self.flying.is_empty() {
                let any = state.random.below(self.flying.len() as u64) as usize;
                self.land(any, &mut state, &mut progress);
            } else if self.sync.is_some() {
                self.land_sync(&mut state, &mut progress);
            }
        }
        for polls in self.flying.iter_mut().map(|flying| &mut flying.polls).chain(&mut self.sync) {
            *polls = polls.saturating_sub(1);
        }
        progress.idle = self.flying.is_empty() && self.sync.is_none();
        progress
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        assert!(self.flying.is_empty() && self.sync.is_none(), "a file is cut while something is in flight");
        let mut state = self.disk.state();
        let Some((device, random)) = self.alive(&mut state) else {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        };
        device.check(Operation::Truncate, random)?;
        device.file(self.inode).set_length(bytes);
        Ok(())
    }

    fn direct(&self) -> bool {
        self.direct
    }

    fn preallocated(&self) -> bool {
        self.preallocated
    }

    fn uses_ring(&self) -> bool {
        false
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        while !self.poll(true).idle {}
        let mut state = self.disk.state();
        if let Some((device, _)) = self.alive(&mut state) {
            device.file(self.inode).handles -= 1;
            device.collect();
        }
    }
}
