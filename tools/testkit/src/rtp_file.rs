//! Speech as files that SIPp plays: a capture with one RTP packet per 20 ms (`play_pcap_audio`) or the bare codes
//! (`rtp_stream`).

use crate::g711::Law;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Samples in 20 ms at 8 kHz.
pub const FRAME_SAMPLES: usize = 160;
/// SIPp replaces addresses and adds the difference to this port to the call's own.
const BASE_PORT: u16 = 6000;

/// Writes G.711 codes, nothing else.
///
/// # Errors
/// When the file cannot be written.
pub fn write_codes(path: &Path, law: Law, samples: &[i16]) -> Result<()> {
    let codes: Vec<u8> = samples.iter().map(|&sample| law.encode(sample)).collect();
    fs::write(path, codes).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a pcap file of Ethernet frames with RTP (RFC 3550 §5.1), 20 ms apart; an incomplete last frame is left out.
///
/// # Errors
/// When the file cannot be written.
pub fn write_capture(path: &Path, law: Law, samples: &[i16], ssrc: u32) -> Result<()> {
    let mut file = Vec::with_capacity(24 + samples.len() / FRAME_SAMPLES * 230);
    file.extend_from_slice(&0xa1b2_c3d4u32.to_le_bytes());
    file.extend_from_slice(&2u16.to_le_bytes());
    file.extend_from_slice(&4u16.to_le_bytes());
    file.extend_from_slice(&[0; 8]);
    file.extend_from_slice(&65_535u32.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    for (number, frame) in (0u32..).zip(samples.chunks_exact(FRAME_SAMPLES)) {
        let codes: Vec<u8> = frame.iter().map(|&sample| law.encode(sample)).collect();
        let packet = frame_bytes(number, law, ssrc, &codes);
        let length = u32::try_from(packet.len()).context("a frame has a few hundred bytes")?;
        for word in [1 + number / 50, number % 50 * 20_000, length, length] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&packet);
    }
    fs::write(path, file).with_context(|| format!("cannot write {}", path.display()))
}

fn frame_bytes(number: u32, law: Law, ssrc: u32, codes: &[u8]) -> Vec<u8> {
    let udp_length = 8 + 12 + codes.len() as u16;
    let mut bytes = Vec::with_capacity(42 + 12 + codes.len());
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00]);
    bytes.extend_from_slice(&[0x45, 0]);
    bytes.extend_from_slice(&(20 + udp_length).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    for word in [BASE_PORT, BASE_PORT, udp_length, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    let marker = if number == 0 { 0x80 } else { 0 };
    bytes.extend_from_slice(&[0x80, marker | law.payload_type()]);
    bytes.extend_from_slice(&((number + 1) as u16).to_be_bytes());
    bytes.extend_from_slice(&number.wrapping_mul(FRAME_SAMPLES as u32).to_be_bytes());
    bytes.extend_from_slice(&ssrc.to_be_bytes());
    bytes.extend_from_slice(codes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    #[test]
    fn capture_is_read_back_as_one_whole_stream() {
        let path = std::env::temp_dir().join(format!("sidetone-testkit-{}-rtp.pcap", std::process::id()));
        let samples: Vec<i16> = (0..1650).map(|n| Law::A.decode(n as u8)).collect();
        write_capture(&path, Law::A, &samples, 0x1234_5678).unwrap();
        let reference = Reference::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(reference.streams.len(), 1);
        let (key, stream) = reference.streams.iter().next().unwrap();
        assert_eq!(key.ssrc, 0x1234_5678);
        assert_eq!((stream.packets.len(), stream.missing(), stream.rtp_samples()), (10, 0, 1600));
        assert_eq!(stream.decode().unwrap(), samples[..1600].to_vec());
    }
}
