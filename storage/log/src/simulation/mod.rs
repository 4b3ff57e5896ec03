//! A machine in memory whose disks crash, fill up and fail: everything that [`Io`] does not promise happens.
//!
//! For tests. All that happens follows from the seed and the order of calls. What was written and not flushed survives a crash
//! in any part, torn at 512 bytes, and so do the lengths of files; a name that was made or removed and not synced may be gone or
//! back. A failed sync loses what it likes, and a later one says nothing of it, as on Linux.

mod device;
mod file;
mod output;
mod random;
#[cfg(test)]
mod tests;

use crate::io::{FileSize, InputFile, Io, NewFile, OutputFile, SMALL_FILE_BYTES_MAX, Space};
use device::{Device, InodeId};
pub use random::Random;
use sidetone_model::CaptureTime;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    Create,
    Open,
    Read,
    Write,
    Sync,
    Truncate,
    Remove,
    Rename,
    SyncDirectory,
    List,
}

/// A device that does not keep what it promises. A test that means something fails on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    SyncDoesNothing,
    DirectorySyncDoesNothing,
    /// A write is said to be complete before it is within reach of the next sync.
    SyncOvertakesWrites,
}

/// The machine. Cheap to clone; all clones are the same machine.
///
/// Itself it is the outside world of somebody who outlives all crashes; [`Self::process`] is that of a process, which does not.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    /// The generation outside of which everything fails.
    process: Option<u64>,
}

struct State {
    random: Random,
    /// Nanoseconds that have passed.
    elapsed: u64,
    /// What the system's clock would show at none.
    epoch: u64,
    boots: u64,
    /// Counts crashes and ends of the process: files that were open before are dead.
    generation: u64,
    next_token: u64,
    /// The first is the root.
    devices: Vec<Device>,
    locks: BTreeSet<PathBuf>,
}

