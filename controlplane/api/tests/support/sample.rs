//! Recordings made up for tests, shared by the unit tests, the HTTP tests and the sample server.

use sidetone_model::{
    CaptureTime, ConversationId, EndReason, Gap, Leg, Losses, NodeName, Party, PartyRole, Recording, RecordingId,
    RecordingState, SCHEMA_VERSION, Seed, Side, Stream, Track, TrackId, TrackKind,
};

/// A recording with a value in every field, told apart by `number`.
pub(crate) fn recording(number: u64) -> Recording {
    let at = |seconds| CaptureTime::from_seconds_nanos(1_790_000_000 + 60 * number + seconds, 5);
    let call_id = format!("call-{number}@example.org");
    let stream = Stream {
        domain: "vlan 100".into(),
        ssrc: "0xd2bd4e3e".into(),
        source: "192.0.2.1:4000".into(),
        destination: "192.0.2.2:5000".into(),
        codec: "PCMA/8000".into(),
        from: at(2),
        to: at(30),
        packets: 1400,
        lost: 0,
        duplicates: 0,
        reordered: 0,
        late: 0,
        jitter_ms_mean: 0.2,
        jitter_ms_max: 1.5,
    };
    let track = |id, side| Track {
        id: TrackId(id),
        party: Some(id),
        side,
        kind: TrackKind::Audio,
        encrypted: false,
        decodable: true,
        start_offset_seconds: 0.0,
        duration_seconds: 28.0,
        concealed_seconds: 0.0,
        losses: Losses::default(),
        streams: vec![stream.clone()],
    };
    let party = |id, role, digits: &str, name: &str| Party {
        id,
        role,
        number: digits.into(),
        name: name.into(),
        address: format!("192.0.2.{}:5060", id + 1),
        joined_at: at(0),
        left_at: Some(at(30)),
    };
    Recording {
        schema: SCHEMA_VERSION,
        annotations: Default::default(),
        proof: None,
        id: RecordingId::derive(Seed([7; 16]), at(0), &call_id),
        node: NodeName("test".into()),
        conversation_id: ConversationId::derive(Seed([7; 16]), at(0), &call_id),
        state: RecordingState::Complete,
        started_at: at(0),
        answered_at: Some(at(2)),
        ended_at: Some(at(30)),
        duration_seconds: 28.0,
        end_reason: Some(EndReason::CallerHungUp),
        users: vec!["alice".into()],
        gaps: vec![Gap { from: at(5), to: Some(at(6)), reason: "restart".into() }],
        pauses: vec![],
        legs: vec![Leg {
            protocol: "sip".into(),
            call_id,
            from: "sip:alice@example.org".into(),
            to: "sip:bob@example.org".into(),
            started_at: at(0),
            answered_at: Some(at(2)),
            ended_at: Some(at(30)),
            end_reason: Some(EndReason::CallerHungUp),
        }],
        parties: vec![party(0, PartyRole::Caller, "4930123", "Alice"), party(1, PartyRole::Callee, "4930456", "Bob")],
        tracks: vec![track(0, Side::Near), track(1, Side::Far)],
    }
}
