//! The order of all recordings, newest first, as keys.

use crate::Cursor;
use sidetone_model::{CaptureTime, Recording, RecordingId};

/// Bytes of the part of a key that says when: the complement of the start time in milliseconds. A recording identifier
/// (RFC 9562 §5.7) begins with the same milliseconds.
pub(crate) const TIME_BYTES: usize = 6;
const KEY_BYTES_MAX: usize = TIME_BYTES + 16;
pub(crate) const NANOS_PER_MILLISECOND: u64 = 1_000_000;

/// A start time as it stands in keys: newest first, in milliseconds.
pub(crate) type TimeKey = [u8; TIME_BYTES];

/// Where a recording stands: start time, newest first, and the rest of its identifier. 16 bytes when the identifier begins
/// with the start time, as all derived ones do; else its own beginning follows, and there are 22.
#[derive(Clone, Copy)]
pub(crate) struct OrderKey {
    bytes: [u8; KEY_BYTES_MAX],
    length: u8,
}

impl OrderKey {
    pub(crate) fn new(started_at: CaptureTime, recording: RecordingId) -> Self {
        let (id_time, id_rest) = recording.0.as_bytes().split_at(TIME_BYTES);
        let mut bytes = [0; KEY_BYTES_MAX];
        let (time, rest) = bytes.split_at_mut(TIME_BYTES);
        time.copy_from_slice(&time_key(started_at));
        let is_derived = id_time.iter().zip(time).all(|(id, time)| *id == !*time);
        let (rest, own_time) = rest.split_at_mut(id_rest.len());
        rest.copy_from_slice(id_rest);
        own_time.copy_from_slice(id_time);
        Self { bytes, length: if is_derived { 16 } else { KEY_BYTES_MAX } as u8 }
    }

    pub(crate) fn of(recording: &Recording) -> Self {
        Self::new(recording.started_at, recording.id)
    }

    /// The key of a recording whose identifier begins with its start time.
    pub(crate) fn derived(recording: RecordingId) -> Self {
        let mut time = [0; 8];
        time[8 - TIME_BYTES..].copy_from_slice(&recording.0.as_bytes()[..TIME_BYTES]);
        // A time beyond what nanoseconds can say belongs to no recording, and so does what it saturates to.
        let nanos = u64::from_be_bytes(time).saturating_mul(NANOS_PER_MILLISECOND);
        Self::new(CaptureTime(nanos), recording)
    }

    /// What a key of the database means: the millisecond of the start, and the identifier. `None` when it is no such key.
    pub(crate) fn parse(key: &[u8]) -> Option<(CaptureTime, RecordingId)> {
        let (time, rest) = key.split_first_chunk::<TIME_BYTES>()?;
        let (id_rest, own_time) = rest.split_at_checked(16 - TIME_BYTES)?;
        let mut id = [0; 16];
        let (id_time, tail) = id.split_at_mut(TIME_BYTES);
        match own_time.len() {
            0 => id_time.iter_mut().zip(time).for_each(|(id, time)| *id = !*time),
            TIME_BYTES => id_time.copy_from_slice(own_time),
            _ => return None,
        }
        tail.copy_from_slice(id_rest);
        Some((parse_time(*time)?, RecordingId(uuid::Uuid::from_bytes(id))))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(crate) fn is_derived(&self) -> bool {
        usize::from(self.length) < KEY_BYTES_MAX
    }

    /// What all keys of the same millisecond begin with.
    pub(crate) fn time(&self) -> TimeKey {
        let mut time = [0; TIME_BYTES];
        time.copy_from_slice(&self.bytes[..TIME_BYTES]);
        time
    }
}

impl PartialEq for OrderKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl From<Cursor> for OrderKey {
    fn from(cursor: Cursor) -> Self {
        Self::new(cursor.started_at, cursor.recording)
    }
}

/// Orders times newest first.
pub(crate) fn time_key(time: CaptureTime) -> TimeKey {
    let milliseconds = (time.0 / NANOS_PER_MILLISECOND).to_be_bytes();
    let mut key = [0; TIME_BYTES];
    key.iter_mut().zip(&milliseconds[8 - TIME_BYTES..]).for_each(|(key, byte)| *key = !*byte);
    key
}

/// The beginning of the millisecond; `None` when nanoseconds cannot say it.
pub(crate) fn parse_time(key: TimeKey) -> Option<CaptureTime> {
    let mut milliseconds = [0; 8];
    milliseconds[8 - TIME_BYTES..].iter_mut().zip(key).for_each(|(byte, key)| *byte = !key);
    u64::from_be_bytes(milliseconds).checked_mul(NANOS_PER_MILLISECOND).map(CaptureTime)
}

/// The time behind this one; `None` behind the oldest.
pub(crate) fn behind(time: TimeKey) -> Option<TimeKey> {
    let earlier = parse_time(time)?.0.checked_sub(NANOS_PER_MILLISECOND)?;
    Some(time_key(CaptureTime(earlier)))
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
                let time = CaptureTime(time * NANOS_PER_MILLISECOND);
                let id = RecordingId(Uuid::from_u128((high << 80) | low));
                let key = OrderKey::new(time, id);
                prop_assert_eq!(OrderKey::parse(key.as_bytes()), Some((time, id)));
                prop_assert_eq!(key.is_derived(), key == OrderKey::derived(id));
                prop_assert!(keys.insert(key.as_bytes().to_vec(), time).is_none());
            }
            let times: Vec<CaptureTime> = keys.into_values().collect();
            prop_assert!(times.is_sorted_by(|newer, older| newer >= older));
        }

        #[test]
        fn any_bytes_as_a_key_are_refused_or_mean_themselves(key in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Some((time, id)) = OrderKey::parse(&key) {
                // A long key may say what a short one says; none is written.
                let again = OrderKey::new(time, id);
                prop_assert!(again.as_bytes() == key || again.as_bytes() == &key[..16]);
            }
        }
    }

    #[test]
    fn a_derived_identifier_makes_a_short_key() {
        let time = CaptureTime::from_seconds_nanos(1_700_000_000, 123_456_789);
        let id = RecordingId::derive(Seed([1; 16]), time, "a@b");
        assert_eq!(OrderKey::new(time, id).as_bytes().len(), 16);
        assert!(OrderKey::new(time, id) == OrderKey::derived(id));
        assert_eq!(OrderKey::new(CaptureTime(time.0 + NANOS_PER_MILLISECOND), id).as_bytes().len(), 22);
        assert_eq!(OrderKey::parse(&[0; 17]), None);
        assert_eq!(behind(time_key(CaptureTime(5))), None);
        assert_eq!(behind(time_key(time)), Some(time_key(CaptureTime(time.0 - NANOS_PER_MILLISECOND))));
    }

    #[test]
    fn the_last_instant_of_all_has_a_key() {
        let last = CaptureTime(u64::MAX);
        assert_eq!(
            parse_time(time_key(last)),
            Some(CaptureTime(u64::MAX / NANOS_PER_MILLISECOND * NANOS_PER_MILLISECOND))
        );
    }
}
