//! Checks a segment: its records, and what its indexes, Merkle roots and footer say of them. Damage is told by recording and time.

use crate::files::Owner;
use crate::format::{ALIGNMENT_BYTES, Meaning, RECORD_ALIGNMENT_BYTES, RUN_CHUNKS_MAX};
use crate::merkle::{MerkleTree, leaf_hash};
use crate::open_segment::OpenSegment;
use crate::run_indexes::RunIndexes;
use crate::scan::Bytes;
use crate::verify::{Check, Damage, Fault, Place, Records, Verified, Watch};
use crate::{
    Chunk, ChunkHeader, Content, Footer, LogError, Run, RunEntry, RunIndex, SealedRun, SegmentContents, SegmentEntry,
    SegmentNumber, SegmentReader, VolumeNumber,
};
use sidetone_model::MerkleRoot;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use uuid::Uuid;

impl SegmentReader {
    /// Checks one segment. `at_least` is an offset before which everything is known to have been durable, 0 when nothing is
    /// known; `closed` whether it should have its footer.
    ///
    /// # Errors
    /// As [`JournalReader::verify_file`].
    pub fn verify_file(
        &self,
        segment: SegmentNumber,
        at_least: u64,
        closed: bool,
        watch: Watch<'_>,
    ) -> Result<Verified, LogError> {
        self.open_segment(segment)?.verify(at_least, closed, watch)
    }
}

/// What is found in a segment with these bytes, by its index or a scan, and by a check; for the fuzzer.
pub fn read_segment_bytes(
    bytes: &[u8],
    segment: SegmentNumber,
    owner: Owner,
) -> Result<(SegmentContents, Verified), LogError> {
    let open = || OpenSegment::new(Arc::new(Bytes(bytes.to_vec())), "memory.seg".into(), segment, owner);
    let opened = open()?;
    let contents = match opened.closed()? {
        Some((_, entries)) => opened.closed_contents(entries),
        None => opened.gather(0)?.0,
    };
    Ok((contents, open()?.verify(0, false, &mut |_| ControlFlow::Continue(()))?))
}

impl OpenSegment {
    pub(crate) fn verify(self, at_least: u64, closed: bool, watch: Watch<'_>) -> Result<Verified, LogError> {
        let opened = Arc::new(self);
        let mut check = Check::new(opened.path.clone(), watch);
        let footer = opened.footer()?;
        let index = opened.closed()?.map(|(_, entries)| entries);
        check.verified.closed = footer.is_some();
        if opened.unborn && at_least == 0 && !closed {
            return Ok(check.verified);
        }
        if opened.header.is_none() {
            check.place(0, ALIGNMENT_BYTES as u64, Fault::Header);
        }
        if closed && footer.is_none() {
            check.place(opened.bytes, opened.bytes, Fault::Index);
        }
        // Nothing is written behind a footer.
        let known_end = (closed || footer.is_some()).then_some(opened.bytes);
        let index = index.map(Arc::new);
        let indexes = Arc::new(RunIndexes::new(&opened));
        let scan = opened.scan(known_end, at_least, index.as_ref(), &indexes);
        let mut contents = SegmentCheck::new(&opened, footer, index.clone());
        check.walk(scan, &mut contents)?;
        if !check.verified.stopped {
            contents.compare_with_index(&mut check);
        }
        let found = contents.runs;
        let entries = index.unwrap_or_else(|| Arc::new(found.into_iter().map(SegmentEntry::Run).collect()));
        for place in std::mem::take(&mut check.places) {
            attribute(&mut check, place, &entries, &indexes);
        }
        Ok(check.verified)
    }
}

/// A chunk whose run index has not come yet.
struct Seen {
    offset: u64,
    length: u32,
    header: ChunkHeader,
    leaf: MerkleRoot,
}

/// What the records of a segment say, held against each other.
struct SegmentCheck {
    volume_and_number: (VolumeNumber, SegmentNumber),
    file_id: Uuid,
    footer: Option<Footer>,
    index: Option<Arc<Vec<SegmentEntry>>>,
    chunks: VecDeque<Seen>,
    /// Whose indexes were met.
    runs: Vec<SealedRun>,
    /// Behind the last run.
    end: u64,
    /// Something was damaged since then.
    damaged: bool,
    /// Facts of the group of the index at hand: its number among the entries.
    group: usize,
    facts_in_group: u32,
}

