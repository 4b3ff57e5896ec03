//! Recording documents and annotations as bytes. docs/formats.md says the same in tables.
//!
//! Constraints: what is read back is what was written. A field that is added to the model does not compile here until it is
//! written too: then [`LAYOUT`] goes up, and it is read where the layout says that it is there.

use crate::bytes::{Reader, Writer};
use sidetone_model::{
    Annotations, CaptureTime, ConversationId, EndReason, Gap, Hold, Leg, Losses, NodeName, Party, PartyRole, Recording,
    RecordingId, RecordingState, Retention, Side, Stream, Track, TrackId, TrackKind,
};
use uuid::Uuid;

/// How rows are laid out. A row of a later layout is refused; earlier ones stay readable.
pub(crate) const LAYOUT: u8 = 1;

/// Bytes of an identifier (RFC 9562 §5.7) that repeat a time in milliseconds.
const ID_TIME_BYTES: usize = 6;

/// The instants of a document near which its other times lie.
#[derive(Clone, Copy)]
struct Anchors {
    started_at: CaptureTime,
    answered_at: Option<CaptureTime>,
    ended_at: Option<CaptureTime>,
}

/// How a time is written, in the low three bits of a number.
mod time_kind {
    pub(super) const ABSENT: u128 = 0;
    pub(super) const AT_START: u128 = 1;
    pub(super) const AT_ANSWER: u128 = 2;
    pub(super) const AT_END: u128 = 3;
    /// The bits above are the distance in nanoseconds, with the sign in the lowest.
    pub(super) const NEAR_START: u128 = 4;
    pub(super) const NEAR_ANSWER: u128 = 5;
    pub(super) const NEAR_END: u128 = 6;
}

impl Anchors {
    /// Exactly at an anchor, or at a distance from it; the anchor itself where it is known.
    fn list(self) -> [(u128, u128, Option<CaptureTime>); 3] {
        [
            (time_kind::AT_START, time_kind::NEAR_START, Some(self.started_at)),
            (time_kind::AT_ANSWER, time_kind::NEAR_ANSWER, self.answered_at),
            (time_kind::AT_END, time_kind::NEAR_END, self.ended_at),
        ]
    }

    fn write(self, writer: &mut Writer, time: Option<CaptureTime>) {
        let Some(time) = time else { return writer.number(time_kind::ABSENT) };
        let anchors = self.list().into_iter().filter_map(|(at, near, anchor)| Some((at, near, anchor?)));
        let nearest = anchors.min_by_key(|(.., anchor)| anchor.0.abs_diff(time.0));
        let (at, near, anchor) = nearest.expect("the start is always known");
        if anchor == time {
            writer.number(at);
        } else {
            writer.number(zigzag(anchor.0, time.0) << 3 | near);
        }
    }

    fn read(self, reader: &mut Reader<'_>) -> Option<Option<CaptureTime>> {
        let number = reader.wide_number()?;
        if number == time_kind::ABSENT {
            return Some(None);
        }
        for (at, near, anchor) in self.list() {
            if number == at {
                return Some(Some(anchor?));
            }
            if number & 7 == near {
                return Some(Some(CaptureTime(unzigzag(anchor?.0, number >> 3)?)));
            }
        }
        None
    }

    fn read_present(self, reader: &mut Reader<'_>) -> Option<CaptureTime> {
        self.read(reader)?
    }
}

/// Distance from `base` to `value`, with the sign in the lowest bit.
pub(crate) fn zigzag(base: u64, value: u64) -> u128 {
    u128::from(base.abs_diff(value)) << 1 | u128::from(value < base)
}

pub(crate) fn unzigzag(base: u64, distance: u128) -> Option<u64> {
    let magnitude = u64::try_from(distance >> 1).ok()?;
    if distance & 1 == 0 { base.checked_add(magnitude) } else { base.checked_sub(magnitude) }
}

/// What is read of a document before it is read as a whole.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Glance {
    pub(crate) state: RecordingState,
    pub(crate) started_at: CaptureTime,
    pub(crate) duration_seconds: f64,
}

impl Glance {
    pub(crate) fn of(recording: &Recording) -> Self {
        let Recording { state, started_at, duration_seconds, .. } = *recording;
        Self { state, started_at, duration_seconds }
    }

    /// `started` is the millisecond that stands in the key.
    pub(crate) fn write(&self, writer: &mut Writer, started: CaptureTime) {
        writer.byte(state_code(self.state));
        writer.number(self.started_at.0 - started.0);
        writer.seconds(self.duration_seconds);
    }

