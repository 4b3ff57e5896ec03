//! Reading a store, beside its writer or alone.

use crate::backup::may_be_made_anew;
use crate::description::{Description, holds_logs};
use crate::logs::Logs;
use crate::shared::{Shared, SharedVolume, lock};
use crate::space::Thresholds;
use crate::volume::Volume;
use crate::{StoreError, StoreOptions, StoreStatistics, VolumeState, VolumeStatistics, rebuild, volume};
use sidetone_catalog::{Catalog, CatalogError, Count, Filter, Query, RecordingPage, RocksCatalog};
use sidetone_log::format::{Frame, Meaning, RECORD_BYTES_MAX, decode_frame, interpret};
use sidetone_log::{Chunk, Content, Io, Located, LogError, RingIo, Run, RunEntry, RunIndex, VolumeNumber};
use sidetone_model::{Annotations, Recording, RecordingId, SavedCall, Tick, TrackId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

/// The side that reads, shared by any number of threads.
pub struct StoreReader {
    // Before the scratch directory that it writes to.
    catalog: Arc<dyn Catalog>,
    logs: Logs,
    io: Arc<dyn Io>,
    home: PathBuf,
    description: Description,
    options: StoreOptions,
    /// When this process writes the store.
    shared: Option<Arc<Shared>>,
    /// RocksDB's own log, when it does not.
    _scratch: Option<TempDir>,
}

/// Where a chunk lies, and what it covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkLocation {
    pub recording: RecordingId,
    pub track: TrackId,
    pub first_tick: Tick,
    pub ticks: u16,
    pub packets: u16,
    pub place: ChunkPlace,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkPlace {
    Journal {
        volume: VolumeNumber,
        located: Located,
    },
    Segment {
        run: Arc<Run>,
        entry: RunEntry,
    },
    /// The chunks of a whole run, whose index cannot be read, nor they without it. `ticks` is 0; reading it tells why.
    Unreadable {
        run: Arc<Run>,
    },
}

impl ChunkPlace {
    /// Bytes of the record.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Journal { located, .. } => u64::from(located.length),
            Self::Segment { entry, .. } => u64::from(entry.length),
            Self::Unreadable { run } => run.length,
        }
    }
}

/// For what is removed when it was read.
pub(crate) fn scratch_directory() -> Result<TempDir, StoreError> {
    tempfile::tempdir().map_err(|source| StoreError::io("create a directory in", std::env::temp_dir(), source))
}

/// A store on disk.
struct StoreFound {
    io: Arc<dyn Io>,
    description: Description,
    volumes: Vec<Volume>,
}

impl StoreFound {
    fn find(home: &Path) -> Result<Self, StoreError> {
        let not_found = || StoreError::NotFound { path: home.to_owned() };
        let io: Arc<dyn Io> = Arc::new(RingIo::new());
        let description = Description::read(&*io, home)?.ok_or_else(not_found)?;
        if !home.join("catalog/CURRENT").exists() && !holds_logs(&*io, home) {
            // Made, and killed before it had a catalog.
            return Err(not_found());
        }
        let volumes = volume::locate(&*io, home, &description)?;
        Ok(Self { io, description, volumes })
    }
}

impl StoreReader {
    pub(crate) fn beside_writer(shared: Arc<Shared>, logs: Logs) -> Self {
        Self {
            catalog: Arc::clone(&shared.catalog),
            logs,
            io: Arc::clone(&shared.io),
            home: shared.home.clone(),
            description: shared.description.clone(),
            options: shared.options.clone(),
            shared: Some(shared),
            _scratch: None,
        }
    }

    /// Opens a store for reading only, beside a process that may be writing to it, or without one. What it shows is
    /// as old as this call, or the last [`refresh`](Self::refresh). What a process that was killed had made durable and
    /// not yet brought into the catalog shows only after the store was opened for writing again.
    pub fn open(home: &Path) -> Result<Arc<Self>, StoreError> {
        Self::open_with(home, None)
    }

