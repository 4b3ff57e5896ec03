//! Lanes: what one channel of a file plays, and its packets on the grid.

use crate::opus_packet::lasts_one_tick;
use crate::source::{ChunkSource, is_lost};
use sidetone_log::{Chunk, chunk_packets};
use sidetone_model::{Tick, TrackId};
use sidetone_store::StoreError;
use std::collections::BTreeMap;
use std::ops::Range;

/// The tracks of one side, in order of preference: where several have a packet for a grid step, the first one plays.
pub(crate) type Lane = Vec<TrackId>;

/// Stored audio that is silent in a file, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    pub track: TrackId,
    pub ticks: Range<Tick>,
    pub reason: String,
}

/// What was found to be lost, each chunk once, at most [`Self::MAX`] of them.
#[derive(Default)]
pub(crate) struct LostAudio(BTreeMap<(TrackId, Tick), Lost>);

impl LostAudio {
    const MAX: usize = 1000;

    pub(crate) fn note(&mut self, lost: Lost) {
        if self.0.len() < Self::MAX {
            self.0.entry((lost.track, lost.ticks.start)).or_insert(lost);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lost> {
        self.0.values()
    }
}

/// What stands at a grid step of a lane.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Nothing,
    /// Where the packet lies in the block's bytes.
    Packet {
        track: TrackId,
        bytes: Range<u32>,
    },
    /// There was a chunk, and it cannot be read.
    Lost,
}

/// The packets of one lane for some consecutive grid steps. Which packet stands at a grid step depends on the stored
/// chunks alone, never on where reading began.
#[derive(Default)]
pub(crate) struct LaneBlock {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    pub(crate) lost: Vec<Lost>,
}

impl LaneBlock {
    pub(crate) fn read(source: &dyn ChunkSource, lane: &[TrackId], ticks: Range<Tick>) -> Result<Self, StoreError> {
        let mut block = Self::default();
        block.steps.resize((ticks.end.0 - ticks.start.0) as usize, Step::Nothing);
        for &track in lane {
            for piece in source.pieces(track, ticks.clone())? {
                match source.read(&piece) {
                    Ok(chunk) => block.place(&chunk, ticks.start),
                    Err(error) if is_lost(&error) => block.lose(track, piece.steps(), ticks.start, error.to_string()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(block)
    }

    fn place(&mut self, chunk: &Chunk, first: Tick) {
        let header = &chunk.header;
        for (index, packet) in chunk_packets(&chunk.payload).take(usize::from(header.ticks)).enumerate() {
            let tick = Tick(header.first_tick.0.saturating_add(index as u64));
            let place = tick.0.checked_sub(first.0).and_then(|place| self.steps.get_mut(place as usize));
            let Some(step @ Step::Nothing) = place else { continue };
            if packet.is_empty() {
                continue;
            }
            if !lasts_one_tick(packet) {
                let reason = "the packet there is no 20 ms of Opus".to_owned();
                self.lost.push(Lost { track: header.track, ticks: tick..Tick(tick.0 + 1), reason });
                continue;
            }
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(packet);
            *step = Step::Packet { track: header.track, bytes: start..self.bytes.len() as u32 };
        }
    }

    fn lose(&mut self, track: TrackId, ticks: Range<Tick>, first: Tick, reason: String) {
        for tick in ticks.start.0..ticks.end.0 {
            let place = tick.checked_sub(first.0).and_then(|place| self.steps.get_mut(place as usize));
            if let Some(step @ Step::Nothing) = place {
                *step = Step::Lost;
            }
        }
        self.lost.push(Lost { track, ticks, reason });
    }

    /// The packet at grid step `index` of the block.
    pub(crate) fn packet(&self, index: usize) -> Option<&[u8]> {
        self.packet_of(index).map(|(_, packet)| packet)
    }

    /// The same, with the track it is from.
    pub(crate) fn packet_of(&self, index: usize) -> Option<(TrackId, &[u8])> {
        match self.steps.get(index)? {
            Step::Packet { track, bytes } => Some((*track, &self.bytes[bytes.start as usize..bytes.end as usize])),
            Step::Nothing | Step::Lost => None,
        }
    }

    /// Whether a chunk that could not be read covers grid step `index` of the block.
    pub(crate) fn is_lost(&self, index: usize) -> bool {
        self.steps.get(index) == Some(&Step::Lost)
    }
}
