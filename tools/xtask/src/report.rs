//! What a run must have recorded, held against what was on the wire.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sidetone_testkit::metrics::Metrics;
use sidetone_testkit::recorder::Recorder;
use sidetone_testkit::reference::{Reference, Stream, StreamKey};
use sidetone_testkit::{interrupt, time};
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

/// A track's duration may differ from its RTP by two steps of the grid: one at each end.
pub(crate) const DURATION_TOLERANCE_SECONDS: f64 = 0.040;

/// Results of checks: how many held, and a sentence for each that did not.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) passed: u32,
    pub(crate) failures: Vec<String>,
}

impl Checks {
    pub(crate) fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if holds {
            self.passed += 1;
        } else {
            self.failures.push(otherwise());
        }
    }

    pub(crate) fn add(&mut self, other: Checks) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }

    pub(crate) fn failed(&self) -> u32 {
        u32::try_from(self.failures.len()).unwrap_or(u32::MAX)
    }

    /// Prints the failures (the first ones: a broken build fails a thousand checks in the same way).
    pub(crate) fn print(&self) {
        const SHOWN: usize = 12;
        for failure in self.failures.iter().take(SHOWN) {
            println!("  FAILED {failure}");
        }
        if self.failures.len() > SHOWN {
            println!("  … and {} more", self.failures.len() - SHOWN);
        }
    }
}

/// A recording as the HTTP interface shows it: the fields that are checked and printed.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) started_at: String,
    pub(crate) duration_seconds: f64,
    pub(crate) caller: String,
    pub(crate) callee: String,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) tracks: Vec<Track>,
}

/// A stretch of a recording that is missing. In ns since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    /// `None` while nothing has come after it.
    pub(crate) to: Option<u64>,
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) side: String,
    pub(crate) duration_seconds: f64,
    /// Lost by capture, encoder and writer.
    pub(crate) lost_by_recorder: u64,
    pub(crate) streams: Vec<TrackStream>,
}

#[derive(Debug)]
pub(crate) struct TrackStream {
    pub(crate) key: StreamKey,
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) codec: String,
}

impl Recording {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        let text = |name: &str| {
            value[name].as_str().map(str::to_owned).with_context(|| format!("a recording without `{name}`: {value}"))
        };
        let party = |role: &str| {
            let found = value["parties"].as_array()?.iter().find(|party| party["role"] == role)?;
            let (number, name) = (found["number"].as_str()?, found["name"].as_str()?);
            Some(if name.is_empty() { number.to_owned() } else { format!("{name} {number}") })
        };
        let tracks = value["tracks"].as_array().context("a recording without `tracks`")?;
        let gaps = value["gaps"].as_array().context("a recording without `gaps`")?;
        Ok(Self {
            id: text("id")?,
            state: text("state")?,
            started_at: text("started_at")?,
            duration_seconds: value["duration_seconds"].as_f64().context("a recording without `duration_seconds`")?,
            caller: party("caller").unwrap_or_default(),
            callee: party("callee").unwrap_or_default(),
            gaps: gaps.iter().map(Gap::parse).collect::<Result<_>>()?,
            tracks: tracks.iter().map(Track::parse).collect::<Result<_>>()?,
        })
    }

    pub(crate) fn lost_by_recorder(&self) -> u64 {
        self.tracks.iter().map(|track| track.lost_by_recorder).sum()
    }

    pub(crate) fn codecs(&self) -> String {
        let names: BTreeSet<&str> =
            self.tracks.iter().flat_map(|track| &track.streams).map(|stream| stream.codec.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }
}

impl Gap {
    fn parse(value: &Value) -> Result<Self> {
        let text = |name: &str| value[name].as_str().with_context(|| format!("a gap without `{name}`: {value}"));
        Ok(Self {
            from: time::parse(text("from")?)?,
            to: value["to"].as_str().map(time::parse).transpose()?,
            reason: text("reason")?.to_owned(),
        })
    }
}

impl Track {
    fn parse(value: &Value) -> Result<Self> {
        let count =
            |of: &Value, name: &str| of[name].as_u64().with_context(|| format!("a track without `{name}`: {of}"));
        let losses = &value["losses"];
        let streams = value["streams"].as_array().context("a track without `streams`")?;
        Ok(Self {
            side: value["side"].as_str().context("a track without `side`")?.to_owned(),
            duration_seconds: value["duration_seconds"].as_f64().context("a track without `duration_seconds`")?,
            lost_by_recorder: count(losses, "capture")? + count(losses, "encoder")? + count(losses, "writer")?,
            streams: streams.iter().map(TrackStream::parse).collect::<Result<_>>()?,
        })
    }
}

