//! Identifiers. They are derived, never drawn: the same capture replayed twice names the same recordings.

use crate::CaptureTime;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// What makes the identifiers of one source of calls its own: the digest of a capture file, or random
/// bytes drawn when a live capture starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(pub [u8; 16]);

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_newtype! {
    /// A recording: the unit of search, playback, retention and keys. Ordered by start time.
    RecordingId
}
uuid_newtype! {
    /// One conversation as a person would tell it, over several calls and legs.
    ConversationId
}

impl RecordingId {
    /// A UUID of version 7 (RFC 9562 §5.7) whose time is `started_at` and whose remaining 74 bits are a
    /// digest of the seed, the exact time and the first leg's call reference.
    pub fn derive(seed: Seed, started_at: CaptureTime, call_reference: &str) -> Self {
        Self(derive_uuid(b"recording", seed, started_at, call_reference))
    }
}

impl ConversationId {
    /// As [`RecordingId::derive`], from a domain of its own.
    pub fn derive(seed: Seed, started_at: CaptureTime, call_reference: &str) -> Self {
        Self(derive_uuid(b"conversation", seed, started_at, call_reference))
    }
}

fn derive_uuid(what: &[u8], seed: Seed, started_at: CaptureTime, call_reference: &str) -> Uuid {
    let mut digest = Sha256::new();
    for part in [what, &seed.0, &started_at.0.to_le_bytes(), call_reference.as_bytes()] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut random = [0u8; 10];
    random.copy_from_slice(&digest[..10]);
    uuid::Builder::from_unix_timestamp_millis(started_at.0 / 1_000_000, &random).into_uuid()
}

/// A track within its recording, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrackId(pub u8);

/// The name of the appliance that made a recording.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeName(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_depend_on_every_input_and_order_by_time() {
        let seed = Seed([1; 16]);
        let time = CaptureTime::from_seconds_nanos(1_700_000_000, 5);
        let id = RecordingId::derive(seed, time, "a@b");
        assert_eq!(id, RecordingId::derive(seed, time, "a@b"));
        assert_ne!(id, RecordingId::derive(Seed([2; 16]), time, "a@b"));
        assert_ne!(id, RecordingId::derive(seed, CaptureTime(time.0 + 1), "a@b"));
        assert_ne!(id, RecordingId::derive(seed, time, "a@c"));
        assert_ne!(id.0, ConversationId::derive(seed, time, "a@b").0);
        assert!(id < RecordingId::derive(seed, CaptureTime(time.0 + 2_000_000), "a@b"));
        assert_eq!(id.0.get_version_num(), 7);
    }
}
