//! Records that only segments hold: run index, segment index, footer.

use super::{
    CHUNK_PAYLOAD_OFFSET, FLAG_CRITICAL, RECORD_ALIGNMENT_BYTES, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, TYPE_FOOTER,
    TYPE_RUN_INDEX, TYPE_SEGMENT_INDEX, aligned, record,
};
use crate::{
    FactGroup, Footer, LogError, LogPosition, Run, RunEntry, RunIndex, SealedRun, SegmentEntry, SegmentNumber,
    TICKS_PER_CHUNK_MAX, Table, Through, VolumeNumber,
};
use sidetone_model::{MerkleRoot, RecordingId, Tick, TrackId};
use uuid::Uuid;

pub(super) const VERSION_RUN_INDEX: u8 = 1;
pub(super) const VERSION_SEGMENT_INDEX: u8 = 1;
pub(super) const VERSION_FOOTER: u8 = 1;

const ENTRY_RUN: u8 = 1;
const ENTRY_FACTS: u8 = 2;
/// So many bytes of a segment index's record are free for entries.
const INDEX_BODY_BYTES_MAX: usize = RECORD_BYTES_MAX - RECORD_HEADER_BYTES;

/// The most chunks of a run, so that the run index is one record and has room for tables.
pub const RUN_CHUNKS_MAX: usize = 65_536;
/// The most grid steps from the first grid step of a run to that of any of its chunks.
pub const RUN_TICKS_MAX: u64 = u32::MAX as u64;

/// Body of a record being read; every read fails where it ends.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    fn through(&mut self, count: u16) -> Option<Vec<Through>> {
        // The bytes are there before memory is taken for what they say.
        let mut fields = Fields(self.bytes(usize::from(count) * 13)?);
        (0..count)
            .map(|_| {
                let volume = VolumeNumber(fields.u8()?);
                Some(Through { volume, position: LogPosition { file: fields.u32()?, offset: fields.u64()? } })
            })
            .collect()
    }
}

fn put_through(body: &mut Vec<u8>, through: &[Through]) {
    for part in through {
        body.push(part.volume.0);
        body.extend_from_slice(&part.position.file.to_le_bytes());
        body.extend_from_slice(&part.position.offset.to_le_bytes());
    }
}

/// A whole run index record.
///
/// # Errors
/// [`LogError::BadRun`], [`LogError::TooLong`]: it would not be read back.
pub fn run_index_record(index: &RunIndex) -> Result<Vec<u8>, LogError> {
    check_run_index(index).map_err(|what| LogError::BadRun { what })?;
    let first_tick = index.first_tick();
    let counts = (u16::try_from(index.through.len()), u16::try_from(index.tables.len()));
    let (Ok(through), Ok(tables)) = counts else {
        return Err(LogError::BadRun { what: "it has more than 65535 tables or journals" });
    };
    let mut body = Vec::with_capacity(112 + 13 * index.through.len() + 12 * index.entries.len());
    body.extend_from_slice(index.file_id.as_bytes());
    body.extend_from_slice(index.recording.0.as_bytes());
    for number in [index.offset, index.chunks_offset, index.index_offset, first_tick.0] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&index.root.0);
    body.extend_from_slice(&(index.entries.len() as u32).to_le_bytes());
    body.extend_from_slice(&through.to_le_bytes());
    body.extend_from_slice(&tables.to_le_bytes());
    put_through(&mut body, &index.through);
    for entry in &index.entries {
        let delta = u32::try_from(entry.first_tick.0 - first_tick.0).expect("check_run_index has seen it");
        body.extend_from_slice(&delta.to_le_bytes());
        body.push(entry.track.0);
        body.push(entry.ticks as u8);
        body.extend_from_slice(&entry.packets.to_le_bytes());
        body.extend_from_slice(&entry.length.to_le_bytes());
    }
    for table in &index.tables {
        let Ok(length) = u8::try_from(table.name.len()) else {
            return Err(LogError::BadRun { what: "the name of a table is longer than 255 bytes" });
        };
        body.push(length);
        body.extend_from_slice(table.name.as_bytes());
        let Ok(length) = u32::try_from(table.bytes.len()) else {
            return Err(LogError::TooLong { bytes: table.bytes.len(), limit: RECORD_BYTES_MAX });
        };
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&table.bytes);
    }
    record(TYPE_RUN_INDEX, FLAG_CRITICAL, VERSION_RUN_INDEX, &body)
}