impl SegmentCheck {
    fn new(opened: &OpenSegment, footer: Option<Footer>, index: Option<Arc<Vec<SegmentEntry>>>) -> Self {
        Self {
            volume_and_number: opened.volume_and_number,
            file_id: opened.file_id,
            footer,
            index,
            chunks: VecDeque::new(),
            runs: Vec::new(),
            end: ALIGNMENT_BYTES as u64,
            damaged: false,
            group: 0,
            facts_in_group: 0,
        }
    }

    fn chunk(&mut self, offset: u64, bytes: &[u8], chunk: &Chunk) {
        if self.chunks.len() >= RUN_CHUNKS_MAX {
            self.chunks.pop_front();
        }
        let length = bytes.len() as u32;
        self.chunks.push_back(Seen { offset, length, header: chunk.header, leaf: leaf_hash(bytes) });
    }

    fn run(&mut self, offset: u64, length: u32, index: &RunIndex, check: &mut Check<'_>) {
        let damaged = std::mem::take(&mut self.damaged);
        let seen = std::mem::take(&mut self.chunks);
        let (begin, end) = (index.offset, offset + u64::from(length));
        if !index.lies_at(self.file_id, offset) || begin < self.end {
            check.place(offset, end, Fault::Run);
            return;
        }
        self.end = end;
        let (volume, number) = self.volume_and_number;
        let run = index.run(volume, number, length);
        check.verified.runs += 1;
        if !damaged {
            let first = begin + index.chunks_offset;
            let chunks: Vec<&Seen> = seen.iter().filter(|chunk| chunk.offset >= first).collect();
            let same = |(seen, entry): (&&Seen, &RunEntry)| {
                (seen.offset, seen.length) == (begin + entry.offset, entry.length)
                    && entry.describes(index.recording, &seen.header)
            };
            if chunks.len() != index.entries.len() || !chunks.iter().zip(&index.entries).all(same) {
                check.place(begin, end, Fault::Run);
            } else {
                let mut tree = MerkleTree::new();
                chunks.iter().for_each(|chunk| tree.push_hash(chunk.leaf));
                if tree.root() != index.root {
                    check.place(begin, end, Fault::Root);
                }
            }
        }
        self.runs.push(SealedRun { recording: index.recording, run, through: index.through.clone() });
    }

    /// Counts the facts of each group that the index names.
    fn fact(&mut self, offset: u64, check: &mut Check<'_>) {
        while let Some(entry) = self.index.as_ref().and_then(|index| index.get(self.group)) {
            let bytes = entry.bytes();
            if offset < bytes.end {
                self.facts_in_group += u32::from(bytes.contains(&offset));
                return;
            }
            self.end_group(check);
        }
    }

    fn end_group(&mut self, check: &mut Check<'_>) {
        let entry = self.index.as_ref().and_then(|index| index.get(self.group)).cloned();
        if let Some(SegmentEntry::Facts(group)) = entry
            && group.facts != self.facts_in_group
            && !check.touches(&(group.offset..group.offset + group.length))
        {
            check.place(group.offset, group.offset + group.length, Fault::Index);
        }
        self.group += 1;
        self.facts_in_group = 0;
    }

    /// Whether what was found is what the index and the footer say, where nothing was damaged.
    fn compare_with_index(&mut self, check: &mut Check<'_>) {
        let Some(index) = self.index.clone() else {
            if let Some(footer) = self.footer {
                check.place(footer.index_offset, check.verified.end, Fault::Index);
            }
            return;
        };
        while self.group < index.len() {
            self.end_group(check);
        }
        let mut found = self.runs.iter().peekable();
        for entry in index.iter() {
            let SegmentEntry::Run(said) = entry else { continue };
            // Those that the index does not know.
            while let Some(run) = found.next_if(|run| run.run.offset < said.run.offset) {
                check.place(run.run.offset, run.run.offset + run.run.length, Fault::Index);
            }
            let same = found.next_if(|run| run.run.offset == said.run.offset).map(|run| run == said);
            let bytes = entry.bytes();
            if same == Some(false) || (same.is_none() && !check.touches(&bytes)) {
                check.place(bytes.start, bytes.end, Fault::Index);
            }
        }
        for run in found {
            check.place(run.run.offset, run.run.offset + run.run.length, Fault::Index);
        }
    }
}

