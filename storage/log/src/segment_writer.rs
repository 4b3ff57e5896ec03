//! The writer of one segment: runs and facts of one retention class that expire in one month.
//!
//! Constraints: nothing counts before the [`SegmentWriter::flush`] behind it has returned. A run is written within one flush,
//! so that its chunks lie next to each other. Memory: the buffers, and an entry for each run and each chunk of the run at
//! hand. After an error nothing more can be written: [`SegmentWriter::abandon`].

use crate::files::segment_path;
use crate::format::{
    ALIGNMENT_BYTES, FORMAT_VERSION, FileHeader, FileKind, Month, RECORD_ALIGNMENT_BYTES, RECORD_BYTES_MAX,
    RECORD_HEADER_BYTES, RUN_CHUNKS_MAX, RUN_TICKS_MAX, TYPE_PADDING, aligned, encode_fact, footer_record, record,
    run_index_record, segment_index_records,
};
use crate::io::{Io, random_id};
use crate::merkle::MerkleTree;
use crate::output::{LogFile, OutputOptions};
use crate::{
    ChunkRecord, FactGroup, FactRecord, Footer, Identity, LogError, Run, RunEntry, RunIndex, SealedRun, SegmentEntry,
    SegmentNumber, TICKS_PER_CHUNK_MAX, Table, Through, VolumeNumber,
};
use serde::{Deserialize, Serialize};
use sidetone_model::{RecordingId, Tick};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// How segments are written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegmentConfig {
    /// A segment of this size takes no further run.
    pub file_bytes: u64,
    /// Set aside when a segment is made; a multiple of 4096.
    pub preallocate_bytes: u64,
    /// Memory of each segment being written; at least 1.5 MiB, in at least two blocks.
    pub buffer_bytes: usize,
    /// Size of one write; a multiple of 4096.
    pub block_bytes: usize,
    /// Write past the page cache where the file system can.
    pub direct_io: bool,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            file_bytes: 1 << 30,
            preallocate_bytes: 64 << 20,
            buffer_bytes: 2 << 20,
            block_bytes: 256 << 10,
            direct_io: true,
        }
    }
}

impl SegmentConfig {
    pub(crate) fn output(&self) -> Result<OutputOptions, LogError> {
        let wrong = |what| Err(LogError::Configuration { what });
        if self.block_bytes == 0 || !self.block_bytes.is_multiple_of(ALIGNMENT_BYTES) {
            return wrong("a segment's block_bytes is not a multiple of 4096");
        }
        let blocks = self.buffer_bytes / self.block_bytes;
        if blocks < 2 || self.buffer_bytes < RECORD_BYTES_MAX * 3 / 2 {
            return wrong("a segment's buffer_bytes is less than 1.5 MiB or than two blocks");
        }
        if !self.preallocate_bytes.is_multiple_of(ALIGNMENT_BYTES as u64) {
            return wrong("a segment's preallocate_bytes is not a multiple of 4096");
        }
        match u16::try_from(blocks) {
            Ok(blocks) if blocks <= 4096 => {
                Ok(OutputOptions { blocks, block_bytes: self.block_bytes, direct: self.direct_io })
            }
            _ => wrong("a segment's buffer_bytes holds more than 4096 blocks"),
        }
    }
}

/// Writes one segment.
pub struct SegmentWriter {
    io: Arc<dyn Io>,
    file: LogFile,
    file_id: Uuid,
    volume: VolumeNumber,
    number: SegmentNumber,
    full_bytes: u64,
    /// What its index will say.
    entries: Vec<SegmentEntry>,
}

impl SegmentWriter {
    /// Makes the segment `number` in `directory`, for what has the retention class `class` and expires in `expires` (or never).
    pub fn create(
        io: &Arc<dyn Io>,
        directory: &Path,
        number: SegmentNumber,
        identity: &Identity,
        (class, expires): (&str, Option<Month>),
        config: &SegmentConfig,
    ) -> Result<Self, LogError> {
        let path = segment_path(directory, number.0);
        let options = config.output()?;
        let file_id = random_id(&**io).map_err(|source| LogError::io("draw an id for", &path, source))?;
        let header = FileHeader {
            version: FORMAT_VERSION,
            file: number.0,
            store_id: identity.store_id,
            volume: identity.volume,
            volume_id: identity.volume_id,
            boot_id: io.boot_id(),
            file_id,
            preallocated_bytes: config.preallocate_bytes,
            created_at: io.now(),
            node: identity.node.0.clone(),
            kind: FileKind::Segment { class: class.to_owned(), expires },
        };
        let file = LogFile::create(&**io, &path, &header, options)?;
        Ok(Self {
            io: Arc::clone(io),
            file,
            file_id,
            volume: identity.volume,
            number,
            full_bytes: config.file_bytes,
            entries: Vec::new(),
        })
    }

