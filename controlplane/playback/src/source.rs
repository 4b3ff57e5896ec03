//! Where the chunks of a recording come from: the store, or a test.

use sidetone_log::{Chunk, LogError, Run, RunIndex};
use sidetone_model::{RecordingId, Tick, TrackId};
use sidetone_store::{ChunkLocation, ChunkPlace, StoreError, StoreReader};
use std::io;
use std::ops::Range;
use std::sync::Arc;

pub(crate) trait ChunkSource: Send + Sync {
    /// The chunks that hold any grid step in `ticks`, in grid order, without their audio.
    fn pieces(&self, track: TrackId, ticks: Range<Tick>) -> Result<Vec<Piece>, StoreError>;
    fn read(&self, piece: &Piece) -> Result<Chunk, StoreError>;
    /// The index of a run that a piece names.
    fn run_index(&self, run: &Run) -> Result<Arc<RunIndex>, StoreError>;
}

/// One chunk, and what is known of it without reading it.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) location: ChunkLocation,
}

impl Piece {
    /// The grid steps that it covers; those of a whole run when the run's index is lost.
    pub(crate) fn steps(&self) -> Range<Tick> {
        match &self.location.place {
            ChunkPlace::Unreadable { run } => run.first_tick..run.end_tick,
            _ => {
                let first = self.location.first_tick;
                first..Tick(first.0.saturating_add(u64::from(self.location.ticks)))
            }
        }
    }

    /// The run that it lies in, when it is sealed and the run's index can be read.
    pub(crate) fn run(&self) -> Option<&Arc<Run>> {
        match &self.location.place {
            ChunkPlace::Segment { run, .. } => Some(run),
            ChunkPlace::Journal { .. } | ChunkPlace::Unreadable { .. } => None,
        }
    }

    /// Nothing of it can be found.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self.location.place, ChunkPlace::Unreadable { .. })
    }
}

/// The chunks of one track, in grid order.
#[derive(Default)]
pub(crate) struct Pieces {
    pieces: Vec<Piece>,
    /// Grid steps of the longest.
    longest: u64,
}

impl Pieces {
    pub(crate) fn new(pieces: Vec<Piece>) -> Self {
        let steps = |piece: &Piece| piece.steps().end.0 - piece.steps().start.0;
        let longest = pieces.iter().map(steps).max().unwrap_or(0);
        Self { pieces, longest }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter()
    }

    /// Those that cover any of `steps`.
    pub(crate) fn within(&self, steps: &Range<Tick>) -> impl Iterator<Item = &Piece> {
        let earliest = steps.start.0.saturating_sub(self.longest);
        let begin = self.pieces.partition_point(|piece| piece.steps().start.0 < earliest);
        let candidates = self.pieces[begin..].iter().take_while(|piece| piece.steps().start < steps.end);
        candidates.filter(|piece| piece.steps().end > steps.start)
    }
}

pub(crate) struct StoreSource {
    pub(crate) reader: Arc<StoreReader>,
    pub(crate) recording: RecordingId,
}

impl ChunkSource for StoreSource {
    fn pieces(&self, track: TrackId, ticks: Range<Tick>) -> Result<Vec<Piece>, StoreError> {
        let locations = self.reader.chunk_locations(self.recording, track, ticks)?;
        Ok(locations.into_iter().map(|location| Piece { location }).collect())
    }

    fn read(&self, piece: &Piece) -> Result<Chunk, StoreError> {
        self.reader.read_chunk(&piece.location)
    }

    fn run_index(&self, run: &Run) -> Result<Arc<RunIndex>, StoreError> {
        self.reader.run_index(self.recording, run)
    }
}

/// Whether audio is lost as far as this file is concerned: its place stays silent. Everything else may work the next
/// moment, and is an error.
pub(crate) fn is_lost(error: &StoreError) -> bool {
    match error {
        StoreError::VolumeMissing { .. } => true,
        StoreError::Log(error) => {
            error.is_damage()
                || match error {
                    LogError::BadChunk { .. }
                    | LogError::BadRunIndex { .. }
                    | LogError::NotALogFile { .. }
                    | LogError::Retired { .. }
                    | LogError::ForeignStore { .. }
                    | LogError::ForeignVolume { .. } => true,
                    LogError::Io { source, .. } => is_of_the_device(source),
                    _ => false,
                }
        }
        _ => false,
    }
}

/// A bad block, or a device that is gone; not that this process has too many files open.
fn is_of_the_device(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENODEV: i32 = 19;
    const ENXIO: i32 = 6;
    matches!(error.raw_os_error(), Some(EIO | ENODEV | ENXIO)) || error.kind() == io::ErrorKind::UnexpectedEof
}
