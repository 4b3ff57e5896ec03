//! How long the blocks of a file are, known without reading audio.
//!
//! When audio is sealed, the lengths of its blocks are stored as tables in the run's index, one for each choice of lanes that
//! copies stored packets. A block's length depends on the packets of its lanes alone (`grid.rs`), so a table holds for every
//! file in which the block lies wholly in that run, whatever other runs the recording gets.
//!
//! Constraints: a table is a hint from the disk: a length that turns out to be wrong is an error when the block is
//! made, never other bytes. Only blocks with ordinary packets are in it ([`REGULAR_BYTES_MAX`]); their pages are whole seconds.

use crate::grid::{BLOCK_TICKS, FileGrid};
use crate::lane::Lane;
use crate::ogg::PAGE_HEADER_BYTES;
use crate::opus_packet::{SILENT_PACKET, lasts_one_tick};
use crate::{Channels, select};
use sidetone_log::{ChunkRecord, Table, chunk_packets};
use sidetone_model::{Recording, Tick, Track, TrackId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Of a grid step in the file: longer ones take two length bytes in a page, and may break it.
pub(crate) const REGULAR_BYTES_MAX: usize = 254;
/// A day. Longer runs get no tables.
const TABLE_BLOCKS_MAX: u64 = 8640;
/// All tables of a run: more are left out.
const BYTES_MAX: usize = 128 << 10;
/// What stands in a table for a block that must be looked at.
const UNKNOWN: u32 = 0;

/// The name of the table for a choice of lanes. Its number changes when the same packets make other files.
pub(crate) fn table_name(lanes: &[Lane]) -> String {
    let tracks = |lane: &Lane| lane.iter().map(|track| track.0.to_string()).collect::<Vec<_>>().join(",");
    format!("opus blocks 1: {}", lanes.iter().map(tracks).collect::<Vec<_>>().join("|"))
}

/// The table's word on a block: its length in bytes. `first` is the run's first grid step, `steps` those of the block.
pub(crate) fn block_bytes(table: &[u8], run: &Range<Tick>, steps: &Range<Tick>) -> Option<u64> {
    let ticks = run.end.0.checked_sub(run.start.0).filter(|&ticks| ticks > 0)?;
    let grid = FileGrid { first: run.start, ticks };
    let block = (steps.start.0 / BLOCK_TICKS).checked_sub(run.start.0 / BLOCK_TICKS)?;
    if block >= grid.blocks() || grid.block_since_epoch(block) != *steps {
        return None;
    }
    let entry = table.chunks_exact(4).nth(usize::try_from(block).ok()?)?;
    let bytes = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
    (bytes != UNKNOWN).then_some(u64::from(bytes))
}

/// The tables of a run: from the recording as it is known when the run is written, and the run's chunks in the order of track
/// and time. None where the run is longer than any call.
pub fn size_tables(recording: &Recording, chunks: &[ChunkRecord]) -> Vec<Table> {
    let mut sizes = PacketSizes::default();
    chunks.iter().for_each(|chunk| sizes.push(chunk));
    let Some(grid) = sizes.extent().filter(|grid| grid.blocks() <= TABLE_BLOCKS_MAX) else { return Vec::new() };
    let mut tables: Vec<Table> = Vec::new();
    for channels in Channels::ALL {
        let has_audio = |track: &Track| sizes.0.contains_key(&track.id);
        let Ok(lanes) = select::lanes(recording, channels, has_audio) else { continue };
        if channels != Channels::Dual && lanes.len() > 1 {
            continue;
        }
        let name = table_name(&lanes);
        let room = BYTES_MAX.saturating_sub(tables.iter().map(|table| table.bytes.len()).sum());
        if name.len() > 255 || grid.blocks() as usize * 4 > room || tables.iter().any(|table| table.name == name) {
            continue;
        }
        let bytes = (0..grid.blocks()).flat_map(|block| sizes.block_bytes(&lanes, &grid, block).to_le_bytes());
        tables.push(Table { name, bytes: bytes.collect() });
    }
    tables
}

/// The packets of a run by track and in the order of time: a chunk's first grid step, and for each step the packet's bytes; 0 for
/// none, 255 for one that is too long for a table.
#[derive(Default)]
struct PacketSizes(BTreeMap<TrackId, Vec<(Tick, Vec<u8>)>>);

impl PacketSizes {
    fn push(&mut self, chunk: &ChunkRecord) {
        let header = chunk.header();
        let size = |packet: &[u8]| if lasts_one_tick(packet) { packet.len().min(255) as u8 } else { 0 };
        let mut sizes: Vec<u8> = chunk_packets(chunk.payload()).take(usize::from(header.ticks)).map(size).collect();
        // Where the payload ends early, the rest is silent.
        sizes.resize(usize::from(header.ticks), 0);
        self.0.entry(header.track).or_default().push((header.first_tick, sizes));
    }

    /// All grid steps of the run.
    fn extent(&self) -> Option<FileGrid> {
        let chunks = || self.0.values().flatten();
        let first = chunks().map(|(first, _)| first.0).min()?;
        let end = chunks().map(|(first, sizes)| first.0.saturating_add(sizes.len() as u64)).max()?;
        (end > first).then_some(FileGrid { first: Tick(first), ticks: end - first })
    }

    fn block_bytes(&self, lanes: &[Lane], grid: &FileGrid, block: u64) -> u32 {
        let steps = grid.block_since_epoch(block);
        let lanes: Vec<_> = lanes.iter().map(|lane| self.lane(lane, &steps)).collect();
        let mut bytes = 0;
        for step in 0..(steps.end.0 - steps.start.0) as usize {
            let sizes = lanes.iter().map(|lane| match lane[step] {
                0 => SILENT_PACKET.len(),
                size => usize::from(size),
            });
            // All but the last stand in self-delimiting form: a byte more as long as they are ordinary.
            let together = sizes.sum::<usize>() + lanes.len() - 1;
            if together > REGULAR_BYTES_MAX {
                return UNKNOWN;
            }
            bytes += together + 1;
        }
        let steps = grid.block(block);
        let pages = grid.pages_before(steps.end) - grid.pages_before(steps.start);
        (bytes + pages as usize * PAGE_HEADER_BYTES) as u32
    }

    /// The sizes of the packets that a lane plays in `steps`; as [`crate::lane::LaneBlock`] chooses them.
    fn lane(&self, lane: &[TrackId], steps: &Range<Tick>) -> Vec<u8> {
        let mut chosen = vec![0; (steps.end.0 - steps.start.0) as usize];
        for chunks in lane.iter().filter_map(|track| self.0.get(track)) {
            let earliest = steps.start.0.saturating_sub(u64::from(sidetone_log::TICKS_PER_CHUNK_MAX));
            let begin = chunks.partition_point(|(first, _)| first.0 < earliest);
            for (first, sizes) in chunks[begin..].iter().take_while(|(first, _)| *first < steps.end) {
                for (index, &size) in sizes.iter().enumerate() {
                    let place = (first.0 + index as u64).checked_sub(steps.start.0);
                    if let Some(place) = place.and_then(|place| chosen.get_mut(place as usize))
                        && *place == 0
                    {
                        *place = size;
                    }
                }
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests;