pub(super) fn decode_run_index(body: &[u8]) -> Result<RunIndex, &'static str> {
    let index = run_index_fields(body).ok_or("the run index ends early, or is longer than it says")?;
    check_run_index(&index)?;
    Ok(index)
}

fn run_index_fields(body: &[u8]) -> Option<RunIndex> {
    let mut fields = Fields(body);
    let (file_id, recording) = (fields.uuid()?, RecordingId(fields.uuid()?));
    let (run_offset, chunks_offset, index_offset, first_tick) =
        (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let root = MerkleRoot(fields.array()?);
    let (chunks, through, tables) = (fields.u32()?, fields.u16()?, fields.u16()?);
    let through = fields.through(through)?;
    let mut rows = Fields(fields.bytes(usize::try_from(chunks).ok()?.checked_mul(12)?)?);
    let mut offset = chunks_offset;
    let mut entries = Vec::with_capacity(chunks as usize);
    for _ in 0..chunks {
        let first_tick = Tick(first_tick.checked_add(u64::from(rows.u32()?))?);
        let (track, ticks, packets, length) = (TrackId(rows.u8()?), rows.u8()?, rows.u16()?, rows.u32()?);
        entries.push(RunEntry { track, first_tick, ticks: u16::from(ticks), packets, offset, length });
        offset = offset.checked_add(u64::from(length).checked_next_multiple_of(RECORD_ALIGNMENT_BYTES as u64)?)?;
    }
    let tables = (0..tables)
        .map(|_| {
            let length = usize::from(fields.u8()?);
            let name = std::str::from_utf8(fields.bytes(length)?).ok()?.to_owned();
            let length = usize::try_from(fields.u32()?).ok()?;
            Some(Table { name, bytes: fields.bytes(length)?.to_vec() })
        })
        .collect::<Option<_>>()?;
    // The first grid step is that of the first entry in time.
    let first = entries.iter().map(|entry| entry.first_tick.0).min() == Some(first_tick);
    (fields.0.is_empty() && first).then_some(RunIndex {
        file_id,
        offset: run_offset,
        recording,
        through,
        chunks_offset,
        index_offset,
        entries,
        root,
        tables,
    })
}

/// What holds of every run index, whoever made it.
fn check_run_index(index: &RunIndex) -> Result<(), &'static str> {
    if index.entries.is_empty() || index.entries.len() > RUN_CHUNKS_MAX {
        return Err("the run has no chunk, or more than 65536");
    }
    if !index.chunks_offset.is_multiple_of(RECORD_ALIGNMENT_BYTES as u64) {
        return Err("the run's first chunk is not where a record can begin");
    }
    let ordered = index.entries.windows(2).all(|pair| pair[0].key() < pair[1].key());
    if !ordered {
        return Err("the run's chunks are not in the order of track and time");
    }
    let first_tick = index.first_tick().0;
    let mut offset = index.chunks_offset;
    for entry in &index.entries {
        if entry.ticks == 0 || entry.ticks > TICKS_PER_CHUNK_MAX {
            return Err("a chunk's number of grid steps is out of range");
        }
        if !(CHUNK_PAYLOAD_OFFSET..=RECORD_BYTES_MAX).contains(&(entry.length as usize)) {
            return Err("a chunk's length is out of range");
        }
        if entry.first_tick.0 - first_tick > RUN_TICKS_MAX
            || entry.first_tick.0.checked_add(u64::from(entry.ticks)).is_none()
        {
            return Err("a chunk's grid steps are out of range");
        }
        if entry.offset != offset {
            return Err("the run's chunks do not follow each other");
        }
        offset = offset.checked_add(aligned(entry.length as usize) as u64).ok_or("the run's length is out of range")?;
    }
    if offset != index.index_offset {
        return Err("the run index does not follow the run's last chunk");
    }
    Ok(())
}

/// The records of a segment index, in order; at least one, each as long as a record may be.
pub fn segment_index_records(entries: &[SegmentEntry]) -> Result<Vec<Vec<u8>>, LogError> {
    let mut records = Vec::new();
    let mut body = vec![0; 4];
    let mut count = 0u32;
    for entry in entries {
        let encoded = encode_segment_entry(entry)?;
        if body.len() + encoded.len() > INDEX_BODY_BYTES_MAX {
            records.push(segment_index_record(&mut body, &mut count)?);
        }
        body.extend_from_slice(&encoded);
        count += 1;
    }
    records.push(segment_index_record(&mut body, &mut count)?);
    Ok(records)
}

