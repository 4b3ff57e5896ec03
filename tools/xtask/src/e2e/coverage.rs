//! Which packets of the wire can be heard in a recording, one by one: the phones sound without a pause
//! (`Conversation::never_silent`), so that a recording is silent exactly where audio is missing.

use crate::report::{Recording, Track};
use anyhow::{Context, Result, bail};
use sidetone_testkit::Recorder;
use sidetone_testkit::reference::{Packet, Reference, Stream};
use sidetone_testkit::speech::RATE_HZ;
use sidetone_testkit::wav::Wav;
use std::path::Path;

/// Length of a packet.
pub(super) const PACKET_NS: u64 = 20_000_000;
const PACKET_SAMPLES: usize = 160;
/// Effective value below which 10 ms are silent; the phones' sound has 3000, what Opus makes of silence less than 20.
const SILENCE: f64 = 300.0;

/// One track of a recording, against its stream on the wire.
pub(super) struct Heard {
    pub(super) who: String,
    /// Packets on the wire.
    pub(super) packets: usize,
    /// When the first of them was, in ns since the Unix epoch.
    pub(super) first_ns: u64,
    /// When the packets were on the wire that cannot be heard, in ns since the Unix epoch, ascending.
    pub(super) missing: Vec<u64>,
}

impl Heard {
    /// The packets that cannot be heard, counted from the stream's first, as near as its clock says.
    pub(super) fn which(&self) -> String {
        let numbers: Vec<String> =
            self.missing.iter().take(10).map(|time| ((time - self.first_ns) / PACKET_NS).to_string()).collect();
        format!("{}{}", numbers.join(" "), if self.missing.len() > numbers.len() { " …" } else { "" })
    }
}

/// Listens to both sides of a recording.
pub(super) fn listen(
    recorder: &Recorder,
    recording: &Recording,
    reference: &Reference,
    scratch: &Path,
) -> Result<Vec<Heard>> {
    let path = format!("/api/v1/recordings/{}/audio?format=wav&channels=dual", recording.id);
    std::fs::write(scratch, recorder.get(&path)?.body)
        .with_context(|| format!("cannot write {}", scratch.display()))?;
    let wav = Wav::read(scratch)?;
    if (wav.rate_hz, wav.channels) != (RATE_HZ, 2) {
        bail!("{}: {} Hz, {} channels", recording.id, wav.rate_hz, wav.channels);
    }
    ["near", "far"]
        .iter()
        .enumerate()
        .map(|(channel, side)| {
            let who = format!("{} → {} ({}), {side}", recording.caller, recording.callee, recording.id);
            let track = recording.tracks.iter().find(|track| track.side == *side);
            let track = track.with_context(|| format!("{who}: no such track"))?;
            let stream = stream_of(track, reference).with_context(|| format!("{who}: not on the wire"))?;
            let missing = missing(&wav.channel(channel), stream).with_context(|| who.clone())?;
            let first_ns = stream.packets.first().map_or(0, |packet| packet.time_ns);
            Ok(Heard { who, packets: stream.packets.len(), first_ns, missing })
        })
        .collect()
}

/// The stream on the wire that a track was made from: the same one over all restarts.
pub(super) fn stream_of<'a>(track: &Track, reference: &'a Reference) -> Option<&'a Stream> {
    let key = track.streams.first()?.key;
    track.streams.iter().all(|stream| stream.key == key).then(|| reference.streams.get(&key))?
}

/// A recording begins with the first packet: it has to be heard. The others lie where their timestamps say, or, when the recorder
/// came back in between, where they were on the wire; of those that a busy phone sends late both are near each other.
fn missing(recorded: &[i16], stream: &Stream) -> Result<Vec<u64>> {
    let first = stream.packets.first().context("a stream without packets")?;
    let onset = recorded.iter().position(|sample| sample.unsigned_abs() > 1000).context("nothing is heard")?;
    let sounds = |at: usize| {
        // The phones' clocks wander by some ms from the recorder's.
        [0, PACKET_SAMPLES / 4, PACKET_SAMPLES / 2]
            .into_iter()
            .filter_map(|shift| recorded.get(at.checked_add(shift)?..)?.get(..PACKET_SAMPLES / 2))
            .any(|part| effective(part) > SILENCE)
    };
    let is_heard = |packet: &Packet| {
        let elapsed_ns = packet.time_ns - first.time_ns;
        let by_arrival = usize::try_from(elapsed_ns * u64::from(RATE_HZ) / 1_000_000_000).unwrap_or(usize::MAX);
        let by_timestamp = packet.timestamp.wrapping_sub(first.timestamp) as usize;
        let is_near = by_arrival.abs_diff(by_timestamp) <= 2 * PACKET_SAMPLES;
        sounds(onset.saturating_add(by_arrival)) || is_near && sounds(onset + by_timestamp)
    };
    Ok(stream.packets.iter().filter(|packet| !is_heard(packet)).map(|packet| packet.time_ns).collect())
}

fn effective(samples: &[i16]) -> f64 {
    let power: f64 = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    (power / samples.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidetone_testkit::speech::Conversation;

    #[test]
    fn silenced_packets_are_found_and_no_others() {
        let mut recorded = vec![0; 77];
        recorded.extend(Conversation::never_silent(3, 4).callee);
        let mut packets: Vec<Packet> = (0..200u64)
            .map(|i| Packet {
                time_ns: 1_000 + i * PACKET_NS + i % 3 * 1_000_000,
                sequence: i as u16,
                timestamp: i as u32 * 160,
                payload_type: 8,
                payload: Vec::new(),
            })
            .collect();
        // The last comes late: the recording ends where its timestamp says.
        recorded.truncate(77 + 200 * PACKET_SAMPLES);
        packets[199].time_ns += 15_000_000;
        let stream = Stream { packets };
        assert_eq!(missing(&recorded, &stream).unwrap(), Vec::<u64>::new());
        recorded[77 + 50 * 160..77 + 60 * 160].fill(0);
        let found: Vec<u64> =
            missing(&recorded, &stream).unwrap().iter().map(|time| (time - 1000) / PACKET_NS).collect();
        assert!(found.len() >= 8 && found.iter().all(|packet| (50..60).contains(packet)), "{found:?}");
    }
}
