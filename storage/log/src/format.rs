//! Bytes of a log file: its header, and records. No I/O. docs/formats.md says the same in tables.
//!
//! Constraints: everything little-endian except identifiers (as their 16 bytes stand); decoding never panics and never
//! trusts a length before the checksum over it has been proven.

mod header;
mod segment;

pub use header::{FileHeader, FileKind, Month};
pub use segment::{RUN_CHUNKS_MAX, RUN_TICKS_MAX, footer_record, run_index_record, segment_index_records};

use crate::{
    Chunk, ChunkCodec, ChunkHeader, Content, Fact, FactRecord, FactSequence, Footer, LogError, RunIndex, SegmentEntry,
    TICKS_PER_CHUNK_MAX,
};
use sidetone_model::{RecordingId, Tick, TrackId};
use uuid::Uuid;

/// Version of the file layout. A reader refuses files of a later one, and reads those of the version before its own.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of the file header, and the alignment of every write (O_DIRECT).
pub const ALIGNMENT_BYTES: usize = 4096;
/// A record begins at a multiple of this.
pub const RECORD_ALIGNMENT_BYTES: usize = 16;
/// Length, type, flags, version, checksum.
pub const RECORD_HEADER_BYTES: usize = 12;
/// The longest record, header included.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Bytes of a chunk record before its payload.
pub const CHUNK_PAYLOAD_OFFSET: usize = RECORD_HEADER_BYTES + CHUNK_FIXED_BYTES;
pub(crate) const SYNC_BYTES: usize = RECORD_HEADER_BYTES + 24;

const CHUNK_FIXED_BYTES: usize = 76;
/// Bytes of a fact record before its JSON, the record header apart.
const FACT_FIXED_BYTES: usize = 24;

/// Readers that do not know the type must not go on as if the record were not there.
pub const FLAG_CRITICAL: u8 = 1;

pub const TYPE_PADDING: u16 = 1;
pub const TYPE_SYNC: u16 = 2;
pub const TYPE_CHUNK: u16 = 16;
pub const TYPE_FACT: u16 = 17;
pub const TYPE_RUN_INDEX: u16 = 18;
pub const TYPE_SEGMENT_INDEX: u16 = 19;
pub const TYPE_FOOTER: u16 = 20;

const VERSION_PADDING: u8 = 1;
const VERSION_SYNC: u8 = 1;
const VERSION_CHUNK: u8 = 1;
/// Version 1 was never released: it had no sequence.
const VERSION_FACT: u8 = 2;

/// A record whose checksum is right, not yet interpreted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawRecord<'a> {
    /// Bytes in the file, header included, without the padding to the next record.
    pub length: u32,
    pub kind: u16,
    pub flags: u8,
    pub version: u8,
    pub body: &'a [u8],
}

/// What stands at one place in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    Record(RawRecord<'a>),
    /// Needs so many bytes from the same place on to be judged.
    NeedMore(usize),
    /// No record: zeros, garbage, or a wrong checksum.
    Invalid,
}

/// Looks at the record that begins with `bytes`.
pub fn decode_frame(bytes: &[u8]) -> Frame<'_> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Frame::NeedMore(RECORD_HEADER_BYTES);
    }
    let length = u32_at(bytes, 0);
    if !(RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&(length as usize)) {
        return Frame::Invalid;
    }
    let Some(record) = bytes.get(..length as usize) else { return Frame::NeedMore(length as usize) };
    if checksum(record) != u32_at(record, 8) {
        return Frame::Invalid;
    }
    Frame::Record(RawRecord {
        length,
        kind: u16_at(record, 4),
        flags: record[6],
        version: record[7],
        body: &record[RECORD_HEADER_BYTES..],
    })
}

/// CRC32C over the record without its checksum field.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..8]), &record[RECORD_HEADER_BYTES..])
}

/// What a record means to this program.
#[derive(Clone, PartialEq, Debug)]
pub enum Meaning {
    Content(Content),
    Sync(Sync),
    /// The three that only segments hold.
    RunIndex(RunIndex),
    SegmentIndex(Vec<SegmentEntry>),
    Footer(Footer),
    /// Padding, or a record of a later program that may be ignored.
    Nothing,
    /// A critical record of a type, version or kind of fact that this program does not know.
    Unknown {
        kind: u16,
        version: u8,
    },
    /// The checksum is right and the body is not: the writer's mistake. Says what is wrong.
    Malformed(&'static str),
}

/// First record of every flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sync {
    pub file_id: Uuid,
    /// Flushes in this file, counted from 1.
    pub sequence: u64,
}

