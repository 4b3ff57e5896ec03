//! Times as the appliance writes them.

use anyhow::{Context, Result, bail};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch.
pub fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

pub fn now_ns() -> u64 {
    nanos(SystemTime::now())
}

/// Nanoseconds since the Unix epoch of an RFC 3339 time in UTC.
///
/// # Errors
/// When it is in another form, or before 1970.
pub fn parse(text: &str) -> Result<u64> {
    let parse = || {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let mut clock = clock.split(':').map(|part| part.parse::<u64>().ok());
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        let fraction: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        // Days since 1970-01-01 in the Gregorian calendar, with years that begin in March.
        let shifted = year.checked_sub(u64::from(month <= 2))?;
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
        let days = (365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year).checked_sub(719_468)?;
        Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + fraction)
    };
    if text.len() < 20 || !text.is_ascii() {
        bail!("'{text}' is no time");
    }
    parse().with_context(|| format!("'{text}' is no time in UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_read() {
        for (text, seconds, fraction) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600, 500_000_000),
            ("2005-01-14T17:58:02.965944000Z", 1_105_725_482, 965_944_000),
            ("2100-03-01T00:00:00.000000001Z", 4_107_542_400, 1),
        ] {
            assert_eq!(parse(text).unwrap(), seconds * 1_000_000_000 + fraction, "{text}");
        }
        for text in ["", "2005-01-14 17:58:02Z", "2005-01-14T17:58:02+01:00", "2005-x1-14T17:58:02.000Z"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
