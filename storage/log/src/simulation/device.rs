//! One simulated device with its file system: names, files, space, and what it is told to do wrong.

use super::file::FileState;
use super::{Defect, Operation, Random};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

const ROOT: InodeId = InodeId(0);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct InodeId(u64);

enum Inode {
    File(FileState),
    Directory(Names),
}

/// The names in a directory.
#[derive(Default)]
struct Names {
    visible: BTreeMap<String, InodeId>,
    /// What a crash cannot take.
    durable: BTreeMap<String, InodeId>,
    /// Between the two, in the order of their making. What belongs together is kept or lost together.
    pending: Vec<NameChange>,
}

type NameChange = Vec<(String, Option<InodeId>)>;

pub(super) struct Device {
    pub(super) mounted_at: PathBuf,
    pub(super) is_mounted: bool,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: u64,
    /// An operation fails that many times, after it has succeeded so many times.
    due: Vec<(Operation, u32, u32)>,
    /// Per mille.
    rates: BTreeMap<Operation, u32>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) preallocates: bool,
    pub(super) is_down: bool,
    pub(super) delay_polls_max: u32,
    pub(super) defect: Option<Defect>,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Names {
    fn change(&mut self, change: NameChange) {
        for (name, inode) in &change {
            match inode {
                Some(inode) => self.visible.insert(name.clone(), *inode),
                None => self.visible.remove(name),
            };
        }
        self.pending.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.visible.clone();
        self.pending.clear();
    }

    /// Of the changes to each name the first few are kept; where names were changed together, of all.
    fn crash(&mut self, random: &mut Random) {
        let is_ordered = self.pending.iter().any(|change| change.len() > 1);
        let mut kept: BTreeMap<String, u64> = BTreeMap::new();
        for change in std::mem::take(&mut self.pending) {
            let key = if is_ordered { String::new() } else { change[0].0.clone() };
            // Once a change is lost, so are those behind it.
            let lost = kept.get(&key) == Some(&0);
            let keep = !lost && random.chance(600);
            kept.insert(key, u64::from(keep));
            if keep {
                for (name, inode) in change {
                    match inode {
                        Some(inode) => self.durable.insert(name, inode),
                        None => self.durable.remove(&name),
                    };
                }
            }
        }
        self.visible = self.durable.clone();
    }

    fn all(&self) -> impl Iterator<Item = InodeId> {
        let pending = self.pending.iter().flatten().filter_map(|(_, inode)| *inode);
        self.visible.values().chain(self.durable.values()).copied().chain(pending)
    }
}

impl Device {
    pub(super) fn new(mounted_at: &Path) -> Self {
        Self {
            mounted_at: mounted_at.to_owned(),
            is_mounted: true,
            inodes: BTreeMap::from([(ROOT, Inode::Directory(Names::default()))]),
            next_inode: 1,
            due: Vec::new(),
            rates: BTreeMap::new(),
            capacity_bytes: None,
            preallocates: true,
            is_down: false,
            delay_polls_max: 0,
            defect: None,
        }
    }

    pub(super) fn fail(&mut self, operation: Operation, skip: u32, times: u32) {
        self.due.retain(|due| due.2 > 0 && (due.0 != operation || times > 0));
        self.due.push((operation, skip, times));
    }

    pub(super) fn set_rate(&mut self, operation: Operation, per_mille: u32) {
        self.rates.insert(operation, per_mille);
    }

    /// Whether an operation is to fail.
    pub(super) fn check(&mut self, operation: Operation, random: &mut Random) -> io::Result<()> {
        if self.is_down {
            return Err(eio());
        }
        for (due, skip, times) in &mut self.due {
            if *due == operation {
                if *skip > 0 {
                    *skip -= 1;
                } else if *times > 0 {
                    *times -= 1;
                    return Err(eio());
                }
            }
        }
        let rate = self.rates.get(&operation).copied().unwrap_or_default();
        if rate > 0 && random.chance(rate) { Err(eio()) } else { Ok(()) }
    }

