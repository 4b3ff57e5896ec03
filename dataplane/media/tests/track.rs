//! What a track does with what networks and phones do.
#![forbid(unsafe_code)]

mod support;

use proptest::prelude::*;
use sidetone_media::{Track, TrackConfig};
use sidetone_model::CaptureTime;
use std::time::Duration;
use support::*;

/// How like speech is to itself after Opus at the default setting; 0.99 at 32 kbit/s. The shape of the wave, not the
/// sound: that is `fidelity.rs`.
const ALIKE: f64 = 0.9;
const ALIKE_DESPITE_LOSS: f64 = 0.8;

/// Sends packets each at its time in ms, ticks every 100 ms, finishes.
fn run(track: &mut Track, writer: &mut Writer, mut arrivals: Vec<(f64, u32, Rtp)>) {
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut next_tick_ms = arrivals.first().map_or(0.0, |a| a.0);
    let mut end_ms: f64 = 0.0;
    for (ms, ssrc, packet) in arrivals {
        while next_tick_ms < ms {
            track.on_tick(at_ms(next_tick_ms), writer);
            next_tick_ms += 100.0;
        }
        let slot = open(track, ssrc);
        delivery(track, slot, at_ms(ms), &packet, writer);
        end_ms = end_ms.max(ms);
    }
    track.finish(at_ms(end_ms + 20.0), writer);
}

fn arrivals_of(samples: &[i16], start_ms: f64) -> Vec<(f64, u32, Rtp)> {
    packets_of(samples, 160, 1000, 0xffff_f000)
        .into_iter()
        .enumerate()
        .map(|(i, packet)| (start_ms + i as f64 * 20.0, 1, packet))
        .collect()
}

fn played(arrivals: Vec<(f64, u32, Rtp)>) -> (Track, Writer) {
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    run(&mut track, &mut writer, arrivals);
    let accounting = track.accounting();
    assert!(accounting.is_balanced(), "{accounting:?}");
    assert_eq!(accounting.pending, 0);
    assert_eq!(writer.packets(), accounting.encoded);
    (track, writer)
}

/// Where the audio said from `said_ms` on was heard, in ms, looked for within ±`range_ms`.
fn heard_ms(
    said: &[i16],
    writer: &Writer,
    sample: usize,
    length: usize,
    expected_ms: f64,
    range_ms: f64,
) -> (f64, f64) {
    let (start_ns, samples) = writer.play();
    let start_ms = (start_ns as f64 - EPOCH_NS as f64) / 1e6;
    let shift = ((expected_ms - start_ms) * 8.0).round() as i64 - sample as i64;
    // Bring both onto one index: said[sample] is expected at samples[sample + shift].
    let mut aligned = vec![0i16; usize::try_from((-shift).max(0)).unwrap()];
    aligned.extend(samples.iter().skip(usize::try_from(shift.max(0)).unwrap()));
    let (lag, alike) = best_lag(said, &aligned, sample, length, (range_ms * 8.0) as i64);
    (expected_ms + lag as f64 / 8.0, alike)
}

#[test]
fn a_plain_stream_is_whole_and_in_its_place() {
    // Not on the grid, not on a sample.
    let said = warble(8000 * 5);
    let (track, writer) = played(arrivals_of(&said, 7.3337));
    let measured = track.measured();
    assert_eq!(track.accounting().encoded, 250);
    assert_eq!(writer.ticks().len(), 251, "5 s beginning within a step");
    let ends: Vec<u64> = writer.chunks.iter().map(|(h, _)| h.first_tick.0 + u64::from(h.ticks)).collect();
    let (last, cuts) = ends.split_last().unwrap();
    assert!(cuts.iter().all(|end| end % 35 == 0) && cuts.windows(2).all(|pair| pair[1] == pair[0] + 35), "{ends:?}");
    assert!(*last <= cuts[cuts.len() - 1] + 35);
    let seconds = measured.audio_until.unwrap().since(measured.first_audio_at.unwrap()).as_secs_f64();
    assert!((seconds - 5.0).abs() < 1e-9);
    assert!(measured.first_audio_at.unwrap().signed_nanos_since(at_ms(7.3337)).abs() < 125_000);
    assert!(measured.decodable && !measured.encrypted);
    assert_eq!(measured.concealed_seconds, 0.0);
    assert_eq!(measured.losses, Default::default());
    let stream = &measured.streams[0];
    assert_eq!(
        (stream.packets, stream.lost, stream.codec.as_str(), stream.ssrc.as_str()),
        (250, 0, "PCMA/8000", "0x00000001")
    );
    assert!(stream.jitter_ms_max < 0.01);
    let (ms, alike) = heard_ms(&said, &writer, 8000, 8000, 7.3337 + 1000.0, 20.0);
    assert!((ms - 1007.33).abs() < 0.3 && alike > ALIKE, "{ms} {alike}");
}