impl TrackStream {
    fn parse(value: &Value) -> Result<Self> {
        let text = |name: &str| value[name].as_str().with_context(|| format!("a stream without `{name}`: {value}"));
        let address = |name: &str| -> Result<SocketAddrV4> {
            text(name)?.parse().with_context(|| format!("a stream's `{name}` is no address: {value}"))
        };
        let ssrc = text("ssrc")?.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        Ok(Self {
            key: StreamKey {
                source: address("source")?,
                destination: address("destination")?,
                ssrc: ssrc.with_context(|| format!("a stream's `ssrc` is no hexadecimal number: {value}"))?,
            },
            packets: value["packets"].as_u64().context("a stream without `packets`")?,
            lost: value["lost"].as_u64().context("a stream without `lost`")?,
            codec: text("codec")?.to_owned(),
        })
    }
}

/// Waits until `count` recordings exist and none is active, then returns all of them.
pub(crate) fn finished_recordings(recorder: &Recorder, count: usize, timeout: Duration) -> Result<Vec<Recording>> {
    let end = Instant::now() + timeout;
    loop {
        interrupt::check()?;
        let recordings: Vec<Recording> = recorder.recordings()?.iter().map(Recording::parse).collect::<Result<_>>()?;
        let active = recordings.iter().filter(|recording| recording.state == "active").count();
        if recordings.len() >= count && active == 0 {
            return Ok(recordings);
        }
        if Instant::now() >= end {
            bail!(
                "{} recordings, {active} of them still active, {} s after the last call; {count} were expected",
                recordings.len(),
                timeout.as_secs()
            );
        }
        interrupt::sleep(Duration::from_millis(250))?;
    }
}

/// Every stream that was on the wire is in exactly one track, whole; every recording has two sides and lost nothing.
pub(crate) fn check_whole(recordings: &[Recording], reference: &Reference, checks: &mut Checks) {
    let mut found = BTreeSet::new();
    for recording in recordings {
        let who = format!("{} → {} ({})", recording.caller, recording.callee, recording.id);
        checks.expect(recording.state == "complete", || format!("{who}: state {}", recording.state));
        checks.expect(recording.gaps.is_empty(), || format!("{who}: {} gaps", recording.gaps.len()));
        let sides: Vec<&str> = recording.tracks.iter().map(|track| track.side.as_str()).collect();
        checks.expect(sides.len() == 2 && sides.contains(&"near") && sides.contains(&"far"), || {
            format!("{who}: tracks {sides:?} instead of near and far")
        });
        for track in &recording.tracks {
            let what = format!("{who}, {}", track.side);
            checks.expect(track.lost_by_recorder == 0, || {
                format!("{what}: {} packets lost by the recorder", track.lost_by_recorder)
            });
            check_track(track, &what, reference, &mut found, checks);
        }
    }
    for (key, stream) in &reference.streams {
        checks.expect(found.contains(key), || {
            let (ssrc, packets) = (key.ssrc, stream.packets.len());
            format!("on the wire and on no track: {} → {} {ssrc:#010x}, {packets} packets", key.source, key.destination)
        });
    }
}

fn check_track(track: &Track, what: &str, reference: &Reference, found: &mut BTreeSet<StreamKey>, checks: &mut Checks) {
    let [stream] = track.streams.as_slice() else {
        checks.expect(false, || format!("{what}: {} streams instead of one", track.streams.len()));
        return;
    };
    let Some(wire) = reference.streams.get(&stream.key) else {
        checks.expect(false, || format!("{what}: its stream {:?} was not on the wire", stream.key));
        return;
    };
    checks.expect(found.insert(stream.key), || format!("{what}: its stream is on another track too"));
    checks.expect(stream.packets == wire.packets.len() as u64, || {
        format!("{what}: {} packets of {} on the wire", stream.packets, wire.packets.len())
    });
    checks.expect(stream.lost == wire.missing(), || {
        format!("{what}: {} packets missing by sequence; on the wire {} are", stream.lost, wire.missing())
    });
    let difference = track.duration_seconds - wire.rtp_seconds();
    checks.expect(difference.abs() <= DURATION_TOLERANCE_SECONDS, || {
        format!("{what}: {:.3} s; its RTP has {:.3} s", track.duration_seconds, wire.rtp_seconds())
    });
}

