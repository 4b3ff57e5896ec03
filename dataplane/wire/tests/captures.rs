//! Real captures, against tshark: the datagrams put together from fragments have the lengths that tshark finds, and every TCP
//! stream holds the bytes that a plain placement of tshark's segments by sequence number gives.
//!
//! The captures are no part of the repository: SIDETONE_CORPUS names their directory, else ../shared/corpus beside it.

use sidetone_model::CaptureTime;
use sidetone_wire::{Kind, Link, Reassembler, ReassemblerLimits, TcpEvent, TcpLimits, TcpReassembler, classify};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn captures() -> Option<Vec<PathBuf>> {
    let beside = PathBuf::from("../../../shared/corpus");
    let corpus = std::env::var_os("SIDETONE_CORPUS").map_or(beside, PathBuf::from);
    let Ok(directory) = std::fs::read_dir(corpus.join("pcaps")) else {
        eprintln!("SKIPPED: no captures in {}; set SIDETONE_CORPUS to check against them", corpus.display());
        return None;
    };
    let mut paths: Vec<PathBuf> = directory.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 50, "{} captures are not the corpus", paths.len());
    Some(paths)
}

/// What this crate makes of a capture.
#[derive(Default)]
struct Found {
    /// Payload lengths behind the IP headers.
    datagrams: Vec<usize>,
    /// By connection direction, in order of appearance: the streams' bytes.
    streams: BTreeMap<(String, String), Vec<Vec<u8>>>,
    fragments: u64,
}

fn read(frames: &[(CaptureTime, Link, Vec<u8>)]) -> Found {
    let mut found = Found::default();
    let mut fragments = Reassembler::new(ReassemblerLimits::default());
    let mut tcp = TcpReassembler::new(TcpLimits::default());
    let mut texts: BTreeMap<u64, ((String, String), Vec<u8>)> = BTreeMap::new();
    let mut on_event = |event: TcpEvent<'_>| match event {
        TcpEvent::Bytes { stream, source, destination, bytes, .. } => {
            let key = (source.to_string(), destination.to_string());
            texts.entry(stream.0).or_insert_with(|| (key, Vec::new())).1.extend_from_slice(bytes);
        }
        TcpEvent::Gap { .. } | TcpEvent::End { .. } => {}
    };
    let mut last = CaptureTime::ZERO;
    for (time, link, bytes) in frames {
        last = last.max(*time);
        let Ok(packet) = classify(*link, bytes) else { continue };
        match packet.kind {
            Kind::Tcp => {
                tcp.push(*time, &packet, &mut on_event);
            }
            Kind::Fragment => {
                let mut whole = Vec::new();
                fragments.push(*time, packet.domain, packet.payload, &mut |datagram| whole = datagram.packet.to_vec());
                if whole.is_empty() {
                    continue;
                }
                let header = if whole[0] >> 4 == 4 { usize::from(whole[0] & 15) * 4 } else { 40 };
                found.datagrams.push(whole.len() - header);
                if let Ok(packet) = classify(Link::RawIp, &whole)
                    && packet.kind == Kind::Tcp
                {
                    tcp.push(*time, &packet, &mut on_event);
                }
            }
            _ => {}
        }
    }
    tcp.finish(last, &mut on_event);
    let statistics = tcp.statistics();
    assert_eq!(statistics.segments, statistics.delivered + statistics.control + statistics.dropped());
    let statistics = fragments.statistics();
    assert_eq!(statistics.fragments, statistics.delivered_fragments + statistics.dropped() + statistics.held_fragments);
    for (_, (key, text)) in texts {
        found.streams.entry(key).or_default().push(text);
    }
    found.fragments = statistics.fragments;
    found.datagrams.sort_unstable();
    found
}

