use super::*;
use crate::grid::BLOCK_TICKS;
use crate::opus_packet::{SILENT_PACKET, push_self_delimited};
use crate::testing::{FIRST_TICK, MemorySource, babble, document, encode, signal_to_noise_db, tone};
use proptest::prelude::*;
use sidetone_model::TrackId;

const NEAR: TrackId = TrackId(0);
const FAR: TrackId = TrackId(1);

/// Two people for `seconds`, the callee from 1.5 s on, the caller silent for two seconds in the middle.
fn conversation(seconds: f64) -> MemorySource {
    let source = MemorySource::default();
    let middle = (seconds * 25.0) as usize;
    source.store(NEAR, FIRST_TICK, &encode(&babble(1, seconds), |tick| !(middle..middle + 100).contains(&tick)));
    source.store(FAR, Tick(FIRST_TICK.0 + 75), &encode(&babble(2, seconds - 1.5), |_| true));
    source
}

fn every_kind() -> impl Iterator<Item = (Format, Channels)> {
    Format::ALL.into_iter().flat_map(|format| Channels::ALL.into_iter().map(move |channels| (format, channels)))
}

fn wav_samples(file: &[u8]) -> Vec<i16> {
    file[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn channel(samples: &[i16], channel: usize) -> Vec<i16> {
    samples.iter().skip(channel).step_by(2).copied().collect()
}

/// A lane decoded in one go, as a decoder of the whole file would.
fn decode_at_once(packets: &[Vec<u8>]) -> Vec<i16> {
    let mut decoder = opus::Decoder::new(8000, opus::Channels::Mono).unwrap();
    let mut samples = Vec::new();
    for packet in packets {
        let mut frame = [0; 160];
        decoder.decode(if packet.is_empty() { &SILENT_PACKET } else { packet }, &mut frame, false).unwrap();
        samples.extend_from_slice(&frame);
    }
    samples
}

#[test]
fn a_wav_has_the_length_told_and_the_samples_of_one_decoder() {
    let packets = encode(&babble(3, 47.0), |tick| !(700..760).contains(&tick) && tick % 97 != 96);
    let source = MemorySource::default();
    source.store(NEAR, FIRST_TICK, &packets);
    let file = source.file(&document(), Format::Wav, Channels::Near);
    let samples = wav_samples(&file);
    assert_eq!(samples.len(), 47 * 8000 - PRE_SKIP);
    assert_eq!(&file[..4], b"RIFF");
    assert_eq!(file[40..44], ((samples.len() * 2) as u32).to_le_bytes());
    let expected = &decode_at_once(&packets)[PRE_SKIP..];
    // Blocks are decoded for themselves; after a second of priming nothing differs by more than rounding.
    let worst = samples.iter().zip(expected).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).max();
    assert!(worst <= Some(2), "blocks differ from one decoder by {worst:?}");
}

#[test]
fn the_samples_of_a_wav_stand_where_they_were_spoken() {
    let spoken = babble(4, 12.0);
    let source = MemorySource::default();
    source.store(NEAR, FIRST_TICK, &encode(&spoken, |_| true));
    let samples = wav_samples(&source.file(&document(), Format::Wav, Channels::Near));
    let correlation = |lag: i64| -> f64 {
        let pairs = samples.iter().enumerate().skip(200).take(80_000);
        pairs.map(|(at, &sample)| f64::from(sample) * f64::from(spoken[(at as i64 + lag) as usize])).sum()
    };
    let best = (-80..=80).max_by(|&a, &b| correlation(a).total_cmp(&correlation(b))).unwrap();
    assert!(best.abs() <= 1, "shifted by {best} samples of 125 µs");
}

#[test]
fn dual_and_single_sides_and_mix_hold_the_same_samples() {
    let source = conversation(25.0);
    let document = document();
    let dual = wav_samples(&source.file(&document, Format::Wav, Channels::Dual));
    let caller = wav_samples(&source.file(&document, Format::Wav, Channels::Caller));
    let callee = wav_samples(&source.file(&document, Format::Wav, Channels::Callee));
    let mix = wav_samples(&source.file(&document, Format::Wav, Channels::Mix));
    assert_eq!(channel(&dual, 0), caller);
    assert_eq!(channel(&dual, 1), callee);
    let sum: Vec<i16> = caller.iter().zip(&callee).map(|(&a, &b)| a.saturating_add(b)).collect();
    assert_eq!(mix, sum);
    assert_eq!(caller, wav_samples(&source.file(&document, Format::Wav, Channels::Near)));
    // The callee joined 1.5 s later, and its place is kept.
    assert!(callee[..12_000 - 60].iter().all(|&sample| sample.abs() <= 1));
    assert!(callee[12_000..16_000].iter().any(|&sample| sample.abs() > 500));
}

#[test]
fn a_mix_as_opus_sounds_like_the_mix_as_wav_also_where_blocks_meet() {
    let source = conversation(42.0);
    let document = document();
    let file = source.file(&document, Format::Opus, Channels::Mix);
    let packets = audio_packets(&file);
    assert_eq!(packets.len(), 42 * 50);
    assert!(packets.iter().all(|packet| packet.len() == MIX_PACKET_BYTES));
    let decoded = decode_at_once(&packets);
    let mix = wav_samples(&source.file(&document, Format::Wav, Channels::Mix));
    let decoded = &decoded[PRE_SKIP..];
    assert_eq!(decoded.len(), mix.len());
    let quality = |range: Range<usize>| signal_to_noise_db(&mix[range.clone()], &decoded[range]);
    let overall = quality(0..mix.len());
    assert!(overall > 6.0, "signal to noise {overall:.1} dB");
    for boundary in [80_000, 160_000, 240_000, 320_000] {
        let near_boundary = quality(boundary - 400..boundary + 1600);
        let before = quality(boundary - 4400..boundary - 400);
        println!("at {boundary}: {near_boundary:.1} dB, before {before:.1} dB, overall {overall:.1} dB");
        assert!(near_boundary > overall.min(before) - 4.0, "blocks meet audibly at {boundary}");
    }
}

#[test]
fn mix_of_a_recording_with_one_side_is_that_side_unchanged() {
    let source = MemorySource::default();
    let packets = encode(&tone(440.0, 3.0), |_| true);
    source.store(FAR, FIRST_TICK, &packets);
    assert_eq!(audio_packets(&source.file(&document(), Format::Opus, Channels::Mix)), packets);
}

#[test]
fn one_side_alone_is_silent_on_the_other_channel() {
    let source = MemorySource::default();
    source.store(FAR, FIRST_TICK, &encode(&tone(440.0, 3.0), |_| true));
    let document = document();
    let dual = wav_samples(&source.file(&document, Format::Wav, Channels::Dual));
    assert!(channel(&dual, 0).iter().all(|&sample| sample.abs() <= 1));
    assert!(channel(&dual, 1).iter().any(|&sample| sample > 5000));
    for packet in audio_packets(&source.file(&document, Format::Opus, Channels::Dual)) {
        let silence = [&[SILENT_PACKET[0], 5], &SILENT_PACKET[1..]].concat();
        assert!(packet.starts_with(&silence), "the silent side stands there in self-delimiting form");
    }
}

/// The packets behind the two header pages; no packet here is as long as a page.
fn audio_packets(file: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut rest = file;
    let mut page_number = 0u32;
    while !rest.is_empty() {
        assert_eq!(&rest[..5], b"OggS\0");
        assert_eq!(rest[18..22], page_number.to_le_bytes());
        let lengths = &rest[27..27 + usize::from(rest[26])];
        let mut at = 27 + lengths.len();
        let mut packet = Vec::new();
        for &length in lengths {
            packet.extend_from_slice(&rest[at..at + usize::from(length)]);
            at += usize::from(length);
            if length < 255 {
                if page_number >= HEADER_PAGES {
                    packets.push(std::mem::take(&mut packet));
                }
                packet.clear();
            }
        }
        let last = at == rest.len();
        assert_eq!(rest[5] & 4 != 0, last, "the last page and no other ends the stream");
        rest = &rest[at..];
        page_number += 1;
    }
    packets
}

#[test]
fn the_same_recording_gives_the_same_bytes_and_tag_and_another_choice_another_tag() {
    let source = conversation(12.0);
    let document = document();
    let mut tags = std::collections::BTreeSet::new();
    for (format, channels) in every_kind() {
        let once = source.open(&document, format, channels).unwrap();
        let again = source.open(&document, format, channels).unwrap();
        assert_eq!(once.etag(), again.etag());
        assert_eq!(source.file(&document, format, channels), source.file(&document, format, channels));
        assert!(once.etag().starts_with('"') && once.etag().ends_with('"') && once.etag().len() == 34);
        assert!(tags.insert(once.etag().to_owned()), "{format} {channels} shares its tag");
    }
    let before = source.open(&document, Format::Opus, Channels::Near).unwrap().etag().to_owned();
    source.store(NEAR, Tick(FIRST_TICK.0 + 600), &encode(&tone(500.0, 1.0), |_| true));
    assert_ne!(source.open(&document, Format::Opus, Channels::Near).unwrap().etag(), before);
}

#[test]
fn reading_beyond_the_end_is_refused_and_leaves_the_buffer_alone() {
    let source = conversation(4.0);
    let mut rendition = source.open(&document(), Format::Opus, Channels::Dual).unwrap();
    let length = rendition.len();
    let mut out = vec![1, 2, 3];
    for range in [0..length + 1, length + 1..length + 1, length..u64::MAX] {
        assert!(matches!(rendition.read(range, &mut out), Err(PlaybackError::BeyondEnd { .. })));
    }
    rendition.read(length..length, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_running_call_ends_where_all_its_tracks_are_durable() {
    let source = MemorySource::default();
    source.store(NEAR, FIRST_TICK, &encode(&tone(440.0, 10.0), |_| true));
    source.store(FAR, FIRST_TICK, &encode(&tone(440.0, 9.2), |_| true));
    let mut document = document();
    document.state = RecordingState::Active;
    let rendition = source.open(&document, Format::Opus, Channels::Dual).unwrap();
    assert_eq!(rendition.grid.ticks, 460);
    document.state = RecordingState::Complete;
    assert_eq!(source.open(&document, Format::Opus, Channels::Dual).unwrap().grid.ticks, 500);
    // A track that has been silent for longer holds nothing back.
    document.state = RecordingState::Active;
    source.store(NEAR, Tick(FIRST_TICK.0 + 500), &encode(&tone(440.0, 10.0), |_| true));
    assert_eq!(source.open(&document, Format::Opus, Channels::Dual).unwrap().grid.ticks, 1000);
}

#[test]
fn audio_that_arrives_in_the_middle_of_an_open_file_is_noticed() {
    let source = conversation(30.0);
    let mut rendition = source.open(&document(), Format::Opus, Channels::Dual).unwrap();
    let length = rendition.len();
    source.store(NEAR, Tick(FIRST_TICK.0 + 760), &encode(&tone(440.0, 1.0), |_| true));
    let mut out = Vec::new();
    rendition.read(0..5000, &mut out).unwrap();
    assert!(matches!(rendition.read(0..length, &mut out), Err(PlaybackError::Changed { .. })));
    assert_eq!(out.len(), 5000);
}

#[test]
fn a_damaged_chunk_is_silent_in_its_place_and_told() {
    let source = MemorySource::default();
    source.store(NEAR, FIRST_TICK, &encode(&tone(440.0, 5.0), |_| true));
    source.damage(NEAR, 2);
    let rendition = source.open(&document(), Format::Opus, Channels::Near).unwrap();
    let lost: Vec<&Lost> = rendition.lost().collect();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].track, lost[0].ticks.clone()), (NEAR, Tick(FIRST_TICK.0 + 100)..Tick(FIRST_TICK.0 + 150)));
    assert!(lost[0].reason.contains("damaged"), "{lost:?}");
    let samples = wav_samples(&source.file(&document(), Format::Wav, Channels::Near));
    assert_eq!(samples.len(), 40_000 - PRE_SKIP);
    let loud = |range: Range<usize>| samples[range].iter().any(|&sample| sample > 5000);
    assert!(loud(12_000..15_000) && !loud(18_000..23_000) && loud(25_000..30_000));
}

