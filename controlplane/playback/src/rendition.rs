//! A recording as a file that is never there as a whole.
//!
//! A file is a head (headers of its format) and then blocks (`grid.rs`), each of which can be made for itself. Where a block
//! begins is known: by arithmetic for WAV and mixes; for stored Opus packets, whose lengths differ, from the tables that
//! were stored when the audio was sealed (`sizes.rs`), and from the packets themselves where there is no table.

use crate::copy::CopyBlock;
use crate::decode::{DecodeError, MIX_PACKET_BYTES, PRE_SKIP, SAMPLES_PER_TICK, Timeline};
use crate::grid::FileGrid;
use crate::label::{comments, file_name, serial};
use crate::lane::{Lane, LaneBlock, Lost, LostAudio};
use crate::ogg::{HEADER_PAGES, Mapping, PAGE_HEADER_BYTES, Pager, header_pages};
use crate::sizes::{block_bytes, table_name};
use crate::source::{ChunkSource, Piece, Pieces, StoreSource};
use crate::{Channels, Format, PlaybackError, select, wav};
use sha2::{Digest, Sha256};
use sidetone_model::{Recording, RecordingId, RecordingState, Tick, Track, TrackId};
use sidetone_store::{StoreError, StoreReader};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// 31 days. What claims to be longer is a damaged catalog, not a call.
const TICKS_MAX: u64 = 31 * TICKS_PER_DAY;
const TICKS_PER_DAY: u64 = 24 * 3600 * 50;
/// How far the tracks of a running call may be apart on the disk; one that is further behind has fallen silent.
const ACTIVE_TRACK_LAG_TICKS: u64 = 150;
/// Part of every entity tag: another number when the same recording gives other bytes than before.
const RENDITION_VERSION: u32 = 2;

/// A recording as a file of known length, any part of which can be read.
pub struct Rendition {
    source: Box<dyn ChunkSource>,
    recording: RecordingId,
    format: Format,
    layout: Layout,
    lanes: Vec<Lane>,
    grid: FileGrid,
    serial: u32,
    head: Vec<u8>,
    length: u64,
    etag: String,
    file_name: String,
    /// The block made last, and its number: readers mostly go on where they were.
    block: Option<(u64, Vec<u8>)>,
    lost: LostAudio,
}

/// How the blocks are made.
enum Layout {
    /// Stored packets as they are; the start of every block, and an entry for the end.
    Copy(Vec<BlockStart>),
    /// Packets of equal length, encoded when read.
    Mix,
    /// Samples; one lane a channel, or all lanes in one.
    Wav { channels: u16 },
}

#[derive(Clone, Copy)]
struct BlockStart {
    offset: u64,
    page_number: u32,
    /// Of the block's bytes, to notice when they are others later; absent for sealed audio, which is never changed.
    digest: Option<u32>,
}

/// All chunks of the recording.
type Tracks = BTreeMap<TrackId, Pieces>;

impl Rendition {
    /// Decides what the file holds and how long it is. An active recording ends where all its tracks are durable.
    ///
    /// # Errors
    /// [`PlaybackError::NotFound`], [`PlaybackError::NoAudio`] with the reason, or what the store says.
    pub fn open(
        reader: Arc<StoreReader>,
        recording: RecordingId,
        format: Format,
        channels: Channels,
    ) -> Result<Self, PlaybackError> {
        let document = reader
            .recording(recording)
            .map_err(|source| PlaybackError::Store { recording, source })?
            .ok_or(PlaybackError::NotFound { recording })?;
        Self::from_source(Box::new(StoreSource { reader, recording }), &document, format, channels)
    }