/// The two equations, as the metrics' own text states them, exact once nothing is in flight.
pub(crate) fn check_equations(recorder: &Recorder, checks: &mut Checks) -> Result<Metrics> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = recorder.metrics()?;
        let frames = Frames::read(&metrics)?;
        let tracks = Tracks::read(&metrics)?;
        let holds = frames.holds() && tracks.holds();
        if holds || Instant::now() >= end {
            checks.expect(frames.holds(), || format!("frames: {}", frames.text()));
            checks.expect(tracks.holds(), || format!("recordings: {}", tracks.text()));
            println!("  frames:     {}", frames.text());
            println!("  recordings: {}", tracks.text());
            return Ok(metrics);
        }
        interrupt::sleep(Duration::from_millis(300))?;
    }
}

struct Frames {
    received: f64,
    track: f64,
    signalling: f64,
    rtcp: f64,
    passed: f64,
    dropped: f64,
    held: f64,
}

impl Frames {
    fn read(metrics: &Metrics) -> Result<Self> {
        let end = |label| metrics.sum("sidetone_frames_total", &[("end", label)]);
        Ok(Self {
            received: metrics.sum("sidetone_frames_received_total", &[])?,
            track: end("track")?,
            signalling: end("signalling")?,
            rtcp: end("rtcp")?,
            passed: end("passed")?,
            dropped: metrics.sum("sidetone_frames_dropped_total", &[])?,
            held: metrics.sum("sidetone_frames_held", &[])?,
        })
    }

    fn holds(&self) -> bool {
        // Counts below 2^53 are exact.
        self.received == self.track + self.signalling + self.rtcp + self.passed + self.dropped + self.held
            && self.received > 0.0
    }

    fn text(&self) -> String {
        format!(
            "{} received {} {} track + {} signalling + {} RTCP + {} passed + {} dropped + {} held",
            self.received,
            if self.holds() { "=" } else { "≠" },
            self.track,
            self.signalling,
            self.rtcp,
            self.passed,
            self.dropped,
            self.held
        )
    }
}

struct Tracks {
    packets: f64,
    encoded: f64,
    not_encoded: f64,
    lost: f64,
    waiting: f64,
}

impl Tracks {
    fn read(metrics: &Metrics) -> Result<Self> {
        let result = |label| metrics.sum("sidetone_track_packets_total", &[("result", label)]);
        let encoded = result("encoded")?;
        let lost = result("lost_to_encoder")? + result("lost_to_writer")?;
        Ok(Self {
            packets: metrics.sum("sidetone_frames_total", &[("end", "track")])?,
            encoded,
            lost,
            not_encoded: metrics.sum("sidetone_track_packets_total", &[])? - encoded - lost,
            waiting: metrics.sum("sidetone_track_packets_waiting", &[])?,
        })
    }

    fn holds(&self) -> bool {
        self.packets == self.encoded + self.not_encoded + self.lost + self.waiting
    }

    fn text(&self) -> String {
        format!(
            "{} packets on tracks {} {} encoded + {} duplicate, late or no audio + {} lost + {} waiting",
            self.packets,
            if self.holds() { "=" } else { "≠" },
            self.encoded,
            self.not_encoded,
            self.lost,
            self.waiting
        )
    }
}

/// The interface is captured by AF_XDP in native mode, by the status page's and the metrics' account.
pub(crate) fn check_native(recorder: &Recorder, checks: &mut Checks) -> Result<String> {
    let status = recorder.json("/api/v1/status")?;
    let mode = status["ports"][0]["mode"].as_str().context("the status has no port with a mode")?.to_owned();
    checks.expect(is_native(&mode), || {
        format!("captured by `{mode}` instead of AF_XDP native: {}", status["ports"][0]["fallback_reason"])
    });
    let metrics = recorder.metrics()?;
    let by_metric = metrics
        .samples("sidetone_capture_mode")
        .iter()
        .any(|sample| sample.value == 1.0 && sample.labels.get("mode").is_some_and(|label| is_native(label)));
    checks.expect(by_metric, || "the metric sidetone_capture_mode does not say AF_XDP native".to_owned());
    Ok(mode)
}

/// The status writes it for people and the metric as a label.
fn is_native(mode: &str) -> bool {
    let words: Vec<String> = mode
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.starts_with(&["af".to_owned(), "xdp".to_owned(), "native".to_owned()])
}