#[test]
fn packets_that_are_no_opus_of_20_ms_are_silent_and_told() {
    let source = MemorySource::default();
    let mut packets = encode(&tone(440.0, 2.0), |_| true);
    packets[10] = vec![0x18; 30]; // 60 ms
    packets[20] = vec![0x03]; // malformed
    packets[30] = [&[0x0b, 0x41][..], &[255; 250], &[0; 40_000]].concat(); // all padding
    source.store(NEAR, FIRST_TICK, &packets);
    source.seal(&document(), Tick(u64::MAX));
    let file = source.file(&document(), Format::Opus, Channels::Near);
    let mut rendition = source.open(&document(), Format::Opus, Channels::Near).unwrap();
    rendition.read(0..rendition.len(), &mut Vec::new()).unwrap();
    let lost: Vec<u64> = rendition.lost().map(|lost| lost.ticks.start.0 - FIRST_TICK.0).collect();
    assert_eq!(lost, [10, 20, 30]);
    assert!(rendition.lost().all(|lost| lost.reason.contains("no 20 ms of Opus")));
    for at in lost {
        packets[at as usize] = SILENT_PACKET.to_vec();
    }
    assert_eq!(audio_packets(&file), packets);
}

/// Opens and reads as much as a player does to show the length, and to begin in the middle; the bytes of chunks read.
fn costs(source: &MemorySource, channels: Channels) -> (u64, u64) {
    let (head, mut rendition) = source.reads(|| source.open(&document(), Format::Opus, channels).unwrap());
    let middle = rendition.len() / 2;
    let (seek, ()) = source.reads(|| rendition.read(middle..middle + 1000, &mut Vec::new()).unwrap());
    (head, seek)
}

