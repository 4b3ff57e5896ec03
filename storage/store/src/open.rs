//! Opening a store for writing.

use crate::backup::is_no_backup;
use crate::catch_up::{Damage, catch_up, owe_missed, owe_pending, read_forgotten, to_the_end};
use crate::description::{Description, STORE_FILE, is_unused, make_directory};
use crate::handle::StoreHandle;
use crate::keeper::{Keeper, look_at_space};
use crate::lane::Lane;
use crate::logs::Logs;
use crate::recover::{Orphans, open_journal, unannounced_runs};
use crate::sabotage::Sabotage;
use crate::shared::{Shared, SharedVolume, is_fault};
use crate::writer::Queues;
use crate::{StoreError, StoreOptions, StoreReader, StoreWriter, VolumeState, rebuild, volume};
use sidetone_catalog::{Catalog, RocksCatalog};
use sidetone_log::{Io, KnownEnd, RingIo};
use sidetone_model::{Gap, RecordingId};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

/// Recordings of which loss is written down at once.
const OWNED_UP_AT_ONCE: usize = 64;

/// Held as long as a process may write the store.
pub(crate) type Lock = Arc<dyn Send + Sync>;

/// Opens the catalog in a directory, and makes it when there is none.
pub type OpenCatalog<'a> = dyn Fn(&Path) -> Result<Arc<dyn Catalog>, StoreError> + 'a;

/// A store opened for writing: its four sides.
pub struct Store {
    pub writer: StoreWriter,
    pub keeper: Keeper,
    pub reader: Arc<StoreReader>,
    pub handle: StoreHandle,
}

impl Store {
    /// Opens the store for writing, waits for nothing: a second process gets [`StoreError::Locked`]. When this returns, the
    /// catalog has everything that the journals and segments of the volumes hold that can be found; a volume that cannot
    /// be written is no error ([`crate::VolumeState`]).
    pub fn open(home: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let io: Arc<dyn Io> = Arc::new(RingIo::new());
        let open_catalog = |path: &Path| {
            rebuild::finish_exchange(home)?;
            Ok(Arc::new(RocksCatalog::open(path)?) as Arc<dyn Catalog>)
        };
        Self::open_on(io, &open_catalog, home, options)
    }

    /// As [`Self::open`], in another world.
    pub fn open_on(
        io: Arc<dyn Io>,
        open_catalog: &OpenCatalog<'_>,
        home: &Path,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        Self::open_with(io, open_catalog, home, options, None)
    }

    pub(crate) fn open_with(
        io: Arc<dyn Io>,
        open_catalog: &OpenCatalog<'_>,
        home: &Path,
        options: &StoreOptions,
        sabotage: Option<Sabotage>,
    ) -> Result<Self, StoreError> {
        let taken = take(&*io, home, options)?;
        Self::open_taken(io, open_catalog, home, options, taken, sabotage)
    }

    /// With the lock in hand.
    fn open_taken(
        io: Arc<dyn Io>,
        open_catalog: &OpenCatalog<'_>,
        home: &Path,
        options: &StoreOptions,
        (lock, mut description, is_new): (Lock, Description, bool),
        sabotage: Option<Sabotage>,
    ) -> Result<Self, StoreError> {
        let volumes = volume::open(&*io, home, &mut description, &options.volumes, is_new || options.create_volumes)?;
        let logs = Logs::new(Arc::clone(&io), description.store_id, &volumes);
        let catalog = open_catalog(&home.join("catalog"))?;
        let shared = Arc::new(Shared {
            files: logs.files.clone(),
            io,
            catalog,
            home: home.to_owned(),
            description,
            options: options.clone(),
            volumes: volumes.into_iter().map(|volume| Arc::new(SharedVolume::new(volume))).collect(),
            annotating: Mutex::default(),
            writer: Mutex::default(),
            keeper: Mutex::default(),
            retirement_holds: Default::default(),
            sabotage,
            _lock: Some(lock),
        });
        let mut lanes = Vec::new();
        for volume in &shared.volumes {
            look_at_space(&shared, volume);
            lanes.push(Lane::new(Arc::clone(volume), open_lane(&shared, volume)?));
        }
        let damaged = read_on(&shared, &logs, &mut lanes)?;
        let mut store = assemble(&shared, &logs, lanes)?;
        if !damaged.is_empty() {
            // Before anything is shown.
            store.keeper.found_damaged(damaged)?;
            let announcements = store.keeper.to_announce();
            announce(&mut store.writer, &mut store.keeper, announcements);
        }
        Ok(store)
    }

