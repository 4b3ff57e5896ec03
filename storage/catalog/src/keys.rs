//! Keys and small values of the catalog as bytes. docs/formats.md says the same in tables.
//!
//! Numbers in keys are big-endian, so that their order is the order of the keys; "newest first" is the complement.

use crate::bytes::{Reader, Writer};
use crate::condition::searchable_texts;
use crate::document::{parse_state, state_code};
use crate::order::TimeKey;
use crate::row::{Places, Row, lower, read_places, write_places};
use crate::{ChunkLocation, Pending, TextField};
use sidetone_log::{FactSequence, Located, LogPosition, SegmentNumber, VolumeNumber};
use sidetone_model::{RecordingId, RecordingState, Tick, TrackId};

/// Version of keys and values; a catalog of a later one is refused, one of an earlier one is brought up.
pub(crate) const CATALOG_VERSION: u32 = 2;

pub(crate) const META_VERSION: &[u8] = b"version";
pub(crate) const META_COUNTERS: &[u8] = b"totals";
pub(crate) const META_SEQUENCE: &[u8] = b"sequence";
pub(crate) const META_APPLIED: &[u8] = b"positions";

/// Parts of texts that are shorter are in no index.
pub(crate) const PART_BYTES_MIN: usize = 3;

/// What recordings are listed under. A posting is such a term, and the time of a recording.
///
/// Terms of one kind order by their text, so that those with the same beginning lie together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Term(Vec<u8>);

mod term_kind {
    pub(super) const NUMBER: u8 = b'n';
    pub(super) const NAME: u8 = b'w';
    pub(super) const USER: u8 = b'u';
    pub(super) const ADDRESS: u8 = b'a';
    pub(super) const STATE: u8 = b's';
    pub(super) const HOLD: u8 = b'h';
    pub(super) const CALL_ID: u8 = b'c';
    pub(super) const TAG_KEY: u8 = b'k';
    pub(super) const TAG: u8 = b't';
}

/// Ends the text of a term; no text holds it.
const TERM_END: u8 = 0;
/// Stands in terms for a zero byte in a tag; no text in UTF-8 holds it.
const ZERO_IN_TAG: u8 = 0xfe;
/// Between the key and the value of a tag; no text in UTF-8 holds it.
const TAG_SEPARATOR: u8 = 0xff;
/// So many bytes of a tag's key, and of its value, are indexed.
const TAG_BYTES_MAX: usize = 64;

/// The fields whose texts are indexed.
pub(crate) const INDEXED_FIELDS: [TextField; 4] =
    [TextField::Number, TextField::Name, TextField::User, TextField::Address];

/// Under which kind of term a field's texts are found; `None` when they are in no index.
pub(crate) fn field_kind(field: TextField) -> Option<u8> {
    match field {
        TextField::Number => Some(term_kind::NUMBER),
        TextField::Name => Some(term_kind::NAME),
        TextField::User => Some(term_kind::USER),
        TextField::Address => Some(term_kind::ADDRESS),
        TextField::Node | TextField::Protocol | TextField::CallId => None,
    }
}

impl Term {
    /// `text` is normalized: it holds no control characters.
    pub(crate) fn text(kind: u8, text: &str) -> Self {
        debug_assert!(!text.as_bytes().contains(&TERM_END));
        Self([&[kind], text.as_bytes(), &[TERM_END]].concat())
    }

    /// Complete ones are too many to be of use.
    pub(crate) fn state(state: RecordingState) -> Option<Self> {
        (state != RecordingState::Complete).then(|| Self(vec![term_kind::STATE, state_code(state), TERM_END]))
    }

    /// Long, and looked for as a whole or not at all: four bytes of a hash (FNV-1a) stand for it.
    pub(crate) fn call_id(text: &str) -> Self {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self([&[term_kind::CALL_ID][..], &hash.to_be_bytes()[4..]].concat())
    }

    pub(crate) fn on_hold() -> Self {
        Self(vec![term_kind::HOLD, TERM_END])
    }

