//! Bytes of a journal file: its header, and records. No I/O. docs/formats.md says the same in tables.
//!
//! Constraints: everything little-endian except identifiers (as their 16 bytes stand); decoding never panics and never
//! trusts a length before the checksum over it has been proven.

use crate::{Chunk, ChunkCodec, ChunkHeader, Content, Fact, LogError, TICKS_PER_CHUNK_MAX};
use sidetone_model::{CaptureTime, RecordingId, Tick, TrackId};
use uuid::Uuid;

/// Version of the file layout. A reader refuses files of a later one.
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
const MAGIC: &[u8; 8] = b"SIDETJNL";
const NODE_BYTES_MAX: usize = 255;

/// Readers that do not know the type must not go on as if the record were not there.
pub const FLAG_CRITICAL: u8 = 1;

pub const TYPE_PADDING: u16 = 1;
pub const TYPE_SYNC: u16 = 2;
pub const TYPE_CHUNK: u16 = 16;
pub const TYPE_FACT: u16 = 17;

const VERSION_PADDING: u8 = 1;
const VERSION_SYNC: u8 = 1;
const VERSION_CHUNK: u8 = 1;
const VERSION_FACT: u8 = 1;

/// The first 4096 bytes of a journal file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHeader {
    pub version: u32,
    pub store_id: Uuid,
    /// `/proc/sys/kernel/random/boot_id`: which run of which machine wrote this.
    pub boot_id: Uuid,
    /// Drawn for this file; stands in its sync records, so that nobody can forge one who does not read the file.
    pub file_id: Uuid,
    /// Counted from 1.
    pub file: u32,
    /// File size that was preallocated, in bytes.
    pub preallocated_bytes: u64,
    pub created_at: CaptureTime,
    /// How far the file before this one is good, in bytes; 0 in the first file. What it holds behind was never
    /// acknowledged, or stands in this file again.
    pub previous_end: u64,
    pub node: String,
}

impl FileHeader {
    pub fn encode(&self) -> [u8; ALIGNMENT_BYTES] {
        let mut bytes = [0; ALIGNMENT_BYTES];
        let mut node = self.node.as_str();
        while node.len() > NODE_BYTES_MAX {
            let mut end = node.len() - 1;
            while !node.is_char_boundary(end) {
                end -= 1;
            }
            node = &node[..end];
        }
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(MAGIC);
        put(&self.version.to_le_bytes());
        put(&self.file.to_le_bytes());
        put(self.store_id.as_bytes());
        put(self.boot_id.as_bytes());
        put(self.file_id.as_bytes());
        put(&self.preallocated_bytes.to_le_bytes());
        put(&self.created_at.0.to_le_bytes());
        put(&self.previous_end.to_le_bytes());
        put(&(node.len() as u16).to_le_bytes());
        put(node.as_bytes());
        let checksum = crc32c::crc32c(&bytes[..ALIGNMENT_BYTES - 4]);
        bytes[ALIGNMENT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header, or what is wrong with it. A later version is not an error here: only `version` is then sure.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; ALIGNMENT_BYTES] = bytes.try_into().ok().ok_or("it is shorter than its header")?;
        if &bytes[..8] != MAGIC {
            return Err("it does not begin with SIDETJNL");
        }
        let (body, checksum) = bytes.split_at(ALIGNMENT_BYTES - 4);
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err("its header is damaged (checksum)");
        }
        let node_length = usize::from(u16_at(bytes, 88));
        let node = bytes.get(90..90 + node_length).filter(|_| node_length <= NODE_BYTES_MAX);
        let node = node.and_then(|name| std::str::from_utf8(name).ok()).ok_or("its node name is not a text")?;
        Ok(Self {
            version: u32_at(bytes, 8),
            file: u32_at(bytes, 12),
            store_id: uuid_at(bytes, 16),
            boot_id: uuid_at(bytes, 32),
            file_id: uuid_at(bytes, 48),
            preallocated_bytes: u64_at(bytes, 64),
            created_at: CaptureTime(u64_at(bytes, 72)),
            previous_end: u64_at(bytes, 80),
            node: node.to_owned(),
        })
    }
}

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
        (TYPE_CHUNK, VERSION_CHUNK) => match decode_chunk(record.body) {
            Ok(chunk) => Meaning::Content(Content::Chunk(chunk)),
            Err(what) => Meaning::Malformed(what),
        },
        (TYPE_FACT, VERSION_FACT) => match serde_json::from_slice::<Fact>(record.body) {
            Ok(fact) => Meaning::Content(Content::Fact(fact)),
            // A kind of fact that a later program added: it carries the critical flag when it must not be skipped.
            Err(_) if record.flags & FLAG_CRITICAL == 0 => Meaning::Nothing,
            Err(_) => Meaning::Unknown { kind: record.kind, version: record.version },
        },
        _ if record.flags & FLAG_CRITICAL == 0 => Meaning::Nothing,
        _ => Meaning::Unknown { kind: record.kind, version: record.version },
    }
}

/// The chunk of a chunk record's body.
pub(crate) fn decode_chunk(body: &[u8]) -> Result<Chunk, &'static str> {
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
    Ok(Chunk { header, payload: payload.to_vec() })
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

/// The head of a fact record, and its body.
pub(crate) fn encode_fact(fact: &Fact) -> Result<([u8; RECORD_HEADER_BYTES], Vec<u8>), LogError> {
    let body = serde_json::to_vec(fact).map_err(|source| LogError::Encode { source })?;
    let mut head = [0; RECORD_HEADER_BYTES];
    seal(&mut head, &body, TYPE_FACT, FLAG_CRITICAL, VERSION_FACT)?;
    Ok((head, body))
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
pub fn fact_record(fact: &Fact) -> Result<Vec<u8>, LogError> {
    let (head, body) = encode_fact(fact)?;
    Ok([&head[..], &body].concat())
}

const _: () =
    assert!(RECORD_ALIGNMENT_BYTES >= RECORD_HEADER_BYTES && ALIGNMENT_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES));