#[test]
fn frames_of_ten_to_sixty_milliseconds_lie_at_their_arrival() {
    let said = warble(8000 * 4);
    for frame in [80usize, 240, 320, 480] {
        let arrivals: Vec<_> = packets_of(&said, frame, 65_500, 5)
            .into_iter()
            .enumerate()
            .map(|(i, p)| (50.0 + (i * frame) as f64 / 8.0, 1, p))
            .collect();
        let (track, writer) = played(arrivals);
        assert_eq!(track.measured().streams[0].lost, 0);
        let (ms, alike) = heard_ms(&said, &writer, 16_000, 4000, 2050.0, 60.0);
        assert!((ms - 2050.0).abs() < 0.3 && alike > ALIKE, "{frame}: {ms} {alike}");
    }
}

#[test]
fn reordered_and_doubled_packets_make_the_same_audio() {
    let said = warble(8000 * 6);
    let plain = played(arrivals_of(&said, 3.0)).1.play();
    let mut arrivals = arrivals_of(&said, 3.0);
    let mut extra = Vec::new();
    for i in (20..280).step_by(7) {
        arrivals[i].0 += 95.0;
        extra.push((arrivals[i + 2].0 + 1.0, 1, arrivals[i + 2].2.clone()));
    }
    arrivals.extend(extra.iter().cloned());
    let (track, writer) = played(arrivals);
    let stream = &track.measured().streams[0];
    assert_eq!((stream.lost, stream.duplicates, stream.late), (0, extra.len() as u64, 0));
    assert_eq!(stream.packets, 300 + extra.len() as u64);
    assert_eq!(stream.reordered, extra.len() as u64);
    assert!(stream.jitter_ms_max > 1.0);
    assert!(writer.play() == plain, "order within the window leaves no trace");
}

#[test]
fn a_lost_packet_is_concealed_and_time_is_not_shortened() {
    let said = warble(8000 * 6);
    let mut arrivals = arrivals_of(&said, 0.0);
    let lost: Vec<usize> = (50..280).step_by(23).collect();
    for i in lost.iter().rev() {
        arrivals.remove(*i);
    }
    let (track, writer) = played(arrivals);
    let measured = track.measured();
    assert_eq!((measured.streams[0].lost, measured.losses.network), (lost.len() as u64, lost.len() as u64));
    assert!((measured.concealed_seconds - 0.02 * lost.len() as f64).abs() < 1e-9);
    for second in 1..5 {
        let (ms, alike) = heard_ms(&said, &writer, second * 8000, 4000, second as f64 * 1000.0, 20.0);
        assert!((ms - second as f64 * 1000.0).abs() < 0.3 && alike > ALIKE_DESPITE_LOSS, "{ms} {alike}");
    }
    // The hole is filled with something like what was there.
    let (start_ns, samples) = writer.play();
    assert_eq!(start_ns, EPOCH_NS);
    let hole = &samples[50 * 160..51 * 160];
    let energy = |s: &[i16]| s.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    assert!(energy(hole) > 0.3 * energy(&said[50 * 160..51 * 160]));
}

