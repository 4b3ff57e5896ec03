//! Lanes: what one channel of a file plays, and its packets on the grid.

use crate::opus_packet::lasts_one_tick;
use sidetone_log::{Chunk, LogError, chunk_packets};
use sidetone_model::{RecordingId, Tick, TrackId};
use sidetone_store::{ChunkLocation, StoreError, StoreReader};
use std::ops::Range;
use std::sync::Arc;

/// The tracks of one side, in order of preference: where several have a packet for a grid step, the first one plays.
pub(crate) type Lane = Vec<TrackId>;

type Chunks<'a> = Box<dyn Iterator<Item = Result<Chunk, StoreError>> + 'a>;

/// Where the chunks of one recording come from; the store, or a test.
pub(crate) trait ChunkSource: Send + Sync {
    fn locations(&self, track: TrackId, ticks: Range<Tick>) -> Result<Vec<ChunkLocation>, StoreError>;
    /// The chunks that hold any grid step in `ticks`, in grid order.
    fn chunks(&self, track: TrackId, ticks: Range<Tick>) -> Result<Chunks<'_>, StoreError>;
}

pub(crate) struct StoreSource {
    pub(crate) reader: Arc<StoreReader>,
    pub(crate) recording: RecordingId,
}

impl ChunkSource for StoreSource {
    fn locations(&self, track: TrackId, ticks: Range<Tick>) -> Result<Vec<ChunkLocation>, StoreError> {
        self.reader.chunk_locations(self.recording, track, ticks)
    }

    fn chunks(&self, track: TrackId, ticks: Range<Tick>) -> Result<Chunks<'_>, StoreError> {
        Ok(Box::new(self.reader.chunks(self.recording, track, ticks)?))
    }
}

/// The packets of one lane for some consecutive grid steps. Which packet stands at a grid step depends on the stored
/// chunks alone, never on where reading began.
#[derive(Default)]
pub(crate) struct LaneBlock {
    bytes: Vec<u8>,
    /// Per grid step where its packet lies in `bytes`; empty for none.
    spans: Vec<Range<u32>>,
    /// What could not be read and is silent, the first of it.
    pub(crate) damage: Option<String>,
}

impl LaneBlock {
    pub(crate) fn read(source: &dyn ChunkSource, lane: &[TrackId], ticks: Range<Tick>) -> Result<Self, StoreError> {
        let mut block = Self::default();
        block.spans.resize((ticks.end.0 - ticks.start.0) as usize, 0..0);
        for &track in lane {
            for chunk in source.chunks(track, ticks.clone())? {
                match chunk {
                    Ok(chunk) => block.place(&chunk, ticks.start),
                    Err(error) if is_damage(&error) => {
                        block.damage.get_or_insert_with(|| error.to_string());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(block)
    }

    fn place(&mut self, chunk: &Chunk, first_tick: Tick) {
        let header = &chunk.header;
        for (index, packet) in chunk_packets(&chunk.payload).take(usize::from(header.ticks)).enumerate() {
            let tick = header.first_tick.0.saturating_add(index as u64);
            let place = tick.checked_sub(first_tick.0).and_then(|place| self.spans.get_mut(place as usize));
            let Some(span) = place else { continue };
            if span.start < span.end || packet.is_empty() {
                continue;
            }
            if !lasts_one_tick(packet) {
                let describe =
                    || format!("the packet at grid step {tick} of track {} is no 20 ms of Opus", header.track.0);
                self.damage.get_or_insert_with(describe);
                continue;
            }
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(packet);
            *span = start..self.bytes.len() as u32;
        }
    }

    /// The packet at grid step `index` of the block.
    pub(crate) fn packet(&self, index: usize) -> Option<&[u8]> {
        let span = self.spans.get(index).filter(|span| span.start < span.end)?;
        Some(&self.bytes[span.start as usize..span.end as usize])
    }
}

/// One chunk is lost for good: its place stays silent. Everything else may work the next time, and is an error.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Log(error) => error.is_damage() || matches!(error, LogError::BadChunk { .. }),
        _ => false,
    }
}
