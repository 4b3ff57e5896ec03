//! Capture files through the data plane, in one thread, in the order and by the clock of the capture. The result depends
//! on the file alone.

use crate::assemble::{Parts, Setup, assemble};
use crate::counters::{DropReason, Kept, PacketEnd};
use crate::keep;
use serde::Serialize;
use sidetone_calls::UnclaimedStream;
use sidetone_capture::{CaptureError, CaptureFile, FrameSource};
use sidetone_model::CaptureTime;
use sidetone_store::{Store, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Frames between two looks at the progress.
const BATCH: usize = 1024;
/// Encoders run when this much time of the capture has passed, or when a ring is half full.
const ENCODE_INTERVAL: Duration = Duration::from_millis(200);
/// Chunks between two flushes of the store.
const CHUNKS_PER_FLUSH: u64 = 4096;

/// What a replay found besides recordings.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ReplaySummary {
    pub calls_seen: u64,
    pub unclaimed_streams: Vec<UnclaimedStream>,
    pub packets: PacketSummary,
    /// The capture file ends in the middle of a packet: it was replayed up to there.
    pub truncated: bool,
}

/// Every frame of the capture and where it ended: `received = track + signalling + rtcp + Σ dropped`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PacketSummary {
    pub received: u64,
    pub track: u64,
    pub signalling: u64,
    pub rtcp: u64,
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets on tracks, and what became of them: `track = Σ`.
    pub on_tracks: BTreeMap<&'static str, u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the store could not be written ({errors} failed operations; the log has the first): there is no room, or its disk fails"
    )]
    NotWritten { errors: u64 },
}

/// Runs a capture file through the data plane into a store, which it gives back. `progress` hears the bytes read so far.
pub fn replay(
    setup: &Setup,
    mut source: CaptureFile,
    store: Store,
    progress: &mut dyn FnMut(u64),
) -> Result<(ReplaySummary, Store), ReplayError> {
    let (writer, mut keeper, reader, handle) = store.split();
    let Parts { mut receivers, mut call, mut encoders, mut writer, observed } =
        assemble(setup, 1, 1, writer, Vec::new());
    keep::watch(&mut keeper, &reader, &observed.room, &setup.events)?;
    let receiver = &mut receivers[0];
    let encoder = &mut encoders[0];
    let mut now = CaptureTime::ZERO;
    let mut encoded_at = CaptureTime::ZERO;
    let mut flushed_chunks = 0;
    let mut fault = None;
    let truncated = loop {
        let received = source.receive(Duration::ZERO, BATCH, &mut |frame| {
            now = frame.arrived_at;
            receiver.on_frame(frame);
            receiver.on_tick(now);
            call.step(now);
            receiver.apply_commands();
            if now.since(encoded_at) >= ENCODE_INTERVAL || now < encoded_at || receiver.encoder_ring_fill() > 0.5 {
                encoded_at = now;
                while encoder.step() {}
                writer.take(now);
            }
        });
        progress(source.position());
        if observed.writer.chunks.get() - flushed_chunks >= CHUNKS_PER_FLUSH {
            flushed_chunks = observed.writer.chunks.get();
            writer.flush(now);
            while keeper.step() {}
        }
        match received {
            Ok(_) => {}
            Err(CaptureError::EndOfCapture { truncated }) => break truncated,
            Err(error) => {
                // What was read until here is finished like a capture that ends here; then the error is told.
                fault = Some(error);
                break true;
            }
        }
    };

    // Time goes on after the last frame until every call has ended and every track has said its last.
    let end = now;
    call.finish_all(end);
    let last_word = end.saturating_add(setup.tracker.final_report_wait + Duration::from_secs(1));
    let mut flows_left = true;
    while now < last_word {
        now = now.saturating_add(Duration::from_millis(100));
        receiver.apply_commands();
        receiver.on_tick(now);
        while encoder.step() {}
        while call.step(now) {}
        receiver.apply_commands();
        if flows_left && now.since(end) > Duration::from_secs(1) {
            flows_left = !receiver.forget_all();
        }
        writer.take(now);
    }
    encoder.flush_all();
    call.publish_statistics();
    writer.take(now);
    writer.flush(now);
    while keeper.step() {}

    let statistics = call.tracker().statistics();
    let receive = &observed.receive[0];
    let summary = ReplaySummary {
        calls_seen: statistics.calls_seen,
        unclaimed_streams: call.tracker().unclaimed().cloned().collect(),
        packets: PacketSummary {
            received: receive.frames_received.get(),
            track: receive.kept(Kept::Track),
            signalling: receive.kept(Kept::Signalling),
            rtcp: receive.kept(Kept::Rtcp),
            dropped: DropReason::ALL
                .iter()
                .map(|reason| (reason.label(), receive.dropped(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            on_tracks: PacketEnd::ALL
                .iter()
                .map(|end| (end.label(), observed.packets_ended(*end)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        },
        truncated,
    };
    assert!(receive.unaccounted() == 0, "every frame of a replay has exactly one end");
    let errors = observed.writer.errors.get();
    let (writer, facts) = writer.into_store();
    if facts > 0 || observed.writer.lost_packets.get() > 0 || observed.writer.is_failing() {
        return Err(ReplayError::NotWritten { errors });
    }
    match fault {
        Some(error) => Err(error.into()),
        None => Ok((summary, Store { writer, keeper, reader, handle })),
    }
}
