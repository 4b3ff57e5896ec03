use super::*;
use crate::Kind;
use proptest::prelude::*;

const START: CaptureTime = CaptureTime(1_700_000_000_000_000_000);

fn at(milliseconds: u64) -> CaptureTime {
    CaptureTime(START.0 + milliseconds * 1_000_000)
}

fn phone() -> SocketAddr {
    "192.0.2.1:5070".parse().unwrap()
}

fn proxy() -> SocketAddr {
    "192.0.2.2:5060".parse().unwrap()
}

fn segment(sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[12] = 0x50;
    bytes[13] = flags;
    bytes.extend_from_slice(data);
    bytes
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Bytes(u64, CaptureTime, Vec<u8>),
    Gap(u64, CaptureTime, Option<u64>),
    End(u64, CaptureTime, TcpEnd),
}

struct Bench {
    reassembler: TcpReassembler,
    seen: Vec<Seen>,
}

impl Bench {
    fn new(limits: TcpLimits) -> Self {
        Self { reassembler: TcpReassembler::new(limits), seen: Vec::new() }
    }

    fn push(&mut self, milliseconds: u64, sequence: u32, flags: u8, data: &[u8]) -> TcpOutcome {
        self.push_between(milliseconds, phone(), proxy(), &segment(sequence, flags, data))
    }

    fn push_between(&mut self, milliseconds: u64, from: SocketAddr, to: SocketAddr, transport: &[u8]) -> TcpOutcome {
        let payload = transport.get(20..).unwrap_or_default();
        let packet =
            Packet { domain: Domain::default(), source: from, destination: to, payload, transport, kind: Kind::Tcp };
        let seen = &mut self.seen;
        let outcome = self.reassembler.push(at(milliseconds), &packet, &mut |event| seen.push(Seen::from(event)));
        self.check();
        outcome
    }

    fn tick(&mut self, milliseconds: u64) {
        let seen = &mut self.seen;
        self.reassembler.on_tick(at(milliseconds), &mut |event| seen.push(Seen::from(event)));
        self.check();
    }

    fn take(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// All bytes of a stream so far.
    fn text(&self, stream: u64) -> Vec<u8> {
        let of_stream = |seen: &Seen| match seen {
            Seen::Bytes(id, _, bytes) if *id == stream => bytes.clone(),
            _ => Vec::new(),
        };
        self.seen.iter().flat_map(of_stream).collect()
    }

    /// What holds at any moment.
    fn check(&self) {
        let reassembler = &self.reassembler;
        let statistics = reassembler.statistics();
        assert_eq!(
            statistics.segments,
            statistics.delivered + statistics.control + statistics.dropped() + statistics.held_segments,
            "{statistics:?}"
        );
        let limits = &reassembler.limits;
        assert_eq!(statistics.open_streams, reassembler.streams.len() as u64);
        assert_eq!(reassembler.idle.len(), reassembler.streams.len());
        assert!(reassembler.streams.len() <= limits.streams_max);
        assert!(statistics.held_bytes <= limits.held_bytes_max as u64);
        let mut held = 0;
        let mut waiting = 0;
        for stream in reassembler.streams.values() {
            let pieces: usize = stream.held.values().map(|piece| piece.bytes.len() + PIECE_OVERHEAD_BYTES).sum();
            let stray = stream.stray.as_ref().map_or(0, |stray| stray.bytes.len() + PIECE_OVERHEAD_BYTES);
            assert_eq!(stream.held_bytes, pieces + stray);
            assert!(stream.held_bytes <= limits.held_bytes_per_stream_max);
            assert!(stream.held.keys().next().is_none_or(|&first| first > stream.next_offset));
            assert!(!stream.ended || stream.held_bytes == 0);
            held += stream.held_bytes as u64;
            waiting += usize::from(stream.waiting.is_some());
            // Nothing waits without a deadline.
            let waits = !stream.ended && (stream.held_bytes > 0 || stream.finish_offset.is_some());
            assert_eq!(stream.waiting.is_some(), waits);
        }
        assert_eq!(statistics.held_bytes, held);
        assert_eq!(reassembler.waiting.len(), waiting);
    }
}

impl From<TcpEvent<'_>> for Seen {
    fn from(event: TcpEvent<'_>) -> Self {
        match event {
            TcpEvent::Bytes { stream, time, bytes, .. } => Self::Bytes(stream.0, time, bytes.to_vec()),
            TcpEvent::Gap { stream, time, missing_bytes } => Self::Gap(stream.0, time, missing_bytes),
            TcpEvent::End { stream, time, reason } => Self::End(stream.0, time, reason),
        }
    }
}