fn segment_index_record(body: &mut Vec<u8>, count: &mut u32) -> Result<Vec<u8>, LogError> {
    body[..4].copy_from_slice(&count.to_le_bytes());
    let encoded = record(TYPE_SEGMENT_INDEX, 0, VERSION_SEGMENT_INDEX, body)?;
    body.truncate(4);
    *count = 0;
    Ok(encoded)
}

fn encode_segment_entry(entry: &SegmentEntry) -> Result<Vec<u8>, LogError> {
    let mut body = Vec::with_capacity(128);
    match entry {
        SegmentEntry::Run(SealedRun { recording, run, through }) => {
            let Ok(count) = u16::try_from(through.len()) else {
                return Err(LogError::BadRun { what: "it has more than 65535 journals" });
            };
            body.push(ENTRY_RUN);
            body.extend_from_slice(recording.0.as_bytes());
            for number in [run.offset, run.length, run.index_offset] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            body.extend_from_slice(&run.chunks.to_le_bytes());
            for number in [run.payload_bytes, run.first_tick.0, run.end_tick.0] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            body.extend_from_slice(&run.root.0);
            body.extend_from_slice(&count.to_le_bytes());
            put_through(&mut body, through);
        }
        SegmentEntry::Facts(FactGroup { offset, length, facts }) => {
            body.push(ENTRY_FACTS);
            body.extend_from_slice(&offset.to_le_bytes());
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&facts.to_le_bytes());
        }
    }
    Ok(body)
}

/// The entries that one record of a segment index holds. Volume and segment are not in it: the reader knows.
pub(super) fn decode_segment_index(body: &[u8]) -> Result<Vec<SegmentEntry>, &'static str> {
    let mut fields = Fields(body);
    let entries = fields.u32().and_then(|count| {
        // An entry has 21 bytes or more: a lie about their number takes no memory.
        (count as usize <= body.len() / 21).then_some(())?;
        (0..count).map(|_| segment_entry_fields(&mut fields)).collect::<Option<Vec<_>>>()
    });
    entries.filter(|_| fields.0.is_empty()).ok_or("the segment index ends early, or is longer than it says")
}

fn segment_entry_fields(fields: &mut Fields<'_>) -> Option<SegmentEntry> {
    match fields.u8()? {
        ENTRY_RUN => {
            let recording = RecordingId(fields.uuid()?);
            let run = Run {
                volume: VolumeNumber(0),
                segment: SegmentNumber(0),
                offset: fields.u64()?,
                length: fields.u64()?,
                index_offset: fields.u64()?,
                chunks: fields.u32()?,
                payload_bytes: fields.u64()?,
                first_tick: Tick(fields.u64()?),
                end_tick: Tick(fields.u64()?),
                root: MerkleRoot(fields.array()?),
            };
            let count = fields.u16()?;
            Some(SegmentEntry::Run(SealedRun { recording, run, through: fields.through(count)? }))
        }
        ENTRY_FACTS => {
            let (offset, length, facts) = (fields.u64()?, fields.u64()?, fields.u32()?);
            Some(SegmentEntry::Facts(FactGroup { offset, length, facts }))
        }
        _ => None,
    }
}

/// A whole footer record.
pub fn footer_record(footer: &Footer) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(footer.file_id.as_bytes());
    for number in [footer.index_offset, footer.chunks, footer.payload_bytes] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    for number in [footer.index_records, footer.runs, footer.fact_groups] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    record(TYPE_FOOTER, 0, VERSION_FOOTER, &body).expect("a footer is short")
}

pub(super) fn decode_footer(body: &[u8]) -> Result<Footer, &'static str> {
    let mut fields = Fields(body);
    let mut read = || {
        let file_id = fields.uuid()?;
        let (index_offset, chunks, payload_bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (index_records, runs, fact_groups) = (fields.u32()?, fields.u32()?, fields.u32()?);
        Some(Footer { file_id, index_offset, index_records, runs, fact_groups, chunks, payload_bytes })
    };
    let footer = read();
    footer.filter(|_| fields.0.is_empty()).ok_or("the footer has another length than a footer")
}