    pub fn number(&self) -> SegmentNumber {
        self.number
    }

    /// Bytes of the file so far.
    pub fn bytes(&self) -> u64 {
        self.file.end()
    }

    /// It has reached the size at which it should be closed.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.full_bytes
    }

    /// Begins a run of `recording`. What was pushed of a run that is not finished is dead space in the file.
    pub fn begin_run(&mut self, recording: RecordingId, facts: &[FactRecord]) -> Result<RunWriter<'_>, LogError> {
        let mut run = RunWriter {
            writer: self,
            recording,
            offset: None,
            chunks_offset: 0,
            end: 0,
            ticks: None,
            entries: Vec::new(),
            tree: MerkleTree::new(),
        };
        for fact in facts {
            let (head, json) = encode_fact(fact)?;
            run.append(&[&head, &json])?;
        }
        run.chunks_offset = run.end;
        Ok(run)
    }

    /// A whole run: `chunks` in the order of track and time, each of `recording`.
    pub fn append_run(
        &mut self,
        recording: RecordingId,
        facts: &[FactRecord],
        chunks: impl IntoIterator<Item = Result<ChunkRecord, LogError>>,
        through: &[Through],
        tables: Vec<Table>,
    ) -> Result<Run, LogError> {
        let mut run = self.begin_run(recording, facts)?;
        for chunk in chunks {
            run.push(&chunk?)?;
        }
        run.finish(through, tables)
    }

    /// Facts that belong to no run.
    pub fn append_facts(&mut self, facts: &[FactRecord]) -> Result<(), LogError> {
        let mut group: Option<FactGroup> = None;
        for fact in facts {
            let (head, json) = encode_fact(fact)?;
            let offset = self.file.append(&[&head, &json])?;
            let group = group.get_or_insert(FactGroup { offset, length: 0, facts: 0 });
            group.length = offset + (head.len() + json.len()) as u64 - group.offset;
            group.facts += 1;
        }
        if let Some(group) = group {
            self.entries.push(SegmentEntry::Facts(group));
        }
        Ok(())
    }

    /// Makes durable what was appended. Everything before the offset that it gives is.
    pub fn flush(&mut self) -> Result<u64, LogError> {
        self.file.flush()?;
        Ok(self.file.durable())
    }

    /// Writes the index and the footer, and closes the file.
    pub fn close(self) -> Result<(), LogError> {
        close_segment(&*self.io, self.file, self.file_id, &self.entries)
    }

    /// Closes the file without a footer, at its last flush: it has failed. What was flushed may be readable still.
    pub fn abandon(self) {
        // The buffers keep nothing that is not in a journal too.
        drop(self.file.give_up());
    }
}

/// Flushes `file`, writes the index with these entries and the footer, and closes it.
pub(crate) fn close_segment(
    io: &dyn Io,
    mut file: LogFile,
    file_id: Uuid,
    entries: &[SegmentEntry],
) -> Result<(), LogError> {
    // Into a flush of its own: what the index speaks of is durable before it.
    file.flush()?;
    let records = segment_index_records(entries)?;
    let mut footer = Footer {
        file_id,
        index_offset: 0,
        index_records: records.len() as u32,
        runs: 0,
        fact_groups: 0,
        chunks: 0,
        payload_bytes: 0,
    };
    for entry in entries {
        match entry {
            SegmentEntry::Run(SealedRun { run, .. }) => {
                footer.runs += 1;
                footer.chunks += u64::from(run.chunks);
                footer.payload_bytes += run.payload_bytes;
            }
            SegmentEntry::Facts(_) => footer.fact_groups += 1,
        }
    }
    for (number, record) in records.iter().enumerate() {
        let offset = file.append(&[record])?;
        if number == 0 {
            footer.index_offset = offset;
        }
    }
    // The footer begins the file's last 4096 bytes.
    let gap = file.end().next_multiple_of(ALIGNMENT_BYTES as u64) - file.end();
    if gap > 0 {
        let padding = vec![0; gap as usize - RECORD_HEADER_BYTES];
        file.append(&[&record(TYPE_PADDING, 0, 1, &padding)?])?;
    }
    let offset = file.append(&[&footer_record(&footer)])?;
    assert!(offset.is_multiple_of(ALIGNMENT_BYTES as u64), "padding led to a multiple of 4096");
    let path = file.path().to_owned();
    file.close()?;
    // The file's length, by which the footer is found.
    io.sync_file(&path).map_err(|source| LogError::io("sync", path, source))
}