    pub(crate) fn tag_key(key: &str) -> Self {
        let mut term = vec![term_kind::TAG_KEY];
        push_tag_part(&mut term, key);
        term.push(TERM_END);
        Self(term)
    }

    pub(crate) fn tag(key: &str, value: &str) -> Self {
        let mut term = vec![term_kind::TAG];
        push_tag_part(&mut term, key);
        term.push(TAG_SEPARATOR);
        push_tag_part(&mut term, value);
        term.push(TERM_END);
        Self(term)
    }

    /// Everything that a recording is listed under, in order, each once.
    pub(crate) fn all_of(row: &Row) -> Vec<Self> {
        let mut terms = Vec::new();
        let Some(document) = &row.document else { return terms };
        for field in INDEXED_FIELDS {
            let Some(kind) = field_kind(field) else { continue };
            terms.extend(searchable_texts(&document.value, field).map(|text| Self::text(kind, &text)));
        }
        terms.extend(searchable_texts(&document.value, TextField::CallId).map(|text| Self::call_id(&text)));
        terms.extend(Self::state(document.value.state));
        for (key, value) in row.annotations.iter().flat_map(|newest| &newest.value.tags) {
            terms.extend([Self::tag_key(key), Self::tag(key, value)]);
        }
        if row.is_on_hold() {
            terms.push(Self::on_hold());
        }
        terms.sort_unstable();
        terms.dedup();
        terms
    }

    /// What the keys of its postings begin with.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn posting(&self, time: TimeKey) -> Vec<u8> {
        [&self.0[..], &time].concat()
    }

    /// Kind and text, when it is a term of a text.
    pub(crate) fn as_text(&self) -> Option<(u8, &str)> {
        Self::parse_text(&self.0)
    }

    /// As [`Self::as_text`], of the bytes of a term.
    pub(crate) fn parse_text(term: &[u8]) -> Option<(u8, &str)> {
        let (&kind, rest) = term.split_first()?;
        let is_text = INDEXED_FIELDS.iter().any(|&field| field_kind(field) == Some(kind));
        let (_, text) = rest.split_last().filter(|_| is_text)?;
        Some((kind, str::from_utf8(text).ok()?))
    }
}

fn push_tag_part(term: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes().iter().take(TAG_BYTES_MAX);
    term.extend(bytes.map(|&byte| if byte == TERM_END { ZERO_IN_TAG } else { byte }));
}

/// The key of a text; those with the same beginning lie together.
pub(crate) fn text_key(kind: u8, text: &str) -> Vec<u8> {
    [&[kind], text.as_bytes()].concat()
}

/// The text of such a key.
pub(crate) fn parse_text(key: &[u8]) -> Option<&str> {
    let (_kind, text) = key.split_first()?;
    str::from_utf8(text).ok()
}

/// Keys under which a text is found by a part of it that is not its beginning: every end of it begins one, but very short
/// ones. What comes before stands behind a zero, so that the whole can be put together again.
pub(crate) fn part_keys(kind: u8, text: &str) -> impl Iterator<Item = Vec<u8>> {
    let starts = text.char_indices().map(|(start, _)| start).skip(1);
    starts.filter(|start| text.len() - start >= PART_BYTES_MIN).map(move |start| {
        let (before, part) = text.split_at(start);
        [&[kind], part.as_bytes(), &[TERM_END], before.as_bytes()].concat()
    })
}

/// What the keys of the parts begin with that are `part` and end there.
pub(crate) fn ending_prefix(kind: u8, part: &str) -> Vec<u8> {
    [&[kind], part.as_bytes(), &[TERM_END]].concat()
}

/// The text of a part's key, put together again.
pub(crate) fn text_of_part(key: &[u8]) -> Option<String> {
    let (_kind, rest) = key.split_first()?;
    let end = rest.iter().position(|&byte| byte == TERM_END)?;
    let mut text = str::from_utf8(&rest[end + 1..]).ok()?.to_owned();
    text.push_str(str::from_utf8(&rest[..end]).ok()?);
    Some(text)
}

