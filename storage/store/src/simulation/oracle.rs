//! What the store was told and what it said, and whether it keeps to it.

use crate::StoreReader;
use crate::handle::Delivery;
use sidetone_catalog::Catalog;
use sidetone_log::{ChunkCodec, ChunkHeader, Fact};
use sidetone_model::{
    CaptureTime, ConversationId, NodeName, Recording, RecordingId, RecordingState, SCHEMA_VERSION, SavedCall, Side,
    Tick, Track, TrackId, TrackKind,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A chunk of a recording: track and first grid step.
pub(super) type Key = (u8, u64);

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) recordings: BTreeMap<RecordingId, Told>,
    /// What was appended in this life and is not known to be durable, by append number, and when.
    appended: BTreeMap<u64, (u64, What)>,
    /// Digests of replayed files that were acknowledged, and whether they are on all volumes.
    replayed: BTreeMap<String, bool>,
    deliveries: Vec<(u64, RecordingId, u64, Arc<Delivery>)>,
    /// Counts the steps of the workload.
    pub(super) step: u64,
    /// The last one in which a volume could not be written: what was accepted since and acknowledged is on all volumes.
    pub(super) last_ill: u64,
}

enum What {
    Chunk(RecordingId, Key),
    Document(RecordingId, u64),
    Replayed(String),
}

#[derive(Default)]
pub(super) struct Told {
    pub(super) started_at: CaptureTime,
    /// Documents that were accepted, by version, the highest that was acknowledged, and the highest of those that are on all
    /// volumes.
    documents: BTreeMap<u64, RecordingState>,
    acknowledged: u64,
    everywhere: u64,
    pub(super) version: u64,
    pub(super) is_over: bool,
    /// Some of its audio may have gone with a crash or was refused: it cannot become complete.
    pub(super) is_lossy: bool,
    /// Accepted audio: its length, and whether it was acknowledged.
    chunks: BTreeMap<Key, (usize, bool)>,
    /// What there was when it was said to be complete, by the version that said so.
    whole: BTreeMap<u64, BTreeSet<Key>>,
    pub(super) next_tick: u64,
    pub(super) annotation: u64,
    annotation_acknowledged: u64,
    annotation_everywhere: u64,
}

pub(super) fn payload(recording: RecordingId, (track, tick): Key, length: usize) -> Vec<u8> {
    let seed = recording.0.as_u128() as u64 ^ (u64::from(track) << 56) ^ tick.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..length as u64).map(|at| (seed.wrapping_add(at * 7) >> 8) as u8).collect()
}

pub(super) fn header(recording: RecordingId, (track, tick): Key) -> ChunkHeader {
    ChunkHeader {
        recording,
        track: TrackId(track),
        first_tick: Tick(tick),
        ticks: 50,
        packets: 50,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    }
}

impl Told {
    pub(super) fn new(started_at: CaptureTime) -> Self {
        Self { started_at, next_tick: started_at.tick().0, ..Self::default() }
    }

    /// The next version of its document. Half of the recordings have documents that do not tell of their tracks.
    pub(super) fn document(&mut self, id: RecordingId, state: RecordingState) -> Fact {
        self.version += 1;
        let track = |id: u8| Track {
            id: TrackId(id),
            party: None,
            side: Side::Near,
            kind: TrackKind::Audio,
            encrypted: false,
            decodable: true,
            start_offset_seconds: 0.0,
            duration_seconds: 1.0,
            concealed_seconds: 0.0,
            losses: Default::default(),
            streams: Vec::new(),
        };
        let recording = Recording {
            schema: SCHEMA_VERSION,
            id,
            node: NodeName("box".into()),
            conversation_id: ConversationId(Uuid::nil()),
            state,
            started_at: self.started_at,
            answered_at: None,
            ended_at: None,
            duration_seconds: self.version as f64,
            end_reason: None,
            users: Vec::new(),
            gaps: Vec::new(),
            pauses: Vec::new(),
            legs: Vec::new(),
            parties: Vec::new(),
            tracks: if id.0.as_u128().is_multiple_of(2) { vec![track(0), track(1)] } else { Vec::new() },
            annotations: Default::default(),
            proof: None,
        };
        let resume = (state == RecordingState::Active).then(|| SavedCall::of(&self.version).unwrap());
        Fact::Recording { recording: Arc::new(recording), resume }
    }
}

