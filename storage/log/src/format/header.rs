//! The first block of a log file.

use super::{ALIGNMENT_BYTES, FORMAT_VERSION, array_at, u16_at, u32_at, u64_at, uuid_at};
use crate::VolumeNumber;
use sidetone_model::CaptureTime;
use std::fmt;
use uuid::Uuid;

const MAGIC_JOURNAL: &[u8; 8] = b"SIDETJNL";
const MAGIC_SEGMENT: &[u8; 8] = b"SIDETSEG";
/// Bytes of the fields before the texts.
const FIXED_BYTES: usize = 112;
/// The longest name of a node or of a retention class; what is longer is cut.
const TEXT_BYTES_MAX: usize = 255;

/// The first 4096 bytes of a journal file or a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHeader {
    pub version: u32,
    /// Its number, as in its name; counted from 1.
    pub file: u32,
    pub store_id: Uuid,
    pub volume: VolumeNumber,
    pub volume_id: Uuid,
    /// `/proc/sys/kernel/random/boot_id`: which run of which machine wrote this.
    pub boot_id: Uuid,
    /// Drawn for this file; stands in its sync records, so that nobody can forge one who does not read the file.
    pub file_id: Uuid,
    /// File size that was preallocated, in bytes.
    pub preallocated_bytes: u64,
    pub created_at: CaptureTime,
    pub node: String,
    pub kind: FileKind,
}

/// The two kinds of log files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileKind {
    Journal {
        /// How far the file before this one is good, in bytes; 0 in the first file. What it holds behind was never
        /// acknowledged, or stands in this file again.
        previous_end: u64,
    },
    Segment {
        /// The retention class of what it holds.
        class: String,
        /// The month in which the last of it expires. Absent: never.
        expires: Option<Month>,
    },
}

/// A month of the civil calendar, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Month {
    year: u16,
    month: u8,
}

impl Month {
    /// `month` is 1 ..= 12. A month in which no [`CaptureTime`] lies is none.
    pub fn new(year: u16, month: u8) -> Option<Self> {
        ((1970..=2554).contains(&year) && (1..=12).contains(&month)).then_some(Self { year, month })
    }

    pub fn containing(time: CaptureTime) -> Self {
        // Days from 0000-03-01 in years that begin in March, so that the leap day comes last.
        const DAYS_TO_EPOCH: u64 = 719_468;
        let days = time.0 / 86_400_000_000_000 + DAYS_TO_EPOCH;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let (month, next_year) = if march_month < 10 { (march_month + 3, 0) } else { (march_month - 9, 1) };
        Self { year: (era * 400 + year_of_era + next_year) as u16, month: month as u8 }
    }

    pub fn year(self) -> u16 {
        self.year
    }

    /// 1 ..= 12.
    pub fn month(self) -> u8 {
        self.month
    }
}