    pub(crate) fn from_source(
        source: Box<dyn ChunkSource>,
        document: &Recording,
        format: Format,
        channels: Channels,
    ) -> Result<Self, PlaybackError> {
        let recording = document.id;
        let failed = |source| PlaybackError::Store { recording, source };
        let mut tracks = Tracks::new();
        for track in &document.tracks {
            let pieces = source.pieces(track.id, Tick(0)..Tick(u64::MAX)).map_err(failed)?;
            if !pieces.is_empty() {
                tracks.insert(track.id, Pieces::new(pieces));
            }
        }
        let lanes = select::lanes(document, channels, |track: &Track| tracks.contains_key(&track.id))
            .map_err(|reason| PlaybackError::NoAudio { recording, reason })?;
        if let Some(error) = why_unreadable(&*source, &tracks) {
            let reason = format!("none of it can be read: {error}");
            return Err(PlaybackError::NoAudio { recording, reason });
        }
        let grid = extent(&tracks, document.state);
        if grid.ticks > TICKS_MAX || grid.first.0 > u64::MAX / 2 {
            return Err(PlaybackError::Implausible { recording, days: grid.ticks / TICKS_PER_DAY });
        }

        let serial = serial(recording, channels);
        let mut head = Vec::new();
        let layout = match format {
            Format::Opus => {
                let mapping = if channels == Channels::Dual { Mapping::TwoMono } else { Mapping::Mono };
                header_pages(mapping, serial, &comments(document, channels, grid.first), &mut head);
                match channels {
                    Channels::Mix if lanes.len() > 1 => Layout::Mix,
                    _ => Layout::Copy(Vec::new()),
                }
            }
            Format::Wav => Layout::Wav { channels: if channels == Channels::Dual { 2 } else { 1 } },
        };
        let mut rendition = Self {
            source,
            recording,
            format,
            layout,
            lanes,
            grid,
            serial,
            head,
            length: 0,
            etag: String::new(),
            file_name: file_name(document, channels, format, grid.first),
            block: None,
            lost: LostAudio::default(),
        };
        rendition.lay_out(&tracks)?;
        rendition.etag = rendition.entity_tag(channels, &tracks);
        Ok(rendition)
    }

