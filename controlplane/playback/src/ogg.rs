//! Ogg pages (RFC 3533) with Opus in them (RFC 7845), as pure functions into a buffer.

use crate::grid::PAGE_TICKS;
use sidetone_model::Tick;

/// Samples at 48 kHz that a decoder throws away at the beginning: the encoder's look-ahead, the same for all tracks.
pub(crate) const PRE_SKIP_48K: u16 = 312;

const CONTINUED_NONE: u8 = 0;
const BEGIN_OF_STREAM: u8 = 2;
const END_OF_STREAM: u8 = 4;
/// A page names the lengths of what it holds in at most so many bytes.
const SEGMENTS_MAX: usize = 255;
/// Bytes of a page besides its packets and a length byte for each of them, as long as they are shorter than 255 bytes.
pub(crate) const PAGE_HEADER_BYTES: usize = 27;

/// How the packets of the file map to channels (RFC 7845 §5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapping {
    /// Family 0, one channel.
    Mono,
    /// Family 1, two channels, each a mono stream of its own.
    TwoMono,
}

/// The two header pages: identification and comments.
pub(crate) fn header_pages(mapping: Mapping, serial: u32, comments: &[(&str, String)], out: &mut Vec<u8>) {
    let mut page = Page::new(serial);
    let mut head = b"OpusHead\x01".to_vec();
    head.push(match mapping {
        Mapping::Mono => 1,
        Mapping::TwoMono => 2,
    });
    head.extend_from_slice(&PRE_SKIP_48K.to_le_bytes());
    head.extend_from_slice(&8000u32.to_le_bytes());
    head.extend_from_slice(&0u16.to_le_bytes());
    match mapping {
        Mapping::Mono => head.push(0),
        // Family 1; two streams, none coupled; left is stream 0, right is stream 1.
        Mapping::TwoMono => head.extend_from_slice(&[1, 2, 0, 0, 1]),
    }
    assert!(page.push(&head), "the identification header fits into a page");
    page.finish(BEGIN_OF_STREAM, 0, 0, out);

    let mut tags = b"OpusTags".to_vec();
    push_text(&mut tags, concat!("sidetone ", env!("CARGO_PKG_VERSION")));
    tags.extend_from_slice(&(comments.len() as u32).to_le_bytes());
    for (name, value) in comments {
        push_text(&mut tags, &format!("{name}={value}"));
    }
    assert!(page.push(&tags), "comments are kept short enough for one page");
    page.finish(CONTINUED_NONE, 0, 1, out);
}

/// Pages that [`header_pages`] makes; audio starts with this page number.
pub(crate) const HEADER_PAGES: u32 = 2;

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Puts audio packets, one a grid step, into pages that each hold what lies in one second since the epoch ([`PAGE_TICKS`]), less
/// where the lengths do not fit a page.
pub(crate) struct Pager {
    page: Page,
    /// Number of the next page.
    pub(crate) number: u32,
    /// The file's first grid step.
    first: Tick,
    /// Grid steps from there to the end of what was pushed.
    ticks: u64,
    /// Folds the checksums of the pages made: what identifies their bytes.
    pub(crate) digest: u32,
}

impl Pager {
    /// Goes on with page `number` after `ticks` grid steps of a file that begins with `first`.
    pub(crate) fn new(serial: u32, number: u32, first: Tick, ticks: u64) -> Self {
        Self { page: Page::new(serial), number, first, ticks, digest: 0 }
    }

    pub(crate) fn push(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        let second_is_over = (self.first.0 + self.ticks).is_multiple_of(PAGE_TICKS) && !self.page.is_empty();
        if second_is_over || !self.page.has_room(packet.len()) {
            self.flush(false, out);
        }
        let pushed = self.page.push(packet);
        assert!(pushed, "an empty page has room for two Opus packets of the greatest length");
        self.ticks += 1;
    }

    /// Ends the page at hand, and with `last` the stream.
    pub(crate) fn flush(&mut self, last: bool, out: &mut Vec<u8>) {
        let flags = if last { END_OF_STREAM } else { CONTINUED_NONE };
        let granule = self.ticks * crate::opus_packet::SAMPLES_PER_TICK_48K;
        let checksum = self.page.finish(flags, granule, self.number, out);
        self.digest = self.digest.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ checksum;
        self.number += 1;
    }
}

/// A page being filled.
struct Page {
    serial: u32,
    lengths: Vec<u8>,
    body: Vec<u8>,
}

impl Page {
    fn new(serial: u32) -> Self {
        Self { serial, lengths: Vec::with_capacity(SEGMENTS_MAX), body: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    fn has_room(&self, packet_length: usize) -> bool {
        self.lengths.len() + packet_length / 255 < SEGMENTS_MAX
    }

    /// False, and nothing done, when the packet does not fit any more.
    fn push(&mut self, packet: &[u8]) -> bool {
        if !self.has_room(packet.len()) {
            return false;
        }
        self.lengths.extend(std::iter::repeat_n(255, packet.len() / 255));
        self.lengths.push((packet.len() % 255) as u8);
        self.body.extend_from_slice(packet);
        true
    }

    /// Writes the page (RFC 3533 §6), leaves it empty, and tells its checksum.
    fn finish(&mut self, flags: u8, granule: u64, number: u32, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        out.extend_from_slice(b"OggS\0");
        out.push(flags);
        out.extend_from_slice(&granule.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.push(self.lengths.len() as u8);
        out.extend_from_slice(&self.lengths);
        out.extend_from_slice(&self.body);
        let checksum = crc32(&out[start..]);
        out[start + 22..start + 26].copy_from_slice(&checksum.to_le_bytes());
        self.lengths.clear();
        self.body.clear();
        checksum
    }
}

/// RFC 3533 §6: polynomial 0x04c11db7, most significant bit first, no inversion.
fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC_TABLE[usize::from((crc >> 24) as u8 ^ byte)])
}

static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 != 0 { (crc << 1) ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests;