/// Interprets a record whose checksum is right.
pub fn interpret(record: &RawRecord<'_>) -> Meaning {
    match (record.kind, record.version) {
        (TYPE_PADDING, _) => Meaning::Nothing,
        (TYPE_SYNC, VERSION_SYNC) if record.body.len() == SYNC_BYTES - RECORD_HEADER_BYTES => {
            Meaning::Sync(Sync { file_id: uuid_at(record.body, 0), sequence: u64_at(record.body, 16) })
        }
        (TYPE_CHUNK, VERSION_CHUNK) => {
            understood(decode_chunk(record.body), |chunk| Meaning::Content(Content::Chunk(chunk)))
        }
        (TYPE_RUN_INDEX, segment::VERSION_RUN_INDEX) => {
            understood(segment::decode_run_index(record.body), Meaning::RunIndex)
        }
        (TYPE_SEGMENT_INDEX, segment::VERSION_SEGMENT_INDEX) => {
            understood(segment::decode_segment_index(record.body), Meaning::SegmentIndex)
        }
        (TYPE_FOOTER, segment::VERSION_FOOTER) => understood(segment::decode_footer(record.body), Meaning::Footer),
        (TYPE_FACT, VERSION_FACT) => match decode_fact(record.body) {
            Ok(fact) => Meaning::Content(Content::Fact(fact)),
            Err(BadFact::Malformed(what)) => Meaning::Malformed(what),
            // It carries the critical flag when it must not be skipped.
            Err(BadFact::UnknownKind) if record.flags & FLAG_CRITICAL == 0 => Meaning::Nothing,
            Err(BadFact::UnknownKind) => Meaning::Unknown { kind: record.kind, version: record.version },
        },
        _ if record.flags & FLAG_CRITICAL == 0 => Meaning::Nothing,
        _ => Meaning::Unknown { kind: record.kind, version: record.version },
    }
}

/// The chunk of a chunk record's body.
fn understood<T>(decoded: Result<T, &'static str>, meaning: impl FnOnce(T) -> Meaning) -> Meaning {
    decoded.map_or_else(Meaning::Malformed, meaning)
}

fn decode_chunk(body: &[u8]) -> Result<Chunk, &'static str> {
    let (header, payload) = split_chunk(body)?;
    Ok(Chunk { header, payload: payload.to_vec() })
}

/// The header of a chunk's record, whose bytes these are and no more.
pub(crate) fn decode_chunk_record(bytes: &[u8]) -> Result<ChunkHeader, &'static str> {
    match decode_frame(bytes) {
        Frame::Record(record) if record.length as usize != bytes.len() => Err("the record there has another length"),
        Frame::Record(RawRecord { kind: TYPE_CHUNK, version: VERSION_CHUNK, body, .. }) => {
            split_chunk(body).map(|(header, _)| header)
        }
        Frame::Record(_) => Err("another record lies there"),
        Frame::NeedMore(_) | Frame::Invalid => Err("its checksum is wrong"),
    }
}

fn split_chunk(body: &[u8]) -> Result<(ChunkHeader, &[u8]), &'static str> {
    let Some((fixed, payload)) = body.split_at_checked(CHUNK_FIXED_BYTES) else { return Err("the chunk is too short") };
    let ticks = u16_at(fixed, 24);
    if ticks == 0 || ticks > TICKS_PER_CHUNK_MAX {
        return Err("the chunk's number of grid steps is out of range");
    }
    let codec = match fixed[29] {
        1 => ChunkCodec::OpusNarrowband,
        _ => return Err("the chunk's codec is unknown"),
    };
    let header = ChunkHeader {
        recording: RecordingId(uuid_at(fixed, 0)),
        first_tick: Tick(u64_at(fixed, 16)),
        ticks,
        packets: u16_at(fixed, 26),
        track: TrackId(fixed[28]),
        codec,
        key_id: array_at(fixed, 32),
        nonce: array_at(fixed, 48),
        tag: array_at(fixed, 60),
    };
    Ok((header, payload))
}

/// The head of a chunk record (record header and fixed fields); the payload follows it unchanged.
pub(crate) fn encode_chunk(header: &ChunkHeader, payload: &[u8]) -> Result<[u8; CHUNK_PAYLOAD_OFFSET], LogError> {
    if header.ticks == 0 || header.ticks > TICKS_PER_CHUNK_MAX {
        return Err(LogError::BadChunkHeader { ticks: header.ticks });
    }
    let mut record = [0; CHUNK_PAYLOAD_OFFSET];
    let fixed = &mut record[RECORD_HEADER_BYTES..];
    fixed[..16].copy_from_slice(header.recording.0.as_bytes());
    fixed[16..24].copy_from_slice(&header.first_tick.0.to_le_bytes());
    fixed[24..26].copy_from_slice(&header.ticks.to_le_bytes());
    fixed[26..28].copy_from_slice(&header.packets.to_le_bytes());
    fixed[28] = header.track.0;
    fixed[29] = header.codec as u8;
    fixed[32..48].copy_from_slice(&header.key_id);
    fixed[48..60].copy_from_slice(&header.nonce);
    fixed[60..76].copy_from_slice(&header.tag);
    seal(&mut record, payload, TYPE_CHUNK, FLAG_CRITICAL, VERSION_CHUNK)?;
    Ok(record)
}

