//! What is to be brought into the catalog at once.

use sidetone_log::{ChunkHeader, Fact, FactRecord, Located, LogPosition, SegmentNumber, Through, VolumeNumber};
use sidetone_model::{RecordingId, Tick, TrackId};

/// Chunks and facts, in any order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    pub(crate) chunks: Vec<ChunkChange>,
    pub(crate) facts: Vec<FactChange>,
    pub(crate) settled: Vec<(RecordingId, Through)>,
    pub(crate) owed: Vec<(VolumeNumber, RecordingId)>,
    pub(crate) paid: Vec<(VolumeNumber, RecordingId)>,
    pub(crate) segment_ends: Vec<(VolumeNumber, SegmentNumber, u64)>,
}

/// A chunk of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkChange {
    pub(crate) recording: RecordingId,
    pub(crate) track: TrackId,
    pub(crate) first_tick: Tick,
    pub(crate) ticks: u16,
    pub(crate) packets: u16,
    pub(crate) volume: VolumeNumber,
    pub(crate) located: Located,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct FactChange {
    pub(crate) record: FactRecord,
    pub(crate) places: Vec<(VolumeNumber, LogPosition)>,
}

impl FactChange {
    /// What the announcement of a run says of its segment.
    pub(crate) fn segment_end(&self) -> Option<(VolumeNumber, SegmentNumber, u64)> {
        match &self.record.fact {
            Fact::Sealed { run, .. } => Some((run.volume, run.segment, run.offset.saturating_add(run.length))),
            _ => None,
        }
    }
}

impl Changes {
    /// A chunk that lies in a volume's journal.
    pub fn chunk(&mut self, header: &ChunkHeader, volume: VolumeNumber, located: Located) {
        self.chunks.push(ChunkChange {
            recording: header.recording,
            track: header.track,
            first_tick: header.first_tick,
            ticks: header.ticks,
            packets: header.packets,
            volume,
            located,
        });
    }

    /// A fact, and where it lies in journals; nowhere when it was read from a segment.
    pub fn fact(&mut self, record: FactRecord, places: &[(VolumeNumber, LogPosition)]) {
        self.facts.push(FactChange { record, places: places.to_vec() });
    }

    /// What the journal of a volume holds before this position about the recording (nil: the facts that are about
    /// none) lies in segments too: neither its chunks nor its facts need that journal any more. A
    /// [`Sealed`](sidetone_log::Fact::Sealed) fact says the same of its `through`; this is for facts that were copied
    /// without audio.
    pub fn settle(&mut self, recording: RecordingId, through: Through) {
        self.settled.push((recording, through));
    }

    /// A fact about the recording (nil: about none) could not be written to a volume, which is to get it later.
    pub fn owe(&mut self, volume: VolumeNumber, recording: RecordingId) {
        self.owed.push((volume, recording));
    }

    /// The volume has every fact about the recording. Taken in before what this owes.
    pub fn pay(&mut self, volume: VolumeNumber, recording: RecordingId) {
        self.paid.push((volume, recording));
    }

    /// A segment is durable up to an offset. That of a run's end need not be told.
    pub fn segment_durable(&mut self, volume: VolumeNumber, segment: SegmentNumber, end: u64) {
        self.segment_ends.push((volume, segment, end));
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of all that it holds.
    pub fn len(&self) -> usize {
        let Self { chunks, facts, settled, owed, paid, segment_ends } = self;
        chunks.len() + facts.len() + settled.len() + owed.len() + paid.len() + segment_ends.len()
    }

    pub(crate) fn append(&mut self, other: Self) {
        let Self { chunks, facts, settled, owed, paid, segment_ends } = other;
        self.chunks.extend(chunks);
        self.facts.extend(facts);
        self.settled.extend(settled);
        self.owed.extend(owed);
        self.paid.extend(paid);
        self.segment_ends.extend(segment_ends);
    }

    pub fn clear(&mut self) {
        self.chunks.clear();
        self.facts.clear();
        self.settled.clear();
        self.owed.clear();
        self.paid.clear();
        self.segment_ends.clear();
    }
}