#[test]
fn a_sealed_file_is_the_same_as_before_and_is_opened_without_its_audio() {
    let source = conversation(61.0);
    let files = |source: &MemorySource| -> Vec<(String, Vec<u8>)> {
        let file = |(format, channels)| {
            let etag = source.open(&document(), format, channels).unwrap().etag().to_owned();
            (etag, source.file(&document(), format, channels))
        };
        every_kind().map(file).collect()
    };
    let before = files(&source);
    let whole: u64 = source.0.lock().unwrap().chunks.iter().map(|chunk| chunk.record.bytes().len() as u64).sum();
    // Chunks that lie across two blocks are read for both.
    assert!((whole..whole * 5 / 4).contains(&costs(&source, Channels::Dual).0));
    source.seal(&document(), Tick(u64::MAX));
    assert!(files(&source) == before, "sealing changes no byte and no tag");
    for channels in [Channels::Dual, Channels::Near, Channels::Far, Channels::Caller, Channels::Callee] {
        let (head, seek) = costs(&source, channels);
        assert_eq!(head, 0, "{channels}");
        // A block of 10 s, and the chunks at its ends.
        assert!(seek > 0 && seek < whole / 4, "{channels}: {seek} of {whole} bytes");
    }
}

#[test]
fn of_a_recording_in_several_runs_only_the_seams_are_read_to_open_it() {
    let source = conversation(180.0);
    let before = source.file(&document(), Format::Opus, Channels::Dual);
    let second = |second: u64| Tick(FIRST_TICK.0 + 50 * second);
    // A callee's chunk begins in the middle of a caller's: the runs overlap.
    for until in [60, 120] {
        source.seal(&document(), second(until));
    }
    let whole: u64 = source.0.lock().unwrap().chunks.iter().map(|chunk| chunk.record.bytes().len() as u64).sum();
    let (running, _) = costs(&source, Channels::Dual);
    assert!(running > whole / 3 && running < whole / 2, "{running} of {whole} bytes: what is not sealed, and a seam");
    source.seal(&document(), Tick(u64::MAX));
    let (head, _) = costs(&source, Channels::Dual);
    assert!(head > 0 && head < whole / 6, "{head} of {whole} bytes: two seams of 10 s");
    assert!(source.file(&document(), Format::Opus, Channels::Dual) == before);
}

