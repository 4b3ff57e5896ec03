//! IP reassembly: fragments → datagrams (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! Constraints: no I/O, no clock (time comes with the packets), no panic on any bytes; memory is bounded by
//! [`ReassemblerLimits`]. Every fragment pushed has exactly one end: part of a delivered datagram, one of
//! [`FragmentDrop`]'s reasons, or it is still held; `FragmentStatistics` adds up at any moment.
//!
//! Overlaps. A fragment that is the exact copy of one already here (a mirror port that copies both ends of a
//! link delivers everything twice) is dropped alone. Any other overlap, and any contradiction about the
//! datagram's length, discards the datagram: RFC 5722 demands it for IPv6, and Linux does the same for IPv4, so that
//! nobody can make the recorder see another message than the phone saw. For IPv6 the identification stays
//! barred until it times out; for IPv4, whose 16-bit identification comes round soon, the next fragment starts afresh.

use foldhash::fast::RandomState;
use sidetone_model::{CaptureTime, Domain};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The longest payload that fragments can describe, and the longest datagram handed out without its first header.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Unfragmentable part of an IPv6 packet that is accepted: the header and a few extension headers.
const IPV6_HEADERS_BYTES_MAX: usize = 512;
const IPV6_EXTENSIONS_MAX: usize = 8;
/// Fragments of one datagram; 65 535 bytes over the smallest MTU that IPv4 links are known to have (576) are 119.
const FRAGMENTS_PER_DATAGRAM_MAX: usize = 256;
/// How long a delivered datagram is remembered, so that late copies of its fragments are known as such.
const DELIVERED_REMEMBERED: Duration = Duration::from_secs(1);
/// What a datagram and a fragment cost besides their bytes, for the memory bound.
const DATAGRAM_OVERHEAD_BYTES: usize = 256;
const FRAGMENT_OVERHEAD_BYTES: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReassemblerLimits {
    /// Bytes held in incomplete datagrams, bookkeeping included.
    pub bytes_max: usize,
    /// Datagrams in the table: incomplete, barred, or delivered and remembered.
    pub datagrams_max: usize,
    /// From a datagram's first fragment until it is given up.
    pub timeout: Duration,
}

impl Default for ReassemblerLimits {
    fn default() -> Self {
        Self { bytes_max: 16 << 20, datagrams_max: 16_384, timeout: Duration::from_secs(30) }
    }
}

/// A whole IP packet put together from fragments, ready for [`crate::classify`] with [`crate::Link::RawIp`].
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Arrival of the fragment that completed it.
    pub time: CaptureTime,
    pub domain: Domain,
    /// The IP header (of the first fragment, lengths and fragment fields corrected, no fragment header) and the payload.
    pub packet: &'a [u8],
    /// Fragments that it was made of.
    pub fragments: u32,
}

/// Why a fragment did not become part of a datagram. Each is one drop label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FragmentDrop {
    /// The headers are no IPv4 or IPv6 fragment, or its length breaks the rules.
    Malformed,
    /// The capture cut the packet off.
    Truncated,
    /// An exact copy of a fragment already seen.
    Duplicate,
    /// The datagram's fragments contradict each other.
    Overlap,
    /// More fragments than a datagram may have, or longer than 65 535 bytes.
    TooLong,
    /// The rest did not come in time.
    Timeout,
    /// Pushed out by newer datagrams: the memory bound was reached.
    Memory,
}

/// What became of a pushed fragment for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FragmentOutcome {
    /// Waits for the others; ends later in `delivered` or a drop count of the statistics.
    Held,
    /// Completed a datagram, which was handed out.
    Delivered,
    Dropped(FragmentDrop),
}

/// Counts since the start. `fragments = delivered_fragments + Σ dropped + held_fragments` holds at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FragmentStatistics {
    pub fragments: u64,
    pub datagrams: u64,
    pub delivered_fragments: u64,
    pub malformed: u64,
    pub truncated: u64,
    pub duplicate: u64,
    pub overlap: u64,
    pub too_long: u64,
    pub timeout: u64,
    pub memory: u64,
    /// Fragments held now.
    pub held_fragments: u64,
    /// Bytes held now, bookkeeping included.
    pub held_bytes: u64,
}