/// Writes one run.
pub struct RunWriter<'a> {
    writer: &'a mut SegmentWriter,
    recording: RecordingId,
    /// Of the first record.
    offset: Option<u64>,
    /// From the first record on.
    chunks_offset: u64,
    end: u64,
    /// The lowest and the highest first grid step.
    ticks: Option<(Tick, Tick)>,
    entries: Vec<RunEntry>,
    tree: MerkleTree,
}

impl RunWriter<'_> {
    /// Takes the next chunk in the order of track and time. Its record is written as it is.
    ///
    /// # Errors
    /// [`LogError::BadRun`] when it does not belong here: nothing was written, and the run can go on.
    pub fn push(&mut self, chunk: &ChunkRecord) -> Result<(), LogError> {
        let header = chunk.header();
        if header.recording != self.recording {
            return Err(LogError::BadRun { what: "a chunk is of another recording" });
        }
        if self.entries.last().is_some_and(|last| last.key() >= (header.track, header.first_tick)) {
            return Err(LogError::BadRun { what: "its chunks are not in the order of track and time" });
        }
        if self.entries.len() >= RUN_CHUNKS_MAX {
            return Err(LogError::BadRun { what: "it has more than 65536 chunks" });
        }
        let first = header.first_tick;
        let (lowest, highest) = self.ticks.map_or((first, first), |(low, high)| (low.min(first), high.max(first)));
        if highest.0 - lowest.0 > RUN_TICKS_MAX || highest.0.checked_add(u64::from(TICKS_PER_CHUNK_MAX)).is_none() {
            return Err(LogError::BadRun { what: "its chunks lie more than two years apart" });
        }
        let (_, length) = self.append(&[chunk.bytes()])?;
        self.ticks = Some((lowest, highest));
        self.tree.push(chunk.bytes());
        self.entries.push(RunEntry {
            track: header.track,
            first_tick: header.first_tick,
            ticks: header.ticks,
            packets: header.packets,
            offset: self.end - aligned(length) as u64,
            length: length as u32,
        });
        Ok(())
    }

    /// Chunks so far.
    pub fn chunks(&self) -> usize {
        self.entries.len()
    }

    /// Writes the run index. With it the run is there, once it is flushed.
    pub fn finish(mut self, through: &[Through], tables: Vec<Table>) -> Result<Run, LogError> {
        let index = RunIndex {
            file_id: self.writer.file_id,
            offset: self.offset.ok_or(LogError::BadRun { what: "it has no chunk" })?,
            recording: self.recording,
            through: through.to_vec(),
            chunks_offset: self.chunks_offset,
            index_offset: self.end,
            entries: std::mem::take(&mut self.entries),
            root: self.tree.root(),
            tables,
        };
        let (_, length) = self.append(&[&run_index_record(&index)?])?;
        let writer = self.writer;
        let run = index.run(writer.volume, writer.number, length as u32);
        let sealed = SealedRun { recording: self.recording, run: run.clone(), through: index.through };
        writer.entries.push(SegmentEntry::Run(sealed));
        Ok(run)
    }

    /// Where the record begins in the file, and its length.
    fn append(&mut self, parts: &[&[u8]]) -> Result<(u64, usize), LogError> {
        let offset = self.writer.file.append(parts)?;
        let begin = *self.offset.get_or_insert(offset);
        assert_eq!(offset, begin + self.end, "no flush begins within a run");
        let length = parts.iter().map(|part| part.len()).sum();
        self.end += aligned(length) as u64;
        Ok((offset, length))
    }
}

const _: () =
    assert!(ALIGNMENT_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES) && RECORD_ALIGNMENT_BYTES > RECORD_HEADER_BYTES);