impl SimulatedDisk {
    /// A machine with one device, which is empty.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            elapsed: 0,
            epoch: 1_800_000_000_000_000_000,
            boots: 1,
            generation: 0,
            next_token: 0,
            devices: vec![Device::new(Path::new("/"))],
            locks: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), process: None }
    }

    /// The outside world of a process that begins now, and ends with the next [`Self::crash`] or [`Self::kill`]: then everything
    /// fails, so that nothing of it touches the world any more.
    pub fn process(&self) -> Arc<dyn Io> {
        let process = Some(self.state().generation);
        Arc::new(Self { process, ..self.clone() })
    }

    /// Puts a further device, empty, at a path, which becomes a directory on the device above if it is none. One that was
    /// there before comes back with what it holds.
    pub fn mount(&self, path: &Path) {
        let mut state = self.state();
        if let Some(device) = state.devices.iter_mut().find(|device| device.mounted_at == path) {
            device.is_mounted = true;
            return;
        }
        let parent = path.parent().expect("the root is mounted already");
        let device = state.device(path);
        let below = state.devices[device].below(path);
        match state.devices[device].create_directory(&below) {
            Ok(()) => {
                let directory = state.devices[device].below(parent);
                state.devices[device].sync_directory(&directory).expect("the directory is there");
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "the directory above is there"),
        }
        state.devices.push(Device::new(path));
    }

    /// Takes a device away; what lies below it at that path is seen again: a directory, usually empty.
    pub fn unmount(&self, path: &Path) {
        self.at_mount(path, |device| device.is_mounted = false);
    }

    /// Makes an operation fail `times` times with an I/O error, after it has succeeded `skip` times; then what a later call
    /// asked for follows. No times: forgets what was asked for. `path` is anywhere on the device, here and below.
    pub fn fail(&self, path: &Path, operation: Operation, skip: u32, times: u32) {
        self.at(path, |device| device.fail(operation, skip, times));
    }

    /// Makes an operation fail in so many of 1000 cases.
    pub fn set_failure_rate(&self, path: &Path, operation: Operation, per_mille: u32) {
        self.at(path, |device| device.set_rate(operation, per_mille));
    }

    /// Limits the space. What is stored already stays.
    pub fn set_capacity(&self, path: &Path, bytes: Option<u64>) {
        self.at(path, |device| device.capacity_bytes = bytes);
    }

    /// Whether space can be set aside for a new file; else a full disk shows in a write.
    pub fn set_preallocates(&self, path: &Path, preallocates: bool) {
        self.at(path, |device| device.preallocates = preallocates);
    }

    /// The device answers everything with an I/O error, until it is turned on again.
    pub fn set_down(&self, path: &Path, is_down: bool) {
        self.at(path, |device| device.is_down = is_down);
    }

    /// A write or sync takes up to so many polls.
    pub fn set_delay(&self, path: &Path, polls_max: u32) {
        self.at(path, |device| device.delay_polls_max = polls_max);
    }

    pub fn set_defect(&self, path: &Path, defect: Option<Defect>) {
        self.at(path, |device| device.defect = defect);
    }

    /// Flips bits of a byte that is stored.
    ///
    /// # Panics
    /// There is no such file.
    pub fn damage(&self, path: &Path, offset: u64, mask: u8) {
        self.at_file(path, |file| file.damage(offset, mask));
    }

    /// The device cannot read these bytes of a file.
    ///
    /// # Panics
    /// There is no such file.
    pub fn set_unreadable(&self, path: &Path, bytes: Range<u64>) {
        self.at_file(path, |file| file.unreadable.push(bytes));
    }

    /// All of a file can be read again.
    ///
    /// # Panics
    /// There is no such file.
    pub fn set_readable(&self, path: &Path) {
        self.at_file(path, |file| file.unreadable.clear());
    }

    /// Files that are open on a device, counted as often as they were opened.
    pub fn open_files(&self, path: &Path) -> u32 {
        self.at(path, |device| device.open_handles())
    }

    /// The power fails and comes back. What was open before is dead.
    pub fn crash(&self) {
        let State { random, devices, generation, boots, locks, .. } = &mut *self.state();
        *generation += 1;
        *boots += 1;
        locks.clear();
        for device in devices {
            device.crash(random);
        }
    }

    /// The process ends without warning. What it had written is there; what was open before is dead.
    pub fn kill(&self) {
        let State { random, devices, generation, locks, .. } = &mut *self.state();
        *generation += 1;
        locks.clear();
        for device in devices {
            device.end_process(random);
        }
    }

    /// Lets time pass.
    pub fn advance_clock(&self, nanoseconds: u64) {
        self.state().elapsed += nanoseconds;
    }

    /// Sets the system's clock, forward or back. No time passes.
    pub fn step_clock(&self, nanoseconds: i64) {
        let mut state = self.state();
        state.epoch = state.epoch.checked_add_signed(nanoseconds).expect("the clock shows a time after 1970");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at<T>(&self, path: &Path, act: impl FnOnce(&mut Device) -> T) -> T {
        let mut state = self.state();
        let device = state.device(path);
        act(&mut state.devices[device])
    }

    fn at_mount(&self, path: &Path, act: impl FnOnce(&mut Device)) {
        let mut state = self.state();
        act(state.devices.iter_mut().find(|device| device.mounted_at == path).expect("a device was mounted there"));
    }

    fn at_file(&self, path: &Path, act: impl FnOnce(&mut file::FileState)) {
        self.at(path, |device| {
            let inode = device.find_file(&device.below(path)).expect("the file is there");
            act(device.file(inode));
        });
    }

    fn check_alive(&self, state: &State) -> io::Result<()> {
        match self.process {
            Some(process) if process != state.generation => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
    }

    /// Does something with the device of a path, unless it is to fail.
    fn attempt<T>(
        &self,
        path: &Path,
        operation: Operation,
        act: impl FnOnce(&mut Device, &Path) -> io::Result<T>,
    ) -> io::Result<T> {
        self.attempt_in(&mut self.state(), path, operation, act)
    }

    fn attempt_in<T>(
        &self,
        state: &mut State,
        path: &Path,
        operation: Operation,
        act: impl FnOnce(&mut Device, &Path) -> io::Result<T>,
    ) -> io::Result<T> {
        self.check_alive(state)?;
        let index = state.device(path);
        let State { random, devices, .. } = state;
        let device = &mut devices[index];
        device.check(operation, random)?;
        let below = device.below(path);
        act(device, &below)
    }

    fn output(
        &self,
        path: &Path,
        operation: Operation,
        new: &NewFile,
        find: impl FnOnce(&mut Device, &Path) -> io::Result<InodeId>,
    ) -> io::Result<Box<dyn OutputFile>> {
        let mut state = self.state();
        let (inode, preallocates) = self.attempt_in(&mut state, path, operation, |device, below| {
            let inode = find(device, below)?;
            let growth = new.bytes.saturating_sub(device.file(inode).length());
            if device.preallocates && growth > 0 {
                if device.free_bytes() < growth {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                device.file(inode).set_length(new.bytes);
            }
            device.file(inode).handles += 1;
            Ok((inode, device.preallocates))
        })?;
        let (device, generation) = (state.device(path), state.generation);
        Ok(Box::new(output::Output::new(self.clone(), generation, device, inode, new.direct, preallocates)))
    }
}

impl State {
    /// The device that a path lies on.
    fn device(&self, path: &Path) -> usize {
        let on_way = self.devices.iter().enumerate();
        let on_way = on_way.filter(|(_, device)| device.is_mounted && path.starts_with(&device.mounted_at));
        on_way.max_by_key(|(_, device)| device.mounted_at.components().count()).map_or(0, |(index, _)| index)
    }
}

impl Device {
    /// A path as this device knows it.
    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.mounted_at).unwrap_or(path).to_owned()
    }
}