impl Records for SegmentCheck {
    fn record(&mut self, offset: u64, bytes: &[u8], meaning: &Meaning, check: &mut Check<'_>) {
        match meaning {
            Meaning::Content(content) => {
                check.count(content);
                match content {
                    Content::Chunk(chunk) => self.chunk(offset, bytes, chunk),
                    Content::Fact(_) => self.fact(offset, check),
                }
            }
            Meaning::RunIndex(index) => self.run(offset, bytes.len() as u32, index, check),
            // No run goes over the end of a flush.
            Meaning::Sync(_) => {
                self.chunks.clear();
                self.damaged = false;
            }
            _ => {}
        }
    }

    fn damaged(&mut self) {
        self.damaged = true;
    }
}

/// Tells whose a damaged place of a segment is.
fn attribute(check: &mut Check<'_>, place: Place, entries: &[SegmentEntry], indexes: &RunIndexes) {
    let first = entries.partition_point(|entry| entry.bytes().end <= place.from);
    let touched = entries[first..].iter().take_while(|entry| entry.bytes().start < place.to);
    let mut in_runs = 0;
    for entry in touched {
        let SegmentEntry::Run(SealedRun { recording, run, .. }) = entry else { continue };
        let bytes = entry.bytes();
        let (from, to) = (place.from.max(bytes.start), place.to.min(bytes.end));
        let whole = Some(run.first_tick..run.end_tick);
        let damage = |ticks| Damage { from, to, fault: place.fault, recording: Some(*recording), track: None, ticks };
        match place.fault {
            Fault::Header | Fault::Fill => continue,
            Fault::Run | Fault::Root => check.tell(damage(whole)),
            Fault::Index => check.tell(damage(None)),
            Fault::Records | Fault::Nonsense => match indexes.get(*recording, run) {
                Some(index) => lost_of_run(check, &damage(None), run, &index),
                // Its index is what is damaged, or is damaged as well.
                None if from >= run.offset + run.index_offset => {
                    check.tell(Damage { fault: Fault::Run, ..damage(None) });
                }
                None => check.tell(damage(whole)),
            },
        }
        in_runs += place.to.min(bytes.end.next_multiple_of(RECORD_ALIGNMENT_BYTES as u64)) - from;
    }
    if in_runs < place.to - place.from || place.to == place.from {
        check.tell(place.into_damage());
    }
}

/// Tells what records of a run are lost, as its index knows them.
fn lost_of_run(check: &mut Check<'_>, damage: &Damage, run: &Run, index: &RunIndex) {
    let (begin_chunks, begin_index) = (run.offset + index.chunks_offset, run.offset + run.index_offset);
    if damage.from < begin_chunks {
        check.tell(Damage { to: damage.to.min(begin_chunks), ..damage.clone() });
    }
    let mut stretch: Option<Damage> = None;
    for entry in &index.entries {
        let begin = run.offset + entry.offset;
        let (from, to) = (damage.from.max(begin), damage.to.min(begin + u64::from(entry.length)));
        if from >= to {
            continue;
        }
        match &mut stretch {
            // Chunks of a track that follow each other are told together.
            Some(Damage { to: last, track, ticks: Some(ticks), .. })
                if *track == Some(entry.track) && ticks.end == entry.first_tick =>
            {
                (*last, ticks.end) = (to, entry.end_tick());
            }
            _ => {
                let ticks = Some(entry.first_tick..entry.end_tick());
                let next = Damage { from, to, track: Some(entry.track), ticks, ..damage.clone() };
                stretch.replace(next).into_iter().for_each(|whole| check.tell(whole));
            }
        }
    }
    stretch.into_iter().for_each(|whole| check.tell(whole));
    if damage.to > begin_index {
        check.tell(Damage { from: damage.from.max(begin_index), fault: Fault::Run, ..damage.clone() });
    }
}