fn bytes(stream: u64, milliseconds: u64, text: &[u8]) -> Seen {
    Seen::Bytes(stream, at(milliseconds), text.to_vec())
}

use TcpOutcome::{Control, Delivered, Dropped, Held};

#[test]
fn a_connection_from_syn_to_fin() {
    let mut bench = Bench::new(TcpLimits::default());
    assert_eq!(bench.push(0, 999, SYN, b""), Control);
    assert_eq!(bench.push(1, 1000, 0, b"INVITE "), Delivered);
    assert_eq!(bench.push(2, 1007, 0, b""), Control);
    assert_eq!(bench.push(3, 1007, FIN, b"sip:a"), Delivered);
    let expected = [bytes(0, 1, b"INVITE "), bytes(0, 3, b"sip:a"), Seen::End(0, at(3), TcpEnd::Finished)];
    assert_eq!(bench.take(), expected);
    // What still comes is known as late; a keep-alive or acknowledgement is nothing.
    assert_eq!(bench.push(4, 1007, FIN, b"sip:a"), Dropped(TcpDrop::AfterEnd));
    assert_eq!(bench.push(4, 1012, 0, b""), Control);
    assert!(bench.take().is_empty());
}

#[test]
fn holes_are_filled_and_every_byte_comes_once() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, u32::MAX - 3, SYN, b""); // sequence numbers wrap in the middle
    assert_eq!(bench.push(1, 3, 0, b"ghi"), Held);
    assert_eq!(bench.push(2, 0, 0, b"def"), Held);
    assert_eq!(bench.push(3, 0, 0, b"def"), Dropped(TcpDrop::Retransmission));
    assert_eq!(bench.push(4, 1, 0, b"XX"), Dropped(TcpDrop::Retransmission));
    assert_eq!(bench.push(5, u32::MAX - 2, 0, b"abcXXXXXXj"), Delivered);
    assert_eq!(bench.text(0), b"abcdefghij");
    assert_eq!(bench.reassembler.statistics().delivered, 3);
    assert_eq!(bench.push(6, u32::MAX - 2, 0, b"abc"), Dropped(TcpDrop::Retransmission));
    assert_eq!(bench.push(7, 6, 0, b"jkl"), Delivered);
    assert_eq!(bench.text(0), b"abcdefghijkl");
}

#[test]
fn the_first_bytes_win_where_held_segments_overlap() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    assert_eq!(bench.push(0, 104, 0, b"EEEE"), Held);
    assert_eq!(bench.push(0, 112, 0, b"MMMM"), Held);
    // Covers both and what lies between and beyond: four pieces of one segment.
    assert_eq!(bench.push(0, 102, 0, b"ccccccccccccccccc"), Held);
    assert_eq!(bench.reassembler.statistics().held_segments, 3);
    assert_eq!(bench.push(0, 100, 0, b"aa"), Delivered);
    assert_eq!(bench.text(0), b"aaccEEEEccccMMMMccc");
    assert_eq!(bench.reassembler.statistics().delivered, 4);
}

