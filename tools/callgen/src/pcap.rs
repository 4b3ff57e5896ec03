//! Capture files (pcap, nanoseconds, Ethernet; draft-ietf-opsawg-pcap).

use crate::traffic::Frame;
use sidetone_model::NANOS_PER_SECOND;
use std::io::{self, Write};

/// Writes all frames; returns how many there were.
pub fn write_pcap(output: impl Write, frames: impl Iterator<Item = Frame>) -> io::Result<u64> {
    let mut output = io::BufWriter::with_capacity(1 << 20, output);
    output.write_all(&0xa1b2_3c4du32.to_le_bytes())?;
    output.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    output.write_all(&65_535u32.to_le_bytes())?;
    output.write_all(&1u32.to_le_bytes())?;
    let mut count = 0;
    for frame in frames {
        let (seconds, nanos) = (frame.time.0 / NANOS_PER_SECOND, frame.time.0 % NANOS_PER_SECOND);
        let seconds = u32::try_from(seconds).map_err(io::Error::other)?;
        let length = frame.bytes.len() as u32;
        for word in [seconds, nanos as u32, length, length] {
            output.write_all(&word.to_le_bytes())?;
        }
        output.write_all(&frame.bytes)?;
        count += 1;
    }
    output.flush()?;
    Ok(count)
}