impl Io for SimulatedDisk {
    fn create(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        self.output(path, Operation::Create, new, Device::create_file)
    }

    fn extend(&self, path: &Path, new: &NewFile) -> io::Result<Box<dyn OutputFile>> {
        self.output(path, Operation::Open, new, |device, below| device.find_file(below))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn InputFile>> {
        let mut state = self.state();
        let inode = self.attempt_in(&mut state, path, Operation::Open, |device, below| {
            let inode = device.find_file(below)?;
            device.file(inode).handles += 1;
            Ok(inode)
        })?;
        let (device, generation) = (state.device(path), state.generation);
        Ok(Arc::new(Input { disk: self.clone(), generation, device, inode }))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        self.check_alive(&state)?;
        let index = state.device(path);
        let State { random, devices, .. } = &mut *state;
        let device = &mut devices[index];
        let inode = device.find_file(&device.below(path))?;
        if let Err(error) = device.check(Operation::Sync, random) {
            device.file(inode).fail_sync(random);
            return Err(error);
        }
        if device.defect != Some(Defect::SyncDoesNothing) {
            device.file(inode).sync();
            device.file(inode).drop_cache();
        }
        Ok(())
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.attempt(path, Operation::Truncate, |device, below| {
            let inode = device.find_file(below)?;
            device.file(inode).set_length(bytes);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.attempt(path, Operation::Remove, Device::remove)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        {
            let state = self.state();
            if state.device(from) != state.device(to) {
                return Err(io::ErrorKind::CrossesDevices.into());
            }
        }
        self.attempt(from, Operation::Rename, |device, below| device.rename(below, &device.below(to)))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.attempt(path, Operation::Create, Device::create_directory)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.attempt(path, Operation::SyncDirectory, Device::sync_directory)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.attempt(path, Operation::List, |device, below| device.list(below))
    }

    fn size(&self, path: &Path) -> io::Result<FileSize> {
        self.attempt(path, Operation::Open, |device, below| {
            let inode = device.find_file(below)?;
            let bytes = device.file(inode).length();
            Ok(FileSize { bytes, allocated_bytes: bytes })
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let length = file.bytes()?;
        if length > SMALL_FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; length as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.attempt(path, Operation::Create, |_, _| Ok(()))?;
        self.attempt(path, Operation::Sync, |device, below| device.put(below, bytes))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.attempt(path, Operation::Open, |device, below| {
            device.list(below).map(|_| ()).or_else(|_| device.find_file(below).map(|_| ()))?;
            Ok(Space { free_bytes: device.free_bytes(), total_bytes: device.capacity_bytes.unwrap_or(1 << 40) })
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.attempt(path, Operation::Create, |device, below| device.put(below, b"1\n"))?;
        let mut state = self.state();
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = state.generation;
        Ok(Box::new(Lock { disk: self.clone(), generation, path: path.to_owned() }))
    }

    fn now(&self) -> CaptureTime {
        let mut state = self.state();
        state.elapsed += 1000;
        CaptureTime(state.epoch + state.elapsed)
    }

    fn monotonic(&self) -> Duration {
        let mut state = self.state();
        state.elapsed += 1000;
        Duration::from_nanos(state.elapsed)
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut state = self.state();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&state.random.next().to_le_bytes());
        bytes[8..].copy_from_slice(&state.random.next().to_le_bytes());
        Ok(bytes)
    }

    fn boot_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.state().boots))
    }
}

struct Input {
    disk: SimulatedDisk,
    generation: u64,
    device: usize,
    inode: InodeId,
}

impl Input {
    fn attempt<T>(&self, act: impl FnOnce(&mut file::FileState) -> io::Result<T>) -> io::Result<T> {
        let State { random, devices, generation, .. } = &mut *self.disk.state();
        if *generation != self.generation {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let device = &mut devices[self.device];
        device.check(Operation::Read, random)?;
        act(device.file(self.inode))
    }
}

impl InputFile for Input {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.attempt(|file| {
            let wanted = offset..offset + bytes.len() as u64;
            if file.unreadable.iter().any(|bad| bad.start < wanted.end && wanted.start < bad.end) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(file.read_at(bytes, offset))
        })
    }

    fn bytes(&self) -> io::Result<u64> {
        self.attempt(|file| Ok(file.length()))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation == self.generation {
            let device = &mut state.devices[self.device];
            device.file(self.inode).handles -= 1;
            device.collect();
        }
    }
}

struct Lock {
    disk: SimulatedDisk,
    generation: u64,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}