#[test]
fn a_hole_is_given_up_after_its_time() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(10, 105, 0, b"world");
    bench.push(500, 120, 0, b"again");
    bench.tick(2009);
    assert!(bench.take().is_empty());
    bench.tick(2010);
    assert_eq!(bench.take(), [Seen::Gap(0, at(10), Some(5)), bytes(0, 10, b"world")]);
    bench.tick(4009);
    assert!(bench.take().is_empty());
    // Any later packet, of any stream, does as well as a tick.
    bench.push_between(4010, proxy(), phone(), &segment(5, 0, b""));
    assert_eq!(bench.take(), [Seen::Gap(0, at(500), Some(10)), bytes(0, 500, b"again")]);
    // What was missing and comes too late is nothing new.
    assert_eq!(bench.push(4020, 100, 0, b"hello"), Dropped(TcpDrop::Retransmission));
    assert_eq!(bench.reassembler.statistics().gap_bytes, 15);
}

#[test]
fn a_hole_is_given_up_when_too_much_waits_behind_it() {
    let limits = TcpLimits { held_bytes_per_stream_max: 1000, ..TcpLimits::default() };
    let mut bench = Bench::new(limits);
    bench.push(0, 99, SYN, b"");
    let mut sequence = 101;
    while bench.seen.is_empty() {
        bench.push(1, sequence, 0, &[b'x'; 100]);
        sequence += 100;
    }
    assert_eq!(bench.take()[0], Seen::Gap(0, at(1), Some(1)));
    assert_eq!(bench.reassembler.statistics().held_bytes, 0);
}

#[test]
fn a_lost_tail_before_fin_is_a_gap() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(1, 100, 0, b"abc");
    assert_eq!(bench.push(2, 110, FIN, b""), Control);
    bench.tick(2002);
    let expected = [bytes(0, 1, b"abc"), Seen::Gap(0, at(2002), Some(7)), Seen::End(0, at(2002), TcpEnd::Finished)];
    assert_eq!(bench.take(), expected);
}

#[test]
fn a_fin_that_contradicts_what_is_held_is_not_believed() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    assert_eq!(bench.push(0, 110, 0, b"tail"), Held);
    assert_eq!(bench.push(0, 105, FIN, b""), Control);
    assert_eq!(bench.push(0, 100, 0, b"0123456789"), Delivered);
    assert_eq!(bench.text(0), b"0123456789tail");
    assert_eq!(bench.push(0, 114, FIN, b""), Control);
    assert_eq!(bench.take().last(), Some(&Seen::End(0, at(0), TcpEnd::Finished)));
}

#[test]
fn a_stream_may_begin_in_its_middle() {
    let mut bench = Bench::new(TcpLimits::default());
    assert_eq!(bench.push(0, 5000, 0, b""), Control);
    assert_eq!(bench.push(0, 5000, FIN, b""), Control);
    assert_eq!(bench.reassembler.statistics().streams, 0);
    assert_eq!(bench.push(1, 5000, 0, b"middle"), Delivered);
    assert_eq!(bench.push(2, 4990, 0, b"beforehand"), Dropped(TcpDrop::Retransmission));
    assert_eq!(bench.push(3, 5006, 0, b"more"), Delivered);
    assert_eq!(bench.text(0), b"middlemore");
}

#[test]
fn a_syn_that_was_overtaken_by_data_changes_nothing() {
    let mut bench = Bench::new(TcpLimits::default());
    assert_eq!(bench.push(0, 100, 0, b"first"), Delivered);
    assert_eq!(bench.push(1, 99, SYN, b""), Control);
    assert_eq!(bench.push(2, 99, SYN, b""), Control);
    assert_eq!(bench.push(3, 105, 0, b"second"), Delivered);
    assert_eq!(bench.text(0), b"firstsecond");
    assert_eq!(bench.reassembler.statistics().streams, 1);
}

