//! What a segment's own indexes tell about damaged places of it.

use crate::format::RECORD_ALIGNMENT_BYTES;
use crate::open_segment::OpenSegment;
use crate::scan::Landmarks;
use crate::{Run, RunIndex, SealedRun, SegmentEntry};
use sidetone_model::RecordingId;
use std::sync::{Arc, Mutex, PoisonError};

/// Run indexes read when they are asked for; the last one is kept.
pub(crate) struct RunIndexes {
    segment: Arc<OpenSegment>,
    last: Mutex<Option<(u64, Option<Arc<RunIndex>>)>>,
}

impl RunIndexes {
    pub(crate) fn new(segment: &Arc<OpenSegment>) -> Self {
        Self { segment: Arc::clone(segment), last: Mutex::new(None) }
    }

    /// `None` when it cannot be read.
    pub(crate) fn get(&self, recording: RecordingId, run: &Run) -> Option<Arc<RunIndex>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((offset, index)) = &*last
            && *offset == run.offset
        {
            return index.clone();
        }
        let index = self.segment.run_index(recording, run).map(Arc::new);
        *last = Some((run.offset, index.clone()));
        index
    }
}

/// Where the next record begins behind a damaged place, as the segment's indexes tell it.
pub(crate) fn landmarks(entries: Arc<Vec<SegmentEntry>>, indexes: Arc<RunIndexes>) -> Landmarks {
    Box::new(move |offset| {
        let entry = entries.get(entries.partition_point(|entry| entry.bytes().end <= offset))?;
        let bytes = entry.bytes();
        if offset < bytes.start {
            return Some(bytes.start);
        }
        let behind = bytes.end.next_multiple_of(RECORD_ALIGNMENT_BYTES as u64);
        let SegmentEntry::Run(SealedRun { recording, run, .. }) = entry else { return Some(behind) };
        let at = offset - run.offset;
        if at >= run.index_offset {
            return Some(behind);
        }
        let index = indexes.get(*recording, run);
        let next = index.and_then(|index| {
            let next = index.entries.partition_point(|entry| entry.offset <= at);
            index.entries.get(next).map(|entry| entry.offset)
        });
        Some(run.offset + next.unwrap_or(run.index_offset))
    })
}
