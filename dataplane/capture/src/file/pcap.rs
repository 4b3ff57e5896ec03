//! The classic format: one header, then records.

use super::input::Input;
use super::{ByteOrder, MAX_BLOCK_BYTES, Record, Step, link_layer};
use crate::{CaptureError, LinkLayer};
use sidetone_model::CaptureTime;

const FILE_HEADER_BYTES: usize = 24;
/// libpcap's own limit for a frame.
const MAX_FRAME_BYTES: u32 = 262_144;

const _: () = assert!(MAX_FRAME_BYTES as usize + 64 <= MAX_BLOCK_BYTES);

#[derive(Debug)]
pub(super) struct Reader {
    order: ByteOrder,
    link: LinkLayer,
    nanoseconds_per_fraction: u64,
    record_header_length: usize,
}

impl Reader {
    /// Reads the file header; `None` when it is no pcap file.
    pub(super) fn open(input: &mut Input) -> Result<Option<Self>, CaptureError> {
        let magic = ByteOrder::Little.u32(input.available(), 0);
        let (order, nanoseconds_per_fraction, record_header_length) = match magic {
            0xA1B2_C3D4 => (ByteOrder::Little, 1000, 16),
            0xD4C3_B2A1 => (ByteOrder::Big, 1000, 16),
            0xA1B2_3C4D => (ByteOrder::Little, 1, 16),
            0x4D3C_B2A1 => (ByteOrder::Big, 1, 16),
            // "Modified" pcap of old Linux distributions: eight more bytes in each record header.
            0xA1B2_CD34 => (ByteOrder::Little, 1000, 24),
            0x34CD_B2A1 => (ByteOrder::Big, 1000, 24),
            _ => return Ok(None),
        };
        if !input.fill(FILE_HEADER_BYTES)? {
            return Err(input.corrupt("the file header is cut off"));
        }
        let header = input.available();
        if order.u16(header, 4) != 2 {
            return Err(input.corrupt("unknown major version (only 2 is defined)"));
        }
        // The upper bits tell of a frame check sequence behind each frame; lengths within the frame exclude it.
        let link_type = order.u32(header, 20) & 0x03FF_FFFF;
        let Some(link) = link_layer(link_type) else {
            return Err(CaptureError::UnsupportedLink { path: input.path().to_owned(), link_type });
        };
        input.consume(FILE_HEADER_BYTES);
        Ok(Some(Self { order, link, nanoseconds_per_fraction, record_header_length }))
    }

    pub(super) fn step(&mut self, input: &mut Input) -> Result<Step, CaptureError> {
        if !input.fill(self.record_header_length)? {
            return Ok(Step::End { truncated: !input.available().is_empty() });
        }
        let header = input.available();
        let seconds = u64::from(self.order.u32(header, 0));
        let fraction = u64::from(self.order.u32(header, 4));
        let length = self.order.u32(header, 8);
        let original_length = self.order.u32(header, 12);
        if length > MAX_FRAME_BYTES {
            return Err(input.corrupt("a frame is longer than 256 KiB"));
        }
        let record_length = self.record_header_length + length as usize;
        if !input.fill(record_length)? {
            return Ok(Step::End { truncated: true });
        }
        Ok(Step::Frame(Record {
            arrived_at: CaptureTime::from_seconds_nanos(seconds, fraction * self.nanoseconds_per_fraction),
            link: self.link,
            start: self.record_header_length,
            length: length as usize,
            original_length: original_length.max(length),
            record_length,
        }))
    }
}
