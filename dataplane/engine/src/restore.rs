//! What the store holds of the recordings that were going on when the last process ended.

use sidetone_calls::StoredAudio;
use sidetone_model::{CaptureTime, Recording, SavedCall, Tick, TrackId};
use sidetone_store::{StoreError, StoreReader};
use std::collections::BTreeSet;
use std::time::Duration;

/// A recording to go on with.
pub(crate) struct ActiveRecording {
    pub(crate) recording: Recording,
    pub(crate) resume: SavedCall,
    pub(crate) stored: Vec<StoredAudio>,
}

/// What was saved and what was stored are not of one moment: audio is looked for from so long before what is known to have been
/// saved.
const LOOK_BACK: Duration = Duration::from_secs(60);

pub(crate) fn active_recordings(reader: &StoreReader) -> Result<Vec<ActiveRecording>, StoreError> {
    let active = reader.active_with_resume()?;
    active
        .into_iter()
        .map(|(recording, resume)| {
            let stored = stored_audio(reader, &recording)?;
            Ok(ActiveRecording { recording, resume, stored })
        })
        .collect()
}

/// The latest audio of each track; also of one that began after the recording was saved.
fn stored_audio(reader: &StoreReader, recording: &Recording) -> Result<Vec<StoredAudio>, StoreError> {
    let length = Duration::try_from_secs_f64(recording.duration_seconds).unwrap_or_default();
    let saved_until = recording.started_at.saturating_add(length);
    let open_gap = recording.gaps.iter().filter(|gap| gap.to.is_none()).map(|gap| gap.from).min();
    let since = saved_until.min(open_gap.unwrap_or(saved_until)).saturating_sub(LOOK_BACK).tick();
    let known = recording.tracks.iter().map(|track| track.id);
    let tracks: BTreeSet<TrackId> = known.chain([TrackId(0), TrackId(1)]).collect();
    let mut stored = Vec::new();
    for track in tracks {
        let mut spans: Vec<(CaptureTime, CaptureTime)> = Vec::new();
        for chunk in reader.chunk_locations(recording.id, track, since..Tick(u64::MAX))? {
            let end = Tick(chunk.first_tick.0.saturating_add(chunk.ticks.into())).start();
            match spans.last_mut() {
                Some((_, until)) if chunk.first_tick.start() <= *until => *until = end.max(*until),
                _ if chunk.ticks == 0 => {}
                _ => spans.push((chunk.first_tick.start(), end)),
            }
        }
        if !spans.is_empty() {
            stored.push(StoredAudio { track, spans });
        }
    }
    Ok(stored)
}