    /// The file or directory that a path below the mount point means.
    fn find(&self, path: &Path) -> io::Result<InodeId> {
        let mut found = ROOT;
        for name in names_of(path) {
            found = *self.names(found)?.visible.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(found)
    }

    fn names(&self, directory: InodeId) -> io::Result<&Names> {
        match self.inodes.get(&directory) {
            Some(Inode::Directory(names)) => Ok(names),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn names_mut(&mut self, directory: InodeId) -> io::Result<&mut Names> {
        match self.inodes.get_mut(&directory) {
            Some(Inode::Directory(names)) => Ok(names),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory of a path, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(InodeId, String)> {
        let mut names = names_of(path);
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = self.find(&names.iter().collect::<PathBuf>())?;
        self.names(directory)?;
        Ok((directory, name))
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        let id = InodeId(self.next_inode);
        self.next_inode += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn make(&mut self, path: &Path, inode: Inode) -> io::Result<InodeId> {
        let (directory, name) = self.place(path)?;
        if self.names(directory)?.visible.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.add(inode);
        self.names_mut(directory)?.change(vec![(name, Some(id))]);
        Ok(id)
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<InodeId> {
        self.make(path, Inode::File(FileState::default()))
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        self.make(path, Inode::Directory(Names::default())).map(|_| ())
    }

    /// A file whose content and name are durable.
    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        if self.free_bytes() < bytes.len() as u64 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut file = FileState::default();
        file.submit(0, 0, bytes.to_vec());
        file.complete(0, false);
        file.sync();
        let id = self.add(Inode::File(file));
        let names = self.names_mut(directory)?;
        names.pending.retain(|change| change.iter().all(|(changed, _)| *changed != name));
        names.durable.insert(name.clone(), id);
        names.visible.insert(name, id);
        self.collect();
        Ok(())
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<InodeId> {
        let id = self.find(path)?;
        match self.inodes.get(&id) {
            Some(Inode::File(_)) => Ok(id),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// A file that is open or has a name.
    pub(super) fn file(&mut self, id: InodeId) -> &mut FileState {
        match self.inodes.get_mut(&id) {
            Some(Inode::File(file)) => file,
            _ => unreachable!("the file is open or has a name"),
        }
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find_file(path)?;
        let (directory, name) = self.place(path)?;
        self.names_mut(directory)?.change(vec![(name, None)]);
        self.collect();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.find(from)?;
        let ((from_directory, from_name), (to_directory, to_name)) = (self.place(from)?, self.place(to)?);
        if from_directory == to_directory {
            self.names_mut(from_directory)?.change(vec![(to_name, Some(id)), (from_name, None)]);
        } else {
            self.names_mut(to_directory)?.change(vec![(to_name, Some(id))]);
            self.names_mut(from_directory)?.change(vec![(from_name, None)]);
        }
        self.collect();
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        let directory = self.find(path)?;
        let does_nothing = self.defect == Some(Defect::DirectorySyncDoesNothing);
        let names = self.names_mut(directory)?;
        if !does_nothing {
            names.sync();
        }
        self.collect();
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.names(self.find(path)?)?.visible.keys().cloned().collect())
    }

    pub(super) fn free_bytes(&self) -> u64 {
        let used: u64 = self.visible_or_open().map(FileState::length).sum();
        self.capacity_bytes.unwrap_or(1 << 40).saturating_sub(used)
    }

    fn visible_or_open(&self) -> impl Iterator<Item = &FileState> {
        let mut visible = BTreeSet::new();
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            for id in self.names(directory).into_iter().flat_map(|names| names.visible.values()) {
                visible.insert(*id);
                directories.push(*id);
            }
        }
        self.inodes.iter().filter_map(move |(id, inode)| match inode {
            Inode::File(file) if file.handles > 0 || visible.contains(id) => Some(file),
            _ => None,
        })
    }

    pub(super) fn open_handles(&self) -> u32 {
        self.visible_or_open().map(|file| file.handles).sum()
    }

    /// Forgets what can never be reached again.
    pub(super) fn collect(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            for id in self.names(directory).into_iter().flat_map(Names::all) {
                if reachable.insert(id) {
                    directories.push(id);
                }
            }
        }
        self.inodes.retain(|id, inode| {
            let is_open = matches!(inode, Inode::File(file) if file.handles > 0);
            is_open || reachable.contains(id)
        });
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.crash(random),
                Inode::Directory(names) => names.crash(random),
            }
        }
        self.collect();
    }

    pub(super) fn end_process(&mut self, random: &mut Random) {
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode {
                file.land_some(random);
            }
        }
        self.collect();
    }
}

fn names_of(path: &Path) -> Vec<String> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}
