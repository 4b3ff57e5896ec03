//! The block format: sections, interfaces with their own clocks, packets.

use super::input::Input;
use super::{ByteOrder, MAX_BLOCK_BYTES, Record, Step, link_layer};
use crate::CaptureError;
use sidetone_model::{CaptureTime, NANOS_PER_SECOND};

/// Block type of the section header, the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0A, 0x0D, 0x0D, 0x0A];

const BLOCK_SECTION_HEADER: u32 = 0x0A0D_0D0A;
const BLOCK_INTERFACE_DESCRIPTION: u32 = 1;
const BLOCK_PACKET: u32 = 2;
const BLOCK_SIMPLE_PACKET: u32 = 3;
const BLOCK_ENHANCED_PACKET: u32 = 6;

const OPTION_END: u16 = 0;
const OPTION_TIMESTAMP_RESOLUTION: u16 = 9;
const OPTION_TIMESTAMP_OFFSET: u16 = 14;

/// Block type, length, and the length again at the end.
const BLOCK_FRAME_BYTES: usize = 12;
/// Interfaces that one section may describe.
const MAX_INTERFACES: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Reader {
    /// `None` before the first section.
    order: Option<ByteOrder>,
    interfaces: Vec<Interface>,
    /// Simple packet blocks have no time of their own: they get that of the packet before.
    last_time: CaptureTime,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: u32,
    snap_length: u32,
    resolution: Resolution,
    offset_seconds: i64,
}

/// A tick of an interface's clock: `10^-n` or `2^-n` seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resolution {
    Decimal(u32),
    Binary(u32),
}

/// A packet block's fields, offsets relative to the block.
struct Packet {
    interface: usize,
    ticks: Option<u64>,
    length: u32,
    original_length: u32,
    start: usize,
}

impl Reader {
    pub(super) fn step(&mut self, input: &mut Input) -> Result<Step, CaptureError> {
        if !input.fill(BLOCK_FRAME_BYTES)? {
            return Ok(Step::End { truncated: !input.available().is_empty() });
        }
        if input.available()[..4] == MAGIC {
            let order = match ByteOrder::Little.u32(input.available(), 8) {
                0x1A2B_3C4D => ByteOrder::Little,
                0x4D3C_2B1A => ByteOrder::Big,
                _ => return Err(input.corrupt("a section header has no byte-order magic")),
            };
            // Interfaces belong to their section.
            self.order = Some(order);
            self.interfaces.clear();
        }
        let Some(order) = self.order else {
            return Err(input.corrupt("a block stands before the first section header"));
        };
        let block_type = order.u32(input.available(), 0);
        let total_length = order.u32(input.available(), 4) as usize;
        if total_length < BLOCK_FRAME_BYTES || !total_length.is_multiple_of(4) {
            return Err(input.corrupt("a block's length is no multiple of 4, or too small"));
        }
        let wanted = matches!(
            block_type,
            BLOCK_SECTION_HEADER
                | BLOCK_INTERFACE_DESCRIPTION
                | BLOCK_PACKET
                | BLOCK_SIMPLE_PACKET
                | BLOCK_ENHANCED_PACKET
        );
        if !wanted {
            // Names, statistics, secrets, comments: not read, whatever their size.
            let whole = input.skip(total_length as u64)?;
            return Ok(if whole {
                Step::Skipped { unsupported_link_type: None }
            } else {
                Step::End { truncated: true }
            });
        }
        if total_length > MAX_BLOCK_BYTES {
            return Err(input.corrupt("a block is longer than 1 MiB"));
        }
        if !input.fill(total_length)? {
            return Ok(Step::End { truncated: true });
        }
        let block = &input.available()[..total_length];
        if order.u32(block, total_length - 4) as usize != total_length {
            return Err(input.corrupt("a block's two length fields differ"));
        }
        let packet = match block_type {
            BLOCK_SECTION_HEADER => {
                if total_length < 28 {
                    return Err(input.corrupt("a section header is too short"));
                }
                if order.u16(block, 12) != 1 {
                    return Err(input.corrupt("unknown major version of a section (only 1 is defined)"));
                }
                None
            }
            BLOCK_INTERFACE_DESCRIPTION => {
                let interface = Interface::read(order, block).ok_or_else(|| {
                    input.corrupt("an interface description is too short, or an option leaves its block")
                })?;
                if self.interfaces.len() == MAX_INTERFACES {
                    return Err(input.corrupt("a section describes more than 65536 interfaces"));
                }
                self.interfaces.push(interface);
                None
            }
            _ => {
                let packet = self.packet(order, block_type, block);
                Some(packet.ok_or_else(|| input.corrupt("a packet does not fit into its block"))?)
            }
        };
        let Some(packet) = packet else {
            input.consume(total_length);
            return Ok(Step::Skipped { unsupported_link_type: None });
        };
        let Some(interface) = self.interfaces.get(packet.interface) else {
            return Err(input.corrupt("a packet belongs to an interface that is not described"));
        };
        if let Some(ticks) = packet.ticks {
            self.last_time = interface.time(ticks);
        }
        let Some(link) = link_layer(interface.link_type) else {
            input.consume(total_length);
            return Ok(Step::Skipped { unsupported_link_type: Some(interface.link_type) });
        };
        Ok(Step::Frame(Record {
            arrived_at: self.last_time,
            link,
            start: packet.start,
            length: packet.length as usize,
            original_length: packet.original_length.max(packet.length),
            record_length: total_length,
        }))
    }

