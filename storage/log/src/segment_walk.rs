//! Tells from the records of a segment, in their order, what its index would say.

use crate::format::{ALIGNMENT_BYTES, Meaning};
use crate::{Content, FactGroup, SealedRun, SegmentEntry, SegmentNumber, VolumeNumber};
use uuid::Uuid;

/// Takes records and gives entries.
pub(crate) struct Gathering {
    volume: VolumeNumber,
    number: SegmentNumber,
    file_id: Uuid,
    entries: Vec<SegmentEntry>,
    /// Facts that may belong to the run whose index comes later: first byte and the byte behind the last.
    facts: Vec<(u64, u64)>,
    /// Behind the last run.
    end: u64,
}

impl Gathering {
    pub(crate) fn new(volume: VolumeNumber, number: SegmentNumber, file_id: Uuid) -> Self {
        Self { volume, number, file_id, entries: Vec::new(), facts: Vec::new(), end: ALIGNMENT_BYTES as u64 }
    }

    pub(crate) fn take(&mut self, offset: u64, length: u32, meaning: &Meaning) {
        match meaning {
            Meaning::Content(Content::Fact(_)) => self.facts.push((offset, offset + u64::from(length))),
            Meaning::RunIndex(index) => {
                if !index.lies_at(self.file_id, offset) || index.offset < self.end {
                    return;
                }
                self.end = offset + u64::from(length);
                let of_run = self.facts.partition_point(|&(first, _)| first < index.offset);
                self.facts.truncate(of_run);
                self.end_group();
                let run = index.run(self.volume, self.number, length);
                let sealed = SealedRun { recording: index.recording, run, through: index.through.clone() };
                self.entries.push(SegmentEntry::Run(sealed));
            }
            // No run and no group goes over the end of a flush.
            Meaning::Sync(_) => self.end_group(),
            _ => {}
        }
    }

    fn end_group(&mut self) {
        if let (Some(&(offset, _)), Some(&(_, end))) = (self.facts.first(), self.facts.last()) {
            let facts = self.facts.len() as u32;
            self.entries.push(SegmentEntry::Facts(FactGroup { offset, length: end - offset, facts }));
        }
        self.facts.clear();
    }

    pub(crate) fn finish(mut self) -> Vec<SegmentEntry> {
        self.end_group();
        self.entries
    }
}
