//! A recording as a file that is never there as a whole.
//!
//! A file is a head (headers of its format) and then blocks of [`BLOCK_TICKS`] grid steps, each of which can be made for itself. Where a
//! block begins is known: by arithmetic for WAV and mixes, by a table for stored Opus packets, whose lengths differ.

use crate::decode::{DecodeError, MIX_PACKET_BYTES, PRE_SKIP, SAMPLES_PER_TICK, Timeline};
use crate::lane::{ChunkSource, Lane, StoreSource};
use crate::ogg::{HEADER_PAGES, Mapping, PACKETS_PER_PAGE, Pager, header_pages, page_bytes};
use crate::opus_packet::{SILENT_PACKET, push_self_delimited};
use crate::{Channels, Format, PlaybackError, select, wav};
use sha2::{Digest, Sha256};
use sidetone_model::{PartyRole, Recording, RecordingId, RecordingState, Tick, Track};
use sidetone_store::{ChunkLocation, StoreReader};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// Ten seconds: a whole number of pages, so that pages do not depend on where reading begins.
const BLOCK_TICKS: u64 = 500;
const PAGES_PER_BLOCK: u64 = BLOCK_TICKS / PACKETS_PER_PAGE;
/// 31 days. What claims to be longer is a damaged catalog, not a call.
const TICKS_MAX: u64 = 31 * TICKS_PER_DAY;
const TICKS_PER_DAY: u64 = 24 * 3600 * 50;
/// How far the tracks of a running call may be apart on the disk; one that is further behind has fallen silent.
const ACTIVE_TRACK_LAG_TICKS: u64 = 150;
/// Part of every entity tag: another number when the same recording gives other bytes than before.
const RENDITION_VERSION: u32 = 1;
/// The longest text taken from signalling into the comments of a file, in bytes.
const COMMENT_BYTES_MAX: usize = 256;

