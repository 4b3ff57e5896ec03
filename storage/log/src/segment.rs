//! What a segment consists of: runs with their indexes, facts, and at its end an index of all.

use crate::format::CHUNK_PAYLOAD_OFFSET;
use crate::{Run, SegmentNumber, TICKS_PER_CHUNK_MAX, Through, VolumeNumber};
use serde::{Deserialize, Serialize};
use sidetone_model::{MerkleRoot, RecordingId, Tick, TrackId};
use std::ops::Range;
use uuid::Uuid;

/// A run and what it is a run of: what `Fact::Sealed` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedRun {
    pub recording: RecordingId,
    pub run: Run,
    pub through: Vec<Through>,
}

/// The table of contents of a run, which is a record at its end. It says where it lies, so that a copy elsewhere is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunIndex {
    /// Of the segment, as in its header.
    pub file_id: Uuid,
    /// The run's first byte in the segment.
    pub offset: u64,
    pub recording: RecordingId,
    /// How far the journals' chunks of the recording are in runs, this one included.
    pub through: Vec<Through>,
    /// Where the first chunk begins, counted from the run's first byte; facts come before it.
    pub chunks_offset: u64,
    /// Where this record begins, counted from the run's first byte.
    pub index_offset: u64,
    /// In the order of track and time; no two with the same.
    pub entries: Vec<RunEntry>,
    /// Over the chunk records, in order.
    pub root: MerkleRoot,
    pub tables: Vec<Table>,
}

/// A chunk of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunEntry {
    pub track: TrackId,
    pub first_tick: Tick,
    pub ticks: u16,
    /// RTP packets whose audio it holds.
    pub packets: u16,
    /// Where its record begins, counted from the run's first byte, and its length in bytes.
    pub offset: u64,
    pub length: u32,
}

/// Something else that is known of a run when it is written, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// At most 255 bytes.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// One line of a segment's table of contents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SegmentEntry {
    Run(SealedRun),
    Facts(FactGroup),
}

/// Consecutive fact records that belong to no run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FactGroup {
    pub offset: u64,
    /// To the end of the last record, in bytes.
    pub length: u64,
    pub facts: u32,
}

/// The last record of a closed segment: where its index lies, and what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// As in the header.
    pub file_id: Uuid,
    /// Where the first record of the segment index begins; the others follow it.
    pub index_offset: u64,
    pub index_records: u32,
    pub runs: u32,
    pub fact_groups: u32,
    /// Of all runs, and the bytes of their payloads.
    pub chunks: u64,
    pub payload_bytes: u64,
}

impl SegmentEntry {
    /// Where it lies in the segment.
    pub fn bytes(&self) -> Range<u64> {
        let (offset, length) = match self {
            Self::Run(sealed) => (sealed.run.offset, sealed.run.length),
            Self::Facts(group) => (group.offset, group.length),
        };
        offset..offset.saturating_add(length)
    }
}

impl RunEntry {
    pub fn end_tick(&self) -> Tick {
        Tick(self.first_tick.0.saturating_add(u64::from(self.ticks)))
    }

    /// What the chunks of a run are ordered by.
    pub fn key(&self) -> (TrackId, Tick) {
        (self.track, self.first_tick)
    }
}

impl RunIndex {
    /// The first grid step of any chunk. There is one.
    pub fn first_tick(&self) -> Tick {
        self.entries.iter().map(|entry| entry.first_tick).min().unwrap_or(Tick(0))
    }

    /// Behind the last grid step of any chunk.
    pub fn end_tick(&self) -> Tick {
        self.entries.iter().map(RunEntry::end_tick).max().unwrap_or(Tick(0))
    }

    pub fn payload_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.length) - CHUNK_PAYLOAD_OFFSET as u64).sum()
    }

    /// Whether this is the record at `offset` of the file with that id; another is a copy, or forged.
    pub(crate) fn lies_at(&self, file_id: Uuid, offset: u64) -> bool {
        self.file_id == file_id && self.offset.checked_add(self.index_offset) == Some(offset)
    }

    /// The run whose index this is. `record_bytes` is the length of the index's own record.
    pub fn run(&self, volume: VolumeNumber, segment: SegmentNumber, record_bytes: u32) -> Run {
        Run {
            volume,
            segment,
            offset: self.offset,
            length: self.index_offset.saturating_add(u64::from(record_bytes)),
            index_offset: self.index_offset,
            chunks: self.entries.len() as u32,
            payload_bytes: self.payload_bytes(),
            first_tick: self.first_tick(),
            end_tick: self.end_tick(),
            root: self.root,
        }
    }

    /// The chunks of a track that cover any grid step of `ticks`, in order.
    pub fn chunks_in(&self, track: TrackId, ticks: Range<Tick>) -> impl Iterator<Item = &RunEntry> {
        // A chunk that begins earlier than this ends before the range.
        let earliest = Tick(ticks.start.0.saturating_sub(u64::from(TICKS_PER_CHUNK_MAX)));
        let begin = self.entries.partition_point(|entry| entry.key() < (track, earliest));
        let end = self.entries.partition_point(|entry| entry.key() < (track, ticks.end));
        let entries = self.entries.get(begin..end).unwrap_or_default();
        entries.iter().filter(move |entry| entry.end_tick() > ticks.start)
    }

    pub fn table(&self, name: &str) -> Option<&[u8]> {
        self.tables.iter().find(|table| table.name == name).map(|table| &table.bytes[..])
    }
}