    /// Opens the store, of which the lock is held, only to write down that audio of recordings is gone, or may have lain where a journal is
    /// damaged; closes it again. It has the
    /// catalog in this directory meanwhile, which need not be in its place yet. Gives how many are incomplete now that were whole, or
    /// have a gap more.
    pub(crate) fn own_up(
        home: &Path,
        (lock, description): (Lock, Description),
        catalog: &Path,
        lost: BTreeMap<RecordingId, Vec<Gap>>,
        damaged: Vec<Damage>,
    ) -> Result<u64, StoreError> {
        let io: Arc<dyn Io> = Arc::new(RingIo::new());
        let options = StoreOptions { create: false, ..StoreOptions::new(description.node.clone()) };
        let open_catalog = |_: &Path| Ok(Arc::new(RocksCatalog::open(catalog)?) as Arc<dyn Catalog>);
        let mut store = Self::open_taken(io, &open_catalog, home, &options, (lock, description, false), None)?;
        store.keeper.found_damaged(damaged)?;
        let mut told = 0;
        let mut lost = lost.into_iter().peekable();
        while lost.peek().is_some() || !store.keeper.has_announced() {
            for (recording, gaps) in lost.by_ref().take(OWNED_UP_AT_ONCE) {
                told += u64::from(store.keeper.has_lost(recording, &gaps)?);
            }
            let announcements = store.keeper.to_announce();
            announce(&mut store.writer, &mut store.keeper, announcements);
            if !store.keeper.has_announced() {
                return Err(StoreError::NoVolume { states: store.handle.shared.states() });
            }
        }
        store.keeper.close(store.writer)?;
        Ok(told)
    }

    pub fn split(self) -> (StoreWriter, Keeper, Arc<StoreReader>, StoreHandle) {
        (self.writer, self.keeper, self.reader, self.handle)
    }
}

/// Takes the store's lock and reads its description, or makes the store. Tells whether it was made.
fn take(io: &dyn Io, home: &Path, options: &StoreOptions) -> Result<(Lock, Description, bool), StoreError> {
    is_no_backup(io, home)?;
    if Description::read(io, home)?.is_none() {
        if !options.create {
            return Err(StoreError::NotFound { path: home.to_owned() });
        }
        make_directory(io, home)?;
        if !is_unused(io, home)? {
            return Err(StoreError::ForeignDirectory { path: home.to_owned() });
        }
    }
    let lock = take_lock(io, home)?;
    // Once more under the lock: another process may have made it meanwhile.
    if let Some(description) = Description::read(io, home)? {
        return Ok((lock, description, false));
    }
    let description = Description::new(io, &options.node)
        .map_err(|source| StoreError::io("draw a number for", home.join(STORE_FILE), source))?;
    description.write(io, home)?;
    Ok((lock, description, true))
}

/// The lock that keeps two writing processes off one store.
pub(crate) fn take_lock(io: &dyn Io, home: &Path) -> Result<Lock, StoreError> {
    let path = home.join("lock");
    io.lock(&path).map(Arc::from).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => {
            let text = io.read(&path).ok().and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
            let holder = text.trim();
            let is_known = !holder.is_empty() && holder.bytes().all(|byte| byte.is_ascii_digit());
            let process = if is_known { holder.to_owned() } else { "(unknown)".to_owned() };
            StoreError::Locked { path: home.to_owned(), process }
        }
        _ => StoreError::io("lock", path, source),
    })
}