#[test]
fn a_new_connection_between_the_same_ports_is_a_new_stream() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(1, 100, 0, b"old");
    bench.push(2, 110, 0, b"held");
    assert_eq!(bench.push(3, 77_000, SYN, b"fast"), Delivered); // data in the SYN (RFC 7413)
    assert_eq!(bench.push(4, 77_005, 0, b"new"), Delivered);
    let expected = [
        bytes(0, 1, b"old"),
        Seen::Gap(0, at(2), Some(7)),
        bytes(0, 2, b"held"),
        Seen::End(0, at(3), TcpEnd::Replaced),
        bytes(1, 3, b"fast"),
        bytes(1, 4, b"new"),
    ];
    assert_eq!(bench.take(), expected);
    // After the end as well.
    bench.push(5, 77_008, FIN, b"");
    bench.take();
    assert_eq!(bench.push(6, 99, SYN, b""), Control);
    assert_eq!(bench.push(7, 100, 0, b"third"), Delivered);
    assert_eq!(bench.take(), [bytes(2, 7, b"third")]);
}

#[test]
fn a_plausible_reset_ends_both_directions() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push_between(1, proxy(), phone(), &segment(499, SYN, b""));
    bench.push(2, 100, 0, b"question");
    bench.push_between(3, proxy(), phone(), &segment(500, 0, b"answer"));
    bench.take();
    assert_eq!(bench.push(4, 0x8000_0000, RST, b""), Control);
    assert!(bench.take().is_empty(), "a blind reset does nothing");
    assert_eq!(bench.push(5, 108, RST, b""), Control);
    assert_eq!(bench.take(), [Seen::End(0, at(5), TcpEnd::Reset), Seen::End(1, at(5), TcpEnd::Reset)]);
}

#[test]
fn a_refused_connection_ends() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push_between(1, proxy(), phone(), &segment(0, RST, b""));
    assert_eq!(bench.take(), [Seen::End(0, at(1), TcpEnd::Reset)]);
    // The phone tries again half a second later, with the same number.
    bench.push(500, 99, SYN, b"");
    assert_eq!(bench.push(501, 100, 0, b"hello"), Delivered);
    assert_eq!(bench.take(), [bytes(1, 501, b"hello")]);
}

#[test]
fn one_forged_segment_far_away_does_nothing() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(1, 100, 0, b"one");
    assert_eq!(bench.push(2, 0x7000_0000, 0, b"forged"), Held);
    assert_eq!(bench.push(3, 103, 0, b"two"), Delivered);
    assert_eq!(bench.reassembler.statistics().out_of_window, 1);
    bench.tick(10_000);
    assert_eq!(bench.text(0), b"onetwo");
}

#[test]
fn the_thread_is_taken_up_where_two_segments_agree() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(1, 100, 0, b"one");
    bench.push(1, 110, 0, b"held");
    assert_eq!(bench.push(2, 0x7000_0000, 0, b"far "), Held);
    assert_eq!(bench.push(2, 0x7000_0000, 0, b"far "), Dropped(TcpDrop::Retransmission));
    assert_eq!(bench.push(3, 0x7000_0004, FIN, b"away"), Delivered);
    let expected = [
        bytes(0, 1, b"one"),
        Seen::Gap(0, at(1), Some(7)),
        bytes(0, 1, b"held"),
        Seen::Gap(0, at(2), None),
        bytes(0, 2, b"far "),
        bytes(0, 3, b"away"),
        Seen::End(0, at(3), TcpEnd::Finished),
    ];
    assert_eq!(bench.take(), expected);
}

#[test]
fn the_thread_is_taken_up_where_nothing_else_comes() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(1, 100, 0, b"one");
    bench.push(5000, 0x7000_0000, 0, b"new connection whose SYN was lost");
    bench.take();
    bench.tick(7000);
    let expected = [Seen::Gap(0, at(5000), None), bytes(0, 5000, b"new connection whose SYN was lost")];
    assert_eq!(bench.take(), expected);
    assert_eq!(bench.push(7001, 0x7000_0021, 0, b"!"), Delivered);
}

