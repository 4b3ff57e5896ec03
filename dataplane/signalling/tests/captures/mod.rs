//! A small reader of pcap and pcapng files, for the tests only. It panics on damaged ones.

use sidetone_model::CaptureTime;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

pub(crate) struct Packet {
    pub(crate) time: CaptureTime,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: Payload,
}

pub(crate) enum Payload {
    Udp(Vec<u8>),
    Tcp { sequence: u32, is_syn: bool, bytes: Vec<u8> },
}

/// All UDP and TCP payloads of a capture, in order. What cannot be read as such is left out.
pub(crate) fn read(path: &Path) -> Vec<Packet> {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut packets = Vec::new();
    let mut keep =
        |time, link: u32, frame: &[u8]| packets.extend(link_layer(link, frame).and_then(|ip| packet(time, ip, 0)));
    if file.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        pcapng(&file, &mut keep);
    } else {
        pcap(&file, &mut keep);
    }
    packets
}

struct Words<'a> {
    bytes: &'a [u8],
    swapped: bool,
}

impl Words<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let word: [u8; 2] = self.bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if self.swapped { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let word: [u8; 4] = self.bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.swapped { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }
}

fn pcap(file: &[u8], keep: &mut impl FnMut(CaptureTime, u32, &[u8])) {
    let magic: [u8; 4] = file[..4].try_into().unwrap();
    let (swapped, nanos) = match magic {
        [0xd4, 0xc3, 0xb2, 0xa1] => (false, false),
        [0x4d, 0x3c, 0xb2, 0xa1] => (false, true),
        [0xa1, 0xb2, 0xc3, 0xd4] => (true, false),
        [0xa1, 0xb2, 0x3c, 0x4d] => (true, true),
        // Another format (one file of the corpus is Microsoft's Network Monitor's); its dialogs will be missed, if it has any.
        _ => return,
    };
    let words = Words { bytes: file, swapped };
    let link = words.u32(20).unwrap() & 0xffff;
    let mut at = 24;
    while let (Some(seconds), Some(fraction), Some(length)) = (words.u32(at), words.u32(at + 4), words.u32(at + 8)) {
        let Some(frame) = file.get(at + 16..at + 16 + length as usize) else { break };
        let scale = if nanos { 1 } else { 1000 };
        keep(CaptureTime::from_seconds_nanos(seconds.into(), u64::from(fraction) * scale), link, frame);
        at += 16 + length as usize;
    }
}

fn pcapng(file: &[u8], keep: &mut impl FnMut(CaptureTime, u32, &[u8])) {
    let mut swapped = false;
    let mut interfaces: Vec<(u32, u64)> = Vec::new();
    let mut at = 0;
    while at + 12 <= file.len() {
        if file[at..].starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            swapped = file[at + 8] == 0x1a;
            interfaces.clear();
        }
        let words = Words { bytes: &file[at..], swapped };
        let (kind, length) = (words.u32(0).unwrap(), words.u32(4).unwrap() as usize);
        if length < 12 || at + length > file.len() {
            break;
        }
        match kind {
            1 => interfaces.push((words.u16(8).unwrap().into(), ticks_per_second(&words, length))),
            6 => {
                let (link, per_second) = interfaces[words.u32(8).unwrap() as usize];
                let ticks = u64::from(words.u32(12).unwrap()) << 32 | u64::from(words.u32(16).unwrap());
                let nanos = u128::from(ticks % per_second) * 1_000_000_000 / u128::from(per_second);
                let captured = words.u32(20).unwrap() as usize;
                keep(
                    CaptureTime::from_seconds_nanos(ticks / per_second, nanos as u64),
                    link,
                    &file[at + 28..at + 28 + captured],
                );
            }
            _ => {}
        }
        at += length;
    }
}

/// Option 9 of an interface description, `if_tsresol`; microseconds without it.
fn ticks_per_second(block: &Words<'_>, length: usize) -> u64 {
    let mut at = 16;
    while at + 4 <= length - 4 {
        let (code, size) = (block.u16(at).unwrap(), block.u16(at + 2).unwrap() as usize);
        match (code, block.bytes.get(at + 4)) {
            (0, _) => break,
            (9, Some(resolution)) if resolution & 0x80 == 0 => return 10u64.pow((*resolution).into()),
            (9, Some(resolution)) => return 1 << (resolution & 0x7f),
            _ => at += 4 + size.div_ceil(4) * 4,
        }
    }
    1_000_000
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The IP packet in a frame.
fn link_layer(link: u32, frame: &[u8]) -> Option<&[u8]> {
    match link {
        0 => frame.get(4..),
        1 => ethernet(be16(frame, 12)?, frame.get(14..)?),
        12 | 14 | 101 | 228 | 229 => Some(frame),
        113 => ethernet(be16(frame, 14)?, frame.get(16..)?),
        276 => ethernet(be16(frame, 0)?, frame.get(20..)?),
        _ => None,
    }
}

fn ethernet(kind: u16, rest: &[u8]) -> Option<&[u8]> {
    match kind {
        0x0800 | 0x86dd => Some(rest),
        0x8100 | 0x88a8 | 0x9100 => ethernet(be16(rest, 2)?, rest.get(4..)?),
        0x8864 => rest.get(8..),
        0x6558 => ethernet(be16(rest, 12)?, rest.get(14..)?),
        _ => None,
    }
}

fn packet(time: CaptureTime, ip: &[u8], depth: u8) -> Option<Packet> {
    let (protocol, source, destination, rest): (u8, IpAddr, IpAddr, &[u8]) = match ip.first()? >> 4 {
        4 => {
            let header = usize::from(ip[0] & 15) * 4;
            let total = usize::from(be16(ip, 2)?).min(ip.len());
            if be16(ip, 6)? & 0x3fff != 0 {
                return None;
            }
            let address = |at: usize| -> Option<IpAddr> { Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into()) };
            (*ip.get(9)?, address(12)?, address(16)?, ip.get(header..total)?)
        }
        6 => {
            let address =
                |at: usize| -> Option<IpAddr> { Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into()) };
            let total = (usize::from(be16(ip, 4)?) + 40).min(ip.len());
            (*ip.get(6)?, address(8)?, address(24)?, ip.get(40..total)?)
        }
        _ => return None,
    };
    match protocol {
        4 | 41 if depth < 4 => packet(time, rest, depth + 1),
        47 if depth < 4 => {
            let flags = be16(rest, 0)?;
            let options = (flags & 0xb000).count_ones() as usize * 4;
            packet(time, ethernet(be16(rest, 2)?, rest.get(4 + options..)?)?, depth + 1)
        }
        17 | 6 => {
            let (source, destination) =
                (SocketAddr::new(source, be16(rest, 0)?), SocketAddr::new(destination, be16(rest, 2)?));
            let payload = if protocol == 17 {
                let length = usize::from(be16(rest, 4)?).clamp(8, rest.len().max(8));
                Payload::Udp(rest.get(8..length)?.to_vec())
            } else {
                let header = usize::from(rest.get(12)? >> 4) * 4;
                let sequence = u32::from_be_bytes(rest.get(4..8)?.try_into().ok()?);
                Payload::Tcp { sequence, is_syn: rest[13] & 2 != 0, bytes: rest.get(header..)?.to_vec() }
            };
            Some(Packet { time, source, destination, payload })
        }
        _ => None,
    }
}