fn tshark(path: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    // Every segment is listed by its own frame; duplicates too.
    command.args(["-o", "tcp.desegment_tcp_streams:FALSE", "-o", "tcp.relative_sequence_numbers:FALSE"]);
    command.arg("-r").arg(path).args(["-Y", filter, "-T", "fields", "-E", "occurrence=f"]);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let output = command.output().expect("tshark was found before");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn fragments_and_streams_are_those_that_tshark_finds() {
    let Some(paths) = captures() else { return };
    if Command::new("tshark").arg("-v").output().is_err() {
        eprintln!("SKIPPED: tshark is not installed");
        return;
    }
    let (mut datagrams, mut streams, mut bytes) = (0, 0, 0);
    for path in paths {
        let Some(frames) = capture_file::frames(&path) else { continue };
        let found = read(&frames);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if found.fragments > 0 {
            let fields = ["ip.reassembled.length", "ipv6.reassembled.length"];
            let mut theirs: Vec<usize> = tshark(&path, "ip.reassembled.length || ipv6.reassembled.length", &fields)
                .into_iter()
                .map(|row| row.iter().find_map(|field| field.parse().ok()).unwrap())
                .collect();
            theirs.sort_unstable();
            assert_eq!(found.datagrams, theirs, "{name}");
            datagrams += theirs.len();
        }
        if found.streams.is_empty() {
            continue;
        }
        for (key, theirs) in placed_by_sequence(&path) {
            let ours: Vec<u8> = found.streams.get(&key).into_iter().flatten().flatten().copied().collect();
            assert_eq!(ours.len(), theirs.len(), "{name}: {key:?}");
            assert!(ours == theirs, "{name}: {key:?} differs");
            streams += 1;
            bytes += theirs.len();
        }
    }
    println!("{datagrams} datagrams from fragments, {streams} directions of TCP connections with {bytes} bytes");
    assert!(datagrams >= 2 && streams >= 20 && bytes > 100_000);
}

/// The oracle: per connection direction all bytes, placed by sequence number as tshark parsed it, the first ones seen where
/// they overlap, holes left out. Bytes before the first segment seen are not part of a stream.
fn placed_by_sequence(path: &Path) -> BTreeMap<(String, String), Vec<u8>> {
    let fields = [
        "tcp.stream",
        "ip.src",
        "ipv6.src",
        "tcp.srcport",
        "ip.dst",
        "ipv6.dst",
        "tcp.dstport",
        "tcp.seq",
        "tcp.payload",
        "tcp.flags.syn",
    ];
    // By stream and direction: the first sequence number, and the bytes by their distance from it.
    type Placed = (u32, BTreeMap<i64, u8>);
    let mut placed: BTreeMap<(u32, String, String), Placed> = BTreeMap::new();
    // Segments that exist only inside another packet (ICMP errors quote them) are not on the wire.
    for row in tshark(path, "tcp && !icmp && !icmpv6", &fields) {
        let address = |four: &str, six: &str, port: &str| {
            if four.is_empty() { format!("[{six}]:{port}") } else { format!("{four}:{port}") }
        };
        // No stream: the frame is too short for a TCP header.
        let Ok(stream) = row[0].parse() else { continue };
        let key = (stream, address(&row[1], &row[2], &row[3]), address(&row[4], &row[5], &row[6]));
        let sequence: u32 = row[7].parse().unwrap();
        let is_syn = row[9] == "1" || row[9] == "True";
        let payload: Vec<u8> = row[8]
            .replace(':', "")
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        if payload.is_empty() && !is_syn {
            continue;
        }
        let first = sequence.wrapping_add(u32::from(is_syn));
        let (origin, bytes) = placed.entry(key).or_insert((first, BTreeMap::new()));
        for (index, byte) in payload.into_iter().enumerate() {
            let place = i64::from(first.wrapping_sub(*origin).cast_signed()) + index as i64;
            if place >= 0 {
                bytes.entry(place).or_insert(byte);
            }
        }
    }
    let mut streams: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    for ((_, source, destination), (_, bytes)) in placed {
        streams.entry((source, destination)).or_default().extend(bytes.into_values());
    }
    streams.retain(|_, bytes| !bytes.is_empty());
    streams
}

/// pcap and pcapng, as much as the captures need.
mod capture_file {
    use sidetone_model::CaptureTime;
    use sidetone_wire::Link;
    use std::path::Path;

    pub(super) fn frames(path: &Path) -> Option<Vec<(CaptureTime, Link, Vec<u8>)>> {
        let bytes = std::fs::read(path).unwrap();
        match bytes.get(..4)? {
            [0xd4, 0xc3, 0xb2, 0xa1] => pcap(&bytes, 1000, u32_at),
            [0xa1, 0xb2, 0xc3, 0xd4] => pcap(&bytes, 1000, |bytes, at| u32_at(bytes, at).map(u32::swap_bytes)),
            [0x4d, 0x3c, 0xb2, 0xa1] => pcap(&bytes, 1, u32_at),
            [0x0a, 0x0d, 0x0d, 0x0a] => pcapng(&bytes),
            other => {
                eprintln!("SKIPPED: {} is neither pcap nor pcapng ({other:02x?})", path.display());
                None
            }
        }
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        bytes.get(at..).and_then(<[u8]>::first_chunk).map(|&four| u32::from_le_bytes(four))
    }

    fn link(number: u32) -> Option<Link> {
        match number & 0xffff {
            0 => Some(Link::Null),
            1 => Some(Link::Ethernet),
            12 | 101 | 228 | 229 => Some(Link::RawIp),
            113 => Some(Link::LinuxCooked),
            276 => Some(Link::LinuxCooked2),
            _ => None,
        }
    }

    fn pcap(
        bytes: &[u8],
        fraction_ns: u64,
        u32_at: fn(&[u8], usize) -> Option<u32>,
    ) -> Option<Vec<(CaptureTime, Link, Vec<u8>)>> {
        let link = link(u32_at(bytes, 20)?)?;
        let mut frames = Vec::new();
        let mut at = 24;
        while let (Some(seconds), Some(fraction), Some(length)) =
            (u32_at(bytes, at), u32_at(bytes, at + 4), u32_at(bytes, at + 8))
        {
            let Some(frame) = bytes.get(at + 16..at + 16 + length as usize) else { break };
            let time = CaptureTime::from_seconds_nanos(u64::from(seconds), u64::from(fraction) * fraction_ns);
            frames.push((time, link, frame.to_vec()));
            at += 16 + length as usize;
        }
        Some(frames)
    }

    fn pcapng(bytes: &[u8]) -> Option<Vec<(CaptureTime, Link, Vec<u8>)>> {
        let mut frames = Vec::new();
        let mut links = Vec::new();
        let mut at = 0;
        while let (Some(kind), Some(length)) = (u32_at(bytes, at), u32_at(bytes, at + 4)) {
            let block = bytes.get(at..at + length as usize)?;
            match kind {
                1 => {
                    // Option 9 (if_tsresol), as a power of ten; microseconds without it.
                    let resolution = block[16..].windows(5).step_by(4).find(|option| option[..4] == [9, 0, 1, 0]);
                    let digits = resolution.map_or(6, |option| option[4]);
                    links.push((link(u32_at(block, 8)?), 10u64.pow(9 - u32::from(digits.min(9)))));
                }
                6 => {
                    let time = u64::from(u32_at(block, 12)?) << 32 | u64::from(u32_at(block, 16)?);
                    let captured = u32_at(block, 20)? as usize;
                    if let Some(&(Some(link), unit_ns)) = links.get(u32_at(block, 8)? as usize) {
                        frames.push((CaptureTime(time * unit_ns), link, block.get(28..28 + captured)?.to_vec()));
                    }
                }
                _ => {}
            }
            at += (length as usize).max(12);
        }
        Some(frames)
    }
}