    /// As [`open`](Self::open). What is called little free space is as in these options, with which the store is written.
    pub fn open_with(home: &Path, options: Option<&StoreOptions>) -> Result<Arc<Self>, StoreError> {
        let StoreFound { io, description, volumes } = StoreFound::find(home)?;
        let options = options.cloned().unwrap_or_else(|| StoreOptions::new(description.node.clone()));
        let catalog = home.join("catalog");
        Self::alone(io, home, description, (&volumes, options), &catalog, scratch_directory()?)
    }

    /// Opens a store only to check it. What cannot be done with its catalog is told beside the reader, which then has one that was made anew.
    pub(crate) fn open_to_check(home: &Path) -> Result<(Arc<Self>, Option<CatalogError>), StoreError> {
        let StoreFound { io, description, volumes } = StoreFound::find(home)?;
        let options = StoreOptions::new(description.node.clone());
        let (catalog, scratch) = (home.join("catalog"), scratch_directory()?);
        match Self::alone(Arc::clone(&io), home, description.clone(), (&volumes, options), &catalog, scratch) {
            Err(StoreError::Catalog(fault)) if may_be_made_anew(&fault) => {
                Ok((Self::with_catalog_anew(io, home, description, &volumes)?, Some(fault)))
            }
            reader => Ok((reader?, None)),
        }
    }

    /// Reads these volumes with a catalog of its own, made of what they hold.
    pub(crate) fn with_catalog_anew(
        io: Arc<dyn Io>,
        home: &Path,
        description: Description,
        volumes: &[Volume],
    ) -> Result<Arc<Self>, StoreError> {
        let scratch = scratch_directory()?;
        let catalog = scratch.path().join("anew");
        let logs = Logs::new(Arc::clone(&io), description.store_id, volumes);
        drop(rebuild::make(&*io, &logs, &catalog, &mut |_| {})?);
        let options = StoreOptions::new(description.node.clone());
        Self::alone(io, home, description, (volumes, options), &catalog, scratch)
    }

    /// Reads these volumes with this catalog, and writes nothing but to `scratch`.
    pub(crate) fn alone(
        io: Arc<dyn Io>,
        home: &Path,
        description: Description,
        (volumes, options): (&[Volume], StoreOptions),
        catalog: &Path,
        scratch: TempDir,
    ) -> Result<Arc<Self>, StoreError> {
        let catalog = RocksCatalog::open_secondary(catalog, scratch.path())?;
        Ok(Arc::new(Self {
            catalog: Arc::new(catalog),
            logs: Logs::new(Arc::clone(&io), description.store_id, volumes),
            io,
            home: home.to_owned(),
            description,
            options,
            shared: None,
            _scratch: Some(scratch),
        }))
    }

    /// Catches up with the writing process. Does nothing beside a writer in the same process: that is always current.
    pub fn refresh(&self) -> Result<(), StoreError> {
        self.catalog.refresh()?;
        if self.shared.is_none() {
            // Files that were removed meanwhile take space as long as they are open.
            self.logs.volumes().for_each(|logs| self.logs.files.forget(&logs.volume.directory));
        }
        Ok(())
    }

    /// The recording as it is shown: the newest document with the newest annotations, and the proof once all is sealed.
    pub fn recording(&self, recording: RecordingId) -> Result<Option<Recording>, StoreError> {
        let mut recording = self.catalog.recording(recording)?;
        recording.iter_mut().for_each(|recording| self.withhold_proof(recording));
        Ok(recording)
    }

    /// While a volume is not read, nobody can say that all audio of a recording is known.
    fn withhold_proof(&self, recording: &mut Recording) {
        let is_unread = match &self.shared {
            Some(shared) => shared.volumes.iter().any(|volume| volume.unread.load(Ordering::Acquire)),
            None => self.logs.volumes().any(|logs| !logs.volume.present),
        };
        if is_unread {
            recording.proof = None;
        }
    }

    pub fn annotations(&self, recording: RecordingId) -> Result<Annotations, StoreError> {
        Ok(self.catalog.annotations(recording)?)
    }