pub(crate) const CHUNK_KEY_BYTES: usize = 38;
/// Recording and track.
pub(crate) const CHUNK_TRACK_BYTES: usize = 17;

pub(crate) fn chunk_key(
    recording: RecordingId,
    track: TrackId,
    first_tick: Tick,
    volume: VolumeNumber,
    position: LogPosition,
) -> [u8; CHUNK_KEY_BYTES] {
    let mut key = [0; CHUNK_KEY_BYTES];
    key[..16].copy_from_slice(recording.0.as_bytes());
    key[16] = track.0;
    key[17..25].copy_from_slice(&first_tick.0.to_be_bytes());
    key[25] = volume.0;
    key[26..30].copy_from_slice(&position.file.to_be_bytes());
    key[30..].copy_from_slice(&position.offset.to_be_bytes());
    key
}

pub(crate) fn chunk_value(length: u32, ticks: u16, packets: u16) -> [u8; 8] {
    let mut value = [0; 8];
    value[..4].copy_from_slice(&length.to_le_bytes());
    value[4..6].copy_from_slice(&ticks.to_le_bytes());
    value[6..].copy_from_slice(&packets.to_le_bytes());
    value
}

pub(crate) fn parse_chunk(key: &[u8], value: &[u8]) -> Option<ChunkLocation> {
    let key: &[u8; CHUNK_KEY_BYTES] = key.try_into().ok()?;
    let value: &[u8; 8] = value.try_into().ok()?;
    let (tick, place) = key[CHUNK_TRACK_BYTES..].split_first_chunk::<8>()?;
    let (&volume, place) = place.split_first()?;
    let (file, offset) = place.split_first_chunk::<4>()?;
    let position = LogPosition { file: u32::from_be_bytes(*file), offset: u64::from_be_bytes(offset.try_into().ok()?) };
    Some(ChunkLocation {
        track: TrackId(key[CHUNK_TRACK_BYTES - 1]),
        volume: VolumeNumber(volume),
        first_tick: Tick(u64::from_be_bytes(*tick)),
        ticks: u16::from_le_bytes([value[4], value[5]]),
        packets: u16::from_le_bytes([value[6], value[7]]),
        located: Located { position, length: u32::from_le_bytes([value[0], value[1], value[2], value[3]]) },
    })
}

/// Volume and number.
pub(crate) fn segment_key(volume: VolumeNumber, segment: SegmentNumber) -> [u8; 5] {
    let [a, b, c, d] = segment.0.to_be_bytes();
    [volume.0, a, b, c, d]
}

/// Volume and recording.
pub(crate) fn owed_key(volume: VolumeNumber, recording: RecordingId) -> [u8; 17] {
    let mut key = [0; 17];
    key[0] = volume.0;
    key[1..].copy_from_slice(recording.0.as_bytes());
    key
}

/// What a recording needs journals for; a row of its own as long as it does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Need {
    pub(crate) state: Option<RecordingState>,
    /// Of its newest facts, the oldest place in each journal.
    pub(crate) facts: Places,
    /// The same of its chunks.
    pub(crate) chunks: Places,
    pub(crate) first_tick: Tick,
    pub(crate) chunk_count: u64,
    pub(crate) chunk_bytes: u64,
}

impl Need {
    pub(crate) fn is_none(&self) -> bool {
        self.facts.is_empty() && self.chunk_count == 0
    }