#[test]
fn silent_streams_are_forgotten_and_others_are_not() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push_between(0, proxy(), phone(), &segment(499, SYN, b""));
    bench.push(500_000, 100, 0, b"x");
    bench.take();
    bench.tick(600_000);
    assert_eq!(bench.take(), [Seen::End(1, at(600_000), TcpEnd::Idle)]);
    bench.tick(1_100_000);
    assert_eq!(bench.take(), [Seen::End(0, at(1_100_000), TcpEnd::Idle)]);
    assert_eq!(bench.reassembler.statistics().open_streams, 0);
}

#[test]
fn a_flood_of_connections_stays_within_the_limits_and_spares_the_active_one() {
    let limits = TcpLimits { streams_max: 100, held_bytes_max: 20_000, ..TcpLimits::default() };
    let mut bench = Bench::new(limits);
    bench.push(0, 99, SYN, b"");
    let mut sequence = 100;
    for round in 0..5000u32 {
        let source = SocketAddr::new([10, 0, (round >> 8) as u8, round as u8].into(), 1024);
        bench.push_between(u64::from(round), source, proxy(), &segment(round, SYN, b""));
        bench.push_between(u64::from(round), source, proxy(), &segment(round + 50, 0, &[0; 500]));
        if round % 20 == 0 {
            assert_eq!(bench.push(u64::from(round), sequence, 0, b"."), Delivered);
            sequence += 1;
        }
    }
    assert_eq!(bench.text(0).len(), 250);
    assert!(!bench.seen.iter().any(|seen| matches!(seen, Seen::End(0, ..))));
    assert!(bench.reassembler.statistics().evicted_streams > 4800);
}

#[test]
fn the_end_of_a_capture_hands_out_what_is_held() {
    let mut bench = Bench::new(TcpLimits::default());
    bench.push(0, 99, SYN, b"");
    bench.push(1, 105, 0, b"world");
    let mut seen = Vec::new();
    bench.reassembler.finish(at(2), &mut |event| seen.push(Seen::from(event)));
    assert_eq!(seen, [Seen::Gap(0, at(1), Some(5)), bytes(0, 1, b"world"), Seen::End(0, at(2), TcpEnd::Idle)]);
    bench.check();
    assert_eq!(bench.reassembler.statistics().open_streams, 0);
}