#[test]
fn a_long_loss_fades_to_silence_and_leaves_the_grid_empty() {
    let said = warble(8000 * 4);
    let mut arrivals = arrivals_of(&said, 0.0);
    arrivals.drain(50..100);
    let (track, writer) = played(arrivals);
    let measured = track.measured();
    assert_eq!(measured.streams[0].lost, 50);
    assert!(measured.concealed_seconds <= 0.06 + 1e-9, "{}", measured.concealed_seconds);
    let ticks = writer.ticks();
    let first = ticks[0].0;
    assert!(ticks.iter().all(|(t, _)| !(first + 54..first + 100).contains(t)), "silence is not stored");
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 3, 4000, 3000.0, 20.0);
    assert!((ms - 3000.0).abs() < 0.3 && alike > ALIKE);
}

#[test]
fn pauses_of_a_sender_are_no_loss() {
    // Talk spurts of 400 ms with 600 ms of nothing between, timestamps going on, sequence numbers contiguous.
    let said = warble(8000 * 10);
    let mut sequence = 0u16;
    let arrivals: Vec<_> = arrivals_of(&said, 0.0)
        .into_iter()
        .enumerate()
        .filter(|(i, _)| i % 50 < 20)
        .map(|(i, (ms, ssrc, mut packet))| {
            packet.sequence = sequence;
            packet.marker = i % 50 == 0;
            sequence += 1;
            (ms, ssrc, packet)
        })
        .collect();
    let (track, writer) = played(arrivals);
    let measured = track.measured();
    assert_eq!((measured.streams[0].lost, measured.concealed_seconds), (0, 0.0));
    let ticks = writer.ticks();
    let stored = ticks.len();
    assert!((200..=220).contains(&stored), "20 steps of each spurt, and at most one for the look-ahead: {stored}");
    for spurt in 0..10usize {
        let ms = spurt as f64 * 1000.0 + 50.0;
        let (heard, alike) = heard_ms(&said, &writer, spurt * 8000 + 400, 2000, ms, 20.0);
        assert!((heard - ms).abs() < 0.3 && alike > ALIKE, "{heard} {alike}");
    }
}

#[test]
fn short_pauses_keep_the_encoder_running() {
    let said = warble(8000 * 2);
    let arrivals: Vec<_> = arrivals_of(&said, 0.0)
        .into_iter()
        .enumerate()
        .filter(|(i, _)| !(30..34).contains(i))
        .map(|(i, (ms, ssrc, mut packet))| {
            packet.sequence = if i < 30 { i as u16 } else { i as u16 - 4 };
            (ms, ssrc, packet)
        })
        .collect();
    let (_, writer) = played(arrivals);
    let ticks = writer.ticks();
    assert_eq!(ticks.last().unwrap().0 - ticks[0].0 + 1, ticks.len() as u64, "no step without a packet");
}

#[test]
fn digits_are_counted_and_never_heard_or_concealed() {
    let said = warble(8000 * 4);
    let mut arrivals = Vec::new();
    for (sequence, (ms, ssrc, packet)) in (500u16..).zip(arrivals_of(&said, 0.0)) {
        let i = usize::from(sequence - 500);
        let is_event = (60..70).contains(&i);
        let mut packet = Rtp { sequence, ..packet };
        if is_event {
            packet.payload_type = 101;
            packet.timestamp = 0xffff_f000u32.wrapping_add(60 * 160);
            packet.payload = vec![5, if i >= 67 { 0x8a } else { 0x0a }, 0, ((i - 59) * 160 % 256) as u8];
        }
        arrivals.push((ms, ssrc, packet.clone()));
        if i == 69 {
            // The end packet three times under one number, as some phones send it.
            arrivals.push((ms + 0.1, ssrc, packet.clone()));
            arrivals.push((ms + 0.2, ssrc, packet));
        }
    }
    let (track, writer) = played(arrivals);
    let (accounting, measured) = (track.accounting(), track.measured());
    assert_eq!((accounting.no_audio, accounting.duplicates, accounting.encoded), (10, 2, 190));
    assert_eq!((measured.streams[0].packets, measured.streams[0].lost, measured.concealed_seconds), (202, 0, 0.0));
    assert_eq!(measured.streams[0].codec, "PCMA/8000");
    assert!(measured.streams[0].jitter_ms_max < 0.01, "events do not feed jitter");
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 3, 4000, 3000.0, 20.0);
    assert!((ms - 3000.0).abs() < 0.3 && alike > ALIKE);
}