    pub(crate) fn into_pending(self, recording: RecordingId) -> Pending {
        let mut oldest = self.facts;
        self.chunks.into_iter().for_each(|(volume, position)| lower(&mut oldest, volume, position));
        Pending {
            recording,
            state: self.state,
            oldest: oldest.into_iter().collect(),
            first_tick: (self.chunk_count > 0).then_some(self.first_tick),
            unsealed_chunks: self.chunk_count,
            unsealed_bytes: self.chunk_bytes,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(self.state.map_or(0, state_code));
        write_places(&mut writer, &self.facts);
        write_places(&mut writer, &self.chunks);
        [self.first_tick.0, self.chunk_count, self.chunk_bytes].into_iter().for_each(|number| writer.number(number));
        writer.0
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let state = match reader.byte()? {
            0 => None,
            code => Some(parse_state(code)?),
        };
        let need = Self {
            state,
            facts: read_places(&mut reader)?,
            chunks: read_places(&mut reader)?,
            first_tick: Tick(reader.number()?),
            chunk_count: reader.number()?,
            chunk_bytes: reader.number()?,
        };
        reader.0.is_empty().then_some(need)
    }
}

/// What the catalog counts; stored with every batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) recordings: u64,
    pub(crate) active: u64,
    pub(crate) incomplete: u64,
    pub(crate) on_hold: u64,
    pub(crate) unsealed_chunks: u64,
    pub(crate) unsealed_bytes: u64,
    pub(crate) runs: u64,
    pub(crate) sealed_chunks: u64,
    pub(crate) sealed_bytes: u64,
}

impl Counters {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let Self { recordings, active, incomplete, on_hold, unsealed_chunks, unsealed_bytes, runs, .. } = *self;
        let Self { sealed_chunks, sealed_bytes, .. } = *self;
        [recordings, active, incomplete, on_hold].into_iter().for_each(|count| writer.number(count));
        [unsealed_chunks, unsealed_bytes, runs].into_iter().for_each(|count| writer.number(count));
        [sealed_chunks, sealed_bytes].into_iter().for_each(|count| writer.number(count));
        writer.0
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            recordings: reader.number()?,
            active: reader.number()?,
            incomplete: reader.number()?,
            on_hold: reader.number()?,
            unsealed_chunks: reader.number()?,
            unsealed_bytes: reader.number()?,
            runs: reader.number()?,
            sealed_chunks: reader.number()?,
            sealed_bytes: reader.number()?,
        })
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let Self { recordings, active, incomplete, on_hold, unsealed_chunks, unsealed_bytes, .. } = *other;
        let Self { runs, sealed_chunks, sealed_bytes, .. } = *other;
        self.recordings += recordings;
        self.active += active;
        self.incomplete += incomplete;
        self.on_hold += on_hold;
        self.unsealed_chunks += unsealed_chunks;
        self.unsealed_bytes = self.unsealed_bytes.saturating_add(unsealed_bytes);
        self.runs += runs;
        self.sealed_chunks += sealed_chunks;
        self.sealed_bytes = self.sealed_bytes.saturating_add(sealed_bytes);
    }

    /// Counts what a row shows in (`add`) or out again.
    pub(crate) fn count(&mut self, row: &Row, add: bool) {
        let step = |counter: &mut u64, by: u64| {
            *counter = if add { counter.saturating_add(by) } else { counter.saturating_sub(by) };
        };
        if let Some(state) = row.state() {
            step(&mut self.recordings, 1);
            step(&mut self.active, u64::from(state == RecordingState::Active));
            step(&mut self.incomplete, u64::from(state == RecordingState::Incomplete));
            step(&mut self.on_hold, u64::from(row.is_on_hold()));
        }
        step(&mut self.runs, row.runs.len() as u64);
        for run in &row.runs {
            step(&mut self.sealed_chunks, u64::from(run.chunks));
            step(&mut self.sealed_bytes, run.length);
        }
    }
}

/// Kinds of facts that are about no recording.
pub(crate) mod other_kind {
    pub(crate) const REPLAYED: u8 = b'r';
    pub(crate) const CLOCK: u8 = b'c';
}

/// By its digest.
pub(crate) fn replayed_key(digest: &str) -> Vec<u8> {
    [&[other_kind::REPLAYED], digest.as_bytes()].concat()
}

/// By its sequence.
pub(crate) fn clock_key(sequence: FactSequence) -> Vec<u8> {
    [&[other_kind::CLOCK][..], &sequence.0.to_be_bytes()].concat()
}
