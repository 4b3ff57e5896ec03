//! The capture clock and the 20 ms grid on which all audio lies.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Length of one grid step in nanoseconds: 20 ms, one Opus packet.
pub const NANOS_PER_TICK: u64 = 20_000_000;

/// Nanoseconds since the Unix epoch (UTC), as seen by the capture clock, which never steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, format = DateTime))]
pub struct CaptureTime(pub u64);

impl CaptureTime {
    pub const ZERO: Self = Self(0);

    /// `seconds` and `nanos` as capture files store them; garbage saturates instead of wrapping.
    pub fn from_seconds_nanos(seconds: u64, nanos: u64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Signed distance `self − other` in nanoseconds, saturating.
    pub fn signed_nanos_since(self, other: Self) -> i64 {
        if self.0 >= other.0 {
            i64::try_from(self.0 - other.0).unwrap_or(i64::MAX)
        } else {
            i64::try_from(other.0 - self.0).map_or(i64::MIN, |n| -n)
        }
    }

    /// The grid step that contains this instant.
    pub fn tick(self) -> Tick {
        Tick(self.0 / NANOS_PER_TICK)
    }

    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for CaptureTime {
    /// RFC 3339, UTC, nine digits of fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => write!(f, "{timestamp:.9}"),
            Err(_) => f.write_str("9999-12-31T23:59:59.999999999Z"),
        }
    }
}

impl fmt::Debug for CaptureTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CaptureTime {
    type Err = String;

    /// Reads an RFC 3339 time with any offset; times before 1970 are refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let timestamp: jiff::Timestamp =
            text.parse().map_err(|error| format!("'{text}' is not an RFC 3339 time: {error}"))?;
        u64::try_from(timestamp.as_nanosecond()).map(Self).map_err(|_negative| format!("'{text}' lies before 1970"))
    }
}

impl Serialize for CaptureTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CaptureTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = CaptureTime;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<CaptureTime, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Index of a 20 ms grid step since the Unix epoch. All tracks of all recordings share this grid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Tick(pub u64);

impl Tick {
    /// The instant at which this grid step begins.
    pub fn start(self) -> CaptureTime {
        CaptureTime(self.0.saturating_mul(NANOS_PER_TICK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn time_is_written_with_nine_digits() {
        let time = CaptureTime::from_seconds_nanos(1_105_725_482, 965_944_000);
        assert_eq!(time.to_string(), "2005-01-14T17:58:02.965944000Z");
    }

    proptest! {
        #[test]
        fn text_form_round_trips(nanos in 0..253_370_764_800_000_000_000u128) {
            let time = CaptureTime(u64::try_from(nanos.min(u128::from(u64::MAX))).unwrap());
            prop_assert_eq!(time.to_string().parse::<CaptureTime>().unwrap(), time);
        }

        #[test]
        fn a_tick_contains_its_instants(nanos in any::<u64>()) {
            let tick = CaptureTime(nanos).tick();
            prop_assert!(tick.start().0 <= nanos && nanos - tick.start().0 < NANOS_PER_TICK);
        }
    }
}
