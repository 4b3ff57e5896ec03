use super::*;
use proptest::prelude::*;

const START: CaptureTime = CaptureTime(1_700_000_000_000_000_000);

fn at(milliseconds: u64) -> CaptureTime {
    CaptureTime(START.0 + milliseconds * 1_000_000)
}

fn ipv4(identification: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    packet[2..4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[6..8].copy_from_slice(&((offset / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
    packet.extend_from_slice(data);
    packet
}

/// With a hop-by-hop header in front of the fragment header when `option` is given.
fn ipv6(identification: u32, offset: usize, more: bool, data: &[u8], option: bool) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
    packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    if option {
        packet[6] = 0;
        packet.extend_from_slice(&[44, 0, 1, 4, 0, 0, 0, 0]);
    }
    packet.extend_from_slice(&[17, 0]);
    packet.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
    packet.extend_from_slice(&identification.to_be_bytes());
    packet.extend_from_slice(data);
    let length = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

struct Bench {
    reassembler: Reassembler,
    delivered: Vec<(CaptureTime, Vec<u8>, u32)>,
}

impl Bench {
    fn new(limits: ReassemblerLimits) -> Self {
        Self { reassembler: Reassembler::new(limits), delivered: Vec::new() }
    }

    fn push(&mut self, milliseconds: u64, packet: &[u8]) -> FragmentOutcome {
        self.push_in(Domain::default(), milliseconds, packet)
    }

    fn push_in(&mut self, domain: Domain, milliseconds: u64, packet: &[u8]) -> FragmentOutcome {
        let delivered = &mut self.delivered;
        let mut out = |datagram: Datagram<'_>| {
            assert_eq!(datagram.domain, domain);
            delivered.push((datagram.time, datagram.packet.to_vec(), datagram.fragments));
        };
        let outcome = self.reassembler.push(at(milliseconds), domain, packet, &mut out);
        self.check();
        outcome
    }

    /// What holds at any moment.
    fn check(&self) {
        let statistics = self.reassembler.statistics();
        assert_eq!(
            statistics.fragments,
            statistics.delivered_fragments + statistics.dropped() + statistics.held_fragments,
            "{statistics:?}"
        );
        assert_eq!(statistics.datagrams, self.delivered.len() as u64);
        assert_eq!(
            statistics.held_bytes,
            self.reassembler.pending.values().map(|one| one.cost_bytes as u64).sum::<u64>()
        );
        assert_eq!(self.reassembler.deadlines.len(), self.reassembler.pending.len());
        assert!(statistics.held_bytes <= self.reassembler.limits.bytes_max as u64);
        assert!(self.reassembler.pending.len() <= self.reassembler.limits.datagrams_max);
        for pending in self.reassembler.pending.values() {
            if let State::Incomplete { data, .. } = &pending.state {
                assert!(data.capacity() <= 2 * data.len().max(64), "what is allocated is near what is counted");
            }
        }
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

use FragmentOutcome::{Delivered, Dropped, Held};

#[test]
fn three_fragments_out_of_order_make_a_datagram() {
    let data = payload(3000);
    let mut bench = Bench::new(ReassemblerLimits::default());
    assert_eq!(bench.push(0, &ipv4(9, 2960, false, &data[2960..])), Held);
    assert_eq!(bench.push(5, &ipv4(9, 0, true, &data[..1480])), Held);
    assert_eq!(bench.push(9, &ipv4(9, 1480, true, &data[1480..2960])), Delivered);
    let (time, packet, fragments) = &bench.delivered[0];
    assert_eq!((*time, *fragments), (at(9), 3));
    let mut expected = ipv4(9, 0, false, &data);
    let checksum = internet_checksum(&expected[..20]);
    expected[10..12].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(*packet, expected);
}

#[test]
fn the_checksum_of_the_header_is_right() {
    // RFC 1071: the sum over a header with its checksum is 0.
    let mut bench = Bench::new(ReassemblerLimits::default());
    bench.push(0, &ipv4(0xfffe, 8, false, &[1, 2, 3]));
    bench.push(0, &ipv4(0xfffe, 0, true, &[0xff; 8]));
    let (_, packet, _) = &bench.delivered[0];
    assert_eq!(internet_checksum(&packet[..20]), 0);
}

#[test]
fn ipv6_fragments_lose_their_header_and_keep_the_others() {
    let data = payload(2000);
    for option in [false, true] {
        let mut bench = Bench::new(ReassemblerLimits::default());
        assert_eq!(bench.push(0, &ipv6(77, 1448, false, &data[1448..], option)), Held);
        assert_eq!(bench.push(1, &ipv6(77, 0, true, &data[..1448], option)), Delivered);
        let (_, packet, _) = &bench.delivered[0];
        let headers = if option { 48 } else { 40 };
        assert_eq!(packet[4..6], ((packet.len() - 40) as u16).to_be_bytes());
        assert_eq!(packet[if option { 40 } else { 6 }], 17, "what follows is UDP");
        assert_eq!(packet[headers..], data);
    }
}

#[test]
fn an_atomic_fragment_is_whole_and_disturbs_no_other() {
    let mut bench = Bench::new(ReassemblerLimits::default());
    assert_eq!(bench.push(0, &ipv6(5, 0, true, &payload(8), false)), Held);
    assert_eq!(bench.push(0, &ipv6(5, 0, false, &payload(30), false)), Delivered);
    assert_eq!(bench.push(0, &ipv6(5, 8, false, &payload(8), false)), Delivered);
    assert_eq!(bench.delivered[0].1[40..], payload(30));
}

#[test]
fn domains_addresses_protocols_and_identifications_are_kept_apart() {
    let data = payload(16);
    let mut bench = Bench::new(ReassemblerLimits::default());
    let vlan = Domain { vlan_outer: 100, ..Domain::default() };
    bench.push(0, &ipv4(1, 0, true, &data[..8]));
    assert_eq!(bench.push_in(vlan, 0, &ipv4(1, 8, false, &data[8..])), Held);
    assert_eq!(bench.push(0, &ipv4(2, 8, false, &data[8..])), Held);
    let mut other_source = ipv4(1, 8, false, &data[8..]);
    other_source[15] = 99;
    assert_eq!(bench.push(0, &other_source), Held);
    let mut other_protocol = ipv4(1, 8, false, &data[8..]);
    other_protocol[9] = 6;
    assert_eq!(bench.push(0, &other_protocol), Held);
    assert_eq!(bench.push(0, &ipv4(1, 8, false, &data[8..])), Delivered);
}

#[test]
fn copies_are_dropped_before_and_after_delivery() {
    let data = payload(24);
    let mut bench = Bench::new(ReassemblerLimits::default());
    let fragments = [ipv4(1, 0, true, &data[..8]), ipv4(1, 8, true, &data[8..16]), ipv4(1, 16, false, &data[16..])];
    assert_eq!(bench.push(0, &fragments[0]), Held);
    assert_eq!(bench.push(0, &fragments[0]), Dropped(FragmentDrop::Duplicate));
    assert_eq!(bench.push(1, &fragments[1]), Held);
    assert_eq!(bench.push(2, &fragments[2]), Delivered);
    for fragment in &fragments {
        assert_eq!(bench.push(3, fragment), Dropped(FragmentDrop::Duplicate));
    }
    // The identification is used again for something else.
    assert_eq!(bench.push(500, &ipv4(1, 0, true, &[9; 8])), Held);
    assert_eq!(bench.push(500, &ipv4(1, 8, false, &[9; 8])), Delivered);
    // And after a second also for the same.
    for (fragment, outcome) in fragments.iter().zip([Held, Held, Delivered]) {
        assert_eq!(bench.push(1600, fragment), outcome);
    }
}

#[test]
fn overlaps_discard_the_datagram() {
    let data = payload(64);
    let overlap = FragmentDrop::Overlap;
    // (first fragments, the one that contradicts), as (offset, end, more).
    type Part = (usize, usize, bool);
    let table: &[(&str, &[Part], Part)] = &[
        ("begins within", &[(0, 32, true)], (24, 40, true)),
        ("ends within", &[(32, 64, true)], (24, 40, true)),
        ("encloses", &[(16, 24, true)], (8, 32, true)),
        ("is enclosed", &[(0, 32, true)], (8, 16, true)),
        ("same place, other length", &[(0, 32, true)], (0, 24, true)),
        ("two ends", &[(32, 48, false)], (48, 64, false)),
        ("lies behind the end", &[(8, 16, false)], (16, 24, true)),
        ("the end lies before it", &[(32, 48, true)], (8, 16, false)),
    ];
    for &(description, first, (from, to, more)) in table {
        for six in [false, true] {
            let fragment = |from: usize, to: usize, more: bool| {
                if six { ipv6(3, from, more, &data[from..to], false) } else { ipv4(3, from, more, &data[from..to]) }
            };
            let mut bench = Bench::new(ReassemblerLimits::default());
            for &(from, to, more) in first {
                assert_eq!(bench.push(0, &fragment(from, to, more)), Held, "{description}");
            }
            assert_eq!(bench.push(0, &fragment(from, to, more)), Dropped(overlap), "{description}");
            assert_eq!(bench.reassembler.statistics().overlap, first.len() as u64 + 1);
            assert_eq!(bench.reassembler.statistics().held_fragments, 0);
            // IPv6: nothing of this identification is taken any more (RFC 5722). IPv4: a new beginning.
            let expected = if six { Dropped(overlap) } else { Held };
            assert_eq!(bench.push(0, &fragment(0, 8, true)), expected, "{description}");
            assert_eq!(bench.push(31_000, &fragment(0, 8, true)), Held, "{description}");
        }
    }
}

#[test]
fn same_place_with_other_bytes_is_an_overlap() {
    let mut bench = Bench::new(ReassemblerLimits::default());
    assert_eq!(bench.push(0, &ipv4(3, 0, true, &[1; 8])), Held);
    assert_eq!(bench.push(0, &ipv4(3, 0, true, &[2; 8])), Dropped(FragmentDrop::Overlap));
}

#[test]
fn broken_fragments_are_dropped_with_the_reason() {
    use FragmentDrop::{Malformed, TooLong, Truncated};
    let mut cut = ipv4(1, 0, true, &[0; 16]);
    cut.pop();
    let mut short_header = ipv4(1, 0, true, &[0; 16]);
    short_header[0] = 0x44;
    let mut chain = ipv6(1, 0, true, &[0; 8], true);
    chain[40] = 0; // hop-by-hop again and again, into the data
    let table: &[(&str, Vec<u8>, FragmentDrop)] = &[
        ("empty", vec![], Malformed),
        ("version 5", vec![0x55; 40], Malformed),
        ("half an IPv4 header", ipv4(1, 0, true, &[0; 8])[..19].to_vec(), Truncated),
        ("cut off", cut, Truncated),
        ("header length 16", short_header, Malformed),
        ("not a multiple of 8", ipv4(1, 0, true, &[0; 9]), Malformed),
        ("no data", ipv4(1, 8, false, &[]), Malformed),
        ("ends beyond 65 535", ipv4(1, 65_528, false, &[0; 8]), TooLong),
        ("half an IPv6 header", ipv6(1, 0, true, &[0; 8], false)[..30].to_vec(), Truncated),
        ("IPv6, not a multiple of 8", ipv6(1, 0, true, &[0; 9], false), Malformed),
        ("IPv6 without a fragment header", chain, Malformed),
    ];
    for (description, packet, reason) in table {
        let mut bench = Bench::new(ReassemblerLimits::default());
        assert_eq!(bench.push(0, packet), Dropped(*reason), "{description}");
        assert!(bench.reassembler.pending.is_empty());
    }
}

#[test]
fn a_datagram_whose_headers_push_it_beyond_the_limit_is_dropped() {
    let data = payload(65_528);
    let mut bench = Bench::new(ReassemblerLimits::default());
    assert_eq!(bench.push(0, &ipv4(1, 0, true, &data[..40_000])), Held);
    assert_eq!(bench.push(0, &ipv4(1, 40_000, false, &data[40_000..])), Dropped(FragmentDrop::TooLong));
    assert_eq!(bench.reassembler.statistics().too_long, 2);
    // In IPv6 the header does not count.
    assert_eq!(bench.push(0, &ipv6(1, 0, true, &data[..40_000], false)), Held);
    assert_eq!(bench.push(0, &ipv6(1, 40_000, false, &data[40_000..], false)), Delivered);
}

#[test]
fn too_many_fragments_are_too_many() {
    let mut bench = Bench::new(ReassemblerLimits::default());
    for index in 1..=FRAGMENTS_PER_DATAGRAM_MAX {
        assert_eq!(bench.push(0, &ipv4(1, index * 16, true, &[0; 8])), Held);
    }
    assert_eq!(bench.push(0, &ipv4(1, 8, true, &[0; 8])), Dropped(FragmentDrop::TooLong));
    assert_eq!(bench.reassembler.statistics().held_fragments, 0);
}

#[test]
fn what_does_not_come_in_time_is_given_up() {
    let mut bench = Bench::new(ReassemblerLimits::default());
    bench.push(0, &ipv4(1, 0, true, &[0; 8]));
    bench.push(10_000, &ipv4(2, 0, true, &[0; 8]));
    bench.reassembler.on_tick(at(29_999));
    assert_eq!(bench.reassembler.statistics().timeout, 0);
    bench.reassembler.on_tick(at(30_000));
    assert_eq!(bench.reassembler.statistics().timeout, 1);
    // Too late for the first, in time for the second.
    assert_eq!(bench.push(39_000, &ipv4(1, 8, false, &[0; 8])), Held);
    assert_eq!(bench.push(39_000, &ipv4(2, 8, false, &[0; 8])), Delivered);
    bench.check();
}

#[test]
fn a_flood_stays_within_the_limits_and_lets_whole_datagrams_through() {
    let limits = ReassemblerLimits { bytes_max: 100_000, datagrams_max: 300, timeout: Duration::from_secs(30) };
    let mut bench = Bench::new(limits);
    let data = payload(2000);
    for round in 0..3000u32 {
        let mut first = ipv4(round as u16, 0, true, &data[..64 + (round as usize % 100) * 8]);
        first[12..16].copy_from_slice(&round.wrapping_mul(2_654_435_761).to_be_bytes());
        assert_eq!(bench.push(u64::from(round), &first), Held);
        if round % 50 == 0 {
            assert_eq!(bench.push(u64::from(round), &ipv6(round, 0, true, &data[..1448], false)), Held);
            assert_eq!(bench.push(u64::from(round), &ipv6(round, 1448, false, &data[1448..], false)), Delivered);
        }
    }
    assert_eq!(bench.delivered.len(), 60);
    assert!(bench.reassembler.statistics().memory > 2500);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Against an oracle that knows the datagrams: cut anywhere, shuffled over each other, some copied, none missing.
    #[test]
    fn any_cut_in_any_order_gives_the_datagrams(
        datagrams in proptest::collection::vec((9usize..6000, any::<bool>(), 1usize..40), 1..6),
        shuffle in any::<u64>(),
        copies in 0usize..8,
    ) {
        let mut fragments = Vec::new();
        let mut expected = Vec::new();
        for (index, &(length, six, units)) in datagrams.iter().enumerate() {
            let data: Vec<u8> = payload(length).iter().map(|byte| byte.wrapping_add(index as u8)).collect();
            // At least two fragments.
            let step = (units * 8).min((length - 1) / 8 * 8);
            for from in (0..length).step_by(step) {
                let to = length.min(from + step);
                let more = to < length;
                fragments.push(if six { ipv6(index as u32, from, more, &data[from..to], false) }
                               else { ipv4(index as u16, from, more, &data[from..to]) });
            }
            // More fragments than are taken: none comes.
            if length.div_ceil(step) <= FRAGMENTS_PER_DATAGRAM_MAX {
                expected.push(data);
            }
        }
        let mut state = shuffle | 1;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..copies {
            let copy = fragments[random(fragments.len())].clone();
            fragments.push(copy);
        }
        for index in (1..fragments.len()).rev() {
            fragments.swap(index, random(index + 1));
        }
        let mut bench = Bench::new(ReassemblerLimits::default());
        for fragment in &fragments {
            bench.push(0, fragment);
        }
        let mut got: Vec<Vec<u8>> = bench.delivered.iter().map(|(_, packet, _)| {
            packet[if packet[0] >> 4 == 6 { 40 } else { 20 }..].to_vec()
        }).collect();
        got.sort();
        expected.sort();
        prop_assert!(got == expected, "{} datagrams of {}", got.len(), expected.len());
    }

    #[test]
    fn any_bytes_keep_the_books_and_the_limits(
        packets in proptest::collection::vec((0u64..40_000, 0u8..4, proptest::collection::vec(any::<u8>(), 0..64)), 0..60),
    ) {
        let limits = ReassemblerLimits { bytes_max: 4000, datagrams_max: 8, timeout: Duration::from_secs(30) };
        let mut bench = Bench::new(limits);
        for (milliseconds, shape, bytes) in packets {
            // Raw bytes rarely get past the header: most packets are fragments with hostile offsets and lengths.
            let (a, b) = (usize::from(bytes.first().copied().unwrap_or(0)), usize::from(bytes.last().copied().unwrap_or(0)));
            let packet = match shape {
                0 => bytes,
                1 => ipv6(a as u32 % 3, (b % 8) * 8, a & 8 != 0, &vec![a as u8; b / 8 * 8], a & 16 != 0),
                _ => ipv4(a as u16 % 3, (b % 8) * 8, a & 8 != 0, &vec![a as u8; b / 8 * 8]),
            };
            bench.push(milliseconds, &packet);
        }
    }
}
