//! What the catalog holds of one recording: registers, of which the highest sequence holds, and sets that only grow.
//!
//! Constraints: taking in the same again, or in another order, gives the same row, byte for byte.

use crate::bytes::{Reader, Writer};
use crate::changes::FactChange;
use crate::document::{
    Glance, LAYOUT, read_annotations, read_document, unzigzag, write_annotations, write_document, zigzag,
};
use crate::order::NANOS_PER_MILLISECOND;
use sidetone_log::{Fact, FactSequence, LogPosition, Run, SegmentNumber, Through, VolumeNumber};
use sidetone_model::{Annotations, CaptureTime, MerkleRoot, Recording, RecordingId, RecordingState, SavedCall, Tick};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A position in each volume's journal.
pub(crate) type Places = BTreeMap<VolumeNumber, LogPosition>;

/// The fact with the highest sequence of its kind, and where it lies in journals: its last place in each.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Newest<T> {
    pub(crate) sequence: FactSequence,
    pub(crate) value: T,
    pub(crate) places: Places,
}

impl<T> Newest<T> {
    /// Takes in a fact of this kind. Whether the value was replaced.
    pub(crate) fn take(
        held: &mut Option<Self>,
        sequence: FactSequence,
        places: &[(VolumeNumber, LogPosition)],
        value: impl FnOnce() -> T,
    ) -> bool {
        let replaces = match held {
            Some(held) if sequence < held.sequence => return false,
            Some(held) => sequence > held.sequence,
            None => true,
        };
        if replaces {
            *held = Some(Self { sequence, value: value(), places: Places::new() });
        }
        if let Some(held) = held {
            for &(volume, position) in places {
                raise(&mut held.places, volume, position);
            }
        }
        replaces
    }
}

/// Positions only grow.
pub(crate) fn raise(places: &mut Places, volume: VolumeNumber, position: LogPosition) {
    let place = places.entry(volume).or_insert(position);
    *place = position.max(*place);
}

/// Takes away the places that do not matter any more, below `through`.
pub(crate) fn forget_settled(places: &mut Places, through: &Places) {
    places.retain(|volume, position| through.get(volume).is_none_or(|through| *position >= *through));
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Row {
    pub(crate) document: Option<Newest<Arc<Recording>>>,
    pub(crate) annotations: Option<Newest<Annotations>>,
    /// In the order of (volume, segment, offset), which tells them apart.
    pub(crate) runs: Vec<Run>,
    /// Chunks and facts before these positions are settled.
    pub(crate) through: Places,
}

/// The bytes are no row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadRow {
    Damaged,
    /// Of a layout that this program does not know.
    Newer(u8),
}

impl Row {
    /// Whether nothing that `other` says of the recording is newer than what this says, or more.
    pub(crate) fn has_all_of(&self, other: &Self) -> bool {
        fn is_as_new<T>(own: Option<&Newest<T>>, other: Option<&Newest<T>>) -> bool {
            own.map(|own| own.sequence) >= other.map(|other| other.sequence)
        }
        is_as_new(self.document.as_ref(), other.document.as_ref())
            && is_as_new(self.annotations.as_ref(), other.annotations.as_ref())
            && other.runs.iter().all(|run| self.runs.contains(run))
    }