impl Oracle {
    pub(super) fn accepted_chunk(&mut self, number: u64, recording: RecordingId, key: Key, length: usize) {
        self.appended.insert(number, (self.step, What::Chunk(recording, key)));
        self.told(recording).chunks.insert(key, (length, false));
    }

    pub(super) fn accepted_document(&mut self, number: u64, recording: RecordingId, state: RecordingState) {
        let told = self.told(recording);
        let version = told.version;
        told.documents.insert(version, state);
        if state == RecordingState::Complete {
            told.whole.insert(version, told.chunks.keys().copied().collect());
        }
        self.appended.insert(number, (self.step, What::Document(recording, version)));
    }

    pub(super) fn accepted_replayed(&mut self, number: u64, digest: String) {
        self.appended.insert(number, (self.step, What::Replayed(digest)));
    }

    pub(super) fn submitted_annotation(&mut self, recording: RecordingId, delivery: Arc<Delivery>) {
        let version = self.told(recording).annotation;
        self.deliveries.push((self.step, recording, version, delivery));
    }

    pub(super) fn told(&mut self, recording: RecordingId) -> &mut Told {
        self.recordings.get_mut(&recording).expect("a recording of this test")
    }

    /// Everything below `number` is durable, says the store.
    pub(super) fn durable(&mut self, number: u64) {
        let rest = self.appended.split_off(&number);
        for (_, (step, what)) in std::mem::replace(&mut self.appended, rest) {
            let is_everywhere = step > self.last_ill;
            match what {
                What::Chunk(recording, key) => {
                    self.told(recording).chunks.get_mut(&key).expect("it was accepted").1 = true;
                }
                What::Document(recording, version) => {
                    let told = self.told(recording);
                    told.acknowledged = told.acknowledged.max(version);
                    told.everywhere = if is_everywhere { told.everywhere.max(version) } else { told.everywhere };
                }
                What::Replayed(digest) => {
                    self.replayed.insert(digest, is_everywhere);
                }
            }
        }
    }

    pub(super) fn is_all_durable(&self) -> bool {
        self.appended.is_empty()
    }