    pub(crate) fn read(reader: &mut Reader<'_>, started: CaptureTime) -> Option<Self> {
        Some(Self {
            state: parse_state(reader.byte()?)?,
            started_at: CaptureTime(started.0.checked_add(reader.number()?)?),
            duration_seconds: reader.seconds()?,
        })
    }
}

/// Everything but what its [`Glance`] says, `id`, which stands in the key, and `annotations` and `proof`, which are not the
/// document's.
pub(crate) fn write_document(writer: &mut Writer, recording: &Recording) {
    let Recording {
        schema,
        id: _,
        node,
        conversation_id,
        state: _,
        started_at,
        answered_at,
        ended_at,
        duration_seconds: _,
        end_reason,
        users,
        gaps,
        pauses,
        legs,
        parties,
        tracks,
        annotations: _,
        proof: _,
    } = recording;
    let start = Anchors { started_at: *started_at, answered_at: None, ended_at: None };
    start.write(writer, *answered_at);
    start.write(writer, *ended_at);
    let anchors = Anchors { answered_at: *answered_at, ended_at: *ended_at, ..start };
    writer.byte(end_reason_code(*end_reason));
    writer.number(*schema);
    writer.text(&node.0);
    write_conversation(writer, *conversation_id, *started_at);
    writer.number(users.len() as u64);
    users.iter().for_each(|user| writer.text(user));
    for gaps in [gaps, pauses] {
        writer.number(gaps.len() as u64);
        for Gap { from, to, reason } in gaps {
            anchors.write(writer, Some(*from));
            anchors.write(writer, *to);
            writer.text(reason);
        }
    }
    writer.number(legs.len() as u64);
    legs.iter().for_each(|leg| write_leg(writer, anchors, leg));
    writer.number(parties.len() as u64);
    parties.iter().for_each(|party| write_party(writer, anchors, party));
    writer.number(tracks.len() as u64);
    tracks.iter().for_each(|track| write_track(writer, anchors, track));
}

/// `None` when the bytes are no document.
pub(crate) fn read_document(reader: &mut Reader<'_>, layout: u8, id: RecordingId, glance: Glance) -> Option<Recording> {
    debug_assert!(layout <= LAYOUT);
    let Glance { state, started_at, duration_seconds } = glance;
    let start = Anchors { started_at, answered_at: None, ended_at: None };
    let answered_at = start.read(reader)?;
    let ended_at = start.read(reader)?;
    let anchors = Anchors { answered_at, ended_at, ..start };
    let end_reason = parse_end_reason(reader.byte()?)?;
    let schema = reader.number()?;
    let node = NodeName(reader.text()?);
    let conversation_id = read_conversation(reader, started_at)?;
    let users = read_list(reader, Reader::text)?;
    let gap = |reader: &mut Reader<'_>| {
        Some(Gap { from: anchors.read_present(reader)?, to: anchors.read(reader)?, reason: reader.text()? })
    };
    Some(Recording {
        schema,
        id,
        node,
        conversation_id,
        state,
        started_at,
        answered_at,
        ended_at,
        duration_seconds,
        end_reason,
        users,
        gaps: read_list(reader, gap)?,
        pauses: read_list(reader, gap)?,
        legs: read_list(reader, |reader| read_leg(reader, anchors))?,
        parties: read_list(reader, |reader| read_party(reader, anchors))?,
        tracks: read_list(reader, |reader| read_track(reader, anchors))?,
        annotations: Annotations::default(),
        proof: None,
    })
}

/// A count, and so many things. Each is at least one byte long; memory is taken as they come.
fn read_list<'a, T>(reader: &mut Reader<'a>, mut read: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let count = reader.count()?;
    (0..count).map(|_| read(reader)).collect()
}

fn write_conversation(writer: &mut Writer, conversation: ConversationId, started_at: CaptureTime) {
    let (time, rest) = conversation.0.as_bytes().split_at(ID_TIME_BYTES);
    let is_derived = time == &started_at_bytes(started_at)[..];
    writer.byte(is_derived.into());
    if !is_derived {
        writer.bytes(time);
    }
    writer.bytes(rest);
}

fn read_conversation(reader: &mut Reader<'_>, started_at: CaptureTime) -> Option<ConversationId> {
    let mut id = [0; 16];
    let (time, rest) = id.split_at_mut(ID_TIME_BYTES);
    match reader.byte()? {
        0 => time.copy_from_slice(reader.bytes(ID_TIME_BYTES)?),
        1 => time.copy_from_slice(&started_at_bytes(started_at)),
        _ => return None,
    }
    rest.copy_from_slice(reader.bytes(rest.len())?);
    Some(ConversationId(Uuid::from_bytes(id)))
}