/// Total, longest and mean of what the wire had, for the figures that are printed.
pub(crate) fn wire_text(reference: &Reference) -> String {
    let packets: usize = reference.streams.values().map(|stream| stream.packets.len()).sum();
    let missing: u64 = reference.streams.values().map(Stream::missing).sum();
    format!(
        "{} frames on the mirror port: {} RTP streams with {packets} packets ({missing} missing by sequence), {} SIP, {} RTCP, {} other",
        reference.frames,
        reference.streams.len(),
        reference.sip_messages,
        reference.rtcp_packets,
        reference.other
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "sidetone_frames_received_total{interface=\"a\"} 20\n\
        sidetone_frames_total{interface=\"a\",end=\"track\"} 10\n\
        sidetone_frames_total{interface=\"a\",end=\"signalling\"} 4\n\
        sidetone_frames_total{interface=\"a\",end=\"rtcp\"} 1\n\
        sidetone_frames_total{interface=\"a\",end=\"passed\"} 0\n\
        sidetone_frames_dropped_total{interface=\"a\",stage=\"xdp\",reason=\"x\"} 3\n\
        sidetone_frames_held{interface=\"a\"} 2\n\
        sidetone_track_packets_total{result=\"encoded\"} 7\n\
        sidetone_track_packets_total{result=\"late\"} 1\n\
        sidetone_track_packets_total{result=\"lost_to_encoder\"} 1\n\
        sidetone_track_packets_total{result=\"lost_to_writer\"} 0\n\
        sidetone_track_packets_waiting 1\n";

    #[test]
    fn native_mode_is_recognised_in_both_spellings() {
        for mode in ["AF_XDP, native", "af_xdp_native_zero_copy"] {
            assert!(is_native(mode), "{mode}");
        }
        for mode in ["AF_XDP, generic", "af_packet", ""] {
            assert!(!is_native(mode), "{mode}");
        }
    }

    #[test]
    fn equations_hold_to_the_last_frame() {
        let metrics = Metrics::parse(METRICS).unwrap();
        assert!(Frames::read(&metrics).unwrap().holds());
        assert!(Tracks::read(&metrics).unwrap().holds());
        let metrics = Metrics::parse(&METRICS.replace("} 20", "} 21").replace("waiting 1", "waiting 2")).unwrap();
        assert!(!Frames::read(&metrics).unwrap().holds());
        assert!(!Tracks::read(&metrics).unwrap().holds());
    }

    #[test]
    fn recording_that_misses_a_stream_or_a_packet_fails() {
        let key = |source: &str| StreamKey {
            source: source.parse().unwrap(),
            destination: "10.0.0.9:9".parse().unwrap(),
            ssrc: 1,
        };
        let packet = sidetone_testkit::reference::Packet {
            time_ns: 0,
            sequence: 1,
            timestamp: 0,
            payload_type: 8,
            payload: vec![0; 160],
        };
        let mut reference = Reference::default();
        for source in ["10.0.0.1:1", "10.0.0.2:2"] {
            reference.streams.insert(key(source), Stream { packets: vec![packet.clone()] });
        }
        let track = |side: &str, source: &str, packets| Track {
            side: side.into(),
            duration_seconds: 0.02,
            lost_by_recorder: 0,
            streams: vec![TrackStream { key: key(source), packets, lost: 0, codec: String::new() }],
        };
        let recording = |tracks| Recording {
            id: String::new(),
            state: "complete".into(),
            started_at: String::new(),
            duration_seconds: 0.02,
            caller: String::new(),
            callee: String::new(),
            gaps: Vec::new(),
            tracks,
        };
        let failures = |tracks| {
            let mut checks = Checks::default();
            check_whole(&[recording(tracks)], &reference, &mut checks);
            checks.failures
        };
        let good = vec![track("near", "10.0.0.1:1", 1), track("far", "10.0.0.2:2", 1)];
        assert_eq!(failures(good), Vec::<String>::new());
        assert_eq!(failures(vec![track("near", "10.0.0.1:1", 1), track("far", "10.0.0.2:2", 2)]).len(), 1);
        // A side and its stream are missing.
        assert_eq!(failures(vec![track("near", "10.0.0.1:1", 1)]).len(), 2);
        // The same stream twice: also the other one is missing.
        assert_eq!(failures(vec![track("near", "10.0.0.1:1", 1), track("far", "10.0.0.1:1", 1)]).len(), 2);
    }
}