    /// Whoever waits for a fact hears of it.
    pub(super) fn is_nobody_waiting(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Annotations that the store has confirmed.
    pub(super) fn take_deliveries(&mut self) {
        for (step, recording, version, delivery) in std::mem::take(&mut self.deliveries) {
            match delivery.wait(Duration::ZERO) {
                Ok(()) => {
                    let is_everywhere = step > self.last_ill;
                    let told = self.told(recording);
                    told.annotation_acknowledged = told.annotation_acknowledged.max(version);
                    if is_everywhere {
                        told.annotation_everywhere = told.annotation_everywhere.max(version);
                    }
                }
                Err(crate::StoreError::TimedOut) => self.deliveries.push((step, recording, version, delivery)),
                Err(_refused) => {}
            }
        }
    }

    /// The machine has died: what was not acknowledged may be gone.
    pub(super) fn died(&mut self) {
        self.take_deliveries();
        self.deliveries.clear();
        self.appended.clear();
        for told in self.recordings.values_mut() {
            // Nobody knows that it is over: it goes on.
            told.is_over &= told.acknowledged == told.version;
            told.is_lossy |= !told.is_over && told.chunks.values().any(|(_, acknowledged)| !acknowledged);
        }
    }

    /// Holds the store against what it has said. With `is_missing`, a volume is not there, and with it audio.
    pub(super) fn check(&self, reader: &Arc<StoreReader>, is_missing: bool) -> Result<(), String> {
        for (&id, told) in &self.recordings {
            self.check_recording(reader, id, told, is_missing).map_err(|what| format!("recording {id}: {what}"))?;
        }
        for (digest, _) in self.replayed.iter().filter(|(_, is_everywhere)| !is_missing || **is_everywhere) {
            if !reader.has_replayed(digest).map_err(|error| error.to_string())? {
                return Err(format!("{digest} was replayed, and is forgotten"));
            }
        }
        Ok(())
    }

    fn check_recording(
        &self,
        reader: &Arc<StoreReader>,
        id: RecordingId,
        told: &Told,
        is_missing: bool,
    ) -> Result<(), String> {
        let failed = |error: crate::StoreError| error.to_string();
        let shown = reader.recording(id).map_err(failed)?;
        let version = shown.as_ref().map_or(0, |shown| shown.duration_seconds as u64);
        let least = if is_missing { told.everywhere } else { told.acknowledged };
        if version < least {
            return Err(format!("version {least} of the document was acknowledged, {version} is shown"));
        }
        if let Some(shown) = &shown {
            let Some(&state) = told.documents.get(&version) else {
                return Err(format!("version {version} of the document was never accepted"));
            };
            if shown.state != state {
                return Err(format!("version {version} is {state:?} and shown as {:?}: {:?}", shown.state, shown.gaps));
            }
            let annotation = shown.annotations.tags.get("version").map_or(0, |text| text.parse().unwrap_or(u64::MAX));
            let least = if is_missing { told.annotation_everywhere } else { told.annotation_acknowledged };
            if annotation < least || annotation > told.annotation {
                let most = told.annotation;
                return Err(format!("annotation {annotation} is shown, and should be {least} ..= {most}"));
            }
        }
        let is_complete = shown.as_ref().is_some_and(|shown| shown.state == RecordingState::Complete);
        let mut found = BTreeSet::new();
        for track in 0..2 {
            let locations = reader.chunk_locations(id, TrackId(track), Tick(0)..Tick(u64::MAX)).map_err(failed)?;
            for location in locations {
                let key = (track, location.first_tick.0);
                let chunk = match reader.read_chunk(&location) {
                    Ok(chunk) => chunk,
                    Err(crate::StoreError::VolumeMissing { .. }) if is_missing => continue,
                    Err(error) => return Err(format!("chunk {key:?} cannot be read: {error}")),
                };
                let Some(&(length, _)) = told.chunks.get(&key) else {
                    return Err(format!("chunk {key:?} was never accepted"));
                };
                if chunk.header != header(id, key) || chunk.payload != payload(id, key, length) {
                    return Err(format!("chunk {key:?} is not what was written"));
                }
                if !found.insert(key) {
                    return Err(format!("chunk {key:?} is there twice"));
                }
            }
        }
        if is_missing {
            return Ok(());
        }
        let lost = told.chunks.iter().find(|(key, (_, acknowledged))| *acknowledged && !found.contains(key));
        if let Some((key, _)) = lost {
            return Err(format!("chunk {key:?} was acknowledged and is not there"));
        }
        let whole = told.whole.get(&version).filter(|_| is_complete);
        let lost = whole.and_then(|whole| whole.iter().find(|key| !found.contains(key)));
        if let Some(key) = lost {
            return Err(format!("it is complete, and chunk {key:?} is not there"));
        }
        Ok(())
    }

    /// Every fact that was acknowledged is in a catalog that was made from any one volume.
    pub(super) fn check_facts(&self, catalog: &dyn Catalog) -> Result<(), String> {
        let failed = |error: sidetone_catalog::CatalogError| error.to_string();
        for (&id, told) in &self.recordings {
            let shown = catalog.recording(id).map_err(failed)?;
            let version = shown.as_ref().map_or(0, |shown| shown.duration_seconds as u64);
            let tags = shown.map(|shown| shown.annotations.tags).unwrap_or_default();
            let annotation = tags.get("version").map_or(0, |text| text.parse().unwrap_or(0));
            if version < told.acknowledged || annotation < told.annotation_acknowledged {
                return Err(format!(
                    "recording {id} is shown in version {version} with annotation {annotation}, instead of {} and {}",
                    told.acknowledged, told.annotation_acknowledged
                ));
            }
        }
        for digest in self.replayed.keys() {
            if !catalog.has_replayed(digest).map_err(failed)? {
                return Err(format!("{digest} was replayed, and is forgotten"));
            }
        }
        Ok(())
    }

    pub(super) fn has_audio(&self, reader: &Arc<StoreReader>, id: RecordingId) -> bool {
        (0..2).any(|track| {
            reader
                .chunk_locations(id, TrackId(track), Tick(0)..Tick(u64::MAX))
                .is_ok_and(|locations| !locations.is_empty())
        })
    }
}