#[test]
fn what_is_damaged_after_sealing_is_silent_in_a_file_of_the_same_length() {
    let source = conversation(47.0);
    source.seal(&document(), Tick(u64::MAX));
    for channels in [Channels::Dual, Channels::Near, Channels::Far] {
        let whole = source.file(&document(), Format::Opus, channels);
        let etag = source.open(&document(), Format::Opus, channels).unwrap().etag().to_owned();
        let damaged = MemorySource(Arc::clone(&source.0));
        for number in [3, 4, 17] {
            damaged.damage(NEAR, number);
            damaged.damage(FAR, number);
        }
        let mut rendition = damaged.open(&document(), Format::Opus, channels).unwrap();
        assert_eq!((rendition.len(), rendition.etag()), (whole.len() as u64, etag.as_str()));
        assert_eq!(rendition.lost().count(), 0, "nobody has looked yet");
        let mut file = Vec::new();
        write_to(&mut rendition, &mut file).unwrap();
        let tracks = if channels == Channels::Dual { 2 } else { 1 };
        assert_eq!(rendition.lost().count(), 3 * tracks);
        assert_eq!(file.len(), whole.len());
        let (packets, expected) = (audio_packets(&file), audio_packets(&whole));
        assert_eq!(packets.len(), expected.len());
        let is_lost = |tick: u64| {
            let at = FIRST_TICK.0 + tick;
            rendition.lost().any(|lost| (lost.ticks.start.0..lost.ticks.end.0).contains(&at))
        };
        for (tick, (packet, expected)) in packets.iter().zip(&expected).enumerate() {
            assert!(is_lost(tick as u64) || packet == expected, "{channels}: step {tick} is another");
        }
        // Silent, and what plays on the other side goes on.
        if tracks == 1 {
            let samples = decode_at_once(&packets);
            let lost: Vec<usize> = (0..packets.len()).filter(|&tick| is_lost(tick as u64)).collect();
            for &tick in lost.iter().filter(|&&tick| is_lost(tick as u64 - 2)) {
                let loudest = samples[tick * 160..(tick + 1) * 160].iter().map(|sample| sample.abs()).max();
                assert!(loudest <= Some(1), "{channels}: step {tick} sounds with {loudest:?}");
            }
        }
        let mut stored = source.0.lock().unwrap();
        stored.chunks.iter_mut().for_each(|chunk| chunk.broken = false);
    }
}