#[test]
fn what_is_no_segment_is_malformed() {
    let mut bench = Bench::new(TcpLimits::default());
    let mut long_header = segment(1, 0, b"xx");
    long_header[12] = 0xf0;
    let mut short_header = segment(1, 0, b"xx");
    short_header[12] = 0x40;
    for transport in [&[][..], &[0; 19], &long_header, &short_header] {
        assert_eq!(bench.push_between(0, phone(), proxy(), transport), Dropped(TcpDrop::Malformed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Against the stream itself: cut anywhere, overlapping, repeated, shuffled within a second; none missing.
    #[test]
    fn any_cut_in_any_order_gives_the_stream(
        length in 1usize..5000,
        initial in prop_oneof![Just(u32::MAX - 100), any::<u32>()],
        cuts in proptest::collection::vec((0.0..1.0f64, 1usize..600), 0..60),
        shuffle in any::<u64>(),
        with_syn in any::<bool>(),
    ) {
        let stream: Vec<u8> = (0..length).map(|index| (index * 13 + index / 256) as u8).collect();
        let mut parts: Vec<std::ops::Range<usize>> = (0..length).step_by(300).map(|from| from..length.min(from + 300)).collect();
        parts.extend(cuts.iter().map(|&(from, length_of)| {
            let from = (from * length as f64) as usize;
            from..length.min(from + length_of)
        }).filter(|range| !range.is_empty()));
        let mut state = shuffle | 1;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for index in (1..parts.len()).rev() {
            parts.swap(index, random(index + 1));
        }
        if !with_syn {
            // The first one seen is the beginning: let it be the stream's.
            let first = parts.iter().position(|part| part.start == 0).unwrap();
            parts.swap(0, first);
        }
        let mut bench = Bench::new(TcpLimits::default());
        if with_syn {
            bench.push(0, initial.wrapping_sub(1), SYN, b"");
        }
        for part in &parts {
            let flags = if part.end == length { FIN } else { 0 };
            bench.push(1, initial.wrapping_add(part.start as u32), flags, &stream[part.clone()]);
        }
        prop_assert_eq!(bench.text(0), stream);
        prop_assert_eq!(bench.seen.last(), Some(&Seen::End(0, at(1), TcpEnd::Finished)));
        prop_assert_eq!(bench.reassembler.statistics().gaps, 0);
    }

    /// Segments lost: what comes is the stream with holes, each announced with its length.
    #[test]
    fn losses_are_gaps_of_the_right_length(lost in proptest::collection::vec(any::<bool>(), 1..60)) {
        let stream: Vec<u8> = (0..lost.len() * 10).map(|index| index as u8).collect();
        let mut bench = Bench::new(TcpLimits::default());
        bench.push(0, 999, SYN, b"");
        for (index, lost) in lost.iter().enumerate() {
            if !lost {
                bench.push(index as u64, 1000 + index as u32 * 10, 0, &stream[index * 10..][..10]);
            }
        }
        bench.push(100, 1000 + stream.len() as u32, FIN, b"");
        for second in 1..=200 {
            bench.tick(second * 1000);
        }
        let mut offset = 0;
        let mut last = CaptureTime::ZERO;
        for seen in &bench.seen {
            let time = match seen {
                Seen::Bytes(_, time, bytes) => {
                    prop_assert_eq!(&stream[offset..offset + bytes.len()], &bytes[..]);
                    offset += bytes.len();
                    *time
                }
                Seen::Gap(_, time, missing) => {
                    let missing = missing.unwrap() as usize;
                    prop_assert!(missing > 0 && lost[offset / 10..(offset + missing) / 10].iter().all(|&lost| lost));
                    offset += missing;
                    *time
                }
                Seen::End(_, time, reason) => {
                    prop_assert_eq!(*reason, TcpEnd::Finished);
                    *time
                }
            };
            prop_assert!(time >= last, "time goes back");
            last = time;
        }
        prop_assert_eq!(offset, stream.len());
    }

    #[test]
    fn any_segments_keep_the_books_and_the_limits(
        segments in proptest::collection::vec(
            (0u64..5_000, 0u8..6, prop_oneof![0u32..400, any::<u32>(), Just(5_000_000)], any::<u8>(), 0usize..90), 0..120),
    ) {
        let limits = TcpLimits {
            streams_max: 4, held_bytes_per_stream_max: 600, held_bytes_max: 1500, ..TcpLimits::default()
        };
        let mut bench = Bench::new(limits);
        let mut now = 0;
        for (pause, who, sequence, flags, length) in segments {
            now += pause;
            let source = SocketAddr::new([10, 0, 0, who / 2].into(), 5060);
            let destination = SocketAddr::new([10, 0, 1, who / 2].into(), 5060);
            let (source, destination) = if who % 2 == 0 { (source, destination) } else { (destination, source) };
            // Most segments are plain data.
            let flags = if flags < 200 { 0 } else { flags & (FIN | SYN | RST) };
            bench.push_between(now, source, destination, &segment(sequence, flags, &vec![flags; length]));
        }
        let seen = &mut bench.seen;
        bench.reassembler.finish(at(now), &mut |event| seen.push(Seen::from(event)));
        bench.check();
        prop_assert_eq!(bench.reassembler.statistics().held_segments, 0);
        let ends = bench.seen.iter().filter(|seen| matches!(seen, Seen::End(..))).count() as u64;
        prop_assert_eq!(ends, bench.reassembler.statistics().streams);
    }
}
