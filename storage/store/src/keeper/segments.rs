//! The segments being written: one for each volume, retention class and month of expiry.
//!
//! A segment that fails is given up at its last flush. Until it is cut there, nothing is sealed on its volume: what
//! the failed flush left on the device must not turn up as a run beside the one that replaces it.

use crate::StoreError;
use crate::options::segment_config;
use crate::sabotage::Sabotage;
use crate::shared::{Shared, SharedVolume, is_fault};
use sidetone_log::format::{ALIGNMENT_BYTES, Month};
use sidetone_log::{
    ChunkRecord, FactRecord, LogError, Run, SegmentNumber, SegmentReader, SegmentWriter, Table, Through, VolumeNumber,
};
use sidetone_model::{Annotations, RecordingId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Open segments are among so many of the newest numbers of their volume; opening looks at twice as many.
pub(crate) const OPEN_SPAN: u32 = 64;
/// The retention class of what has none.
const CLASS_DEFAULT: &str = "standard";

/// What lies together, because it is erased together.
pub(super) type Kind = (VolumeNumber, String, Option<Month>);

pub(super) struct Segments {
    shared: Arc<Shared>,
    open: BTreeMap<Kind, OpenSegment>,
    /// Flushed, not written any more, and to be closed when all is announced.
    closing: Vec<OpenSegment>,
    /// Given up: where they are to be cut.
    given_up: Vec<(VolumeNumber, SegmentNumber, u64)>,
    /// Cut, and without a footer.
    cut: Vec<(VolumeNumber, SegmentNumber)>,
    /// The number that a volume's next segment gets.
    next: BTreeMap<VolumeNumber, SegmentNumber>,
    /// Runs that are durable and not announced yet, and runs that a failed segment has lost.
    durable: Vec<NewRun>,
    lost: Vec<NewRun>,
    /// Counts uses.
    clock: u64,
}

struct OpenSegment {
    volume: VolumeNumber,
    writer: SegmentWriter,
    /// Before this, all is durable.
    durable: u64,
    /// Written and not durable.
    fresh: Vec<NewRun>,
    /// First bytes of runs that the catalog does not know.
    unannounced: BTreeSet<u64>,
    used_at: u64,
}

/// A run that was written.
pub(super) struct NewRun {
    pub(super) recording: RecordingId,
    pub(super) run: Run,
    pub(super) through: Through,
}

/// Where a recording belongs.
pub(super) fn kind_of(volume: VolumeNumber, annotations: &Annotations) -> Kind {
    match &annotations.retention {
        Some(retention) => (volume, retention.class.clone(), retention.expires_at.map(Month::containing)),
        None => (volume, CLASS_DEFAULT.to_owned(), None),
    }
}

/// Where facts go that are about no audio.
pub(super) fn kind_of_facts(volume: VolumeNumber) -> Kind {
    (volume, CLASS_DEFAULT.to_owned(), None)
}

impl Segments {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: BTreeMap::new(),
            closing: Vec::new(),
            given_up: Vec::new(),
            cut: Vec::new(),
            next: BTreeMap::new(),
            durable: Vec::new(),
            lost: Vec::new(),
            clock: 0,
        }
    }

    /// Segments from `number` on can be made on a volume.
    pub(super) fn begin_with(&mut self, volume: VolumeNumber, number: SegmentNumber) {
        let next = self.next.entry(volume).or_insert(number);
        *next = number.max(*next);
    }

    /// Segments can be made on a volume.
    pub(super) fn has_begun(&self, volume: VolumeNumber) -> bool {
        self.next.contains_key(&volume)
    }

    /// Writes a run, which is durable after [`Self::flush`].
    ///
    /// # Errors
    /// The segment has failed and was given up; or the run cannot be written at all.
    pub(super) fn append_run(
        &mut self,
        kind: &Kind,
        (recording, facts): (RecordingId, &[FactRecord]),
        chunks: Vec<ChunkRecord>,
        through: Through,
        tables: Vec<Table>,
    ) -> Result<Run, StoreError> {
        let segment = self.segment(kind)?;
        let chunks = chunks.into_iter().map(Ok);
        match segment.writer.append_run(recording, facts, chunks, &[through], tables) {
            Ok(run) => {
                segment.unannounced.insert(run.offset);
                segment.fresh.push(NewRun { recording, run: run.clone(), through });
                Ok(run)
            }
            Err(error) => Err(self.on_error(kind, error)),
        }
    }

    /// Writes facts that belong to no run, durably. Gives their segment, and up to where it is durable.
    pub(super) fn append_facts(
        &mut self,
        kind: &Kind,
        records: &[FactRecord],
    ) -> Result<(SegmentNumber, u64), StoreError> {
        let writer = &mut self.segment(kind)?.writer;
        let number = writer.number();
        match writer.append_facts(records) {
            Ok(()) => Ok((number, self.flush(kind)?)),
            Err(error) => Err(self.on_error(kind, error)),
        }
    }

    /// A segment of that kind that takes more; made when there is none.
    fn segment(&mut self, kind: &Kind) -> Result<&mut OpenSegment, StoreError> {
        self.clock += 1;
        if self.open.get(kind).is_some_and(|segment| segment.writer.is_full()) {
            self.finish(kind);
        }
        if !self.open.contains_key(kind) {
            let begun = self.begin(kind);
            let segment = begun.inspect_err(|error| {
                tracing::error!(volume = kind.0.0, %error, "no segment can be begun; audio stays in the journal");
                self.shared.keeper().seal_failures += 1;
            })?;
            self.open.insert(kind.clone(), segment);
        }
        let segment = self.open.get_mut(kind).expect("just made");
        segment.used_at = self.clock;
        Ok(segment)
    }

    /// What a failed write means: a segment whose device has failed is given up.
    fn on_error(&mut self, kind: &Kind, error: LogError) -> StoreError {
        if is_fault(&error)
            && let Some(segment) = self.open.remove(kind)
        {
            self.give_up(segment, &error);
        }
        error.into()
    }

    /// Makes durable what was written to a segment, and gives its end.
    fn flush(&mut self, kind: &Kind) -> Result<u64, StoreError> {
        let Some(segment) = self.open.get_mut(kind) else { return Ok(0) };
        match segment.writer.flush() {
            Ok(durable) => {
                segment.durable = durable;
                self.durable.append(&mut segment.fresh);
                Ok(durable)
            }
            Err(error) => Err(self.on_error(kind, error)),
        }
    }

    /// Makes durable what was written to all. What fails is in [`Self::take_lost`] afterwards.
    pub(super) fn flush_all(&mut self) {
        let fresh = self.open.iter().filter(|(_, segment)| !segment.fresh.is_empty());
        for kind in fresh.map(|(kind, _)| kind.clone()).collect::<Vec<_>>() {
            if self.shared.is_sabotaged(Sabotage::AnnounceBeforeFlush) {
                let segment = self.open.get_mut(&kind).expect("it is open");
                self.durable.append(&mut segment.fresh);
                continue;
            }
            let _told = self.flush(&kind);
        }
    }

    pub(super) fn take_durable(&mut self) -> Vec<NewRun> {
        std::mem::take(&mut self.durable)
    }

    pub(super) fn take_lost(&mut self) -> Vec<NewRun> {
        std::mem::take(&mut self.lost)
    }

    /// Writes no more to a segment.
    fn finish(&mut self, kind: &Kind) {
        if self.flush(kind).is_ok() {
            self.closing.extend(self.open.remove(kind));
        }
    }

    fn begin(&mut self, kind: &Kind) -> Result<OpenSegment, StoreError> {
        let (volume, class, expires) = kind;
        let shared = Arc::clone(self.shared.volume(*volume).expect("the volume of a kind"));
        let number = *self.next.get(volume).ok_or(StoreError::VolumeMissing { volume: *volume })?;
        self.make_room(*volume, number);
        let directory = shared.volume.segments();
        let config = segment_config(&self.shared.options, total_bytes(&shared));
        let identity = self.shared.identity(&shared.volume);
        // A number is used once, also when making the file fails: it may have been left.
        self.next.insert(*volume, SegmentNumber(number.0 + 1));
        let writer =
            SegmentWriter::create(&self.shared.io, &directory, number, &identity, (class.as_str(), *expires), &config)?;
        tracing::info!(
            volume = volume.0,
            segment = number.0,
            class,
            expires = expires.map(tracing::field::display),
            "segment begun"
        );
        self.shared.keeper().segments_begun += 1;
        Ok(OpenSegment {
            volume: *volume,
            writer,
            durable: ALIGNMENT_BYTES as u64,
            fresh: Vec::new(),
            unannounced: BTreeSet::new(),
            used_at: self.clock,
        })
    }

    /// Ends segments of a volume so that neither their number nor the span of their numbers grows too large.
    fn make_room(&mut self, volume: VolumeNumber, next: SegmentNumber) {
        let of_volume =
            |(kind, segment): (&Kind, &OpenSegment)| (kind.0 == volume).then(|| (segment.used_at, kind.clone()));
        let mut used: Vec<(u64, Kind)> = self.open.iter().filter_map(of_volume).collect();
        used.sort();
        let surplus = (used.len() + 1).saturating_sub(self.shared.options.limits.open_segments.max(1));
        let is_old = |kind: &Kind| {
            let number = self.open.get(kind).map_or(0, |segment| segment.writer.number().0);
            number + OPEN_SPAN / 2 <= next.0
        };
        let old: Vec<Kind> = used
            .iter()
            .enumerate()
            .filter(|(place, (_, kind))| *place < surplus || is_old(kind))
            .map(|(_, (_, kind))| kind.clone())
            .collect();
        for kind in old {
            self.finish(&kind);
        }
    }

    /// A segment has failed. What was not flushed is to be written again elsewhere.
    fn give_up(&mut self, segment: OpenSegment, error: &LogError) {
        let number = segment.writer.number();
        tracing::error!(volume = segment.volume.0, segment = number.0, good_until = segment.durable, %error,
            "a segment has failed; its audio stays in the journal");
        if let Some(volume) = self.shared.volume(segment.volume) {
            // Counted; whether the volume can be written is for its journal to say.
            volume.count_fault(error);
        }
        self.shared.keeper().seal_failures += 1;
        self.abandon(segment);
    }

    /// A volume has failed: nothing on it stays open, so that it can be unmounted.
    pub(super) fn let_go(&mut self, volume: VolumeNumber) {
        let kinds: Vec<Kind> = self.open.keys().filter(|kind| kind.0 == volume).cloned().collect();
        let open: Vec<OpenSegment> = kinds.iter().filter_map(|kind| self.open.remove(kind)).collect();
        let (closing, others) =
            std::mem::take(&mut self.closing).into_iter().partition(|segment| segment.volume == volume);
        self.closing = others;
        open.into_iter().chain::<Vec<OpenSegment>>(closing).for_each(|segment| self.abandon(segment));
    }

    fn abandon(&mut self, mut segment: OpenSegment) {
        self.given_up.push((segment.volume, segment.writer.number(), segment.durable));
        self.lost.append(&mut segment.fresh);
        segment.writer.abandon();
    }

    /// Whether segments of a volume can be written. Cuts those that failed, first.
    pub(super) fn is_usable(&mut self, volume: VolumeNumber, reader: &SegmentReader) -> bool {
        let io = &*self.shared.io;
        let is_cut = &mut self.cut;
        self.given_up.retain(|&(of, number, durable)| {
            if of != volume {
                return true;
            }
            let path = reader.path(number);
            self.shared.files.forget(&path);
            let cut = io.truncate(&path, durable).and_then(|()| io.sync_file(&path));
            match cut {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a segment that failed cannot be cut yet");
                    true
                }
                _ => {
                    is_cut.push((of, number));
                    false
                }
            }
        });
        self.next.contains_key(&volume) && !self.given_up.iter().any(|(of, ..)| *of == volume)
    }

    /// A run is in the catalog.
    pub(super) fn announced(&mut self, run: &Run) {
        for segment in self.open.values_mut().chain(&mut self.closing) {
            if (segment.volume, segment.writer.number()) == (run.volume, run.segment) {
                segment.unannounced.remove(&run.offset);
            }
        }
    }

    /// Gives their footers to segments that are full, or to all, where everything is announced. Tells those for which it
    /// failed, and those that were cut: all that they hold is durable, only their index is missing.
    pub(super) fn close(&mut self, all: bool) -> Vec<(VolumeNumber, SegmentNumber)> {
        let ends = |segment: &OpenSegment| all || segment.writer.is_full();
        let kinds: Vec<Kind> =
            self.open.iter().filter(|(_, segment)| ends(segment)).map(|(kind, _)| kind.clone()).collect();
        for kind in kinds {
            self.finish(&kind);
        }
        let mut unclosed = std::mem::take(&mut self.cut);
        let early = self.shared.is_sabotaged(Sabotage::CloseBeforeAnnounced);
        for segment in std::mem::take(&mut self.closing) {
            if !segment.unannounced.is_empty() && !early {
                self.closing.push(segment);
                continue;
            }
            let number = segment.writer.number();
            match segment.writer.close() {
                Ok(()) => self.shared.keeper().segments_closed += 1,
                Err(error) => {
                    tracing::error!(volume = segment.volume.0, segment = number.0, %error, "a segment could not be closed");
                    unclosed.push((segment.volume, number));
                }
            }
        }
        unclosed
    }
}

fn total_bytes(volume: &SharedVolume) -> u64 {
    match volume.total_bytes.load(std::sync::atomic::Ordering::Relaxed) {
        0 => u64::MAX,
        total => total,
    }
}