    /// Takes in facts about the recording. When that replaces its document: what the call tracker saved beside the new one.
    pub(crate) fn take_in<'a>(
        &mut self,
        facts: impl IntoIterator<Item = &'a FactChange>,
    ) -> Option<Option<&'a SavedCall>> {
        let mut tracker = None;
        for FactChange { record, places } in facts {
            match &record.fact {
                Fact::Recording { recording, resume } => {
                    if Newest::take(&mut self.document, record.sequence, places, || Arc::clone(recording)) {
                        tracker = Some(resume.as_ref());
                    }
                }
                Fact::Annotations { annotations, .. } => {
                    Newest::take(&mut self.annotations, record.sequence, places, || annotations.clone());
                }
                Fact::Sealed { run, through, .. } => {
                    self.add_run(run);
                    through.iter().for_each(|through| self.settle(through));
                }
                // About no recording.
                Fact::Replayed { .. } | Fact::Clock { .. } => {}
            }
        }
        tracker
    }

    /// Takes in what another row says of the same recording. Whether the document is the other's now.
    pub(crate) fn merge(&mut self, other: Self) -> bool {
        fn take<T>(own: &mut Option<Newest<T>>, other: Option<Newest<T>>) -> bool {
            let Some(Newest { sequence, value, places }) = other else { return false };
            let places: Vec<(VolumeNumber, LogPosition)> = places.into_iter().collect();
            Newest::take(own, sequence, &places, || value)
        }
        take(&mut self.annotations, other.annotations);
        other.runs.iter().for_each(|run| self.add_run(run));
        other.through.into_iter().for_each(|(volume, position)| raise(&mut self.through, volume, position));
        take(&mut self.document, other.document)
    }

    pub(crate) fn add_run(&mut self, run: &Run) {
        let key = |run: &Run| (run.volume, run.segment, run.offset);
        match self.runs.binary_search_by_key(&key(run), key) {
            Ok(index) => self.runs[index] = run.clone(),
            Err(index) => self.runs.insert(index, run.clone()),
        }
    }

    pub(crate) fn settle(&mut self, through: &Through) {
        raise(&mut self.through, through.volume, through.position);
    }

    /// Whether a place in a volume's journal is behind what is settled.
    pub(crate) fn is_unsettled(&self, volume: VolumeNumber, position: LogPosition) -> bool {
        self.through.get(&volume).is_none_or(|through| position >= *through)
    }

    /// After facts and settlements were taken in.
    pub(crate) fn forget_settled(&mut self) {
        if let Some(document) = &mut self.document {
            forget_settled(&mut document.places, &self.through);
        }
        if let Some(annotations) = &mut self.annotations {
            forget_settled(&mut annotations.places, &self.through);
        }
    }

    /// Where its newest facts lie that need a journal, one position for each volume: the oldest.
    pub(crate) fn oldest_facts(&self) -> Places {
        let mut oldest = Places::new();
        let document = self.document.iter().flat_map(|document| &document.places);
        for (&volume, &position) in document.chain(self.annotations.iter().flat_map(|newest| &newest.places)) {
            lower(&mut oldest, volume, position);
        }
        oldest
    }

    pub(crate) fn state(&self) -> Option<RecordingState> {
        self.document.as_ref().map(|document| document.value.state)
    }

    pub(crate) fn is_on_hold(&self) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| annotations.value.hold.is_some())
    }

    pub(crate) fn annotations(&self) -> Annotations {
        self.annotations.as_ref().map(|newest| newest.value.clone()).unwrap_or_default()
    }

    /// In the order in which they are heard, which is the order of the proof.
    pub(crate) fn runs_in_order(&self) -> Vec<Run> {
        let mut runs = self.runs.clone();
        runs.sort_by_key(|run| (run.first_tick, run.volume, run.segment, run.offset));
        runs
    }

    /// The recording as it is shown, but for its proof. Takes it out of the row; the runs stay.
    pub(crate) fn take_shown(&mut self) -> Option<Recording> {
        let mut recording = Arc::unwrap_or_clone(self.document.take()?.value);
        recording.annotations = self.annotations.take().map(|newest| newest.value).unwrap_or_default();
        Some(recording)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let base = self.document.as_ref().map_or(CaptureTime::ZERO, |document| start_of(document.value.started_at));
        let mut writer = Writer(Vec::with_capacity(512));
        writer.byte(LAYOUT);
        writer.byte(u8::from(self.document.is_some()) | u8::from(self.annotations.is_some()) << 1);
        if let Some(document) = &self.document {
            Glance::of(&document.value).write(&mut writer, base);
        }
        write_places(&mut writer, &self.through);
        writer.number(self.runs.len() as u64);
        self.runs.iter().for_each(|run| write_run(&mut writer, run, base));
        if let Some(annotations) = &self.annotations {
            writer.number(annotations.sequence.0);
            write_places(&mut writer, &annotations.places);
            write_annotations(&mut writer, &annotations.value, base);
        }
        if let Some(document) = &self.document {
            writer.number(document.sequence.0);
            write_places(&mut writer, &document.places);
            write_document(&mut writer, &document.value);
        }
        writer.0
    }

    /// `started` is the millisecond that stands in the row's key; a row without a document has none.
    pub(crate) fn decode(bytes: &[u8], id: RecordingId, started: Option<CaptureTime>) -> Result<Self, BadRow> {
        let (mut reader, layout) = open(bytes)?;
        let row = Self::decode_known(&mut reader, layout, id, started).ok_or(BadRow::Damaged)?;
        if !reader.0.is_empty() || row.document.is_some() != started.is_some() {
            return Err(BadRow::Damaged);
        }
        Ok(row)
    }

    /// The first look at a row that has a document.
    pub(crate) fn glance(bytes: &[u8], started: CaptureTime) -> Result<Glance, BadRow> {
        let (mut reader, _layout) = open(bytes)?;
        let parts = reader.byte().filter(|parts| parts & 1 != 0);
        parts.and_then(|_| Glance::read(&mut reader, started)).ok_or(BadRow::Damaged)
    }

    fn decode_known(
        reader: &mut Reader<'_>,
        layout: u8,
        id: RecordingId,
        started: Option<CaptureTime>,
    ) -> Option<Self> {
        let base = started.unwrap_or_default();
        let parts = reader.byte()?;
        let glance = if parts & 1 != 0 { Some(Glance::read(reader, base)?) } else { None };
        let mut row = Self { through: read_places(reader)?, ..Self::default() };
        for _ in 0..reader.count()? {
            row.runs.push(read_run(reader, base)?);
        }
        if parts & 2 != 0 {
            let (sequence, places) = (FactSequence(reader.number()?), read_places(reader)?);
            row.annotations = Some(Newest { sequence, value: read_annotations(reader, base)?, places });
        }
        if let Some(glance) = glance {
            let (sequence, places) = (FactSequence(reader.number()?), read_places(reader)?);
            let value = Arc::new(read_document(reader, layout, id, glance)?);
            row.document = Some(Newest { sequence, value, places });
        }
        (parts <= 3).then_some(row)
    }
}