#[test]
fn a_timestamp_jump_is_anchored_at_arrival() {
    for jump in [5_000_000u32, 0x9000_0000, 4000, 0u32.wrapping_sub(4000)] {
        let said = warble(8000 * 6);
        let mut arrivals = arrivals_of(&said, 0.0);
        for (_, _, packet) in &mut arrivals[150..] {
            packet.timestamp = packet.timestamp.wrapping_add(jump);
        }
        let (track, writer) = played(arrivals);
        assert_eq!(track.measured().streams[0].lost, 0);
        assert_eq!(track.accounting().encoded, 300, "jump {jump}");
        let (ms, alike) = heard_ms(&said, &writer, 8000 * 4, 8000, 4000.0, 50.0);
        assert!((ms - 4000.0).abs() < 0.5 && alike > ALIKE, "jump {jump}: {ms} {alike}");
    }
}

#[test]
fn packets_longer_than_their_timestamps_say_keep_one_time_line() {
    let said = warble(8000 * 6);
    let mut arrivals = arrivals_of(&said, 0.0);
    for (i, (ms, _, packet)) in arrivals.iter_mut().enumerate() {
        packet.payload.extend_from_slice(&[0xd5; 4]);
        *ms += (i % 7) as f64 * 5.0;
    }
    let (track, writer) = played(arrivals);
    assert_eq!(track.accounting().encoded, 300);
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 4, 8000, 4000.0, 50.0);
    assert!((ms - 4000.0).abs() < 0.5 && alike > ALIKE, "{ms} {alike}");
}

#[test]
fn sequence_numbers_may_begin_anew() {
    let said = warble(8000 * 4);
    let mut arrivals = arrivals_of(&said, 0.0);
    for (_, _, packet) in &mut arrivals[100..] {
        packet.sequence = packet.sequence.wrapping_add(30_000);
        packet.timestamp = packet.timestamp.wrapping_add(123_456_789);
    }
    let (track, writer) = played(arrivals);
    assert_eq!(track.accounting().encoded, 200, "the first packet of the new run is not lost");
    assert_eq!(track.measured().streams[0].lost, 0);
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 3, 4000, 3000.0, 20.0);
    assert!((ms - 3000.0).abs() < 0.5 && alike > ALIKE);
}

#[test]
fn a_stream_of_another_source_goes_on_in_the_same_track() {
    let said = warble(8000 * 6);
    let mut arrivals = arrivals_of(&said, 0.0);
    for (i, (_, ssrc, packet)) in arrivals.iter_mut().enumerate().skip(150) {
        *ssrc = 2;
        packet.sequence = i as u16 * 3 / 3 + 40_000;
        packet.timestamp = packet.timestamp.wrapping_mul(1).wrapping_add(77_777_777);
    }
    let (track, writer) = played(arrivals);
    assert_eq!(track.accounting().encoded, 300);
    assert_eq!(track.measured().streams.len(), 2);
    let ticks = writer.ticks();
    assert_eq!(ticks.last().unwrap().0 - ticks[0].0 + 1, ticks.len() as u64);
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 2 + 4000, 8000, 2500.0, 20.0);
    assert!((ms - 2500.0).abs() < 0.5 && alike > ALIKE, "{ms} {alike}");
}

#[test]
fn where_two_streams_speak_the_newer_is_heard() {
    let (older, newer) = (warble(8000 * 6), warble(8000 * 9).split_off(8000 * 5));
    let mut arrivals = arrivals_of(&older, 0.0);
    arrivals.extend(arrivals_of(&newer, 2003.0).into_iter().take(100).map(|(ms, _, packet)| (ms, 2, packet)));
    let (track, writer) = played(arrivals);
    let accounting = track.accounting();
    assert!((95..=120).contains(&accounting.overlapped), "{accounting:?}");
    let (ms, alike) = heard_ms(&newer, &writer, 1600, 8000, 2203.0, 20.0);
    assert!((ms - 2203.0).abs() < 0.5 && alike > ALIKE, "{ms} {alike}");
    let (ms, alike) = heard_ms(&older, &writer, 8000 * 5, 4000, 5000.0, 20.0);
    assert!((ms - 5000.0).abs() < 0.5 && alike > ALIKE, "the older is back: {ms} {alike}");
}