enum BadFact {
    Malformed(&'static str),
    /// One that a later program added.
    UnknownKind,
}

fn decode_fact(body: &[u8]) -> Result<FactRecord, BadFact> {
    let Some((fixed, json)) = body.split_at_checked(FACT_FIXED_BYTES) else {
        return Err(BadFact::Malformed("the fact is too short"));
    };
    let Ok(fact) = Fact::from_json(json) else {
        return Err(match serde_json::from_slice::<FactKind>(json) {
            Ok(kind) if !Fact::KINDS.contains(&kind.fact.as_str()) => BadFact::UnknownKind,
            _ => BadFact::Malformed("the fact's JSON does not say what its kind has to"),
        });
    };
    if uuid_at(fixed, 8) != fact.recording().map_or(Uuid::nil(), |id| id.0) {
        return Err(BadFact::Malformed("the fact's JSON is about another recording than its head says"));
    }
    Ok(FactRecord { sequence: FactSequence(u64_at(fixed, 0)), fact })
}

#[derive(serde::Deserialize)]
struct FactKind {
    fact: String,
}

/// The head of a fact record (record header and fixed fields), and the JSON that follows it.
pub(crate) fn encode_fact(
    fact: &FactRecord,
) -> Result<([u8; RECORD_HEADER_BYTES + FACT_FIXED_BYTES], Vec<u8>), LogError> {
    let json = serde_json::to_vec(&fact.fact).map_err(|source| LogError::Encode { source })?;
    let mut head = [0; RECORD_HEADER_BYTES + FACT_FIXED_BYTES];
    let fixed = &mut head[RECORD_HEADER_BYTES..];
    fixed[..8].copy_from_slice(&fact.sequence.0.to_le_bytes());
    fixed[8..].copy_from_slice(fact.fact.recording().map_or(Uuid::nil(), |id| id.0).as_bytes());
    seal(&mut head, &json, TYPE_FACT, FLAG_CRITICAL, VERSION_FACT)?;
    Ok((head, json))
}

pub(crate) fn encode_sync(sync: Sync) -> [u8; SYNC_BYTES] {
    let mut record = [0; SYNC_BYTES];
    record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + 16].copy_from_slice(sync.file_id.as_bytes());
    record[RECORD_HEADER_BYTES + 16..].copy_from_slice(&sync.sequence.to_le_bytes());
    seal(&mut record, &[], TYPE_SYNC, 0, VERSION_SYNC).expect("a sync record is short");
    record
}

/// Fills `gap` with one padding record. `gap` is a multiple of [`RECORD_ALIGNMENT_BYTES`] and not empty.
pub(crate) fn fill_padding(gap: &mut [u8]) {
    assert!(gap.len() >= RECORD_ALIGNMENT_BYTES && gap.len() <= RECORD_BYTES_MAX, "a gap of {} bytes", gap.len());
    gap.fill(0);
    seal(gap, &[], TYPE_PADDING, 0, VERSION_PADDING).expect("padding is shorter than a record may be");
}

/// Writes the record header into `head`, whose bytes behind the header are the beginning of the body; `rest` follows.
fn seal(head: &mut [u8], rest: &[u8], kind: u16, flags: u8, version: u8) -> Result<(), LogError> {
    let bytes = head.len() + rest.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(LogError::TooLong { bytes, limit: RECORD_BYTES_MAX });
    }
    head[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    head[4..6].copy_from_slice(&kind.to_le_bytes());
    head[6] = flags;
    head[7] = version;
    let checksum = crc32c::crc32c_append(checksum(head), rest);
    head[8..12].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// From one record to the next.
pub(crate) fn aligned(length: usize) -> usize {
    length.next_multiple_of(RECORD_ALIGNMENT_BYTES)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes(array_at(bytes, at))
}

/// A whole record as bytes, of any type: `body` with its header and checksum.
pub fn record(kind: u16, flags: u8, version: u8, body: &[u8]) -> Result<Vec<u8>, LogError> {
    let mut record = vec![0; RECORD_HEADER_BYTES];
    seal(&mut record, body, kind, flags, version)?;
    record.extend_from_slice(body);
    Ok(record)
}

/// The length and meaning of the record that begins with `bytes`, by the same way as a reader takes.
pub fn decode_record(bytes: &[u8]) -> Option<(u32, Meaning)> {
    match decode_frame(bytes) {
        Frame::Record(record) => Some((record.length, interpret(&record))),
        Frame::NeedMore(_) | Frame::Invalid => None,
    }
}

/// A whole chunk record as bytes.
pub fn chunk_record(header: &ChunkHeader, payload: &[u8]) -> Result<Vec<u8>, LogError> {
    Ok([&encode_chunk(header, payload)?[..], payload].concat())
}

/// A whole fact record as bytes.
pub fn fact_record(fact: &FactRecord) -> Result<Vec<u8>, LogError> {
    let (head, body) = encode_fact(fact)?;
    Ok([&head[..], &body].concat())
}

const _: () =
    assert!(RECORD_ALIGNMENT_BYTES >= RECORD_HEADER_BYTES && ALIGNMENT_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES));