#[test]
fn a_table_that_lies_is_noticed() {
    let source = conversation(25.0);
    source.seal(&document(), Tick(u64::MAX));
    source.spoil_tables();
    let mut rendition = source.open(&document(), Format::Opus, Channels::Dual).unwrap();
    let whole = 0..rendition.len();
    assert!(matches!(rendition.read(whole, &mut Vec::new()), Err(PlaybackError::Changed { .. })));
}

#[test]
fn seeking_reads_the_blocks_asked_for_and_nothing_else() {
    let source = conversation(120.0);
    source.seal(&document(), Tick(u64::MAX));
    for (format, channels) in every_kind() {
        let mut rendition = source.open(&document(), format, channels).unwrap();
        let block = rendition.grid.blocks() / 2;
        let steps = rendition.grid.block_since_epoch(block);
        let range = rendition.block_offset(block)..rendition.block_offset(block + 1);
        let (read, ()) = source.reads(|| rendition.read(range, &mut Vec::new()).unwrap());
        // Decoding is primed with the second before, and a mix has its second before primed, too.
        let earliest = steps.start.0 - 2 * 50;
        let stored = source.0.lock().unwrap();
        let needed = stored.chunks.iter().filter(|chunk| {
            let header = chunk.record.header();
            header.first_tick.0 <= steps.end.0 && header.first_tick.0 + u64::from(header.ticks) > earliest
        });
        let needed: u64 = needed.map(|chunk| chunk.record.bytes().len() as u64).sum();
        assert!(read > 0 && read <= needed, "{format} {channels}: {read} of {needed}");
        assert_eq!(steps.end.0 - steps.start.0, BLOCK_TICKS);
    }
}

#[test]
fn a_time_line_that_no_call_can_have_is_refused() {
    let source = MemorySource::default();
    let packets = encode(&tone(440.0, 1.0), |_| true);
    source.store(NEAR, Tick(5), &packets);
    source.store(FAR, Tick(u64::MAX / 30_000_000), &packets);
    assert!(matches!(source.open(&document(), Format::Opus, Channels::Dual), Err(PlaybackError::Implausible { .. })));
}

