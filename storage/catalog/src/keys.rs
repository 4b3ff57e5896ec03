//! Keys and values of the catalog as bytes. docs/formats.md says the same in tables.
//!
//! Numbers in keys are big-endian, so that their order is the order of the keys; "newest first" is the complement.

use crate::{CatalogError, ChunkLocation};
use sidetone_log::{Located, LogPosition};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState, Tick, TrackId};

/// Version of keys and values; a catalog of a later one is refused.
pub(crate) const CATALOG_VERSION: u32 = 1;
/// First byte of a stored document: JSON follows.
const DOCUMENT_JSON: u8 = 1;

pub(crate) const META_VERSION: &[u8] = b"version";
pub(crate) const META_APPLIED: &[u8] = b"applied";
pub(crate) const META_COUNTERS: &[u8] = b"counters";

/// Names and numbers are searchable by so many bytes of their normalized text.
pub(crate) const TEXT_BYTES_MAX: usize = 128;
/// So many bytes of a suffix stand in its key.
pub(crate) const SUFFIX_BYTES_MAX: usize = 32;

/// Start time and identifier, newest first: how every list of recordings is ordered.
pub(crate) type OrderKey = [u8; 24];

pub(crate) fn order_key(started_at: CaptureTime, recording: RecordingId) -> OrderKey {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&(!started_at.0).to_be_bytes());
    key[8..].copy_from_slice(&(!recording.0.as_u128()).to_be_bytes());
    key
}

pub(crate) fn parse_order_key(key: &[u8]) -> Option<(CaptureTime, RecordingId)> {
    let (time, recording) = key.split_first_chunk::<8>()?;
    let recording: [u8; 16] = recording.try_into().ok()?;
    let recording = uuid::Uuid::from_u128(!u128::from_be_bytes(recording));
    Some((CaptureTime(!u64::from_be_bytes(*time)), RecordingId(recording)))
}

/// The next key behind `key` of the same length; `None` behind the last.
pub(crate) fn successor(mut key: OrderKey) -> Option<OrderKey> {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(key);
        }
    }
    None
}

/// The first key that does not begin with `prefix`; `None` when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

pub(crate) fn state_byte(state: RecordingState) -> u8 {
    match state {
        RecordingState::Active => 1,
        RecordingState::Complete => 2,
        RecordingState::Incomplete => 3,
    }
}

pub(crate) fn chunk_key(recording: RecordingId, track: TrackId, first_tick: Tick) -> [u8; 25] {
    let mut key = [0; 25];
    key[..16].copy_from_slice(recording.0.as_bytes());
    key[16] = track.0;
    key[17..].copy_from_slice(&first_tick.0.to_be_bytes());
    key
}

pub(crate) fn chunk_value(located: Located, ticks: u16, packets: u16) -> [u8; 20] {
    let mut value = [0; 20];
    value[..12].copy_from_slice(&position_value(located.position));
    value[12..16].copy_from_slice(&located.length.to_le_bytes());
    value[16..18].copy_from_slice(&ticks.to_le_bytes());
    value[18..].copy_from_slice(&packets.to_le_bytes());
    value
}

pub(crate) fn parse_chunk(key: &[u8], value: &[u8]) -> Result<ChunkLocation, CatalogError> {
    let bad = CatalogError::Corrupt { what: "chunk location" };
    let (Ok(key), Ok(value)) = (<&[u8; 25]>::try_from(key), <&[u8; 20]>::try_from(value)) else { return Err(bad) };
    let mut first_tick = [0; 8];
    first_tick.copy_from_slice(&key[17..]);
    let Some(position) = parse_position(&value[..12]) else { return Err(bad) };
    Ok(ChunkLocation {
        first_tick: Tick(u64::from_be_bytes(first_tick)),
        ticks: u16::from_le_bytes([value[16], value[17]]),
        packets: u16::from_le_bytes([value[18], value[19]]),
        located: Located { position, length: u32::from_le_bytes([value[12], value[13], value[14], value[15]]) },
    })
}

pub(crate) fn position_value(position: LogPosition) -> [u8; 12] {
    let mut value = [0; 12];
    value[..4].copy_from_slice(&position.file.to_le_bytes());
    value[4..].copy_from_slice(&position.offset.to_le_bytes());
    value
}