impl FragmentStatistics {
    /// Fragments dropped, over all reasons.
    pub fn dropped(&self) -> u64 {
        self.malformed + self.truncated + self.duplicate + self.overlap + self.too_long + self.timeout + self.memory
    }

    fn count(&mut self, reason: FragmentDrop, fragments: u64) {
        let counter = match reason {
            FragmentDrop::Malformed => &mut self.malformed,
            FragmentDrop::Truncated => &mut self.truncated,
            FragmentDrop::Duplicate => &mut self.duplicate,
            FragmentDrop::Overlap => &mut self.overlap,
            FragmentDrop::TooLong => &mut self.too_long,
            FragmentDrop::Timeout => &mut self.timeout,
            FragmentDrop::Memory => &mut self.memory,
        };
        *counter += fragments;
    }
}

/// What makes fragments belong together. IPv6 leaves the protocol out (RFC 8200 §4.5): it is 0 here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    domain: Domain,
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: u8,
}

struct Fragment<'a> {
    key: Key,
    /// What stands in front of the payload in the whole packet, still with the fragment's own lengths.
    header: &'a [u8],
    /// Where in `header` the number of the payload's protocol belongs, and that number; IPv6 only.
    next_header: Option<(usize, u8)>,
    offset: usize,
    more: bool,
    data: &'a [u8],
}

#[derive(Clone, Copy)]
struct Piece {
    offset: u32,
    length: u32,
    /// Where its bytes lie in `Pending::data`.
    at: u32,
    digest: u64,
}

enum State {
    /// Collecting; `data` holds the pieces' bytes in order of arrival.
    Incomplete { header: Vec<u8>, data: Vec<u8>, total: Option<u32> },
    /// Contradictory IPv6 datagram: everything that still comes is dropped.
    Barred,
    /// Handed out; `pieces` tell late copies.
    Delivered,
}

struct Pending {
    state: State,
    /// By offset, never overlapping.
    pieces: Vec<Piece>,
    deadline: CaptureTime,
    serial: u64,
    cost_bytes: usize,
}

/// Puts IPv4 and IPv6 fragments together.
pub struct Reassembler {
    limits: ReassemblerLimits,
    hasher: RandomState,
    pending: HashMap<Key, Pending, RandomState>,
    /// By deadline, then order of arrival: the first is the first to expire, and the first to go when memory is short.
    deadlines: BTreeMap<(CaptureTime, u64), Key>,
    serial: u64,
    assembled: Vec<u8>,
    statistics: FragmentStatistics,
}

impl Reassembler {
    pub fn new(limits: ReassemblerLimits) -> Self {
        Self {
            limits,
            hasher: RandomState::default(),
            pending: HashMap::default(),
            deadlines: BTreeMap::new(),
            serial: 0,
            assembled: Vec::new(),
            statistics: FragmentStatistics::default(),
        }
    }