/// The time that a derived identifier begins with.
fn started_at_bytes(started_at: CaptureTime) -> [u8; ID_TIME_BYTES] {
    let mut bytes = [0; ID_TIME_BYTES];
    bytes.copy_from_slice(&(started_at.0 / 1_000_000).to_be_bytes()[8 - ID_TIME_BYTES..]);
    bytes
}

fn write_leg(writer: &mut Writer, anchors: Anchors, leg: &Leg) {
    let Leg { protocol, call_id, from, to, started_at, answered_at, ended_at, end_reason } = leg;
    [protocol, call_id, from, to].into_iter().for_each(|text| writer.text(text));
    anchors.write(writer, Some(*started_at));
    anchors.write(writer, *answered_at);
    anchors.write(writer, *ended_at);
    writer.byte(end_reason_code(*end_reason));
}

fn read_leg(reader: &mut Reader<'_>, anchors: Anchors) -> Option<Leg> {
    Some(Leg {
        protocol: reader.text()?,
        call_id: reader.text()?,
        from: reader.text()?,
        to: reader.text()?,
        started_at: anchors.read_present(reader)?,
        answered_at: anchors.read(reader)?,
        ended_at: anchors.read(reader)?,
        end_reason: parse_end_reason(reader.byte()?)?,
    })
}

fn write_party(writer: &mut Writer, anchors: Anchors, party: &Party) {
    let Party { id, role, number, name, address, joined_at, left_at } = party;
    writer.byte(*id);
    writer.byte(match role {
        PartyRole::Caller => 0,
        PartyRole::Callee => 1,
    });
    [number, name, address].into_iter().for_each(|text| writer.text(text));
    anchors.write(writer, Some(*joined_at));
    anchors.write(writer, *left_at);
}

fn read_party(reader: &mut Reader<'_>, anchors: Anchors) -> Option<Party> {
    Some(Party {
        id: reader.byte()?,
        role: match reader.byte()? {
            0 => PartyRole::Caller,
            1 => PartyRole::Callee,
            _ => return None,
        },
        number: reader.text()?,
        name: reader.text()?,
        address: reader.text()?,
        joined_at: anchors.read_present(reader)?,
        left_at: anchors.read(reader)?,
    })
}

/// Bits of a track's byte of properties. Side in the two lowest, kind in the four highest.
const TRACK_ENCRYPTED: u8 = 1 << 2;
const TRACK_DECODABLE: u8 = 1 << 3;

fn write_track(writer: &mut Writer, anchors: Anchors, track: &Track) {
    let Track {
        id,
        party,
        side,
        kind: TrackKind::Audio,
        encrypted,
        decodable,
        start_offset_seconds,
        duration_seconds,
        concealed_seconds,
        losses: Losses { network, capture, encoder, writer: by_writer },
        streams,
    } = track;
    let side = match side {
        Side::Near => 0,
        Side::Far => 1,
        Side::Mixed => 2,
    };
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    writer.byte(side | flag(*encrypted, TRACK_ENCRYPTED) | flag(*decodable, TRACK_DECODABLE));
    writer.byte(id.0);
    writer.number(party.map_or(0, |party| u32::from(party) + 1));
    [start_offset_seconds, duration_seconds, concealed_seconds].into_iter().for_each(|&value| writer.seconds(value));
    [network, capture, encoder, by_writer].into_iter().for_each(|&packets| writer.number(packets));
    writer.number(streams.len() as u64);
    streams.iter().for_each(|stream| write_stream(writer, anchors, stream));
}

fn read_track(reader: &mut Reader<'_>, anchors: Anchors) -> Option<Track> {
    let properties = reader.byte()?;
    let side = match properties & 3 {
        0 => Side::Near,
        1 => Side::Far,
        2 => Side::Mixed,
        _ => return None,
    };
    if properties >> 4 != 0 {
        return None;
    }
    Some(Track {
        id: TrackId(reader.byte()?),
        party: match reader.number::<u32>()? {
            0 => None,
            party => Some(u8::try_from(party - 1).ok()?),
        },
        side,
        kind: TrackKind::Audio,
        encrypted: properties & TRACK_ENCRYPTED != 0,
        decodable: properties & TRACK_DECODABLE != 0,
        start_offset_seconds: reader.seconds()?,
        duration_seconds: reader.seconds()?,
        concealed_seconds: reader.seconds()?,
        losses: Losses {
            network: reader.number()?,
            capture: reader.number()?,
            encoder: reader.number()?,
            writer: reader.number()?,
        },
        streams: read_list(reader, |reader| read_stream(reader, anchors))?,
    })
}