/// The journal of a volume; `None` when its device does not let us.
fn open_lane(shared: &Shared, volume: &SharedVolume) -> Result<Option<sidetone_log::Journal>, StoreError> {
    if volume.fault() == VolumeState::Missing {
        return Ok(None);
    }
    let failed = |what: &dyn std::fmt::Display, state| {
        tracing::error!(volume = volume.volume.number.0, error = %what, "a volume cannot be written: the store opens without it");
        volume.set_fault(state);
    };
    match open_journal(shared, volume) {
        Ok(journal) => Ok(Some(journal)),
        Err(StoreError::Log(error)) if is_fault(&error) => {
            failed(&error, volume.count_fault(&error));
            Ok(None)
        }
        Err(error @ (StoreError::Io { .. } | StoreError::ReadOnly { .. } | StoreError::Permission { .. })) => {
            failed(&error, VolumeState::Failed);
            Ok(None)
        }
        Err(error @ StoreError::NoSpace { .. }) => {
            failed(&error, VolumeState::Full);
            Ok(None)
        }
        // Whatever is wrong with one of several, the others can record.
        Err(error) if !matches!(error, StoreError::Catalog(_)) && shared.volumes.len() > 1 => {
            failed(&error, VolumeState::Failed);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Brings the catalog up to date with all volumes that can be read, those too that cannot be written. One that cannot be read is
/// not written to either: the catalog could not follow. Gives the damage that was met.
fn read_on(shared: &Shared, logs: &Logs, lanes: &mut [Lane]) -> Result<Vec<Damage>, StoreError> {
    let catalog = &*shared.catalog;
    owe_pending(catalog, &shared.numbers())?;
    let mut ends = Vec::new();
    for lane in lanes.iter_mut().filter(|lane| lane.shared.fault() != VolumeState::Missing) {
        let volume = lane.shared.volume.number;
        let found = read_forgotten(&*shared.io, catalog, logs, &[volume]).and_then(|()| match lane.journal {
            Some(_) => Ok((volume, KnownEnd::At(lane.told))),
            None => to_the_end(&*shared.io, logs.volume(volume)?),
        });
        match found {
            Ok(end) => ends.push(end),
            Err(error) => cannot_read(shared, lane, error)?,
        }
    }
    owe_missed(catalog, logs, &ends)?;
    let caught_up = catch_up(catalog, logs, &ends, &mut |_| {})?;
    caught_up.count(&mut shared.keeper());
    if caught_up.records > 0 {
        let damaged = caught_up.damaged.len();
        tracing::info!(records = caught_up.records, damaged, "catalog caught up with the journals");
    }
    for (volume, error) in caught_up.unreadable {
        let lane = lanes.iter_mut().find(|lane| lane.shared.volume.number == volume);
        cannot_read(shared, lane.expect("a volume has a lane"), error)?;
    }
    Ok(caught_up.damaged)
}

/// The store opens without what a volume holds; the keeper goes on trying.
fn cannot_read(shared: &Shared, lane: &mut Lane, error: StoreError) -> Result<(), StoreError> {
    let is_only = shared.volumes.len() == 1;
    match &error {
        StoreError::Catalog(_) => return Err(error),
        StoreError::Log(fault) if is_fault(fault) => {
            lane.shared.set_fault(lane.shared.count_fault(fault));
        }
        // Nothing else could be recorded on, and who reads this can do something about it.
        _ if is_only => return Err(error),
        _ => lane.shared.set_fault(VolumeState::Failed),
    }
    tracing::error!(volume = lane.shared.volume.number.0, %error, "a volume cannot be read: the store opens without what it holds");
    lane.shared.unread.store(true, Ordering::Release);
    *lane = Lane::new(Arc::clone(&lane.shared), None);
    Ok(())
}

/// The sides of the store. Runs that a crash has left are announced and in the catalog afterwards.
fn assemble(shared: &Arc<Shared>, logs: &Logs, mut lanes: Vec<Lane>) -> Result<Store, StoreError> {
    let limits = &shared.options.limits;
    let (submissions, submitted) = sync_channel(limits.submissions.max(1));
    let (batches, batched) = sync_channel(limits.batches.max(1));
    let (revived, revivals) = sync_channel(shared.volumes.len());
    let reader = Arc::new(StoreReader::beside_writer(Arc::clone(shared), logs.clone()));
    let handle = StoreHandle { shared: Arc::clone(shared), reader: Arc::clone(&reader), submissions };
    let mut keeper = Keeper::new(Arc::clone(shared), logs.clone(), handle.clone(), batched, revived)?;
    let mut orphans = 0;
    for lane in lanes.iter_mut().filter(|lane| lane.journal.is_some()) {
        let number = lane.shared.volume.number;
        match unannounced_runs(shared, logs.volume(number)?) {
            Ok(Orphans { runs, next, left_open }) => {
                keeper.take_over(number, next, left_open);
                orphans += runs.len();
                runs.into_iter().for_each(|fact| keeper.adopt(fact));
            }
            Err(StoreError::Log(error)) if is_fault(&error) => {
                // Nothing is sealed there until they can be read.
                tracing::error!(volume = number.0, %error, "the segments of a volume cannot be read");
                lane.shared.count_fault(&error);
            }
            Err(error) => cannot_read(shared, lane, error)?,
        }
    }
    keeper.has_journals(lanes.iter().map(|lane| lane.journal.is_some()).collect());
    let sequence = shared.catalog.sequence()?;
    let running = running(shared)?;
    let queues = Queues { submissions: submitted, revived: revivals, batches };
    let mut writer = StoreWriter::new(Arc::clone(shared), lanes, sequence, running, queues);
    announce(&mut writer, &mut keeper, orphans);
    Ok(Store { writer, keeper, reader, handle })
}

/// Brings announcements into the log and the catalog. When no volume can be written now, the keeper goes on trying.
fn announce(writer: &mut StoreWriter, keeper: &mut Keeper, announcements: usize) {
    // Each round submits what the queue takes, at least one; the next sees that it is in the catalog.
    for _round in 0..2 * announcements {
        keeper.pass_on();
        if keeper.has_announced() {
            return;
        }
        if let Err(error) = writer.flush() {
            tracing::error!(%error, "what the start has found is not in the log yet");
            return;
        }
    }
    if announcements > 0 {
        keeper.pass_on();
    }
}

/// The active recordings. Where their audio goes on is chosen with the first of it.
fn running(shared: &Shared) -> Result<Vec<RecordingId>, StoreError> {
    let active = |pending: &sidetone_catalog::Pending| pending.state == Some(sidetone_model::RecordingState::Active);
    Ok(shared.catalog.pending()?.into_iter().filter(active).map(|pending| pending.recording).collect())
}
