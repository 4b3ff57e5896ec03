//! Stored packets as they are, put into the pages of one block.

use crate::filler::{push_silence, share_out};
use crate::grid::FileGrid;
use crate::lane::LaneBlock;
use crate::ogg::{PAGE_HEADER_BYTES, Pager};
use crate::opus_packet::{SILENT_PACKET, push_self_delimited};
use crate::sizes::REGULAR_BYTES_MAX;

/// One block of a file: its packets, of one lane or two.
pub(crate) struct CopyBlock {
    pub(crate) serial: u32,
    pub(crate) grid: FileGrid,
    pub(crate) block: u64,
    /// Number of its first page.
    pub(crate) page_number: u32,
    pub(crate) lanes: Vec<LaneBlock>,
}

/// What stands in for lost packets when the block must have a certain length.
struct Filling {
    /// Bytes of a lost packet that gets nothing more.
    least: usize,
    /// For each grid step with a lost packet, in order: bytes more for the first of them.
    more: Vec<usize>,
}

impl CopyBlock {
    /// Appends its pages; lost packets are silent ones. With two lanes each grid step's packets are one, the first
    /// self-delimiting.
    pub(crate) fn pages(&self, out: &mut Vec<u8>) -> Pager {
        self.write(&Filling { least: SILENT_PACKET.len(), more: Vec::new() }, out)
    }

    /// The same in exactly so many bytes: what stands in for lost packets is made to fit. False, and nothing appended, when it
    /// cannot.
    pub(crate) fn fitted_pages(&self, bytes: u64, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        let empty_frames = 1;
        for least in [SILENT_PACKET.len(), empty_frames] {
            if let Some(filling) = self.fill(least, bytes) {
                self.write(&filling, out);
                if (out.len() - begin) as u64 == bytes {
                    return true;
                }
                out.truncate(begin);
            }
        }
        false
    }

    fn write(&self, filling: &Filling, out: &mut Vec<u8>) -> Pager {
        let ticks = self.grid.block(self.block);
        let mut pager = Pager::new(self.serial, self.page_number, self.grid.first, ticks.start);
        let mut more = filling.more.iter().copied();
        let (mut together, mut silence) = (Vec::new(), Vec::new());
        for step in 0..self.steps() {
            let mut extra = if self.is_lost(step) { more.next().unwrap_or(0) } else { 0 };
            together.clear();
            for (number, lane) in self.lanes.iter().enumerate() {
                let packet = match lane.packet(step) {
                    Some(packet) => packet,
                    None if lane.is_lost(step) => {
                        silence.clear();
                        push_silence(filling.least + std::mem::take(&mut extra), &mut silence);
                        &silence
                    }
                    None => &SILENT_PACKET,
                };
                if number + 1 < self.lanes.len() {
                    push_self_delimited(packet, &mut together);
                } else {
                    together.extend_from_slice(packet);
                }
            }
            pager.push(&together, out);
        }
        pager.flush(ticks.end == self.grid.ticks, out);
        pager
    }

    /// How to fill the lost steps so that the block takes `bytes`.
    fn fill(&self, least: usize, bytes: u64) -> Option<Filling> {
        let ticks = self.grid.block(self.block);
        let pages = self.grid.pages_before(ticks.end) - self.grid.pages_before(ticks.start);
        let mut rest = usize::try_from(bytes).ok()?.checked_sub(pages as usize * PAGE_HEADER_BYTES)?;
        let mut filled = Vec::new();
        for step in 0..self.steps() {
            let sizes = self.lanes.iter().map(|lane| match lane.packet(step) {
                Some(packet) => packet.len(),
                None if lane.is_lost(step) => least,
                None => SILENT_PACKET.len(),
            });
            let together = sizes.sum::<usize>() + self.lanes.len() - 1;
            // And a length byte for each.
            rest = rest.checked_sub(1)?;
            if self.is_lost(step) {
                filled.push(together);
            } else {
                rest = rest.checked_sub(together)?;
            }
        }
        let shares = share_out(&filled, REGULAR_BYTES_MAX, rest)?;
        Some(Filling { least, more: shares.into_iter().zip(filled).map(|(share, least)| share - least).collect() })
    }

    fn steps(&self) -> usize {
        let ticks = self.grid.block(self.block);
        (ticks.end - ticks.start) as usize
    }

    fn is_lost(&self, step: usize) -> bool {
        self.lanes.iter().any(|lane| lane.is_lost(step))
    }
}