    /// The fields of a packet block; `None` when they contradict the block's length.
    fn packet(&self, order: ByteOrder, block_type: u32, block: &[u8]) -> Option<Packet> {
        let body_end = block.len() - 4;
        let packet = match block_type {
            BLOCK_SIMPLE_PACKET => {
                if body_end < 12 {
                    return None;
                }
                let original_length = order.u32(block, 8);
                let snap_length = self.interfaces.first().map_or(0, |interface| interface.snap_length);
                let limit = if snap_length == 0 { u32::MAX } else { snap_length };
                let length = original_length.min(limit);
                Packet { interface: 0, ticks: None, length, original_length, start: 12 }
            }
            _ => {
                if body_end < 28 {
                    return None;
                }
                let interface = match block_type {
                    BLOCK_PACKET => usize::from(order.u16(block, 8)),
                    _ => order.u32(block, 8) as usize,
                };
                let ticks = u64::from(order.u32(block, 12)) << 32 | u64::from(order.u32(block, 16));
                Packet {
                    interface,
                    ticks: Some(ticks),
                    length: order.u32(block, 20),
                    original_length: order.u32(block, 24),
                    start: 28,
                }
            }
        };
        (packet.length as usize <= body_end - packet.start).then_some(packet)
    }
}

impl Interface {
    fn read(order: ByteOrder, block: &[u8]) -> Option<Self> {
        let body_end = block.len() - 4;
        if body_end < 16 {
            return None;
        }
        let mut interface = Self {
            link_type: u32::from(order.u16(block, 8)),
            snap_length: order.u32(block, 12),
            resolution: Resolution::Decimal(6),
            offset_seconds: 0,
        };
        let mut offset = 16;
        while offset + 4 <= body_end {
            let code = order.u16(block, offset);
            let length = usize::from(order.u16(block, offset + 2));
            let value = offset + 4;
            if code == OPTION_END {
                break;
            }
            if value + length > body_end {
                return None;
            }
            match (code, length) {
                (OPTION_TIMESTAMP_RESOLUTION, 1) => {
                    let exponent = u32::from(block[value] & 0x7F);
                    interface.resolution = match block[value] & 0x80 {
                        0 => Resolution::Decimal(exponent),
                        _ => Resolution::Binary(exponent),
                    };
                }
                (OPTION_TIMESTAMP_OFFSET, 8) => {
                    let (first, second) = (order.u32(block, value), order.u32(block, value + 4));
                    let (high, low) = match order {
                        ByteOrder::Little => (second, first),
                        ByteOrder::Big => (first, second),
                    };
                    interface.offset_seconds = (u64::from(high) << 32 | u64::from(low)).cast_signed();
                }
                _ => {}
            }
            offset = value + length.next_multiple_of(4);
        }
        Some(interface)
    }

    /// Saturates at 1970 and at the end of [`CaptureTime`].
    fn time(&self, ticks: u64) -> CaptureTime {
        let ticks = i128::from(ticks);
        let nanos_per_second = i128::from(NANOS_PER_SECOND);
        let nanos = match self.resolution {
            Resolution::Decimal(exponent) if exponent <= 9 => ticks * 10i128.pow(9 - exponent),
            // 2^64 ticks of 10^-29 s are less than a nanosecond.
            Resolution::Decimal(exponent) => ticks / 10i128.pow((exponent - 9).min(20)),
            Resolution::Binary(exponent) => (ticks * nanos_per_second) >> exponent.min(127),
        };
        let nanos = nanos + i128::from(self.offset_seconds) * nanos_per_second;
        CaptureTime(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}