fn write_stream(writer: &mut Writer, anchors: Anchors, stream: &Stream) {
    let Stream {
        domain,
        ssrc,
        source,
        destination,
        codec,
        from,
        to,
        packets,
        lost,
        duplicates,
        reordered,
        late,
        jitter_ms_mean,
        jitter_ms_max,
    } = stream;
    [domain, codec, source, destination, ssrc].into_iter().for_each(|text| writer.text(text));
    anchors.write(writer, Some(*from));
    anchors.write(writer, Some(*to));
    [packets, lost, duplicates, reordered, late].into_iter().for_each(|&packets| writer.number(packets));
    writer.seconds(*jitter_ms_mean);
    writer.seconds(*jitter_ms_max);
}

fn read_stream(reader: &mut Reader<'_>, anchors: Anchors) -> Option<Stream> {
    let [domain, codec, source, destination, ssrc] =
        [reader.text()?, reader.text()?, reader.text()?, reader.text()?, reader.text()?];
    Some(Stream {
        domain,
        ssrc,
        source,
        destination,
        codec,
        from: anchors.read_present(reader)?,
        to: anchors.read_present(reader)?,
        packets: reader.number()?,
        lost: reader.number()?,
        duplicates: reader.number()?,
        reordered: reader.number()?,
        late: reader.number()?,
        jitter_ms_mean: reader.seconds()?,
        jitter_ms_max: reader.seconds()?,
    })
}

/// `base` is a time near which the others lie: the start of the recording, where it is known.
pub(crate) fn write_annotations(writer: &mut Writer, annotations: &Annotations, base: CaptureTime) {
    let Annotations { tags, hold, retention } = annotations;
    writer.number(tags.len() as u64);
    for (key, value) in tags {
        writer.text(key);
        writer.text(value);
    }
    writer.byte(hold.is_some().into());
    if let Some(Hold { reason, by, at }) = hold {
        writer.text(reason);
        writer.text(by);
        writer.number(zigzag(base.0, at.0));
    }
    writer.byte(retention.is_some().into());
    if let Some(Retention { class, expires_at }) = retention {
        writer.text(class);
        writer.byte(expires_at.is_some().into());
        if let Some(expires_at) = expires_at {
            writer.number(zigzag(base.0, expires_at.0));
        }
    }
}

pub(crate) fn read_annotations(reader: &mut Reader<'_>, base: CaptureTime) -> Option<Annotations> {
    let time = |reader: &mut Reader<'_>| unzigzag(base.0, reader.wide_number()?).map(CaptureTime);
    let tags = read_list(reader, |reader| Some((reader.text()?, reader.text()?)))?.into_iter().collect();
    let hold = match reader.byte()? {
        0 => None,
        1 => Some(Hold { reason: reader.text()?, by: reader.text()?, at: time(reader)? }),
        _ => return None,
    };
    let retention = match reader.byte()? {
        0 => None,
        1 => {
            let class = reader.text()?;
            let expires_at = match reader.byte()? {
                0 => None,
                1 => Some(time(reader)?),
                _ => return None,
            };
            Some(Retention { class, expires_at })
        }
        _ => return None,
    };
    Some(Annotations { tags, hold, retention })
}

pub(crate) fn state_code(state: RecordingState) -> u8 {
    match state {
        RecordingState::Active => 1,
        RecordingState::Complete => 2,
        RecordingState::Incomplete => 3,
    }
}

pub(crate) fn parse_state(code: u8) -> Option<RecordingState> {
    match code {
        1 => Some(RecordingState::Active),
        2 => Some(RecordingState::Complete),
        3 => Some(RecordingState::Incomplete),
        _ => None,
    }
}

fn end_reason_code(reason: Option<EndReason>) -> u8 {
    match reason {
        None => 0,
        Some(EndReason::CallerHungUp) => 1,
        Some(EndReason::CalleeHungUp) => 2,
        Some(EndReason::Released) => 3,
        Some(EndReason::Cancelled) => 4,
        Some(EndReason::Failed) => 5,
        Some(EndReason::SessionExpired) => 6,
        Some(EndReason::MediaSilence) => 7,
        Some(EndReason::Replaced) => 8,
        Some(EndReason::CaptureEnd) => 9,
    }
}

fn parse_end_reason(code: u8) -> Option<Option<EndReason>> {
    Some(match code {
        0 => None,
        1 => Some(EndReason::CallerHungUp),
        2 => Some(EndReason::CalleeHungUp),
        3 => Some(EndReason::Released),
        4 => Some(EndReason::Cancelled),
        5 => Some(EndReason::Failed),
        6 => Some(EndReason::SessionExpired),
        7 => Some(EndReason::MediaSilence),
        8 => Some(EndReason::Replaced),
        9 => Some(EndReason::CaptureEnd),
        _ => return None,
    })
}