pub(crate) fn parse_position(value: &[u8]) -> Option<LogPosition> {
    let (file, offset) = value.split_first_chunk::<4>()?;
    let offset: [u8; 8] = offset.try_into().ok()?;
    Some(LogPosition { file: u32::from_le_bytes(*file), offset: u64::from_le_bytes(offset) })
}

/// What the catalog counts; stored with every batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) recordings: u64,
    pub(crate) active: u64,
    pub(crate) incomplete: u64,
    pub(crate) chunks: u64,
    pub(crate) chunk_bytes: u64,
}

impl Counters {
    pub(crate) fn encode(&self) -> [u8; 40] {
        let mut value = [0; 40];
        let fields = [self.recordings, self.active, self.incomplete, self.chunks, self.chunk_bytes];
        for (place, field) in value.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let value: &[u8; 40] = value.try_into().ok()?;
        let mut fields = value.chunks_exact(8).map(|field| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(field);
            u64::from_le_bytes(bytes)
        });
        let mut next = || fields.next();
        Some(Self { recordings: next()?, active: next()?, incomplete: next()?, chunks: next()?, chunk_bytes: next()? })
    }

    /// Counts a recording in (`add`) or out again.
    pub(crate) fn count(&mut self, state: RecordingState, add: bool) {
        let step = |counter: &mut u64| *counter = if add { *counter + 1 } else { counter.saturating_sub(1) };
        step(&mut self.recordings);
        match state {
            RecordingState::Active => step(&mut self.active),
            RecordingState::Incomplete => step(&mut self.incomplete),
            RecordingState::Complete => {}
        }
    }
}

pub(crate) fn encode_document(recording: &Recording) -> Result<Vec<u8>, CatalogError> {
    let mut value = vec![DOCUMENT_JSON];
    serde_json::to_writer(&mut value, recording)
        .map_err(|source| CatalogError::Encode { recording: recording.id, source })?;
    Ok(value)
}

pub(crate) fn decode_document(value: &[u8]) -> Result<Recording, CatalogError> {
    let bad = CatalogError::Corrupt { what: "recording document" };
    match value.split_first() {
        Some((&DOCUMENT_JSON, json)) => serde_json::from_slice(json).ok().ok_or(bad),
        _ => Err(bad),
    }
}

/// Lower case, no white space around, control characters as spaces.
pub(crate) fn normalize(text: &str) -> String {
    let spaced: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    spaced.trim().to_lowercase()
}

fn truncate(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What a recording can be found by: normalized, at most [`TEXT_BYTES_MAX`] bytes each, each once.
pub(crate) fn party_texts(recording: &Recording) -> Vec<String> {
    let mut texts: Vec<String> = recording
        .parties
        .iter()
        .flat_map(|party| [normalize(&party.number), normalize(&party.name)])
        .filter(|text| !text.is_empty())
        .map(|text| truncate(&text, TEXT_BYTES_MAX).to_owned())
        .collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// FNV-1a, 64 bits: names a text in keys. Two texts with the same hash cost a look at a recording that does not match.
pub(crate) fn text_hash(text: &str) -> [u8; 8] {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.to_be_bytes()
}

/// Keys under which the parts of a text are found: every suffix, so that any part is the beginning of one. The first key
/// is the whole text's.
pub(crate) fn suffix_keys(text: &str) -> impl Iterator<Item = Vec<u8>> {
    let hash = text_hash(text);
    text.char_indices().map(move |(start, _)| {
        let mut key = suffix_prefix(&text[start..]).to_vec();
        key.push(0);
        key.extend_from_slice(&hash);
        key
    })
}

/// As much of a text as stands in a suffix key.
pub(crate) fn suffix_prefix(text: &str) -> &[u8] {
    truncate(text, SUFFIX_BYTES_MAX).as_bytes()
}

pub(crate) fn party_key(hash: [u8; 8], order: OrderKey) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&hash);
    key[8..].copy_from_slice(&order);
    key
}

pub(crate) fn state_key(state: RecordingState, order: OrderKey) -> [u8; 25] {
    let mut key = [0; 25];
    key[0] = state_byte(state);
    key[1..].copy_from_slice(&order);
    key
}

pub(crate) fn replayed_key(digest: &str) -> Vec<u8> {
    [b"replayed/", digest.as_bytes()].concat()
}