/// The layout, and what follows it.
fn open(bytes: &[u8]) -> Result<(Reader<'_>, u8), BadRow> {
    let mut reader = Reader(bytes);
    match reader.byte() {
        None => Err(BadRow::Damaged),
        Some(layout) if layout > LAYOUT => Err(BadRow::Newer(layout)),
        Some(layout) => Ok((reader, layout)),
    }
}

/// The millisecond that a recording started in.
fn start_of(started_at: CaptureTime) -> CaptureTime {
    CaptureTime(started_at.0 / NANOS_PER_MILLISECOND * NANOS_PER_MILLISECOND)
}

pub(crate) fn lower(places: &mut Places, volume: VolumeNumber, position: LogPosition) {
    let place = places.entry(volume).or_insert(position);
    *place = position.min(*place);
}

pub(crate) fn write_places(writer: &mut Writer, places: &Places) {
    writer.number(places.len() as u64);
    for (volume, position) in places {
        writer.byte(volume.0);
        writer.number(position.file);
        writer.number(position.offset);
    }
}

pub(crate) fn read_places(reader: &mut Reader<'_>) -> Option<Places> {
    let mut places = Places::new();
    for _ in 0..reader.count()? {
        let volume = VolumeNumber(reader.byte()?);
        places.insert(volume, LogPosition { file: reader.number()?, offset: reader.number()? });
    }
    Some(places)
}

fn write_run(writer: &mut Writer, run: &Run, base: CaptureTime) {
    let Run {
        volume,
        segment,
        offset,
        length,
        index_offset,
        chunks,
        payload_bytes,
        first_tick,
        end_tick,
        root: MerkleRoot(root),
    } = run;
    writer.byte(volume.0);
    writer.number(segment.0);
    writer.number(*offset);
    writer.number(*length);
    writer.number(zigzag(*length, *index_offset));
    writer.number(*chunks);
    writer.number(*payload_bytes);
    writer.number(zigzag(base.tick().0, first_tick.0));
    writer.number(zigzag(first_tick.0, end_tick.0));
    writer.bytes(root);
}

fn read_run(reader: &mut Reader<'_>, base: CaptureTime) -> Option<Run> {
    let volume = VolumeNumber(reader.byte()?);
    let segment = SegmentNumber(reader.number()?);
    let offset = reader.number()?;
    let length = reader.number()?;
    let index_offset = unzigzag(length, reader.wide_number()?)?;
    let chunks = reader.number()?;
    let payload_bytes = reader.number()?;
    let first_tick = Tick(unzigzag(base.tick().0, reader.wide_number()?)?);
    let end_tick = Tick(unzigzag(first_tick.0, reader.wide_number()?)?);
    let root = MerkleRoot(reader.array()?);
    Some(Run { volume, segment, offset, length, index_offset, chunks, payload_bytes, first_tick, end_tick, root })
}
