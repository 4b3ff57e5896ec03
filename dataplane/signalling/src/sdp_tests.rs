use super::*;
use proptest::prelude::*;

fn one(text: &str) -> MediaDescription {
    let mut description = parse(text.as_bytes()).expect("a session description");
    assert_eq!(description.media.len(), 1, "{text}");
    description.media.remove(0)
}

fn names(media: &MediaDescription) -> Vec<String> {
    let name = |f: &PayloadFormat| {
        format!("{} {}/{}/{} {}", f.payload_type, f.encoding, f.clock_rate, f.channels, f.parameters)
            .trim_end()
            .to_owned()
    };
    media.binding.formats.iter().map(name).collect()
}

#[test]
fn addresses_formats_and_hints_are_read() {
    let media = one("v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
                     m=audio 4000 RTP/AVP 8 0 111 101 96 8\r\nc=IN IP4 10.0.0.2/127\r\na=rtpmap:111 opus/48000/2\r\n\
                     a=fmtp:111 useinbandfec=1; stereo=0\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n\
                     a=ptime:20\r\na=label:7\r\na=recvonly\r\n");
    assert_eq!(
        names(&media),
        [
            "8 PCMA/8000/1",
            "0 PCMU/8000/1",
            "111 opus/48000/2 useinbandfec=1; stereo=0",
            "101 telephone-event/8000/1 0-15"
        ]
    );
    assert_eq!(media.binding.address, Some("10.0.0.2:4000".parse().unwrap()));
    assert_eq!(media.binding.rtcp, Some("10.0.0.2:4001".parse().unwrap()));
    assert_eq!(media.binding.direction, MediaDirection::RecvOnly);
    assert_eq!((media.binding.ptime_ms, media.binding.label.as_str(), media.rejected), (Some(20), "7", false));
    assert_eq!(media.binding.security, MediaSecurity::None);
}

#[test]
fn every_static_payload_type_has_its_rfc_3551_format() {
    let expected = [(0, "PCMU", 8000), (3, "GSM", 8000), (4, "G723", 8000), (8, "PCMA", 8000), (9, "G722", 8000)];
    for (payload_type, encoding, clock_rate) in expected {
        let format = static_format(payload_type).unwrap();
        assert_eq!((&*format.encoding, format.clock_rate), (encoding, clock_rate));
    }
    assert_eq!(static_format(10).unwrap().channels, 2);
    assert!((35..=127).chain([1, 19, 20, 27, 30]).all(|payload_type| static_format(payload_type).is_none()));
}

#[test]
fn a_static_payload_type_may_be_mapped_to_something_else() {
    let media = one("v=0\nc=IN IP4 10.0.0.1\nm=audio 4000 RTP/AVP 9 18\na=rtpmap:9 G722/8000/1\na=rtpmap:18 bad\n");
    assert_eq!(names(&media), ["9 G722/8000/1", "18 G729/8000/1"]);
}

#[test]
fn holds_of_both_conventions() {
    for (connection, attribute, address, direction) in [
        ("10.0.0.1", "a=sendonly", Some("10.0.0.1:4000"), MediaDirection::SendOnly),
        ("10.0.0.1", "a=inactive", Some("10.0.0.1:4000"), MediaDirection::Inactive),
        ("0.0.0.0", "", None, MediaDirection::SendOnly),
        ("0.0.0.0", "a=sendrecv", None, MediaDirection::SendOnly),
        ("0.0.0.0", "a=inactive", None, MediaDirection::Inactive),
    ] {
        let media = one(&format!("v=0\nc=IN IP4 {connection}\nm=audio 4000 RTP/AVP 0\n{attribute}\n"));
        assert_eq!(media.binding.address, address.map(|text| text.parse().unwrap()), "{connection} {attribute}");
        assert_eq!(media.binding.direction, direction, "{connection} {attribute}");
        assert!(!media.rejected);
    }
    let session_level = one("v=0\nc=IN IP4 10.0.0.1\na=inactive\nm=audio 4000 RTP/AVP 0\n");
    assert_eq!(session_level.binding.direction, MediaDirection::Inactive);
}

#[test]
fn rtcp_goes_to_the_next_port_or_where_it_is_said() {
    for (attributes, rtcp, plain) in [
        ("", "10.0.0.1:4001", "10.0.0.1:4001"),
        ("a=rtcp:5005\n", "10.0.0.1:5005", "10.0.0.1:5005"),
        ("a=rtcp:5005 IN IP4 10.0.0.3\n", "10.0.0.3:5005", "10.0.0.3:5005"),
        ("a=rtcp-mux\n", "10.0.0.1:4000", "10.0.0.1:4001"),
        ("a=rtcp:5005\na=rtcp-mux\n", "10.0.0.1:4000", "10.0.0.1:5005"),
    ] {
        let media = one(&format!("v=0\nc=IN IP4 10.0.0.1\nm=audio 4000 RTP/AVP 0\n{attributes}"));
        assert_eq!(media.binding.rtcp, Some(rtcp.parse().unwrap()), "{attributes}");
        assert_eq!(media.rtcp_unmultiplexed, Some(plain.parse().unwrap()), "{attributes}");
    }
    let last_port = one("v=0\nc=IN IP4 10.0.0.1\nm=audio 65535 RTP/AVP 0\n");
    assert_eq!(last_port.binding.rtcp, None);
}

#[test]
fn candidates_are_rtp_over_udp_by_address() {
    let media = one("v=0\nc=IN IP4 10.0.0.1\nm=audio 4000 RTP/AVP 0\n\
                     a=candidate:1 1 UDP 2130706431 10.0.0.1 4000 typ host\n\
                     a=candidate:2 1 udp 1694498815 203.0.113.7 40000 typ srflx raddr 10.0.0.1 rport 4000\n\
                     a=candidate:2 2 udp 1694498815 203.0.113.7 40001 typ srflx\n\
                     a=candidate:3 1 tcp 1 10.0.0.1 9 typ host tcptype active\n\
                     a=candidate:4 1 udp 1 abc.local 4444 typ host\na=candidate:5 1 udp 1 fd00::1 4000 typ host\na=candidate:\n");
    let expected: Vec<SocketAddr> = vec!["203.0.113.7:40000".parse().unwrap(), "[fd00::1]:4000".parse().unwrap()];
    assert_eq!(media.binding.candidates, expected);
}

#[test]
fn security_is_told_by_profile_and_keys() {
    let crypto = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc\n";
    let sdes = MediaSecurity::Sdes(vec!["1 AES_CM_128_HMAC_SHA1_80 inline:abc".to_owned()]);
    for (profile, attributes, security, opportunistic) in [
        ("RTP/AVP", "", MediaSecurity::None, false),
        ("RTP/SAVP", crypto, sdes.clone(), false),
        ("RTP/SAVP", "", MediaSecurity::Unreadable, false),
        ("RTP/AVP", crypto, sdes, true),
        ("UDP/TLS/RTP/SAVPF", "a=fingerprint:sha-256 AA\n", MediaSecurity::Unreadable, false),
        ("UDP/TLS/RTP/SAVPF", "", MediaSecurity::Unreadable, false),
        ("RTP/AVP", "a=fingerprint:sha-256 AA\n", MediaSecurity::Unreadable, true),
    ] {
        let media = one(&format!("v=0\nc=IN IP4 10.0.0.1\nm=audio 4000 {profile} 0\n{attributes}"));
        assert_eq!(
            (media.binding.security, media.opportunistic_security),
            (security, opportunistic),
            "{profile} {attributes}"
        );
        assert_eq!(media.binding.formats.len(), 1);
    }
}

#[test]
fn lines_keep_their_places_whatever_is_in_them() {
    let description = parse(
        b"v=0\nc=IN IP6 2001:db8::1\nm=audio 4000 RTP/AVP 0\nm=video 0 RTP/AVP 34\nm=image 5000 udptl t38\n\
          m=garbage\nm=audio 99999 RTP/AVP 0\nm=application 6000 UDP/BFCP *\n",
    )
    .unwrap();
    let seen: Vec<_> =
        description.media.iter().map(|m| (m.binding.kind, m.binding.address.is_some(), m.rejected)).collect();
    assert_eq!(
        seen,
        [
            (MediaKind::Audio, true, false),
            (MediaKind::Video, false, true),
            (MediaKind::Image, true, false),
            (MediaKind::Other, false, true),
            (MediaKind::Audio, false, true),
            (MediaKind::Other, true, false),
        ]
    );
    assert!(description.media[2].binding.formats.is_empty());
    assert_eq!(description.media[0].binding.address, Some("[2001:db8::1]:4000".parse().unwrap()));
}

#[test]
fn a_bundled_line_shares_the_first_address() {
    let description = parse(
        b"v=0\nc=IN IP4 10.0.0.1\na=group:BUNDLE a b\nm=audio 4000 RTP/AVP 0\nm=audio 0 RTP/AVP 8\na=bundle-only\n",
    )
    .unwrap();
    assert_eq!(description.media[1].binding.address, description.media[0].binding.address);
    assert!(!description.media[1].rejected);
}

#[test]
fn what_is_no_description_is_refused() {
    for text in ["", "hello", "a=sendrecv\n", "\0\0\0"] {
        assert_eq!(parse(text.as_bytes()), Err(SdpError::NotSdp), "{text:?}");
    }
    assert_eq!(parse(&vec![b'v'; DESCRIPTION_BYTES_MAX + 1]), Err(SdpError::TooLong));
    assert_eq!(parse(b"v=0").unwrap().media, []);
}

#[test]
fn nothing_grows_past_its_bound() {
    let mut text = String::from("v=0\nc=IN IP4 10.0.0.1\n");
    for _ in 0..20 {
        text.push_str("m=audio 4000 RTP/AVP 0 8\n");
        for n in 0..20 {
            text.push_str(&format!("a=candidate:1 1 udp 1 10.0.1.{n} 4000 typ host\na=crypto:{n} x\n"));
        }
    }
    let description = parse(text.as_bytes()).unwrap();
    assert_eq!(description.media.len(), MEDIA_MAX);
    for media in &description.media {
        assert_eq!(media.binding.candidates.len(), CANDIDATES_MAX);
        assert!(matches!(&media.binding.security, MediaSecurity::Sdes(keys) if keys.len() == CRYPTO_MAX));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(description) = parse(&bytes) {
            prop_assert!(description.media.len() <= MEDIA_MAX);
        }
    }

    #[test]
    fn any_lines_are_read(lines in proptest::collection::vec("[vmcao]=[ -~]{0,40}", 0..30)) {
        if let Ok(description) = parse(lines.join("\r\n").as_bytes()) {
            prop_assert_eq!(description.media.len(), lines.iter().filter(|line| line.starts_with("m=")).count().min(MEDIA_MAX));
        }
    }

    #[test]
    fn addresses_and_ports_come_back_as_written(ip in any::<std::net::Ipv4Addr>(), port in 1..u16::MAX) {
        prop_assume!(is_usable(ip.into()));
        let media = one(&format!("v=0\r\nc=IN IP4 {ip}\r\nm=audio {port} RTP/AVP 0\r\n"));
        prop_assert_eq!(media.binding.address, Some(SocketAddr::new(ip.into(), port)));
    }
}