#[test]
fn packets_that_come_too_late_are_counted_late_not_lost() {
    let said = warble(8000 * 4);
    let mut arrivals = arrivals_of(&said, 0.0);
    arrivals[80].0 += 900.0;
    let (track, _) = played(arrivals);
    let stream = &track.measured().streams[0];
    assert_eq!((stream.late, stream.lost, stream.reordered), (1, 0, 1));
}

#[test]
fn a_stall_of_the_network_loses_nothing() {
    let said = warble(8000 * 6);
    let mut arrivals = arrivals_of(&said, 0.0);
    for (i, (ms, _, _)) in arrivals.iter_mut().enumerate().skip(100).take(35) {
        *ms = 2700.0 + i as f64 * 0.01;
    }
    let (track, writer) = played(arrivals);
    assert_eq!(track.accounting().encoded, 300, "{:?}", track.accounting());
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 2, 4000, 2000.0, 20.0);
    assert!((ms - 2000.0).abs() < 1.0 && alike > ALIKE, "{ms} {alike}");
}

#[test]
fn packets_of_the_pre_roll_come_all_at_once_and_lie_where_they_arrived() {
    let said = warble(8000 * 20);
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    let slot = open(&mut track, 1);
    let arrivals = arrivals_of(&said, 0.0);
    for (i, (ms, _, packet)) in arrivals.iter().enumerate() {
        delivery(&mut track, slot, at_ms(*ms), packet, &mut writer);
        if i == 500 {
            // The encoder's clock has been at 12 s all the time.
            track.on_tick(at_ms(12_000.0), &mut writer);
        }
    }
    track.finish(at_ms(20_000.0), &mut writer);
    assert_eq!(track.accounting().encoded, 1000);
    let (ms, alike) = heard_ms(&said, &writer, 8000 * 3, 8000, 3000.0, 20.0);
    assert!((ms - 3000.0).abs() < 0.3 && alike > ALIKE);
}

#[test]
fn what_cannot_be_read_is_counted_and_said() {
    let arrivals = |payload_type: u8| -> Vec<_> {
        arrivals_of(&warble(8000), 0.0).into_iter().map(|(ms, s, p)| (ms, s, Rtp { payload_type, ..p })).collect()
    };
    for (payload_type, name) in [(18, "G729/8000"), (99, "payload type 99")] {
        let (track, writer) = played(arrivals(payload_type));
        let measured = track.measured();
        assert!(writer.chunks.is_empty() && !measured.decodable && measured.first_audio_at.is_none());
        assert_eq!((measured.streams[0].packets, measured.streams[0].lost), (50, 0));
        assert_eq!((measured.streams[0].codec.as_str(), track.accounting().undecodable), (name, 50));
    }
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    let slot = track.open_stream(&stream_key(1), &format_of(&[(8, "PCMA")], true));
    for (ms, _, packet) in arrivals(8) {
        // SRTP: the last byte belongs to a tag, whatever the padding bit says.
        let mut bytes = packet.bytes();
        bytes[0] |= 0x20;
        track.on_packet(slot, at_ms(ms), &bytes, &mut writer);
    }
    track.finish(at_ms(2000.0), &mut writer);
    let measured = track.measured();
    assert!(measured.encrypted && !measured.decodable && writer.chunks.is_empty());
    assert_eq!(measured.streams[0].packets, 50);
}

