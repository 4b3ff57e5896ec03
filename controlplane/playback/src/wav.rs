//! The header of a WAV file: RIFF, one `fmt ` and one `data` chunk of 16-bit PCM.

pub(crate) const HEADER_BYTES: u64 = 44;
pub(crate) const SAMPLE_RATE_HZ: u32 = 8000;
pub(crate) const BYTES_PER_SAMPLE: u16 = 2;

/// The header for `data_bytes` of samples; `None` when a RIFF file cannot be that long.
pub(crate) fn header(channels: u16, data_bytes: u64) -> Option<Vec<u8>> {
    let riff_bytes = u32::try_from(data_bytes + HEADER_BYTES - 8).ok()?;
    let frame_bytes = channels * BYTES_PER_SAMPLE;
    let mut header = Vec::with_capacity(HEADER_BYTES as usize);
    header.extend_from_slice(b"RIFF");
    header.extend_from_slice(&riff_bytes.to_le_bytes());
    header.extend_from_slice(b"WAVEfmt ");
    header.extend_from_slice(&16u32.to_le_bytes());
    header.extend_from_slice(&1u16.to_le_bytes());
    header.extend_from_slice(&channels.to_le_bytes());
    header.extend_from_slice(&SAMPLE_RATE_HZ.to_le_bytes());
    header.extend_from_slice(&(SAMPLE_RATE_HZ * u32::from(frame_bytes)).to_le_bytes());
    header.extend_from_slice(&frame_bytes.to_le_bytes());
    header.extend_from_slice(&(BYTES_PER_SAMPLE * 8).to_le_bytes());
    header.extend_from_slice(b"data");
    header.extend_from_slice(&(data_bytes as u32).to_le_bytes());
    Some(header)
}