    /// Takes one IP packet that is a fragment (starting at its IP header) and hands a datagram to `out` when it is whole.
    pub fn push(
        &mut self,
        time: CaptureTime,
        domain: Domain,
        packet: &[u8],
        out: &mut impl FnMut(Datagram<'_>),
    ) -> FragmentOutcome {
        self.statistics.fragments += 1;
        let fragment = match parse(domain, packet) {
            Ok(fragment) => fragment,
            Err(reason) => return self.drop_one(reason),
        };
        self.expire(time);

        if fragment.offset == 0 && !fragment.more {
            // Whole in one piece (an IPv6 "atomic fragment", RFC 6946): has nothing to do with others of its identification.
            self.statistics.delivered_fragments += 1;
            self.statistics.datagrams += 1;
            assemble_header(&mut self.assembled, fragment.header, fragment.next_header, fragment.data.len());
            self.assembled.extend_from_slice(fragment.data);
            out(Datagram { time, domain, packet: &self.assembled, fragments: 1 });
            return FragmentOutcome::Delivered;
        }

        let digest = self.hasher.hash_one(fragment.data);
        if let Some(pending) = self.pending.get(&fragment.key) {
            let copy = pending.pieces.iter().any(|piece| {
                piece.offset as usize == fragment.offset
                    && piece.length as usize == fragment.data.len()
                    && piece.digest == digest
            });
            match pending.state {
                State::Barred => return self.drop_one(FragmentDrop::Overlap),
                State::Incomplete { .. } | State::Delivered if copy => return self.drop_one(FragmentDrop::Duplicate),
                State::Incomplete { .. } => {}
                State::Delivered => self.remove(fragment.key),
            }
        }
        self.collect(time, &fragment, digest, out)
    }

    /// Gives up what has waited too long. Call it about once a second.
    pub fn on_tick(&mut self, now: CaptureTime) {
        self.expire(now);
    }

    pub fn statistics(&self) -> FragmentStatistics {
        self.statistics
    }

    fn collect(
        &mut self,
        time: CaptureTime,
        fragment: &Fragment<'_>,
        digest: u64,
        out: &mut impl FnMut(Datagram<'_>),
    ) -> FragmentOutcome {
        let key = fragment.key;
        if !self.pending.contains_key(&key) {
            self.insert(time, key);
        }
        let pending = self.pending.get_mut(&key).expect("was found or has just been inserted");
        let State::Incomplete { header, data, total } = &mut pending.state else {
            unreachable!("barred and delivered datagrams were dealt with before");
        };

        let end = fragment.offset + fragment.data.len();
        let position = pending.pieces.partition_point(|piece| (piece.offset as usize) < fragment.offset);
        let before_end = position.checked_sub(1).map_or(0, |index| end_of(pending.pieces[index]));
        let after_start = pending.pieces.get(position).map_or(usize::MAX, |piece| piece.offset as usize);
        let last_end = pending.pieces.last().map_or(0, |&piece| end_of(piece));
        let contradicts = before_end > fragment.offset
            || after_start < end
            || match *total {
                Some(total) => end > total as usize || (!fragment.more && end != total as usize),
                None => !fragment.more && last_end > end,
            };
        if contradicts {
            self.discard(key, FragmentDrop::Overlap);
            if key.source.is_ipv6() {
                self.bar(time, key);
            }
            return self.drop_one(FragmentDrop::Overlap);
        }
        if pending.pieces.len() == FRAGMENTS_PER_DATAGRAM_MAX {
            self.discard(key, FragmentDrop::TooLong);
            return self.drop_one(FragmentDrop::TooLong);
        }

        let at = u32::try_from(data.len()).expect("pieces do not overlap and end by 65 535");
        data.extend_from_slice(fragment.data);
        pending
            .pieces
            .insert(position, Piece { offset: fragment.offset as u32, length: fragment.data.len() as u32, at, digest });
        if !fragment.more {
            *total = Some(end as u32);
        }
        let mut cost = fragment.data.len() + FRAGMENT_OVERHEAD_BYTES;
        if fragment.offset == 0 {
            assemble_header(header, fragment.header, fragment.next_header, 0);
            cost += header.len();
        }
        pending.cost_bytes += cost;
        self.statistics.held_bytes += cost as u64;
        self.statistics.held_fragments += 1;

        // Pieces do not overlap and lie within the total, so their lengths add up to it only when nothing is missing.
        if *total == Some(data.len() as u32) {
            return self.deliver(time, key, out);
        }
        self.shrink_to_limits(key);
        if self.pending.contains_key(&key) {
            FragmentOutcome::Held
        } else {
            FragmentOutcome::Dropped(FragmentDrop::Memory)
        }
    }

    fn deliver(&mut self, time: CaptureTime, key: Key, out: &mut impl FnMut(Datagram<'_>)) -> FragmentOutcome {
        let mut pending = self.take(key);
        let State::Incomplete { header, data, .. } = &pending.state else {
            unreachable!("only incomplete datagrams are completed");
        };
        let fragments = pending.pieces.len();
        // IPv6 does not count its fixed header in the length field, IPv4 does.
        let uncounted = if key.source.is_ipv6() { IPV6_HEADER_BYTES } else { 0 };
        if header.len() - uncounted + data.len() > DATAGRAM_BYTES_MAX {
            self.statistics.count(FragmentDrop::TooLong, fragments as u64);
            return FragmentOutcome::Dropped(FragmentDrop::TooLong);
        }
        assemble_header(&mut self.assembled, header, None, data.len());
        for piece in &pending.pieces {
            self.assembled.extend_from_slice(&data[piece.at as usize..(piece.at + piece.length) as usize]);
        }
        self.statistics.datagrams += 1;
        self.statistics.delivered_fragments += fragments as u64;

        pending.state = State::Delivered;
        pending.pieces.shrink_to_fit();
        pending.cost_bytes = DATAGRAM_OVERHEAD_BYTES + fragments * FRAGMENT_OVERHEAD_BYTES;
        pending.deadline = time.saturating_add(DELIVERED_REMEMBERED);
        self.put(key, pending);
        self.shrink_to_limits(key);
        out(Datagram { time, domain: key.domain, packet: &self.assembled, fragments: fragments as u32 });
        FragmentOutcome::Delivered
    }

    fn insert(&mut self, time: CaptureTime, key: Key) {
        let deadline = time.saturating_add(self.limits.timeout);
        let state = State::Incomplete { header: Vec::new(), data: Vec::new(), total: None };
        self.serial += 1;
        let serial = self.serial;
        self.put(key, Pending { state, pieces: Vec::new(), deadline, serial, cost_bytes: DATAGRAM_OVERHEAD_BYTES });
    }

    fn bar(&mut self, time: CaptureTime, key: Key) {
        self.insert(time, key);
        let pending = self.pending.get_mut(&key).expect("has just been inserted");
        pending.state = State::Barred;
        self.shrink_to_limits(key);
    }

    fn put(&mut self, key: Key, pending: Pending) {
        self.statistics.held_bytes += pending.cost_bytes as u64;
        if let State::Incomplete { .. } = pending.state {
            self.statistics.held_fragments += pending.pieces.len() as u64;
        }
        self.deadlines.insert((pending.deadline, pending.serial), key);
        let former = self.pending.insert(key, pending);
        debug_assert!(former.is_none(), "the former datagram of this key was taken out before");
    }

    /// Takes a datagram out of the tables and of what counts as held.
    fn take(&mut self, key: Key) -> Pending {
        let pending = self.pending.remove(&key).expect("callers have looked it up");
        self.deadlines.remove(&(pending.deadline, pending.serial));
        self.statistics.held_bytes -= pending.cost_bytes as u64;
        if let State::Incomplete { .. } = pending.state {
            self.statistics.held_fragments -= pending.pieces.len() as u64;
        }
        pending
    }

    /// Forgets a datagram that holds no fragments any more.
    fn remove(&mut self, key: Key) {
        let pending = self.take(key);
        debug_assert!(!matches!(pending.state, State::Incomplete { .. }));
    }

    /// Gives a datagram up; the fragments it holds are dropped for `reason`.
    fn discard(&mut self, key: Key, reason: FragmentDrop) {
        let pending = self.take(key);
        if let State::Incomplete { .. } = pending.state {
            self.statistics.count(reason, pending.pieces.len() as u64);
        }
    }

    fn expire(&mut self, now: CaptureTime) {
        while let Some((&(deadline, _), &key)) = self.deadlines.first_key_value() {
            if deadline > now {
                return;
            }
            self.discard(key, FragmentDrop::Timeout);
        }
    }

    /// Gives up datagrams, those first that expire first, until the limits hold; `newest` goes last.
    fn shrink_to_limits(&mut self, newest: Key) {
        while self.pending.len() > self.limits.datagrams_max
            || self.statistics.held_bytes > self.limits.bytes_max as u64
        {
            let victim = self.deadlines.values().copied().find(|&key| key != newest).unwrap_or(newest);
            if !self.pending.contains_key(&victim) {
                return;
            }
            self.discard(victim, FragmentDrop::Memory);
        }
    }

    fn drop_one(&mut self, reason: FragmentDrop) -> FragmentOutcome {
        self.statistics.count(reason, 1);
        FragmentOutcome::Dropped(reason)
    }
}

fn end_of(piece: Piece) -> usize {
    (piece.offset + piece.length) as usize
}

/// Writes into `into` the header of the whole packet: no fragment fields, the length for `payload_length`.
fn assemble_header(into: &mut Vec<u8>, header: &[u8], next_header: Option<(usize, u8)>, payload_length: usize) {
    into.clear();
    into.extend_from_slice(header);
    if let Some((at, protocol)) = next_header {
        into[at] = protocol;
    }
    if header[0] >> 4 == 4 {
        let total = length_field(header.len() + payload_length);
        into[2..4].copy_from_slice(&total.to_be_bytes());
        into[6..8].copy_from_slice(&[0, 0]);
        into[10..12].copy_from_slice(&[0, 0]);
        let checksum = internet_checksum(into);
        into[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let length = length_field(header.len() - IPV6_HEADER_BYTES + payload_length);
        into[4..6].copy_from_slice(&length.to_be_bytes());
    }
}

fn length_field(length: usize) -> u16 {
    u16::try_from(length).expect("packets that are too long were refused before")
}

/// RFC 1071, over an IPv4 header (an even number of bytes).
fn internet_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const IPV6_FRAGMENT_HEADER_BYTES: usize = 8;
const NEXT_HEADER_FRAGMENT: u8 = 44;

fn parse(domain: Domain, packet: &[u8]) -> Result<Fragment<'_>, FragmentDrop> {
    let fragment = match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_ipv4(domain, packet)?,
        Some(6) => parse_ipv6(domain, packet)?,
        _ => return Err(FragmentDrop::Malformed),
    };
    if fragment.data.is_empty() || (fragment.more && fragment.data.len() % 8 != 0) {
        return Err(FragmentDrop::Malformed);
    }
    if fragment.offset + fragment.data.len() > DATAGRAM_BYTES_MAX {
        return Err(FragmentDrop::TooLong);
    }
    Ok(fragment)
}

fn parse_ipv4(domain: Domain, packet: &[u8]) -> Result<Fragment<'_>, FragmentDrop> {
    let fixed: &[u8; IPV4_HEADER_BYTES] = packet.first_chunk().ok_or(FragmentDrop::Truncated)?;
    let header_length = usize::from(fixed[0] & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if header_length < IPV4_HEADER_BYTES || total_length < header_length {
        return Err(FragmentDrop::Malformed);
    }
    let packet = packet.get(..total_length).ok_or(FragmentDrop::Truncated)?;
    let (header, data) = packet.split_at(header_length);
    let flags_and_offset = u16::from_be_bytes([fixed[6], fixed[7]]);
    Ok(Fragment {
        key: Key {
            domain,
            source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
            destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
            identification: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            protocol: fixed[9],
        },
        header,
        next_header: None,
        offset: usize::from(flags_and_offset & 0x1fff) * 8,
        more: flags_and_offset & 0x2000 != 0,
        data,
    })
}

fn parse_ipv6(domain: Domain, packet: &[u8]) -> Result<Fragment<'_>, FragmentDrop> {
    let fixed: &[u8; IPV6_HEADER_BYTES] = packet.first_chunk().ok_or(FragmentDrop::Truncated)?;
    let payload_length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let packet = packet.get(..IPV6_HEADER_BYTES + payload_length).ok_or(FragmentDrop::Truncated)?;
    let address = |at: usize| {
        let bytes: [u8; 16] = fixed[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::V6(Ipv6Addr::from(bytes))
    };

    let mut next_header = fixed[6];
    let mut next_header_at = 6;
    let mut at = IPV6_HEADER_BYTES;
    for _ in 0..=IPV6_EXTENSIONS_MAX {
        if next_header == NEXT_HEADER_FRAGMENT {
            let rest = packet.get(at..).ok_or(FragmentDrop::Malformed)?;
            let (fragment, data) =
                rest.split_first_chunk::<IPV6_FRAGMENT_HEADER_BYTES>().ok_or(FragmentDrop::Malformed)?;
            let offset_and_flags = u16::from_be_bytes([fragment[2], fragment[3]]);
            return Ok(Fragment {
                key: Key {
                    domain,
                    source: address(8),
                    destination: address(24),
                    identification: u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]),
                    protocol: 0,
                },
                header: &packet[..at],
                next_header: Some((next_header_at, fragment[0])),
                offset: usize::from(offset_and_flags & 0xfff8),
                more: offset_and_flags & 1 != 0,
                data,
            });
        }
        // Hop-by-hop options, routing, destination options: the only ones in the unfragmentable part.
        if !matches!(next_header, 0 | 43 | 60) || at > IPV6_HEADERS_BYTES_MAX {
            return Err(FragmentDrop::Malformed);
        }
        let extension = packet.get(at..at + 2).ok_or(FragmentDrop::Malformed)?;
        next_header = extension[0];
        next_header_at = at;
        at += 8 + usize::from(extension[1]) * 8;
    }
    Err(FragmentDrop::Malformed)
}

#[cfg(test)]
mod tests;