    /// Length of the file in bytes; never zero.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Never true: a recording without audio has no file.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A strong entity tag (RFC 9110 §8.8.3), quotes included. The disk may lose audio later: that is then silent in a file of
    /// the same tag.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    pub fn content_type(&self) -> &'static str {
        self.format.content_type()
    }

    /// A name to save the file under: time, parties and channels, in characters that every file system takes.
    pub fn file_name(&self) -> String {
        self.file_name.clone()
    }

    /// How long it plays: the stored grid steps less the pre-skip (6.5 ms).
    pub fn duration_seconds(&self) -> f64 {
        (self.grid.ticks as f64 * SAMPLES_PER_TICK as f64 - PRE_SKIP as f64) / f64::from(wav::SAMPLE_RATE_HZ)
    }

    /// Stored audio that cannot be read and is silent in the file, as far as it has been read; the first thousand pieces.
    pub fn lost(&self) -> impl Iterator<Item = &Lost> {
        self.lost.iter()
    }

    /// Appends the bytes in `range` to `out`.
    ///
    /// # Errors
    /// [`PlaybackError::BeyondEnd`] when the range does not lie within the file; [`PlaybackError::Changed`] when audio
    /// was added in its middle since it was opened; what the store says. `out` is as before then.
    pub fn read(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        if range.start > range.end || range.end > self.length {
            return Err(PlaybackError::BeyondEnd { range, length: self.length });
        }
        let length_before = out.len();
        let result = self.read_within(range, out);
        if result.is_err() {
            out.truncate(length_before);
        }
        result
    }

    fn read_within(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let head_bytes = self.head.len() as u64;
        let in_head = range.start.min(head_bytes) as usize..range.end.min(head_bytes) as usize;
        out.extend_from_slice(&self.head[in_head]);
        let mut at = range.start.max(head_bytes);
        let mut block = self.block_at(at);
        while at < range.end {
            let start = self.block_offset(block);
            let end = self.block_offset(block + 1);
            let part = (at - start) as usize..(range.end.min(end) - start) as usize;
            out.extend_from_slice(&self.block_bytes(block)?[part]);
            at = end;
            block += 1;
        }
        Ok(())
    }

    /// The bytes of one block, made anew unless it is the one made last.
    fn block_bytes(&mut self, block: u64) -> Result<&[u8], PlaybackError> {
        if self.block.as_ref().is_none_or(|(number, _)| *number != block) {
            let mut bytes = self.block.take().map_or_else(Vec::new, |(_, bytes)| bytes);
            bytes.clear();
            self.make_block(block, &mut bytes)?;
            self.block = Some((block, bytes));
        }
        let (_, bytes) = self.block.as_ref().expect("has just been made");
        Ok(bytes)
    }

    fn make_block(&mut self, block: u64, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        match &self.layout {
            Layout::Copy(starts) => {
                let start = starts[block as usize];
                let bytes = starts[block as usize + 1].offset - start.offset;
                self.copy_packets(block, start, bytes, out)
            }
            Layout::Mix => self.mix_packets(block, out),
            &Layout::Wav { channels } => self.samples(block, channels, out),
        }
    }

    fn copy_packets(
        &mut self,
        block: u64,
        start: BlockStart,
        bytes: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), PlaybackError> {
        let content = self.stored_packets(block, start.page_number)?;
        let pager = content.pages(out);
        let same = out.len() as u64 == bytes && start.digest.is_none_or(|digest| digest == pager.digest);
        let something_is_lost = content.lanes.iter().any(|lane| !lane.lost.is_empty());
        if !same {
            out.clear();
            // Told as long as it was, and not readable any more: silence of that length.
            if !something_is_lost || !content.fitted_pages(bytes, out) {
                return Err(PlaybackError::Changed { recording: self.recording });
            }
        }
        self.note_lost(content);
        Ok(())
    }

    fn stored_packets(&self, block: u64, page_number: u32) -> Result<CopyBlock, PlaybackError> {
        let ticks = self.grid.block(block);
        let lanes: Result<Vec<LaneBlock>, _> =
            self.lanes.iter().map(|lane| self.timeline().packets(lane, ticks.clone())).collect();
        let lanes = lanes.map_err(|source| PlaybackError::Store { recording: self.recording, source })?;
        Ok(CopyBlock { serial: self.serial, grid: self.grid, block, page_number, lanes })
    }

    fn note_lost(&mut self, content: CopyBlock) {
        content.lanes.into_iter().flat_map(|lane| lane.lost).for_each(|lost| self.lost.note(lost));
    }

    fn mix_packets(&mut self, block: u64, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let ticks = self.grid.block(block);
        let page_number = HEADER_PAGES + self.grid.pages_before(ticks.start) as u32;
        let mut pager = Pager::new(self.serial, page_number, self.grid.first, ticks.start);
        let mut lost = std::mem::take(&mut self.lost);
        let result =
            self.timeline().encode_sum(&self.lanes, ticks.clone(), &mut lost, |packet| pager.push(packet, out));
        self.lost = lost;
        result.map_err(|error| self.fail(error))?;
        pager.flush(ticks.end == self.grid.ticks, out);
        Ok(())
    }

    /// Samples, interleaved when there are two channels. The pre-skip is left out at the file's beginning, so every block
    /// but the first begins that much earlier than its grid steps.
    fn samples(&mut self, block: u64, channels: u16, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let ticks = self.grid.block(block);
        let skipped = if block == 0 { PRE_SKIP } else { 0 };
        let mut lost = std::mem::take(&mut self.lost);
        let decode = |lanes: &[Lane], lost: &mut LostAudio| {
            self.timeline().decode_sum(lanes, ticks.clone(), lost).map_err(|error| self.fail(error))
        };
        let result = if channels == 2 {
            decode(&self.lanes[..1], &mut lost).and_then(|left| Ok((left, decode(&self.lanes[1..], &mut lost)?))).map(
                |(left, right)| {
                    for (left, right) in left.into_iter().zip(right).skip(skipped) {
                        out.extend_from_slice(&left.to_le_bytes());
                        out.extend_from_slice(&right.to_le_bytes());
                    }
                },
            )
        } else {
            decode(&self.lanes, &mut lost).map(|samples| {
                samples.iter().skip(skipped).for_each(|sample| out.extend_from_slice(&sample.to_le_bytes()));
            })
        };
        self.lost = lost;
        result
    }

    /// Finds out where the blocks begin and how long the file is.
    fn lay_out(&mut self, tracks: &Tracks) -> Result<(), PlaybackError> {
        match self.layout {
            Layout::Copy(_) => self.layout = Layout::Copy(self.block_starts(tracks)?),
            Layout::Mix => {}
            Layout::Wav { channels } => {
                let samples = self.grid.ticks * SAMPLES_PER_TICK as u64 - PRE_SKIP as u64;
                let data_bytes = samples * u64::from(channels * wav::BYTES_PER_SAMPLE);
                self.head = wav::header(channels, data_bytes).ok_or(PlaybackError::TooLong {
                    recording: self.recording,
                    format: self.format,
                    bytes: data_bytes,
                })?;
            }
        }
        self.length = self.block_offset(self.grid.blocks());
        Ok(())
    }

    fn block_starts(&mut self, tracks: &Tracks) -> Result<Vec<BlockStart>, PlaybackError> {
        let blocks = self.grid.blocks();
        let mut starts = Vec::with_capacity(blocks as usize + 1);
        let mut offset = self.head.len() as u64;
        let mut page_number = HEADER_PAGES;
        let mut bytes = Vec::new();
        for block in 0..blocks {
            if let Some(told) = self.told_bytes(tracks, block) {
                starts.push(BlockStart { offset, page_number, digest: None });
                offset += told;
                let ticks = self.grid.block(block);
                page_number += (self.grid.pages_before(ticks.end) - self.grid.pages_before(ticks.start)) as u32;
                continue;
            }
            bytes.clear();
            let content = self.stored_packets(block, page_number)?;
            let pager = content.pages(&mut bytes);
            self.note_lost(content);
            starts.push(BlockStart { offset, page_number, digest: Some(pager.digest) });
            offset += bytes.len() as u64;
            page_number = pager.number;
        }
        starts.push(BlockStart { offset, page_number, digest: None });
        Ok(starts)
    }

    /// The length of a block as a table tells it: only when all that plays in it lies in one run that has such a table.
    fn told_bytes(&self, tracks: &Tracks, block: u64) -> Option<u64> {
        let steps = self.grid.block_since_epoch(block);
        let of_lanes = self.lanes.iter().flatten().filter_map(|track| tracks.get(track));
        let mut runs = of_lanes.flat_map(|pieces| pieces.within(&steps)).map(Piece::run);
        let run = runs.next()??;
        if !runs.all(|other| other.is_some_and(|other| Arc::ptr_eq(other, run) || other == run)) {
            return None;
        }
        // An index that cannot be read is told when the audio is.
        let index = self.source.run_index(run).ok()?;
        let in_run = |track: &TrackId| index.entries.binary_search_by_key(track, |entry| entry.track).is_ok();
        let of_run = |lane: &Lane| lane.iter().copied().filter(in_run).collect();
        let lanes: Vec<Lane> = self.lanes.iter().map(of_run).collect();
        block_bytes(index.table(&table_name(&lanes))?, &(index.first_tick()..index.end_tick()), &steps)
    }

    /// Where a block begins in the file; for the number behind the last block, the file's length.
    fn block_offset(&self, block: u64) -> u64 {
        let head_bytes = self.head.len() as u64;
        let ticks = self.grid.block(block).start;
        match &self.layout {
            Layout::Copy(starts) => starts[block as usize].offset,
            Layout::Mix => {
                let pages = self.grid.pages_before(ticks);
                head_bytes + pages * PAGE_HEADER_BYTES as u64 + ticks * (1 + MIX_PACKET_BYTES as u64)
            }
            Layout::Wav { channels } => {
                let samples = (ticks * SAMPLES_PER_TICK as u64).saturating_sub(PRE_SKIP as u64);
                head_bytes + samples * u64::from(channels * wav::BYTES_PER_SAMPLE)
            }
        }
    }

    /// The block that holds the byte at `offset`, which lies behind the head.
    fn block_at(&self, offset: u64) -> u64 {
        let (mut low, mut high) = (0, self.grid.blocks());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.block_offset(middle) <= offset {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn timeline(&self) -> Timeline<'_> {
        Timeline { source: &*self.source, first_tick: self.grid.first, ticks: self.grid.ticks }
    }

    fn fail(&self, error: DecodeError) -> PlaybackError {
        error.into_playback(self.recording)
    }

    /// From everything that the bytes depend on: the head, the chunks, and the version of this code. Where the chunks lie is no part
    /// of it: the tag stays when audio moves from a journal into a segment.
    fn entity_tag(&self, channels: Channels, tracks: &Tracks) -> String {
        let mut digest = Sha256::new();
        digest.update(RENDITION_VERSION.to_le_bytes());
        digest.update(opus::version());
        digest.update(self.recording.0.as_bytes());
        digest.update([self.format as u8, channels as u8]);
        digest.update(self.grid.first.0.to_le_bytes());
        digest.update(self.grid.ticks.to_le_bytes());
        digest.update(&self.head);
        if let Layout::Copy(starts) = &self.layout {
            starts.iter().for_each(|start| digest.update(start.offset.to_le_bytes()));
        }
        for track in self.lanes.iter().flatten() {
            digest.update([0xff, track.0]);
            for piece in tracks.get(track).into_iter().flat_map(Pieces::iter) {
                let location = &piece.location;
                digest.update(location.first_tick.0.to_le_bytes());
                digest.update(location.ticks.to_le_bytes());
                digest.update(location.packets.to_le_bytes());
                digest.update(location.place.bytes().to_le_bytes());
            }
        }
        let mut tag = String::from("\"");
        for byte in &digest.finalize()[..16] {
            write!(tag, "{byte:02x}").expect("writing to a string cannot fail");
        }
        tag.push('"');
        tag
    }
}

