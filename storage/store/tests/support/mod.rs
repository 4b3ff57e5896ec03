//! Small stores, and recordings to put into them.
#![allow(dead_code, reason = "each test program uses its own part")]

use sidetone_log::{ChunkCodec, ChunkHeader, Fact};
use sidetone_model::{
    CaptureTime, ConversationId, NodeName, Party, PartyRole, Recording, RecordingId, RecordingState, SCHEMA_VERSION,
    SavedCall, Tick, TrackId,
};
use sidetone_store::{
    Durable, JournalConfig, Keeper, SealingOptions, SegmentConfig, Store, StoreHandle, StoreOptions, StoreReader,
    StoreWriter,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub(crate) fn options() -> StoreOptions {
    let mut options = StoreOptions::new(NodeName("box-1".into()));
    options.journal =
        JournalConfig { file_bytes: 4 << 20, buffer_bytes: 2 << 20, block_bytes: 64 << 10, direct_io: true };
    options.segments = SegmentConfig { file_bytes: 4 << 20, preallocate_bytes: 1 << 20, ..SegmentConfig::default() };
    options.sealing = SealingOptions { interval: Duration::ZERO, ..SealingOptions::default() };
    options
}

/// A store whose parts all run in the test's thread.
pub(crate) struct Opened {
    pub(crate) writer: StoreWriter,
    pub(crate) keeper: Keeper,
    pub(crate) reader: Arc<StoreReader>,
    pub(crate) handle: StoreHandle,
}

pub(crate) fn open(directory: &Path) -> Opened {
    open_with(directory, &options())
}

pub(crate) fn open_with(directory: &Path, options: &StoreOptions) -> Opened {
    let Store { writer, keeper, reader, handle } = Store::open(directory, options).unwrap();
    Opened { writer, keeper, reader, handle }
}

impl Opened {
    /// Everything appended is durable, and in the catalog.
    pub(crate) fn flush(&mut self) -> Durable {
        let durable = self.writer.flush().unwrap();
        self.keeper.step();
        durable
    }

    /// Until the keeper has nothing to do: everything that can be is sealed.
    pub(crate) fn settle(&mut self) {
        for _ in 0..50 {
            self.flush();
        }
    }

    pub(crate) fn close(self) {
        let Self { writer, keeper, .. } = self;
        keeper.close(writer).unwrap();
    }
}

pub(crate) fn id(number: u128) -> RecordingId {
    RecordingId(Uuid::from_u128(number))
}

pub(crate) fn recording(number: u128, state: RecordingState) -> Recording {
    Recording {
        schema: SCHEMA_VERSION,
        annotations: Default::default(),
        proof: None,
        id: id(number),
        node: NodeName("box-1".into()),
        conversation_id: ConversationId(Uuid::from_u128(9)),
        state,
        started_at: CaptureTime(1_000_000_000 * number as u64),
        answered_at: None,
        ended_at: None,
        duration_seconds: 1.5,
        end_reason: None,
        users: Vec::new(),
        gaps: Vec::new(),
        pauses: Vec::new(),
        legs: Vec::new(),
        parties: vec![Party {
            id: 0,
            role: PartyRole::Caller,
            number: format!("+49 30 {number}"),
            name: "Anna".into(),
            address: "192.0.2.1:5060".into(),
            joined_at: CaptureTime(1),
            left_at: None,
        }],
        tracks: Vec::new(),
    }
}

pub(crate) fn fact(recording: Recording, resume: Option<u64>) -> Fact {
    Fact::Recording { recording: Arc::new(recording), resume: resume.map(|turn| SavedCall::of(&turn).unwrap()) }
}

pub(crate) fn header(recording: u128, first_tick: u64) -> ChunkHeader {
    ChunkHeader {
        recording: id(recording),
        track: TrackId(0),
        first_tick: Tick(first_tick),
        ticks: 50,
        packets: 50,
        codec: ChunkCodec::OpusNarrowband,
        key_id: [0; 16],
        nonce: [0; 12],
        tag: [0; 16],
    }
}