    pub fn search(&self, query: &Query) -> Result<RecordingPage, StoreError> {
        let mut page = self.catalog.search(query)?;
        page.recordings.iter_mut().for_each(|recording| self.withhold_proof(recording));
        Ok(page)
    }

    pub fn count(&self, filter: &Filter) -> Result<Count, StoreError> {
        Ok(self.catalog.count(filter)?)
    }

    /// The runs of a recording, in the order over which its proof is made.
    pub fn runs(&self, recording: RecordingId) -> Result<Vec<Run>, StoreError> {
        Ok(self.catalog.runs(recording)?)
    }

    /// The table of contents of a run, with the tables that were stored with it; read once and kept for a while.
    pub fn run_index(&self, recording: RecordingId, run: &Run) -> Result<Arc<RunIndex>, StoreError> {
        self.logs.run_index(recording, run)
    }

    /// Where the chunks lie that hold any grid step in `ticks`, in grid order; without reading audio. What cannot be found
    /// for want of an index is one [`ChunkPlace::Unreadable`].
    pub fn chunk_locations(
        &self,
        recording: RecordingId,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<Vec<ChunkLocation>, StoreError> {
        // By grid step; what is sealed replaces what still is in a journal too.
        let mut chunks: BTreeMap<Tick, ChunkLocation> = BTreeMap::new();
        let mut unreadable = Vec::new();
        for row in self.catalog.journal_chunks(recording, track, ticks.start, ticks.end)? {
            let place = ChunkPlace::Journal { volume: row.volume, located: row.located };
            let (first_tick, ticks, packets) = (row.first_tick, row.ticks, row.packets);
            chunks.insert(first_tick, ChunkLocation { recording, track, first_tick, ticks, packets, place });
        }
        // After the rows: what moves meanwhile is then seen twice, and not missed.
        for run in self.catalog.runs(recording)? {
            if run.first_tick >= ticks.end || run.end_tick <= ticks.start {
                continue;
            }
            let run = Arc::new(run);
            let location = |entry: &RunEntry| ChunkLocation {
                recording,
                track,
                first_tick: entry.first_tick,
                ticks: entry.ticks,
                packets: entry.packets,
                place: ChunkPlace::Segment { run: Arc::clone(&run), entry: *entry },
            };
            match self.logs.run_index(recording, &run) {
                Ok(index) => {
                    let found = index.chunks_in(track, ticks.clone()).map(location);
                    chunks.extend(found.map(|location| (location.first_tick, location)));
                }
                Err(error) => {
                    tracing::error!(%recording, %error, "a run's index cannot be read");
                    let entries = self.entries_without_index(recording, &run);
                    if entries.is_empty() {
                        unreadable.push(ChunkLocation {
                            recording,
                            track,
                            first_tick: run.first_tick,
                            ticks: 0,
                            packets: 0,
                            place: ChunkPlace::Unreadable { run: Arc::clone(&run) },
                        });
                    }
                    let is_wanted = |entry: &&RunEntry| {
                        entry.track == track && entry.first_tick < ticks.end && entry.end_tick() > ticks.start
                    };
                    let found = entries.iter().filter(is_wanted).map(location);
                    chunks.extend(found.map(|location| (location.first_tick, location)));
                }
            }
        }
        let mut locations: Vec<ChunkLocation> = chunks.into_values().chain(unreadable).collect();
        locations.sort_by_key(|location| location.first_tick);
        Ok(locations)
    }

    /// What a run's records say themselves, up to the first that is damaged.
    fn entries_without_index(&self, recording: RecordingId, run: &Run) -> Vec<RunEntry> {
        let Ok(logs) = self.logs.volume(run.volume) else { return Vec::new() };
        let Ok(file) = self.io.open(&logs.segments.path(run.segment)) else { return Vec::new() };
        let mut entries = Vec::new();
        let mut at = 0;
        let mut window = vec![0; RECORD_BYTES_MAX];
        while at < run.index_offset {
            let Ok(filled) = file.read_at(&mut window, run.offset + at) else { break };
            let Frame::Record(record) = decode_frame(&window[..filled]) else { break };
            if let Meaning::Content(Content::Chunk(Chunk { header, .. })) = interpret(&record)
                && header.recording == recording
            {
                let (track, first_tick, ticks, packets) =
                    (header.track, header.first_tick, header.ticks, header.packets);
                entries.push(RunEntry { track, first_tick, ticks, packets, offset: at, length: record.length });
            }
            at += u64::from(record.length).next_multiple_of(16);
        }
        entries
    }

    /// The chunk at a place that [`chunk_locations`](Self::chunk_locations) gave; its checksum is proven. When it has
    /// been moved since, it is looked up again.
    pub fn read_chunk(&self, location: &ChunkLocation) -> Result<Chunk, StoreError> {
        match self.read_at(location) {
            Err(StoreError::Log(LogError::Retired { .. })) => {
                // Beside a writer in another process, what is known may be older than that.
                self.refresh()?;
                let ticks = location.first_tick..Tick(location.first_tick.0 + 1);
                let moved = self.chunk_locations(location.recording, location.track, ticks)?;
                let moved = moved.iter().find(|moved| moved.first_tick == location.first_tick && moved.ticks > 0);
                self.read_at(moved.unwrap_or(location))
            }
            result => result,
        }
    }

    fn read_at(&self, location: &ChunkLocation) -> Result<Chunk, StoreError> {
        let chunk = match &location.place {
            ChunkPlace::Journal { volume, located } => self.available(*volume)?.journal.read_chunk(*located)?,
            ChunkPlace::Segment { run, entry } => {
                self.available(run.volume)?.segments.read_chunk(location.recording, run, entry)?
            }
            ChunkPlace::Unreadable { run } => {
                let segments = &self.available(run.volume)?.segments;
                let index = segments.run_index(location.recording, run)?;
                // Readable by now.
                let first = index.chunks_in(location.track, run.first_tick..run.end_tick).next().copied();
                let path = segments.path(run.segment);
                let offset = run.offset;
                let what = "the run has no audio of this track";
                let entry = first.ok_or(LogError::BadRunIndex { path, offset, what })?;
                segments.read_chunk(location.recording, run, &entry)?
            }
        };
        let chunk = chunk.into_chunk();
        let header = &chunk.header;
        let wanted = (location.recording, location.track, location.first_tick);
        // A whole record, and not the one: never another call's audio.
        if location.ticks > 0 && (header.recording, header.track, header.first_tick) != wanted {
            return Err(self.not_the_chunk(location));
        }
        Ok(chunk)
    }

    fn not_the_chunk(&self, location: &ChunkLocation) -> StoreError {
        let (path, offset) = match &location.place {
            ChunkPlace::Journal { volume, located } => (
                self.logs.volume(*volume).map(|logs| logs.journal.path(located.position.file)),
                located.position.offset,
            ),
            ChunkPlace::Segment { run, .. } | ChunkPlace::Unreadable { run } => {
                (self.logs.volume(run.volume).map(|logs| logs.segments.path(run.segment)), run.offset)
            }
        };
        let length = u32::try_from(location.place.bytes()).unwrap_or(u32::MAX);
        let what = "it is another recording's";
        LogError::BadChunk { path: path.unwrap_or_default(), offset, length, what }.into()
    }

    fn available(&self, volume: VolumeNumber) -> Result<&crate::logs::VolumeLogs, StoreError> {
        if self.is_missing(volume) {
            return Err(StoreError::VolumeMissing { volume });
        }
        self.logs.volume(volume)
    }

    /// The volume is not where it should be, or the store has none of that number.
    pub(crate) fn is_missing(&self, volume: VolumeNumber) -> bool {
        match &self.shared {
            Some(shared) => shared.volume(volume).is_none_or(|volume| volume.state() == VolumeState::Missing),
            None => self.logs.volume(volume).is_ok_and(|logs| !logs.volume.present),
        }
    }

    /// The chunks that hold any grid step in `ticks`, in grid order, read one by one. `Tick(0)..Tick(u64::MAX)` for
    /// all. An error is about one chunk; the iterator goes on behind it.
    pub fn chunks(
        self: &Arc<Self>,
        recording: RecordingId,
        track: TrackId,
        ticks: Range<Tick>,
    ) -> Result<impl Iterator<Item = Result<Chunk, StoreError>> + Send + use<>, StoreError> {
        let locations = self.chunk_locations(recording, track, ticks)?;
        let reader = Arc::clone(self);
        Ok(locations.into_iter().map(move |location| reader.read_chunk(&location)))
    }

    /// Every active recording with the call tracker's state (null where none was stored), oldest first.
    pub fn active_with_resume(&self) -> Result<Vec<(Recording, SavedCall)>, StoreError> {
        Ok(self.catalog.active_with_resume()?)
    }

    /// Whether a capture file with this digest was replayed to its end.
    pub fn has_replayed(&self, digest: &str) -> Result<bool, StoreError> {
        Ok(self.catalog.has_replayed(digest)?)
    }

    /// The volumes, ascending. Beside a writer in the same process they are as it knows them, at no cost; else as the files say.
    pub fn volumes(&self) -> Result<Vec<VolumeStatistics>, StoreError> {
        match &self.shared {
            Some(shared) => Ok(shared.volumes.iter().map(|volume| of_volume(volume)).collect()),
            None => self.logs.volumes().map(|logs| self.on_disk(logs)).collect(),
        }
    }

    /// Beside a writer in the same process, everything as it is; else what the files say.
    pub fn statistics(&self) -> Result<StoreStatistics, StoreError> {
        let catalog = self.catalog.statistics()?;
        let volumes = self.volumes()?;
        Ok(StoreStatistics {
            store_id: self.description.store_id,
            node: self.description.node.clone(),
            catalog,
            volumes,
            writer: self.shared.as_ref().map(|shared| lock(&shared.writer).clone()),
            keeper: self.shared.as_ref().map(|shared| shared.keeper().clone()),
        })
    }

    fn on_disk(&self, logs: &crate::logs::VolumeLogs) -> Result<VolumeStatistics, StoreError> {
        let shared = SharedVolume::new(logs.volume.clone());
        if !logs.volume.present {
            return Ok(of_volume(&shared));
        }
        let space = self.io.space(&logs.volume.directory);
        let space = space.map_err(|source| StoreError::io("inspect the file system of", &self.home, source))?;
        let thresholds = Thresholds::of_volume(&self.options, space.total_bytes);
        shared.set_space(thresholds.state(space.free_bytes, VolumeState::Ok));
        let mut statistics = of_volume(&shared);
        (statistics.free_bytes, statistics.total_bytes) = (space.free_bytes, space.total_bytes);
        (statistics.journal_files, statistics.journal_bytes) = logs.journal.sizes()?;
        for segment in logs.segments.segments()? {
            statistics.segment_files += 1;
            // Gone meanwhile is no bytes.
            let size = self.io.size(&logs.segments.path(segment));
            statistics.segment_bytes += size.map_or(0, |size| size.allocated_bytes);
        }
        Ok(statistics)
    }

    pub(crate) fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    pub(crate) fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref()
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn io(&self) -> &dyn Io {
        &*self.io
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }
}

fn of_volume(shared: &SharedVolume) -> VolumeStatistics {
    let details = shared.details().clone();
    VolumeStatistics {
        volume: shared.volume.number,
        volume_id: shared.volume.id,
        directory: shared.volume.directory.clone(),
        state: shared.state(),
        free_bytes: shared.free_bytes.load(Ordering::Relaxed),
        total_bytes: shared.total_bytes.load(Ordering::Relaxed),
        journal_files: details.journal_files,
        journal_bytes: details.journal_bytes,
        segment_files: details.segment_files,
        segment_bytes: details.segment_bytes,
        recordings: shared.recordings.load(Ordering::Relaxed),
        faults: details.faults,
        journal: details.journal,
    }
}