impl fmt::Display for Month {
    /// As in `2031-04`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FileHeader {
    pub fn encode(&self) -> [u8; ALIGNMENT_BYTES] {
        let (magic, previous_end, class, expires) = match &self.kind {
            FileKind::Journal { previous_end } => (MAGIC_JOURNAL, *previous_end, "", None),
            FileKind::Segment { class, expires } => (MAGIC_SEGMENT, 0, cut(class), *expires),
        };
        let node = cut(&self.node);
        let (year, month) = expires.map_or((0, 0), |expires| (expires.year, expires.month));
        let mut bytes = [0; ALIGNMENT_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(magic);
        put(&self.version.to_le_bytes());
        put(&self.file.to_le_bytes());
        put(self.store_id.as_bytes());
        put(self.volume_id.as_bytes());
        put(self.boot_id.as_bytes());
        put(self.file_id.as_bytes());
        put(&self.preallocated_bytes.to_le_bytes());
        put(&self.created_at.0.to_le_bytes());
        put(&previous_end.to_le_bytes());
        put(&[self.volume.0, month]);
        put(&year.to_le_bytes());
        put(&(node.len() as u16).to_le_bytes());
        put(&(class.len() as u16).to_le_bytes());
        put(node.as_bytes());
        put(class.as_bytes());
        let checksum = crc32c::crc32c(&bytes[..ALIGNMENT_BYTES - 4]);
        bytes[ALIGNMENT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header, or what is wrong with it. A later version is not an error here: only `version` is then sure.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; ALIGNMENT_BYTES] = bytes.try_into().ok().ok_or("it is shorter than its header")?;
        let is_segment = match &array_at(bytes, 0) {
            MAGIC_JOURNAL => false,
            MAGIC_SEGMENT => true,
            _ => return Err("it begins neither with SIDETJNL nor with SIDETSEG"),
        };
        let (body, checksum) = bytes.split_at(ALIGNMENT_BYTES - 4);
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err("its header is damaged (checksum)");
        }
        let version = u32_at(bytes, 8);
        let text = |at: usize, length: usize| {
            if version > FORMAT_VERSION {
                return Some(String::new());
            }
            let bytes = bytes.get(at..at + length).filter(|_| length <= TEXT_BYTES_MAX)?;
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        };
        let (node_bytes, class_bytes) = (usize::from(u16_at(bytes, 108)), usize::from(u16_at(bytes, 110)));
        let node = text(FIXED_BYTES, node_bytes).ok_or("its node name is not a text")?;
        let kind = if is_segment {
            let class = text(FIXED_BYTES + node_bytes, class_bytes).ok_or("its retention class is not a text")?;
            let (year, month) = (u16_at(bytes, 106), bytes[105]);
            let expires = match (year, month) {
                (0, 0) => None,
                _ if version > FORMAT_VERSION => None,
                _ => Some(Month::new(year, month).ok_or("its expiry month is none")?),
            };
            FileKind::Segment { class, expires }
        } else {
            FileKind::Journal { previous_end: u64_at(bytes, 96) }
        };
        Ok(Self {
            version,
            file: u32_at(bytes, 12),
            store_id: uuid_at(bytes, 16),
            volume: VolumeNumber(bytes[104]),
            volume_id: uuid_at(bytes, 32),
            boot_id: uuid_at(bytes, 48),
            file_id: uuid_at(bytes, 64),
            preallocated_bytes: u64_at(bytes, 80),
            created_at: CaptureTime(u64_at(bytes, 88)),
            node,
            kind,
        })
    }
}

/// As much of a text as a header takes.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: FileKind) -> FileHeader {
        FileHeader {
            version: 1,
            file: 7,
            store_id: Uuid::from_u128(1),
            volume: VolumeNumber(2),
            volume_id: Uuid::from_u128(3),
            boot_id: Uuid::from_u128(4),
            file_id: Uuid::from_u128(5),
            preallocated_bytes: 6 << 20,
            created_at: CaptureTime(7),
            node: "box-é".into(),
            kind,
        }
    }

    proptest! {
        #[test]
        fn a_header_reads_back_and_any_flipped_bit_shows(
            segment: bool, end: u64, class in "\\PC{0,60}", time: Option<u64>, bit in 0usize..4096 * 8,
        ) {
            let expires = time.map(|time| Month::containing(CaptureTime(time)));
            let kind =
                if segment { FileKind::Segment { class, expires } } else { FileKind::Journal { previous_end: end } };
            let header = header(kind);
            let mut bytes = header.encode();
            prop_assert_eq!(FileHeader::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(FileHeader::decode(&bytes).is_err());
        }

        #[test]
        fn the_month_of_a_time_is_the_one_its_text_shows(nanos: u64) {
            let time = CaptureTime(nanos);
            prop_assert!(time.to_string().starts_with(&Month::containing(time).to_string()), "{}", time);
        }
    }

    #[test]
    fn texts_that_are_too_long_are_cut_between_characters() {
        let long = FileHeader { node: "é".repeat(200), ..header(FileKind::Journal { previous_end: 0 }) };
        assert_eq!(FileHeader::decode(&long.encode()).unwrap().node, "é".repeat(127));
    }

    #[test]
    fn months_that_no_time_lies_in_are_none() {
        assert_eq!(Month::new(2031, 4).map(|month| month.to_string()), Some("2031-04".into()));
        for (year, month) in [(1969, 12), (2031, 0), (2031, 13), (3000, 1)] {
            assert_eq!(Month::new(year, month), None, "{year}-{month}");
        }
        assert_eq!(Month::containing(CaptureTime(u64::MAX)), Month::new(2554, 7).unwrap());
    }
}
