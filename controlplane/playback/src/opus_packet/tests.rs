use super::*;
use proptest::prelude::*;

fn delimited(packet: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_self_delimited(packet, &mut out);
    out
}

#[test]
fn self_delimiting_adds_the_length_of_the_last_frame() {
    // (ordinary form, self-delimiting form), by RFC 6716 figures 25 to 29.
    let long: Vec<u8> = std::iter::once(0x08).chain([7; 1275]).collect();
    let long_delimited: Vec<u8> = [0x08, 255, 255].into_iter().chain([7; 1275]).collect();
    let middle: Vec<u8> = std::iter::once(0x08).chain([7; 252]).collect();
    let middle_delimited: Vec<u8> = [0x08, 252, 0].into_iter().chain([7; 252]).collect();
    let table: &[(&str, &[u8], &[u8])] = &[
        ("lost frame", &[0x08], &[0x08, 0]),
        ("code 0", &[0x08, 1, 2, 3], &[0x08, 3, 1, 2, 3]),
        ("code 0, two length bytes, 252", &middle, &middle_delimited),
        ("code 0, two length bytes, 1275", &long, &long_delimited),
        ("code 1: two frames of 10 ms", &[0x01, 1, 2, 3, 4], &[0x01, 2, 1, 2, 3, 4]),
        ("code 2", &[0x02, 1, 9, 8, 7], &[0x02, 1, 2, 9, 8, 7]),
        ("code 3, CBR", &[0x03, 0x02, 1, 2, 3, 4], &[0x03, 0x02, 2, 1, 2, 3, 4]),
        ("code 3, VBR", &[0x03, 0x82, 1, 2, 3, 4], &[0x03, 0x82, 1, 2, 2, 3, 4]),
        ("code 3, CBR, padded", &[0x03, 0x42, 1, 1, 2, 0], &[0x03, 0x42, 1, 1, 1, 2, 0]),
    ];
    for (description, ordinary, expected) in table {
        assert!(lasts_one_tick(ordinary), "{description}");
        assert_eq!(delimited(ordinary), *expected, "{description}");
    }
}

#[test]
fn malformed_packets_and_other_durations_are_refused() {
    let too_long = [vec![0x08], vec![0; 1276]].concat();
    let table: &[(&str, &[u8])] = &[
        ("empty", &[]),
        ("10 ms", &[0x00, 1]),
        ("40 ms", &[0x10, 1]),
        ("two frames of 20 ms", &[0x09, 1, 2]),
        ("code 1 with an odd rest", &[0x01, 1, 2, 3]),
        ("code 2 without a length", &[0x02]),
        ("code 2 whose first frame is longer than the rest", &[0x02, 3, 1, 2]),
        ("code 3 without a count", &[0x03]),
        ("code 3 with no frames", &[0x03, 0x00]),
        ("code 3 whose padding exceeds it", &[0x03, 0x42, 9, 1, 2]),
        ("code 3, endless padding", &[0x03, 0x42, 255, 255]),
        ("a frame longer than 1275 bytes", &too_long),
    ];
    for (description, packet) in table {
        assert!(!lasts_one_tick(packet), "{description}");
    }
}

#[test]
fn the_silent_packet_is_silence_in_a_fresh_decoder_and_after_speech() {
    let mut decoder = opus::Decoder::new(8000, opus::Channels::Mono).unwrap();
    let mut decode = |packet: &[u8]| {
        let mut frame = [0i16; 160];
        assert_eq!(decoder.decode(packet, &mut frame, false).unwrap(), 160);
        frame.into_iter().map(i16::unsigned_abs).max().unwrap()
    };
    assert!(lasts_one_tick(&SILENT_PACKET));
    assert!(decode(&SILENT_PACKET) <= 1);
    let speech = crate::testing::encode(&crate::testing::babble(5, 1.0), |_| true);
    let loudest = speech.iter().map(|packet| decode(packet)).max().unwrap();
    assert!(loudest > 5000);
    decode(&SILENT_PACKET);
    for _ in 0..20 {
        assert!(decode(&SILENT_PACKET) <= 1);
    }
}

proptest! {
    #[test]
    fn libopus_agrees_about_what_is_well_formed_and_how_long_it_lasts(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
        let theirs = opus::packet::parse(&packet).ok()
            .and_then(|_| opus::packet::get_nb_samples(&packet, 48_000).ok());
        let ours = parse(&packet).map(|(samples, _)| samples);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn the_decoder_finds_both_packets_of_a_pair(
        left in proptest::collection::vec(any::<u8>(), 0..400), right in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        // Any bytes behind a code 0 byte of 20 ms decode to something; a wrong length would make the pair malformed.
        let frame = |bytes: &[u8]| [&[0x08], bytes].concat();
        let pair = [delimited(&frame(&left)), frame(&right)].concat();
        let mut both = opus::MSDecoder::new(48_000, 2, 0, &[0, 1]).unwrap();
        let mut samples = vec![0i16; 960 * 2];
        prop_assert_eq!(both.decode(&pair, &mut samples, false).unwrap(), 960);
        for (channel, packet) in [frame(&left), frame(&right)].iter().enumerate() {
            let mut alone = opus::Decoder::new(48_000, opus::Channels::Mono).unwrap();
            let mut expected = vec![0i16; 960];
            alone.decode(packet, &mut expected, false).unwrap();
            let got: Vec<i16> = samples.iter().skip(channel).step_by(2).copied().collect();
            prop_assert_eq!(got, expected);
        }
    }
}
