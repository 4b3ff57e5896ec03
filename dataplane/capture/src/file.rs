//! Capture files: pcap (microseconds, nanoseconds, both byte orders) and pcapng (sections, several interfaces).
//!
//! Constraints: the file is read in pieces and no length field is believed beyond [`MAX_BLOCK_BYTES`], so that memory
//! stays bounded whatever the file says. A file that ends within a record is handed over up to there; one whose
//! structure makes no sense is an error with the place.
//!
//! Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.

mod input;
mod pcap;
mod pcapng;

use crate::{CaptureError, Frame, FrameSource, LinkLayer, SourceStatistics};
use input::Input;
use sidetone_model::CaptureTime;
use std::path::Path;
use std::time::Duration;

/// Largest record that is read: well above the 256 KiB to which libpcap limits a frame.
const MAX_BLOCK_BYTES: usize = 1 << 20;

/// A pcap or pcapng file as a source of frames.
#[derive(Debug)]
pub struct CaptureFile {
    input: Input,
    format: Format,
    statistics: SourceStatistics,
    /// Link type of the last frame that was skipped for it.
    unsupported_link_type: u32,
}

#[derive(Debug)]
enum Format {
    Pcap(pcap::Reader),
    PcapNg(pcapng::Reader),
}

/// What a reader finds at the current position. Lengths and offsets are within the record that lies in the buffer.
#[derive(Debug, PartialEq)]
enum Step {
    Frame(Record),
    /// A record that is no frame, or one with a link layer that is not understood.
    Skipped {
        unsupported_link_type: Option<u32>,
    },
    End {
        truncated: bool,
    },
}

#[derive(Debug, PartialEq)]
struct Record {
    arrived_at: CaptureTime,
    link: LinkLayer,
    /// Where the frame's bytes lie in [`Input::available`].
    start: usize,
    length: usize,
    original_length: u32,
    /// Bytes of the whole record, to be consumed afterwards.
    record_length: usize,
}

impl CaptureFile {
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// [`CaptureError::File`] when it cannot be read, [`CaptureError::NotACapture`] or
    /// [`CaptureError::UnsupportedLink`] when it is none of ours, [`CaptureError::Corrupt`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CaptureError> {
        let mut input = Input::open(path.as_ref())?;
        let not_a_capture = |reason| CaptureError::NotACapture { path: path.as_ref().to_owned(), reason };
        if !input.fill(4)? {
            return Err(not_a_capture("it is shorter than any capture file's header"));
        }
        let magic: [u8; 4] = [0, 1, 2, 3].map(|index| input.available()[index]);
        let format = if magic == pcapng::MAGIC {
            Format::PcapNg(pcapng::Reader::default())
        } else if magic[..2] == [0x1F, 0x8B] {
            return Err(not_a_capture("it is compressed with gzip; unpack it first"));
        } else if magic == [0x28, 0xB5, 0x2F, 0xFD] {
            return Err(not_a_capture("it is compressed with zstd; unpack it first"));
        } else {
            match pcap::Reader::open(&mut input)? {
                Some(reader) => Format::Pcap(reader),
                None => return Err(not_a_capture("it starts with neither the pcap nor the pcapng magic number")),
            }
        };
        Ok(Self { input, format, statistics: SourceStatistics::default(), unsupported_link_type: 0 })
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.input.offset()
    }

    /// Length of the file in bytes, when it was opened.
    pub fn len(&self) -> u64 {
        self.input.file_length()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FrameSource for CaptureFile {
    /// Hands over the next frames of the file; never waits.
    fn receive(
        &mut self,
        _timeout: Duration,
        budget: usize,
        handler: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<usize, CaptureError> {
        let mut frames = 0;
        while frames < budget {
            let step = match &mut self.format {
                Format::Pcap(reader) => reader.step(&mut self.input),
                Format::PcapNg(reader) => reader.step(&mut self.input),
            };
            // An error is kept for the next call when there are frames to tell of first: the same bytes give it again.
            match step {
                Ok(Step::Frame(record)) => {
                    frames += 1;
                    self.statistics.frames += 1;
                    let end = record.start + record.length;
                    self.input.hand_over(record.record_length, |bytes| {
                        handler(&Frame {
                            arrived_at: record.arrived_at,
                            bytes: &bytes[record.start..end],
                            original_length: record.original_length,
                            link: record.link,
                        });
                    });
                }
                Ok(Step::Skipped { unsupported_link_type: Some(link_type) }) => {
                    self.statistics.unsupported += 1;
                    self.unsupported_link_type = link_type;
                }
                Ok(Step::Skipped { unsupported_link_type: None }) => {}
                Ok(Step::End { .. }) | Err(_) if frames > 0 => break,
                Ok(Step::End { .. }) if self.statistics.frames == 0 && self.statistics.unsupported > 0 => {
                    return Err(CaptureError::UnsupportedLink {
                        path: self.input.path().to_owned(),
                        link_type: self.unsupported_link_type,
                    });
                }
                Ok(Step::End { truncated }) => return Err(CaptureError::EndOfCapture { truncated }),
                Err(error) => return Err(error),
            }
        }
        Ok(frames)
    }

    fn statistics(&mut self) -> SourceStatistics {
        self.statistics
    }
}

/// Numbers from the IANA-independent registry of link types at tcpdump.org.
fn link_layer(link_type: u32) -> Option<LinkLayer> {
    match link_type {
        0 | 108 => Some(LinkLayer::Null),
        1 => Some(LinkLayer::Ethernet),
        // 12 and 14 are what some systems wrote for raw IP before 101 was assigned.
        12 | 14 | 101 | 228 | 229 => Some(LinkLayer::RawIp),
        113 => Some(LinkLayer::LinuxCooked),
        276 => Some(LinkLayer::LinuxCooked2),
        _ => None,
    }
}

/// Numbers in the byte order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The number at `offset`; the caller has made sure that the bytes are there.
    fn u16(self, bytes: &[u8], offset: usize) -> u16 {
        let bytes = [bytes[offset], bytes[offset + 1]];
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// As [`Self::u16`].
    fn u32(self, bytes: &[u8], offset: usize) -> u32 {
        let bytes = [bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]];
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
