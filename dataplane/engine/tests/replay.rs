//! Generated captures through the whole data plane into a store: what comes out against the generator's truth.

use sidetone_callgen::{CallShape, Impairment, Options, Outcome, Ports, Side, Traffic, write_pcap};
use sidetone_calls::TrackerConfig;
use sidetone_capture::CaptureFile;
use sidetone_engine::{EngineConfig, EngineEvent, ReplaySummary, Setup, replay};
use sidetone_media::TrackConfig;
use sidetone_model::{NodeName, Recording, RecordingState, Seed, Tick, Track};
use sidetone_signalling::SipConfig;
use sidetone_store::{Store, StoreOptions, StoreReader};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct Replayed {
    truth: sidetone_callgen::Truth,
    summary: ReplaySummary,
    recordings: BTreeMap<String, Recording>,
    not_recorded: Vec<String>,
    reader: Arc<StoreReader>,
    _directory: tempfile::TempDir,
}

fn run(options: &Options) -> Replayed {
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("calls.pcap");
    let mut traffic = Traffic::new(options).unwrap();
    write_pcap(std::io::BufWriter::new(std::fs::File::create(&capture).unwrap()), traffic.by_ref()).unwrap();
    let node = NodeName("test".into());
    let store = Store::open(&directory.path().join("store"), &StoreOptions::new(node.clone())).unwrap();
    let heard: Arc<Mutex<Vec<EngineEvent>>> = Arc::default();
    let sink = heard.clone();
    let setup = Setup {
        engine: EngineConfig { max_streams: 4096, pre_roll_mib: 8, ..EngineConfig::default() },
        sip: SipConfig::default(),
        signalling_ports: vec![5060],
        tracker: TrackerConfig::new(node, Seed([7; 16])),
        track: TrackConfig::default(),
        events: Arc::new(move |event| sink.lock().unwrap().push(event)),
    };
    let (summary, store) = replay(&setup, CaptureFile::open(&capture).unwrap(), store, &mut |_| {}).unwrap();
    let (writer, keeper, reader, _) = store.split();
    keeper.close(writer).unwrap();
    let mut recordings = BTreeMap::new();
    let mut not_recorded = Vec::new();
    for event in heard.lock().unwrap().drain(..) {
        match event {
            EngineEvent::RecordingCompleted(recording) => {
                let stored = reader.recording(recording.id).unwrap().expect("a completed recording is in the catalog");
                assert!(stored.proof.is_some(), "a replay ends with everything sealed");
                let told = Recording { proof: None, ..stored.clone() };
                assert!(told == *recording, "the catalog tells what the event told");
                let previous = recordings.insert(stored.legs[0].call_id.clone(), stored);
                assert!(previous.is_none(), "a recording is completed once");
            }
            EngineEvent::NotRecorded { call_id, .. } => not_recorded.push(call_id.to_string()),
            _ => {}
        }
    }
    Replayed { truth: traffic.into_truth(), summary, recordings, not_recorded, reader, _directory: directory }
}

impl Replayed {
    /// Every call of the truth is a recording with its streams, packets and losses, or is listed as not recorded.
    fn holds(&self) {
        let packets = &self.summary.packets;
        let ends = packets.track + packets.signalling + packets.rtcp + packets.dropped.values().sum::<u64>();
        assert_eq!(packets.received, ends);
        assert_eq!(packets.received, self.truth.frames);
        assert_eq!(packets.track, packets.on_tracks.values().sum::<u64>(), "{packets:?}");
        assert_eq!(self.summary.calls_seen, self.truth.calls.len() as u64);
        for call in &self.truth.calls {
            match self.recordings.get(&call.call_id) {
                Some(recording) => self.is_call(recording, call),
                None => {
                    assert!(!call.is_recordable, "{} ({:?}) was not recorded", call.call_id, call.shape);
                    assert!(self.not_recorded.contains(&call.call_id), "{} is not accounted for", call.call_id);
                }
            }
        }
        let recordable = self.truth.calls.iter().filter(|call| call.is_recordable).count();
        assert_eq!(self.recordings.len(), recordable);
    }