#[test]
fn formats_may_change_while_a_stream_goes_on() {
    let said = warble(8000 * 2);
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    let slot = track.open_stream(&stream_key(1), &format_of(&[(8, "PCMA")], false));
    for (i, (ms, _, mut packet)) in arrivals_of(&said, 0.0).into_iter().enumerate() {
        if i == 50 {
            assert_eq!(track.open_stream(&stream_key(1), &format_of(&[(8, "G729")], false)), slot);
        }
        if i == 60 {
            track.set_format(slot, &format_of(&[(98, "PCMA")], false));
        }
        if i >= 60 {
            packet.payload_type = 98;
        }
        delivery(&mut track, slot, at_ms(ms), &packet, &mut writer);
    }
    track.finish(at_ms(2000.0), &mut writer);
    let accounting = track.accounting();
    assert!(accounting.is_balanced());
    assert_eq!((accounting.undecodable, accounting.encoded), (10, 90));
    assert!(track.measured().decodable);
    assert_eq!(track.measured().streams[0].codec, "PCMA/8000");
}

#[test]
fn a_refusing_writer_and_a_full_ring_are_held_against_the_recording() {
    let (mut track, mut writer) =
        (new_track(&TrackConfig::default()), Writer { refuse_every: Some(3), ..Writer::default() });
    let slot = open(&mut track, 1);
    for (i, (ms, _, packet)) in arrivals_of(&warble(8000 * 10), 0.0).into_iter().enumerate() {
        match i {
            200..205 => {}
            205 => {
                track.on_lost_before(slot, 5);
                delivery(&mut track, slot, at_ms(ms), &packet, &mut writer);
            }
            _ => delivery(&mut track, slot, at_ms(ms), &packet, &mut writer),
        }
    }
    track.finish(at_ms(10_000.0), &mut writer);
    let (accounting, measured) = (track.accounting(), track.measured());
    assert!(accounting.is_balanced(), "{accounting:?}");
    assert!(measured.losses.writer > 100 && measured.losses.writer == writer.refused_packets);
    assert_eq!((measured.losses.encoder, measured.losses.network), (5, 0));
    assert_eq!((measured.streams[0].packets, measured.streams[0].lost), (500, 0));
    assert_eq!(accounting.encoded + 5 + measured.losses.writer, 500);
}

#[test]
fn the_end_of_a_packet_that_found_no_room_is_held_against_the_recording() {
    // The last packet lies over the cut at 700 ms: 8 ms of it before, 12 ms behind.
    let samples = warble(8000);
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    let slot = open(&mut track, 1);
    let start = (700 - EPOCH_NS / 1_000_000 % 700) as f64;
    for (ms, _, packet) in arrivals_of(&samples[..35 * 160], start + 8.0) {
        delivery(&mut track, slot, at_ms(ms), &packet, &mut writer);
    }
    writer.refuse_every = Some(2);
    track.finish(at_ms(start + 2000.0), &mut writer);
    let shape: Vec<_> = writer.chunks.iter().map(|(header, _)| (header.ticks, header.packets)).collect();
    assert_eq!((shape, writer.offered, writer.refused_packets), (vec![(35, 35)], 2, 0));
    let accounting = track.accounting();
    assert!(accounting.is_balanced(), "{accounting:?}");
    assert_eq!((accounting.encoded, accounting.lost_to_writer, accounting.cut_short), (35, 0, 1));
    assert_eq!(track.measured().losses.writer, 1);
}

