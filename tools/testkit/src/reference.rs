//! What was on the wire, read from a capture file: the RTP streams with times, sequence and payload. Written apart from
//! the product's own readers and parsers, since it is what these are measured against.
//!
//! It reads what tcpdump writes on the bed (pcap, Ethernet, IPv4 without options or fragments); anything else is
//! counted as `other`, not guessed at.

use crate::g711::Law;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StreamKey {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub ssrc: u32,
}

/// One RTP packet, in the order of the capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Since the Unix epoch.
    pub time_ns: u64,
    pub sequence: u16,
    pub timestamp: u32,
    pub payload_type: u8,
    pub payload: Vec<u8>,
}

/// The packets of one stream.
#[derive(Clone, Default, Debug)]
pub struct Stream {
    pub packets: Vec<Packet>,
}

impl Stream {
    /// Sequence numbers between the lowest and the highest that never came. Right for streams of the bed, which are
    /// shorter than 2^15 packets or in order.
    pub fn missing(&self) -> u64 {
        let mut extended: Vec<i64> = self.extended(|packet| (i64::from(packet.sequence), 1 << 16));
        extended.sort_unstable();
        extended.dedup();
        match (extended.first(), extended.last()) {
            (Some(first), Some(last)) => (last - first + 1) as u64 - extended.len() as u64,
            _ => 0,
        }
    }

    /// Samples from the first packet's begin to the last one's end, by RTP timestamps.
    pub fn rtp_samples(&self) -> u64 {
        let begins = self.extended(|packet| (i64::from(packet.timestamp), 1 << 32));
        let ends = begins.iter().zip(&self.packets).map(|(begin, packet)| begin + packet.payload.len() as i64);
        match (begins.iter().min(), ends.max()) {
            (Some(begin), Some(end)) => (end - begin) as u64,
            _ => 0,
        }
    }

    pub fn rtp_seconds(&self) -> f64 {
        self.rtp_samples() as f64 / 8000.0
    }

    /// The sound by RTP timestamps; where no packet came there is silence.
    ///
    /// # Errors
    /// When it is not G.711 throughout.
    pub fn decode(&self) -> Result<Vec<i16>> {
        let begins = self.extended(|packet| (i64::from(packet.timestamp), 1 << 32));
        let first = begins.iter().min().copied().unwrap_or(0);
        let length = usize::try_from(self.rtp_samples())?;
        if length > 8000 * 3600 * 4 {
            bail!("timestamps span {length} samples: not one stream");
        }
        let mut samples = vec![0; length];
        for (begin, packet) in begins.iter().zip(&self.packets) {
            let law = Law::from_payload_type(packet.payload_type)
                .with_context(|| format!("payload type {} is not G.711", packet.payload_type))?;
            let at = usize::try_from(begin - first)?;
            for (sample, &code) in samples[at..].iter_mut().zip(&packet.payload) {
                *sample = law.decode(code);
            }
        }
        Ok(samples)
    }

    /// A wrapping counter unwrapped from packet to packet.
    fn extended(&self, field: impl Fn(&Packet) -> (i64, i64)) -> Vec<i64> {
        let mut values = Vec::with_capacity(self.packets.len());
        let mut last: Option<i64> = None;
        for packet in &self.packets {
            let (value, modulus) = field(packet);
            let value = match last {
                None => value,
                Some(last) => {
                    let step = (value - last).rem_euclid(modulus);
                    last + if step < modulus / 2 { step } else { step - modulus }
                }
            };
            values.push(value);
            last = Some(value);
        }
        values
    }
}

/// A capture, sorted.
#[derive(Debug, Default)]
pub struct Reference {
    pub streams: BTreeMap<StreamKey, Stream>,
    /// Frames of any kind.
    pub frames: u64,
    pub sip_messages: u64,
    pub rtcp_packets: u64,
    /// Neither RTP, RTCP nor SIP: address resolution, ICMP.
    pub other: u64,
}

impl Reference {
    /// # Errors
    /// When the file cannot be read or is no pcap of Ethernet frames.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} cannot be used as a reference", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let unit_ns = match word(0) {
            Some(0xa1b2_c3d4) => 1000,
            Some(0xa1b2_3c4d) => 1,
            _ => bail!("no little-endian pcap header"),
        };
        if word(20) != Some(1) {
            bail!("link type {:?} is not Ethernet", word(20));
        }
        let mut reference = Self::default();
        let mut at = 24;
        while let (Some(seconds), Some(fraction), Some(length)) = (word(at), word(at + 4), word(at + 8)) {
            let body = at + 16;
            let Some(frame) = bytes.get(body..body + length as usize) else { break };
            reference.frame(u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit_ns, frame);
            at = body + length as usize;
        }
        Ok(reference)
    }

    fn frame(&mut self, time_ns: u64, frame: &[u8]) {
        self.frames += 1;
        let Some((source, destination, payload)) = udp(frame) else {
            self.other += 1;
            return;
        };
        if source.port() == 5060 || destination.port() == 5060 {
            self.sip_messages += 1;
            return;
        }
        // RFC 3550 §5.1; RTCP packet types 200 to 223 fall on payload types 72 to 95 with the marker bit (RFC 5761 §4).
        let Some(header) = payload.get(..12).filter(|header| header[0] >> 6 == 2) else {
            self.other += 1;
            return;
        };
        if (200..=223).contains(&header[1]) {
            self.rtcp_packets += 1;
            return;
        }
        let contributing = usize::from(header[0] & 0x0f) * 4;
        let media = payload.get(12 + contributing..).unwrap_or_default();
        let u32_at = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let key = StreamKey { source, destination, ssrc: u32_at(8) };
        self.streams.entry(key).or_default().packets.push(Packet {
            time_ns,
            sequence: u16::from_be_bytes([header[2], header[3]]),
            timestamp: u32_at(4),
            payload_type: header[1] & 0x7f,
            payload: media.to_vec(),
        });
    }
}

/// Addresses and payload of an unfragmented IPv4 UDP datagram in an Ethernet frame.
fn udp(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    let ip = frame.get(14..).filter(|_| frame[12..14] == [0x08, 0x00])?;
    let header = ip.get(..20).filter(|header| header[0] == 0x45 && header[9] == 17)?;
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let (source, destination) = (address(12), address(16));
    let udp = ip.get(20..usize::from(u16::from_be_bytes([header[2], header[3]])))?;
    let ports = udp.get(..8)?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((SocketAddrV4::new(source, port(0)), SocketAddrV4::new(destination, port(2)), &udp[8..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u16, timestamp: u32) -> Packet {
        Packet { time_ns: 0, sequence, timestamp, payload_type: 8, payload: vec![0xd5; 160] }
    }

    #[test]
    fn counters_that_wrap_are_followed() {
        let stream = Stream { packets: vec![packet(65_534, u32::MAX - 159), packet(65_535, 0), packet(1, 320)] };
        assert_eq!(stream.missing(), 1);
        assert_eq!(stream.rtp_samples(), 640);
    }

    #[test]
    fn duplicates_and_disorder_do_not_count_as_missing() {
        let stream = Stream { packets: vec![packet(5, 0), packet(7, 320), packet(6, 160), packet(6, 160)] };
        assert_eq!((stream.missing(), stream.rtp_samples()), (0, 480));
    }

    #[test]
    fn cut_off_frames_are_other() {
        let mut reference = Reference::default();
        for length in 0..60 {
            reference.frame(0, &[0x08; 60][..length]);
        }
        assert_eq!((reference.frames, reference.other), (60, 60));
    }
}
