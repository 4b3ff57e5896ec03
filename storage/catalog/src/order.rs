//! The order of all recordings, newest first, as keys.

use crate::Cursor;
use sidetone_model::{CaptureTime, Recording, RecordingId};

/// Bytes of the part of a key that says when: the complement of `started_at`.
pub(crate) const TIME_BYTES: usize = 8;
/// Bytes of a recording identifier (RFC 9562 §5.7) that repeat its start time in milliseconds.
const ID_TIME_BYTES: usize = 6;
const KEY_BYTES_MAX: usize = TIME_BYTES + 16;

/// Start time, newest first, and identifier: 18 bytes when the identifier begins with the start time, as all derived ones
/// do, else 24.
#[derive(Clone, Copy)]
pub(crate) struct OrderKey {
    bytes: [u8; KEY_BYTES_MAX],
    length: u8,
}

impl OrderKey {
    pub(crate) fn new(started_at: CaptureTime, recording: RecordingId) -> Self {
        let (id_time, id_rest) = recording.0.as_bytes().split_at(ID_TIME_BYTES);
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..TIME_BYTES].copy_from_slice(&time_key(started_at));
        let rest_end = TIME_BYTES + id_rest.len();
        bytes[TIME_BYTES..rest_end].copy_from_slice(id_rest);
        bytes[rest_end..].copy_from_slice(id_time);
        let is_derived = id_time == derived_time(started_at);
        Self { bytes, length: if is_derived { rest_end } else { KEY_BYTES_MAX } as u8 }
    }

    pub(crate) fn of(recording: &Recording) -> Self {
        Self::new(recording.started_at, recording.id)
    }

    /// What a key of the database means; `None` when it is none of these.
    pub(crate) fn parse(key: &[u8]) -> Option<(CaptureTime, RecordingId)> {
        let (time, rest) = key.split_first_chunk::<TIME_BYTES>()?;
        let started_at = parse_time(*time);
        let (id_rest, id_time) = rest.split_at_checked(16 - ID_TIME_BYTES)?;
        let mut id = [0; 16];
        match id_time.len() {
            0 => id[..ID_TIME_BYTES].copy_from_slice(&derived_time(started_at)),
            ID_TIME_BYTES => id[..ID_TIME_BYTES].copy_from_slice(id_time),
            _ => return None,
        }
        id[ID_TIME_BYTES..].copy_from_slice(id_rest);
        Some((started_at, RecordingId(uuid::Uuid::from_bytes(id))))
    }

    /// What all keys of the same start time begin with.
    pub(crate) fn time(&self) -> [u8; TIME_BYTES] {
        let mut time = [0; TIME_BYTES];
        time.copy_from_slice(&self.bytes[..TIME_BYTES]);
        time
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl From<Cursor> for OrderKey {
    fn from(cursor: Cursor) -> Self {
        Self::new(cursor.started_at, cursor.recording)
    }
}

/// Orders times newest first.
pub(crate) fn time_key(time: CaptureTime) -> [u8; TIME_BYTES] {
    (!time.0).to_be_bytes()
}

pub(crate) fn parse_time(key: [u8; TIME_BYTES]) -> CaptureTime {
    CaptureTime(!u64::from_be_bytes(key))
}

fn derived_time(started_at: CaptureTime) -> [u8; ID_TIME_BYTES] {
    let milliseconds = (started_at.0 / 1_000_000).to_be_bytes();
    let mut bytes = [0; ID_TIME_BYTES];
    bytes.copy_from_slice(&milliseconds[8 - ID_TIME_BYTES..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sidetone_model::Seed;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    proptest! {
        #[test]
        fn keys_order_by_time_and_tell_recordings_apart(
            recordings in proptest::collection::btree_set((0u64..4, 0u128..4, 0u128..4), 0..20)
        ) {
            let mut keys = BTreeMap::new();
            for (time, high, low) in recordings {
                let time = CaptureTime(time * 1_000_000);
                let id = RecordingId(Uuid::from_u128((high << 80) | low));
                let key = OrderKey::new(time, id);
                prop_assert_eq!(OrderKey::parse(key.as_bytes()), Some((time, id)));
                prop_assert!(keys.insert(key.as_bytes().to_vec(), time).is_none());
            }
            let times: Vec<CaptureTime> = keys.into_values().collect();
            prop_assert!(times.is_sorted_by(|newer, older| newer >= older));
        }
    }

    #[test]
    fn a_derived_identifier_makes_a_short_key() {
        let time = CaptureTime::from_seconds_nanos(1_700_000_000, 123_456_789);
        let id = RecordingId::derive(Seed([1; 16]), time, "a@b");
        assert_eq!(OrderKey::new(time, id).as_bytes().len(), 18);
        assert_eq!(OrderKey::new(CaptureTime(time.0 + 1_000_000), id).as_bytes().len(), 24);
        assert_eq!(OrderKey::parse(&[0; 17]), None);
        assert_eq!(OrderKey::parse(&[0; 20]), None);
    }
}