#[test]
fn hours_of_silence_between_two_words_cost_little() {
    let source = MemorySource::default();
    let word = encode(&tone(440.0, 1.0), |_| true);
    source.store(NEAR, FIRST_TICK, &word);
    source.store(FAR, Tick(FIRST_TICK.0 + 40 * 3600 * 50), &word);
    let mut rendition = source.open(&document(), Format::Opus, Channels::Dual).unwrap();
    let mut tail = Vec::new();
    rendition.read(rendition.len() - 3000..rendition.len(), &mut tail).unwrap();
    assert!(tail.windows(4).any(|window| window == b"OggS"));
    assert!(matches!(source.open(&document(), Format::Wav, Channels::Dual), Err(PlaybackError::TooLong { .. })));
}

#[test]
fn names_from_signalling_cannot_break_the_file_name_or_the_comments() {
    let source = conversation(3.0);
    let mut document = document();
    document.parties[0].number = "../../etc/passwd\0\r\n\"; rm -rf /".to_owned();
    document.parties[0].name = "ü".repeat(500) + "\n\u{7}";
    let rendition = source.open(&document, Format::Opus, Channels::Dual).unwrap();
    let name = rendition.file_name();
    assert_eq!(name, "2005-01-14T175802Z_etcpasswdrmrf_200_dual.opus");
    let caller = comments(&document, Channels::Dual, FIRST_TICK).into_iter().find(|(name, _)| *name == "CALLER");
    let (_, caller) = caller.unwrap();
    assert_eq!(caller.len(), 256);
    assert!(!caller.contains('\n'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn ranges_in_any_order_are_parts_of_the_whole(
        kind in 0usize..12,
        cuts in proptest::collection::vec(0.0..1.0f64, 1..12),
        order in any::<u64>(),
    ) {
        let (format, channels) = every_kind().nth(kind).unwrap();
        let source = conversation(23.4);
        let whole = source.file(&document(), format, channels);
        let mut rendition = source.open(&document(), format, channels).unwrap();
        prop_assert_eq!(rendition.len(), whole.len() as u64);
        let mut at: Vec<u64> = cuts.iter().map(|cut| (cut * whole.len() as f64) as u64).collect();
        at.extend([0, whole.len() as u64]);
        at.sort_unstable();
        let mut ranges: Vec<Range<u64>> = at.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let turn = order as usize % ranges.len();
        ranges.rotate_left(turn);
        for range in ranges {
            let mut part = Vec::new();
            rendition.read(range.clone(), &mut part).unwrap();
            prop_assert!(part == whole[range.start as usize..range.end as usize], "{range:?} of {format} {channels}");
        }
    }

    #[test]
    fn any_pattern_of_gaps_keeps_both_sides_in_their_places(
        left in proptest::collection::vec(any::<bool>(), 1..160),
        right in proptest::collection::vec(any::<bool>(), 1..160),
        offset in 0u64..120,
    ) {
        prop_assume!(left.contains(&true) || right.contains(&true));
        let source = MemorySource::default();
        let near = encode(&tone(440.0, left.len() as f64 / 50.0), |tick| left[tick]);
        let far = encode(&tone(900.0, right.len() as f64 / 50.0), |tick| right[tick]);
        source.store(NEAR, FIRST_TICK, &near);
        source.store(FAR, Tick(FIRST_TICK.0 + offset), &far);
        // The grid as the test sees it.
        let place = |packets: &[Vec<u8>], offset: u64, tick: u64| -> Vec<u8> {
            let packet = tick.checked_sub(offset).and_then(|index| packets.get(index as usize));
            packet.filter(|packet| !packet.is_empty()).cloned().unwrap_or(SILENT_PACKET.to_vec())
        };
        let heard: Vec<u64> = (0..400)
            .filter(|&tick| place(&near, 0, tick) != SILENT_PACKET || place(&far, offset, tick) != SILENT_PACKET)
            .collect();
        let (first, last) = (heard[0], heard[heard.len() - 1]);
        let packets = audio_packets(&source.file(&document(), Format::Opus, Channels::Dual));
        prop_assert_eq!(packets.len() as u64, last - first + 1);
        for (tick, packet) in (first..).zip(packets) {
            let mut expected = Vec::new();
            push_self_delimited(&place(&near, 0, tick), &mut expected);
            expected.extend(place(&far, offset, tick));
            prop_assert_eq!(packet, expected);
        }
    }
}