/// The grid steps of a file over all tracks, at least one of which has a chunk.
fn extent(tracks: &Tracks, state: RecordingState) -> FileGrid {
    let (mut first, mut ends) = (u64::MAX, Vec::new());
    for pieces in tracks.values() {
        first = pieces.iter().map(|piece| piece.steps().start.0).fold(first, u64::min);
        ends.extend(pieces.iter().map(|piece| piece.steps().end.0).max());
    }
    let last = ends.iter().copied().max().unwrap_or(first);
    let end = match state {
        // The tracks of a running call are written in turn; a file that ended with the longest would be silent on
        // the others, and another file a moment later.
        RecordingState::Active => {
            ends.into_iter().filter(|end| last - end <= ACTIVE_TRACK_LAG_TICKS).min().unwrap_or(last)
        }
        RecordingState::Complete | RecordingState::Incomplete => last,
    };
    FileGrid { first: Tick(first), ticks: end.saturating_sub(first).max(1) }
}

/// Why nothing at all can be found of the recording's audio.
fn why_unreadable(source: &dyn ChunkSource, tracks: &Tracks) -> Option<StoreError> {
    let mut pieces = tracks.values().flat_map(Pieces::iter).peekable();
    let first = (*pieces.peek()?).clone();
    if pieces.all(Piece::is_unreadable) { source.read(&first).err() } else { None }
}

/// Writes the whole file.
///
/// # Errors
/// As [`Rendition::read`], and [`PlaybackError::Write`] when `out` fails.
pub fn write_to(rendition: &mut Rendition, out: &mut impl Write) -> Result<(), PlaybackError> {
    const PART_BYTES: u64 = 256 << 10;
    let mut part = Vec::new();
    let mut at = 0;
    while at < rendition.len() {
        let end = rendition.len().min(at + PART_BYTES);
        part.clear();
        rendition.read(at..end, &mut part)?;
        out.write_all(&part).map_err(|source| PlaybackError::Write { source })?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