#[test]
fn a_capture_clock_that_jumps_by_decades_costs_nothing() {
    let said = warble(8000 * 2);
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    let slot = open(&mut track, 1);
    let started = std::time::Instant::now();
    let mut chunks_before = 0;
    for (round, base) in [
        EPOCH_NS,
        EPOCH_NS + 900_000_000_000_000_000,
        EPOCH_NS - 900_000_000_000_000_000,
        u64::MAX - 10_000_000_000,
        0,
        EPOCH_NS,
    ]
    .into_iter()
    .enumerate()
    {
        for (i, (_, _, packet)) in arrivals_of(&said, 0.0).into_iter().enumerate() {
            let at = CaptureTime(base + i as u64 * 20_000_000);
            let sequence = packet.sequence.wrapping_add(round as u16 * 100);
            let timestamp = packet.timestamp.wrapping_add(round as u32 * 16_000);
            delivery(&mut track, slot, at, &Rtp { sequence, timestamp, ..packet }, &mut writer);
            track.on_tick(at, &mut writer);
        }
        assert!(writer.chunks.len() - chunks_before <= 5);
        chunks_before = writer.chunks.len();
    }
    track.finish(CaptureTime(u64::MAX), &mut writer);
    let accounting = track.accounting();
    assert!(accounting.is_balanced() && accounting.pending == 0);
    assert!(accounting.encoded >= 590, "{accounting:?}");
    assert!(accounting.ticks_encoded < 700, "no empty steps are made");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn silence_seals_the_chunk_and_ends_the_run() {
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    let slot = open(&mut track, 1);
    for (ms, _, packet) in arrivals_of(&warble(8000 / 2), 0.0) {
        delivery(&mut track, slot, at_ms(ms), &packet, &mut writer);
    }
    for step in 0..40 {
        track.on_tick(at_ms(500.0 + f64::from(step) * 100.0), &mut writer);
    }
    assert_eq!(writer.packets(), 25, "on hold, what was said is with the writer");
    assert_eq!(track.accounting().pending, 0);
}

#[test]
fn very_many_streams_share_a_few_buffers() {
    let said = warble(160 * 4 * 300);
    let (mut track, mut writer) = (new_track(&TrackConfig::default()), Writer::default());
    for (i, (ms, _, packet)) in arrivals_of(&said, 0.0).into_iter().enumerate() {
        let slot = open(&mut track, i as u32 / 4);
        delivery(&mut track, slot, at_ms(ms), &packet, &mut writer);
    }
    track.finish(at_ms(100_000.0), &mut writer);
    let accounting = track.accounting();
    assert!(accounting.is_balanced() && accounting.pending == 0);
    assert_eq!(accounting.beyond_stream_limit, (300 - 256) * 4);
    assert!(accounting.encoded >= 256 * 4 * 9 / 10, "{accounting:?}");
}

#[test]
fn configurations_out_of_range_are_refused_by_name() {
    let config = TrackConfig { complexity: 11, ..TrackConfig::default() };
    let error = config.check().unwrap_err().to_string();
    assert_eq!(error, "track configuration: complexity must be 0 to 10");
}

/// What a hostile or broken sender may do next.
#[derive(Clone, Debug)]
enum Act {
    Packet { ssrc: u32, sequence: u16, timestamp: u32, payload_type: u8, first_byte: u8, length: usize, wait_ns: u64 },
    Follow { ssrc: u32, payload_type: u8, skip: u16, pause: u32, wait_ns: u64 },
    Bytes(Vec<u8>),
    Lost(u32),
    Tick(u64),
    Jump(u64),
    Format(u8, bool),
    Finish,
}

fn act() -> impl Strategy<Value = Act> {
    let wait = prop_oneof![8 => Just(20_000_000u64), 2 => 0..300_000_000u64, 1 => 0..10_000_000_000u64];
    let payload_type = prop_oneof![8 => Just(8u8), 1 => Just(101u8), 1 => Just(13u8), 1 => 0..128u8];
    prop_oneof![
        20 => (0..3u32, payload_type.clone(), prop_oneof![9 => Just(0u16), 1 => 0..4u16],
               prop_oneof![9 => Just(0u32), 1 => 0..20_000u32], wait.clone())
            .prop_map(|(ssrc, payload_type, skip, pause, wait_ns)| Act::Follow { ssrc, payload_type, skip, pause, wait_ns }),
        6 => (0..3u32, any::<u16>(), any::<u32>(), payload_type, prop_oneof![5 => Just(0x80u8), 1 => any::<u8>()], 0..3000usize, wait)
            .prop_map(|(ssrc, sequence, timestamp, payload_type, first_byte, length, wait_ns)|
                Act::Packet { ssrc, sequence, timestamp, payload_type, first_byte, length, wait_ns }),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Act::Bytes),
        1 => (0..5u32).prop_map(Act::Lost),
        3 => (0..1_000_000_000u64).prop_map(Act::Tick),
        1 => any::<u64>().prop_map(Act::Jump),
        1 => (0..3u8, any::<bool>()).prop_map(|(which, encrypted)| Act::Format(which, encrypted)),
        1 => Just(Act::Finish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes: no panic, well-formed chunks (the writer checks), and every packet in exactly one counter at every
    /// moment.
    #[test]
    fn every_packet_has_one_end(acts in prop::collection::vec(act(), 1..250), refuse in prop::option::of(1..4usize)) {
        let mut track = new_track(&TrackConfig { complexity: 0, ..TrackConfig::default() });
        let mut writer = Writer { refuse_every: refuse, ..Writer::default() };
        let mut now = EPOCH_NS;
        let (mut given, mut lost) = (0u64, 0u64);
        let mut lines = [(0u16, 0u32); 3];
        for act in acts {
            match act {
                Act::Follow { ssrc, payload_type, skip, pause, wait_ns } => {
                    now = now.saturating_add(wait_ns);
                    let line = &mut lines[ssrc as usize];
                    line.0 = line.0.wrapping_add(1 + skip);
                    line.1 = line.1.wrapping_add(160 * (1 + u32::from(skip)) + pause);
                    let packet = Rtp { payload_type, marker: pause > 0, sequence: line.0, timestamp: line.1, payload: vec![0x33; 160] };
                    let slot = open(&mut track, ssrc);
                    track.on_packet(slot, CaptureTime(now), &packet.bytes(), &mut writer);
                    given += 1;
                }
                Act::Packet { ssrc, sequence, timestamp, payload_type, first_byte, length, wait_ns } => {
                    now = now.saturating_add(wait_ns);
                    let packet = Rtp { payload_type, marker: false, sequence, timestamp, payload: vec![0x42; length] };
                    let mut bytes = packet.bytes();
                    bytes[0] = first_byte;
                    given += u64::from(first_byte >> 6 == 2);
                    let slot = open(&mut track, ssrc);
                    track.on_packet(slot, CaptureTime(now), &bytes, &mut writer);
                }
                Act::Bytes(bytes) => {
                    let slot = open(&mut track, 0);
                    given += u64::from(sidetone_media::rtp::parse_fixed(&bytes).is_ok());
                    track.on_packet(slot, CaptureTime(now), &bytes, &mut writer);
                }
                Act::Lost(packets) => {
                    let slot = open(&mut track, 1);
                    given += u64::from(packets);
                    lost += u64::from(packets);
                    track.on_lost_before(slot, packets);
                }
                Act::Tick(wait_ns) => {
                    now = now.saturating_add(wait_ns);
                    track.on_tick(CaptureTime(now), &mut writer);
                }
                Act::Jump(to) => now = to,
                Act::Format(which, encrypted) => {
                    let slot = open(&mut track, 2);
                    let names = [(8, "PCMA"), (8, "G729"), (8, "telephone-event")];
                    track.set_format(slot, &format_of(&names[usize::from(which)..=usize::from(which)], encrypted));
                }
                Act::Finish => track.finish(CaptureTime(now), &mut writer),
            }
            let accounting = track.accounting();
            prop_assert!(accounting.is_balanced(), "{:?}", accounting);
            prop_assert_eq!(accounting.packets, given);
            prop_assert_eq!(accounting.encoded, writer.packets());
            prop_assert_eq!(accounting.lost_to_writer, writer.refused_packets);
        }
        track.finish(CaptureTime(now), &mut writer);
        let accounting = track.accounting();
        prop_assert!(accounting.is_balanced() && accounting.pending == 0, "{:?}", accounting);
        let measured = track.measured();
        let listed: u64 = measured.streams.iter().map(|s| s.packets).sum();
        // A stream all of whose packets were lost in our ring has no time and is not listed.
        let is_listed = measured.streams.iter().any(|s| s.ssrc == "0x00000001");
        prop_assert_eq!(listed + if is_listed { 0 } else { lost }, given);
        prop_assert!(measured.concealed_seconds <= 0.06 * given as f64);
    }
}