/// A recording as a file of known length, any part of which can be read.
pub struct Rendition {
    source: Box<dyn ChunkSource>,
    recording: RecordingId,
    format: Format,
    layout: Layout,
    lanes: Vec<Lane>,
    first_tick: Tick,
    ticks: u64,
    serial: u32,
    head: Vec<u8>,
    length: u64,
    etag: String,
    file_name: String,
    /// The block made last, and its number: readers mostly go on where they were.
    block: Option<(u64, Vec<u8>)>,
    damage: Option<String>,
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
    /// Of the block's bytes, to notice when they are others later.
    digest: u32,
}

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
        let mut chunks = BTreeMap::new();
        for track in &document.tracks {
            let locations = source
                .locations(track.id, Tick(0)..Tick(u64::MAX))
                .map_err(|source| PlaybackError::Store { recording, source })?;
            if !locations.is_empty() {
                chunks.insert(track.id, locations);
            }
        }
        let lanes = select::lanes(document, channels, |track: &Track| chunks.contains_key(&track.id))
            .map_err(|reason| PlaybackError::NoAudio { recording, reason })?;
        let (first_tick, ticks) = extent(chunks.values().map(Vec::as_slice), document.state);
        if ticks > TICKS_MAX {
            return Err(PlaybackError::Implausible { recording, days: ticks / TICKS_PER_DAY });
        }

        let serial = serial(recording, channels);
        let mut head = Vec::new();
        let layout = match format {
            Format::Opus => {
                let mapping = if channels == Channels::Dual { Mapping::TwoMono } else { Mapping::Mono };
                header_pages(mapping, serial, &comments(document, channels, first_tick), &mut head);
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
            first_tick,
            ticks,
            serial,
            head,
            length: 0,
            etag: String::new(),
            file_name: file_name(document, channels, format, first_tick),
            block: None,
            damage: None,
        };
        rendition.lay_out()?;
        rendition.etag = rendition.entity_tag(channels, &chunks);
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

    /// A strong entity tag (RFC 9110 §8.8.3), quotes included.
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
        (self.ticks as f64 * SAMPLES_PER_TICK as f64 - PRE_SKIP as f64) / f64::from(wav::SAMPLE_RATE_HZ)
    }

    /// The first thing found so far that could not be read and is silent in the file; for .opus files of stored packets
    /// known once it is open, for others once it has been read.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
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
                let expected_bytes = starts[block as usize + 1].offset - start.offset;
                let pager = self.copy_packets(block, start.page_number, out)?;
                if pager.digest != start.digest || out.len() as u64 != expected_bytes {
                    return Err(PlaybackError::Changed { recording: self.recording });
                }
                Ok(())
            }
            Layout::Mix => self.mix_packets(block, out),
            &Layout::Wav { channels } => self.samples(block, channels, out),
        }
    }

    /// Stored packets into pages; for two channels each grid step's two packets as one, the first self-delimiting.
    fn copy_packets(&mut self, block: u64, page_number: u32, out: &mut Vec<u8>) -> Result<Pager, PlaybackError> {
        let ticks = self.block_ticks(block);
        let mut pager = Pager::new(self.serial, page_number, ticks.start);
        let fail = |source| PlaybackError::Store { recording: self.recording, source };
        let lanes = self.lanes.iter().map(|lane| self.timeline().packets(lane, ticks.clone()));
        let lanes = lanes.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        let mut pair = Vec::new();
        for index in 0..(ticks.end - ticks.start) as usize {
            let mut packets = lanes.iter().map(|lane| lane.packet(index).unwrap_or(&SILENT_PACKET));
            match (packets.next(), packets.next()) {
                (Some(left), Some(right)) => {
                    pair.clear();
                    push_self_delimited(left, &mut pair);
                    pair.extend_from_slice(right);
                    pager.push(&pair, out);
                }
                (Some(only), None) => pager.push(only, out),
                (None, _) => unreachable!("a file has one lane or two"),
            }
        }
        pager.flush(ticks.end == self.ticks, out);
        if self.damage.is_none() {
            self.damage = lanes.into_iter().find_map(|lane| lane.damage);
        }
        Ok(pager)
    }

    fn mix_packets(&mut self, block: u64, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let ticks = self.block_ticks(block);
        let page_number = HEADER_PAGES + (block * PAGES_PER_BLOCK) as u32;
        let mut pager = Pager::new(self.serial, page_number, ticks.start);
        let mut damage = self.damage.take();
        let result =
            self.timeline().encode_sum(&self.lanes, ticks.clone(), &mut damage, |packet| pager.push(packet, out));
        self.damage = damage;
        result.map_err(|error| self.fail(error))?;
        pager.flush(ticks.end == self.ticks, out);
        Ok(())
    }

    /// Samples, interleaved when there are two channels. The pre-skip is left out at the file's beginning, so every block
    /// but the first begins that much earlier than its grid steps.
    fn samples(&mut self, block: u64, channels: u16, out: &mut Vec<u8>) -> Result<(), PlaybackError> {
        let ticks = self.block_ticks(block);
        let skipped = if block == 0 { PRE_SKIP } else { 0 };
        let mut damage = self.damage.take();
        let decode = |lanes: &[Lane], damage: &mut Option<String>| {
            self.timeline().decode_sum(lanes, ticks.clone(), damage).map_err(|error| self.fail(error))
        };
        let result = if channels == 2 {
            decode(&self.lanes[..1], &mut damage)
                .and_then(|left| Ok((left, decode(&self.lanes[1..], &mut damage)?)))
                .map(|(left, right)| {
                    for (left, right) in left.into_iter().zip(right).skip(skipped) {
                        out.extend_from_slice(&left.to_le_bytes());
                        out.extend_from_slice(&right.to_le_bytes());
                    }
                })
        } else {
            decode(&self.lanes, &mut damage).map(|samples| {
                samples.iter().skip(skipped).for_each(|sample| out.extend_from_slice(&sample.to_le_bytes()));
            })
        };
        self.damage = damage;
        result
    }

    /// Finds out where the blocks begin and how long the file is.
    fn lay_out(&mut self) -> Result<(), PlaybackError> {
        let blocks = self.ticks.div_ceil(BLOCK_TICKS);
        match self.layout {
            Layout::Copy(_) => {
                let mut starts = Vec::with_capacity(blocks as usize + 1);
                let mut offset = self.head.len() as u64;
                let mut page_number = HEADER_PAGES;
                let mut bytes = Vec::new();
                for block in 0..blocks {
                    bytes.clear();
                    let pager = self.copy_packets(block, page_number, &mut bytes)?;
                    starts.push(BlockStart { offset, page_number, digest: pager.digest });
                    offset += bytes.len() as u64;
                    page_number = pager.number;
                }
                starts.push(BlockStart { offset, page_number, digest: 0 });
                self.layout = Layout::Copy(starts);
            }
            Layout::Mix => {}
            Layout::Wav { channels } => {
                let samples = self.ticks * SAMPLES_PER_TICK as u64 - PRE_SKIP as u64;
                let data_bytes = samples * u64::from(channels * wav::BYTES_PER_SAMPLE);
                self.head = wav::header(channels, data_bytes).ok_or(PlaybackError::TooLong {
                    recording: self.recording,
                    format: self.format,
                    bytes: data_bytes,
                })?;
            }
        }
        self.length = self.block_offset(blocks);
        Ok(())
    }

    /// Where a block begins in the file; for the number behind the last block, the file's length.
    fn block_offset(&self, block: u64) -> u64 {
        let head_bytes = self.head.len() as u64;
        let ticks = (block * BLOCK_TICKS).min(self.ticks);
        match &self.layout {
            Layout::Copy(starts) => starts[block as usize].offset,
            Layout::Mix => {
                let whole_pages = ticks / PACKETS_PER_PAGE;
                let rest = ticks % PACKETS_PER_PAGE;
                let rest_bytes = if rest == 0 { 0 } else { page_bytes(rest, MIX_PACKET_BYTES as u64) };
                head_bytes + whole_pages * page_bytes(PACKETS_PER_PAGE, MIX_PACKET_BYTES as u64) + rest_bytes
            }
            Layout::Wav { channels } => {
                let samples = (ticks * SAMPLES_PER_TICK as u64).saturating_sub(PRE_SKIP as u64);
                head_bytes + samples * u64::from(channels * wav::BYTES_PER_SAMPLE)
            }
        }
    }

    /// The block that holds the byte at `offset`, which lies behind the head.
    fn block_at(&self, offset: u64) -> u64 {
        let blocks = self.ticks.div_ceil(BLOCK_TICKS);
        let (mut low, mut high) = (0, blocks);
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

    fn block_ticks(&self, block: u64) -> Range<u64> {
        block * BLOCK_TICKS..((block + 1) * BLOCK_TICKS).min(self.ticks)
    }

    fn timeline(&self) -> Timeline<'_> {
        Timeline { source: &*self.source, first_tick: self.first_tick, ticks: self.ticks }
    }

    fn fail(&self, error: DecodeError) -> PlaybackError {
        error.into_playback(self.recording)
    }

    /// From everything that the bytes depend on: the head, which chunks there are, and the version of this code.
    fn entity_tag(&self, channels: Channels, chunks: &BTreeMap<sidetone_model::TrackId, Vec<ChunkLocation>>) -> String {
        let mut digest = Sha256::new();
        digest.update(RENDITION_VERSION.to_le_bytes());
        digest.update(opus::version());
        digest.update(self.recording.0.as_bytes());
        digest.update([self.format as u8, channels as u8]);
        digest.update(self.first_tick.0.to_le_bytes());
        digest.update(self.ticks.to_le_bytes());
        digest.update(&self.head);
        if let Layout::Copy(starts) = &self.layout {
            starts.iter().for_each(|start| digest.update(start.digest.to_le_bytes()));
        }
        for track in self.lanes.iter().flatten() {
            digest.update([0xff, track.0]);
            for chunk in chunks.get(track).into_iter().flatten() {
                digest.update(chunk.first_tick.0.to_le_bytes());
                digest.update(chunk.located.position.file.to_le_bytes());
                digest.update(chunk.located.position.offset.to_le_bytes());
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

/// First grid step and number of grid steps over all tracks, at least one of which has a chunk.
fn extent<'a>(tracks: impl Iterator<Item = &'a [ChunkLocation]>, state: RecordingState) -> (Tick, u64) {
    let end_of = |chunk: &ChunkLocation| chunk.first_tick.0.saturating_add(u64::from(chunk.ticks));
    let (mut first, mut ends) = (u64::MAX, Vec::new());
    for chunks in tracks {
        first = chunks.iter().map(|chunk| chunk.first_tick.0).fold(first, u64::min);
        ends.extend(chunks.iter().map(end_of).max());
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
    (Tick(first), end.saturating_sub(first).max(1))
}

/// Ogg's stream number: any, but the same for the same file.
fn serial(recording: RecordingId, channels: Channels) -> u32 {
    let digest = Sha256::new().chain_update(recording.0.as_bytes()).chain_update([channels as u8]).finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

fn comments(recording: &Recording, channels: Channels, first_tick: Tick) -> Vec<(&'static str, String)> {
    let mut comments = vec![
        ("ENCODER", concat!("sidetone ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("DATE", first_tick.start().to_string()),
        ("RECORDING_ID", recording.id.to_string()),
        ("CONVERSATION_ID", recording.conversation_id.to_string()),
        ("CHANNELS", channels.to_string()),
    ];
    for (name, role) in [("CALLER", PartyRole::Caller), ("CALLEE", PartyRole::Callee)] {
        if let Some(party) = recording.parties.iter().find(|party| party.role == role) {
            let text = [party.name.as_str(), party.number.as_str()];
            let text = text.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
            comments.push((name, shortened(&text)));
        }
    }
    comments
}

/// The beginning of a text, at most [`COMMENT_BYTES_MAX`] bytes, without control characters.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if short.len() + character.len_utf8() > COMMENT_BYTES_MAX {
            break;
        }
        short.push(character);
    }
    short
}

fn file_name(recording: &Recording, channels: Channels, format: Format, first_tick: Tick) -> String {
    let time = first_tick.start().to_string();
    // 2005-01-14T17:58:02… → 2005-01-14T175802Z
    let mut name = time.get(..19).unwrap_or(&time).replace(':', "") + "Z";
    for role in [PartyRole::Caller, PartyRole::Callee] {
        let party = recording.parties.iter().find(|party| party.role == role);
        let text = party.map_or("", |party| if party.number.is_empty() { &party.name } else { &party.number });
        let safe: String =
            text.chars().filter(|character| character.is_ascii_alphanumeric() || *character == '+').take(32).collect();
        if !safe.is_empty() {
            name.push('_');
            name.push_str(&safe);
        }
    }
    write!(name, "_{channels}.{format}").expect("writing to a string cannot fail");
    name
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