    fn is_call(&self, recording: &Recording, call: &sidetone_callgen::CallTruth) {
        let what = format!("{} {:?}", call.call_id, call.shape);
        assert!(call.is_recordable, "{what} was recorded");
        assert_eq!(recording.state, RecordingState::Complete, "{what}");
        let close = |a: Option<sidetone_model::CaptureTime>, b: Option<sidetone_model::CaptureTime>| match (a, b) {
            (Some(a), Some(b)) => a.signed_nanos_since(b).unsigned_abs() <= 50_000_000,
            (a, b) => a == b,
        };
        if !call.shape.in_progress {
            assert!(close(recording.answered_at, call.answered_at), "{what}: {:?}", recording.answered_at);
        }
        assert_eq!(recording.parties[0].number, call.caller_number, "{what}");
        assert_eq!(recording.parties[1].number, call.callee_number, "{what}");
        for stream in &call.streams {
            let track = &recording.tracks[if stream.side == Side::Caller { 0 } else { 1 }];
            let found = track
                .streams
                .iter()
                .find(|s| s.ssrc == stream.ssrc && s.source == stream.source && s.destination == stream.destination)
                .unwrap_or_else(|| panic!("{what}: stream {} is in no track", stream.ssrc));
            assert_eq!((found.packets, found.lost), (stream.packets, stream.lost), "{what}");
            assert_eq!(found.duplicates, stream.duplicates, "{what}");
        }
        for track in &recording.tracks {
            self.is_audio(recording, track, &what);
        }
    }

    /// The chunks of a track are in grid order, do not overlap, and hold what the track's figures say.
    fn is_audio(&self, recording: &Recording, track: &Track, what: &str) {
        let mut next = Tick(0);
        let (mut first, mut packets) = (None, 0u64);
        for chunk in self.reader.chunks(recording.id, track.id, Tick(0)..Tick(u64::MAX)).unwrap() {
            let header = chunk.unwrap().header;
            assert!(header.first_tick >= next, "{what}: chunks overlap");
            first.get_or_insert(header.first_tick);
            next = Tick(header.first_tick.0 + u64::from(header.ticks));
            packets += u64::from(header.packets);
        }
        let spanned = (next.0 - first.map_or(0, |tick| tick.0)) as f64 * 0.02;
        assert!(
            (spanned - track.duration_seconds).abs() <= 0.041,
            "{what}: {spanned} s, said {}",
            track.duration_seconds
        );
        let received: u64 = track.streams.iter().map(|s| s.packets - s.duplicates - s.late).sum();
        assert_eq!(packets, received, "{what}: packets in chunks");
    }
}

#[test]
fn every_kind_of_call_is_recorded_as_the_generator_made_it() {
    let shapes = CallShape::variety();
    run(&Options { seed: 11, calls: shapes.len() * 2, shapes, talk: Duration::from_secs(12), ..Options::default() })
        .holds();
}

#[test]
fn many_calls_on_one_port_are_told_apart_by_ssrc() {
    run(&Options { seed: 12, calls: 20, ports: Ports::One, ramp: Duration::from_secs(2), ..Options::default() })
        .holds();
}

#[test]
fn loss_duplicates_and_reordering_are_counted_as_the_network_s() {
    let impairment = Impairment { loss: 0.05, duplicates: 0.02, reordering: 0.02, jitter_ms: 4.0 };
    let replayed = run(&Options { seed: 13, calls: 6, impairment, ..Options::default() });
    replayed.holds();
    for recording in replayed.recordings.values() {
        for track in &recording.tracks {
            assert!(track.losses.network > 0 && track.losses.by_recorder() == 0);
            assert!(track.concealed_seconds > 0.0);
        }
    }
}

#[test]
fn ipv6_and_vlan_tags_make_no_difference() {
    run(&Options { seed: 14, calls: 4, ipv6: true, vlans: vec![100, 20], ..Options::default() }).holds();
}

#[test]
fn an_hour_with_drifting_phone_clocks_keeps_the_tracks_in_step() {
    // 100 ppm over 20 minutes would put them 240 ms apart.
    let replayed = run(&Options {
        seed: 15,
        calls: 1,
        talk: Duration::from_secs(1200),
        clock_drift_ppm: 100.0,
        ..Options::default()
    });
    let recording = replayed.recordings.values().next().unwrap();
    let call = &replayed.truth.calls[0];
    for (track, side) in recording.tracks.iter().zip([Side::Caller, Side::Callee]) {
        let stream = call.streams.iter().find(|stream| stream.side == side).unwrap();
        let wire = stream.last_packet_at.since(stream.first_packet_at).as_secs_f64() + 0.02;
        assert!(
            (track.duration_seconds - wire).abs() <= 0.04,
            "{} s on the track, {wire} s on the wire",
            track.duration_seconds
        );
    }
}

#[test]
fn the_result_depends_on_the_capture_alone() {
    let shapes = CallShape::variety();
    let options = Options { seed: 16, calls: shapes.len(), shapes, ..Options::default() };
    let (first, second) = (run(&options), run(&options));
    assert_eq!(first.recordings, second.recordings);
    assert_eq!(first.summary, second.summary);
    assert!(first.truth.calls.iter().any(|call| call.shape.outcome == Outcome::Cancelled));
}
