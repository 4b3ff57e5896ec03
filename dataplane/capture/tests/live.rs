//! Capturing from a virtual interface: AF_XDP in native mode, restarts over the pinned program, the fallback.

#[path = "../../../ebpf/tap-abi/tests/packets/mod.rs"]
mod packets;
mod testbed;

use packets::{DISCARDED_PORT, SSRC, UDP, ethernet, ipv4, rtcp, rtp, sip, tcp, udp, udp_frame};
use sidetone_capture::{CaptureMode, Interest, Mirror, Mode, Port, PortConfig, Reason, TapCounters};
use sidetone_model::{CaptureTime, Domain, StreamKey};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testbed::{Received, Sender, Testbed, in_testbed, receive, receive_nothing, run};

const NATIVE: CaptureMode = CaptureMode::AfXdp { native: true, zero_copy: false };

fn open(testbed: &Testbed) -> Port {
    let port = Port::open(&testbed.config()).unwrap();
    assert_eq!(port.mode, NATIVE, "{:?}", port.fallback_reason);
    assert_eq!(port.fallback_reason, None);
    port
}

fn counters(port: &Port) -> TapCounters {
    port.control.as_ref().unwrap().counters().unwrap()
}

fn bytes(frames: &[Received]) -> Vec<&[u8]> {
    frames.iter().map(|frame| frame.bytes.as_slice()).collect()
}

fn now() -> CaptureTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    CaptureTime::from_seconds_nanos(now.as_secs(), now.subsec_nanos().into())
}

fn numbered_sip(number: u32) -> Vec<u8> {
    udp_frame(5060, 5060, &[sip(), number.to_be_bytes().to_vec()].concat())
}

#[test]
#[ignore = "needs root"]
fn frames_arrive_whole_in_order_and_stamped() {
    in_testbed(1, 1500, |testbed| {
        let mut port = open(testbed);
        assert_eq!(port.sources.len(), 1);
        let wire = Sender::new("wire0");
        let wanted = [
            udp_frame(5060, 5060, &sip()),
            udp_frame(30_000, 30_002, &rtp()),
            ethernet(&[(0x8100, 100)], 0x0800, &ipv4(UDP, 0, &[], &udp(30_000, 30_002, &rtp()))),
            ethernet(&[(0x88A8, 100), (0x8100, 20)], 0x0800, &ipv4(UDP, 0, &[], &udp(30_000, 30_002, &rtcp()))),
            ethernet(&[], 0x0800, &ipv4(UDP, 0x2000, &[], &[7; 1480])),
        ];
        let started_at = now();
        for frame in &wanted {
            wire.send(&udp_frame(40_404, 53, b"a name question"));
            wire.send(frame);
        }
        let frames = receive(&mut port, wanted.len());
        assert_eq!(bytes(&frames), wanted);
        let times: Vec<CaptureTime> = frames.iter().map(|frame| frame.arrived_at).collect();
        assert!(times.is_sorted() && times[0] < times[4], "{times:?}");
        let slack = Duration::from_millis(1);
        assert!(times[0] >= started_at.saturating_sub(slack) && times[4] <= now().saturating_add(slack), "{times:?}");
        assert!(frames.iter().all(|frame| frame.original_length as usize == frame.bytes.len()));

        let statistics = port.sources[0].statistics();
        assert_eq!((statistics.frames, statistics.missed(), statistics.unstamped), (5, 0, 0));
        let counters = counters(&port);
        assert_eq!((counters.received, counters.dropped(Reason::OtherUdp)), (10, 5));
        assert_eq!(counters.redirected(Interest::Rtp), 2);
        assert!(counters.is_balanced());
    });
}

#[test]
#[ignore = "needs root"]
fn every_queue_has_a_source_and_every_frame_arrives_on_one() {
    in_testbed(4, 1500, |testbed| {
        let mut port = open(testbed);
        assert_eq!(port.sources.len(), 4);
        // The driver spreads frames over its queues.
        let wire = Sender::new("wire0");
        let mut sent: Vec<Vec<u8>> = (0..200).map(|number| udp_frame(30_000 + number * 2, 30_000, &rtp())).collect();
        sent.iter().for_each(|frame| wire.send(frame));
        let frames = receive(&mut port, sent.len());
        let mut received: Vec<Vec<u8>> = frames.into_iter().map(|frame| frame.bytes).collect();
        received.sort();
        sent.sort();
        assert_eq!(received, sent);
        let per_source: Vec<u64> = port.sources.iter_mut().map(|source| source.statistics().frames).collect();
        assert_eq!(per_source.iter().sum::<u64>(), 200);
        assert!(per_source.iter().filter(|&&frames| frames > 0).count() > 1, "{per_source:?}");
        assert!(counters(&port).is_balanced());
    });
}

#[test]
#[ignore = "needs root"]
fn a_restart_finds_the_program_running_and_nothing_is_forgotten() {
    in_testbed(1, 1500, |testbed| {
        let wire = Sender::new("wire0");
        let mut port = open(testbed);
        let discarded = stream(DISCARDED_PORT);
        port.control.as_mut().unwrap().discard(&discarded).unwrap();
        port.control.as_mut().unwrap().expect("10.0.0.9:7000".parse().unwrap()).unwrap();
        let program = attached_program();
        drop(port);

        // Nobody listens: the program still runs, and counts what nobody took.
        assert_eq!(attached_program(), program);
        wire.send(&numbered_sip(1));

        for round in 0..3 {
            let mut port = open(testbed);
            assert_eq!(attached_program(), program, "round {round}");
            wire.send(&udp_frame(DISCARDED_PORT, 30_002, &rtp()));
            wire.send(&udp_frame(1, 7000, b"not RTP"));
            wire.send(&numbered_sip(2));
            let frames = receive(&mut port, 2);
            assert_eq!(bytes(&frames), [udp_frame(1, 7000, b"not RTP"), numbered_sip(2)], "round {round}");
            let counters = counters(&port);
            assert_eq!(counters.dropped(Reason::NoSocket), 1);
            assert_eq!(counters.dropped(Reason::Discarded), round + 1);
            assert!(counters.is_balanced());
        }

        // A verdict of an earlier process can be taken back.
        let mut port = open(testbed);
        port.control.as_mut().unwrap().forget(discarded.source).unwrap();
        wire.send(&udp_frame(DISCARDED_PORT, 30_002, &rtp()));
        assert_eq!(receive(&mut port, 1).len(), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn configured_signalling_ports_replace_those_of_the_process_before() {
    in_testbed(1, 1500, |testbed| {
        let wire = Sender::new("wire0");
        drop(open(testbed));
        let mut port = Port::open(&PortConfig { signalling_ports: vec![5080], ..testbed.config() }).unwrap();
        wire.send(&udp_frame(5060, 5060, &sip()));
        wire.send(&udp_frame(5080, 5080, &sip()));
        assert_eq!(bytes(&receive(&mut port, 1)), [udp_frame(5080, 5080, &sip())]);
        receive_nothing(&mut port);
        port.control.as_mut().unwrap().expect_signalling(5060).unwrap();
        wire.send(&udp_frame(5060, 5060, &sip()));
        assert_eq!(receive(&mut port, 1).len(), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn another_program_under_the_link_is_replaced_without_a_gap() {
    in_testbed(1, 1500, |testbed| {
        let wire = Sender::new("wire0");
        drop(open(testbed));
        // What another version leaves behind: its directory, its maps, its link, its program.
        let pins = testbed.pin_directory();
        std::fs::rename(pins.join("v1"), pins.join("v0")).unwrap();
        let program = attached_program();
        let mut port = open(testbed);
        assert_ne!(attached_program(), program, "the program over the old maps was not replaced");
        assert!(pins.join("v1/mirror0/link").exists());
        assert!(!pins.join("v0/mirror0").exists(), "the other version's pins are left");
        wire.send(&numbered_sip(1));
        assert_eq!(receive(&mut port, 1).len(), 1);
        assert!(counters(&port).is_balanced());
    });
}

#[test]
#[ignore = "needs root"]
fn a_new_interface_by_the_old_name_gets_the_program() {
    in_testbed(1, 1500, |testbed| {
        drop(open(testbed));
        run("ip link del wire0");
        run("ip link add wire0 type veth peer name mirror0");
        run("ip link set wire0 up");
        run("ip link set mirror0 up");
        let wire = Sender::new("wire0");
        let mut port = open(testbed);
        wire.send(&numbered_sip(1));
        assert!(bytes(&receive(&mut port, 1)).contains(&numbered_sip(1).as_slice()));
    });
}

#[test]
#[ignore = "needs root"]
fn without_a_bpf_file_system_the_program_ends_with_the_port() {
    in_testbed(1, 1500, |testbed| {
        let elsewhere = tempfile::tempdir().unwrap();
        let config = PortConfig { pin_directory: elsewhere.path().join("sidetone"), ..testbed.config() };
        let mut port = Port::open(&config).unwrap();
        assert_eq!(port.mode, NATIVE);
        Sender::new("wire0").send(&numbered_sip(1));
        assert_eq!(receive(&mut port, 1).len(), 1);
        drop(port.control.take());
        Sender::new("wire0").send(&numbered_sip(2));
        assert_eq!(receive(&mut port, 1).len(), 1);
        drop(port);
        assert_eq!(attached_program(), None);
    });
}

fn stream(source_port: u16) -> StreamKey {
    StreamKey {
        domain: Domain::default(),
        source: format!("10.0.0.1:{source_port}").parse().unwrap(),
        destination: "10.0.0.2:30002".parse().unwrap(),
        ssrc: SSRC,
    }
}

#[test]
#[ignore = "needs root"]
fn a_discarded_stream_stays_away_until_signalling_names_its_address() {
    in_testbed(1, 1500, |testbed| {
        let wire = Sender::new("wire0");
        let mut port = open(testbed);
        let packet = udp_frame(DISCARDED_PORT, 30_002, &rtp());
        wire.send(&packet);
        assert_eq!(receive(&mut port, 1).len(), 1);
        for named in ["10.0.0.1:40100", "10.0.0.2:30002"] {
            let control = port.control.as_mut().unwrap();
            control.discard(&stream(DISCARDED_PORT)).unwrap();
            // Renewed, and beside a stream in a tunnel, which the program does not know.
            control.discard(&stream(DISCARDED_PORT)).unwrap();
            let tunnelled = Domain { network: 7, ..Domain::default() };
            control.discard(&StreamKey { domain: tunnelled, ..stream(30_000) }).unwrap();
            wire.send(&packet);
            wire.send(&udp_frame(30_000, 30_002, &rtp()));
            assert_eq!(bytes(&receive(&mut port, 1)), [udp_frame(30_000, 30_002, &rtp())]);
            port.control.as_mut().unwrap().forget("10.0.0.9:1".parse().unwrap()).unwrap();
            wire.send(&packet);
            receive_nothing(&mut port);
            port.control.as_mut().unwrap().expect(named.parse().unwrap()).unwrap();
            wire.send(&packet);
            assert_eq!(bytes(&receive(&mut port, 1)), std::slice::from_ref(&packet));
        }
        assert_eq!(counters(&port).dropped(Reason::Discarded), 4);
    });
}

#[test]
#[ignore = "needs root"]
fn a_shared_port_passes_to_the_host_what_it_does_not_want() {
    in_testbed(1, 1500, |testbed| {
        let mut port = Port::open(&PortConfig { mirror: Mirror::Shared, ..testbed.config() }).unwrap();
        // A datagram for a service of the host, which has the address that the frames are sent to.
        run("ip link set mirror0 address 02:00:00:00:00:01");
        run("ip addr add 10.0.0.2/24 dev mirror0");
        let service = std::net::UdpSocket::bind("10.0.0.2:9999").unwrap();
        service.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let mut frame = udp_frame(1234, 9999, b"for the host");
        let checksum = internet_checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        let wire = Sender::new("wire0");
        wire.send(&frame);
        wire.send(&udp_frame(5060, 5060, &sip()));
        let mut datagram = [0; 100];
        let (length, from) = service.recv_from(&mut datagram).unwrap();
        assert_eq!((&datagram[..length], from), (b"for the host".as_slice(), "10.0.0.1:1234".parse().unwrap()));
        assert_eq!(bytes(&receive(&mut port, 1)), [udp_frame(5060, 5060, &sip())]);
        let counters = counters(&port);
        assert_eq!(counters.passed(Reason::OtherUdp), 1);
        assert_eq!(counters.dropped_total(), 0);
        assert!(counters.is_balanced());
    });
}

/// RFC 1071.
fn internet_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

#[test]
#[ignore = "needs root"]
fn jumbo_frames_are_put_together() {
    in_testbed(1, 9000, |testbed| {
        let mut port = open(testbed);
        let wire = Sender::new("wire0");
        let body: Vec<u8> = (0..8900u32).map(|number| (number % 251) as u8).collect();
        let jumbo = udp_frame(5060, 5060, &body);
        let sent = [jumbo.clone(), numbered_sip(1), jumbo.clone(), udp_frame(5060, 5060, &body[..3800]), jumbo];
        // More rounds than the UMEM has frames: each chunk comes back.
        for round in 0..500 {
            sent.iter().for_each(|frame| wire.send(frame));
            assert_eq!(bytes(&receive(&mut port, sent.len())), sent, "round {round}");
        }
        assert_eq!(port.sources[0].statistics().missed(), 0);
        assert!(counters(&port).is_balanced());
    });
}

#[test]
#[ignore = "needs root"]
fn every_frame_that_finds_no_room_is_counted() {
    in_testbed(1, 1500, |testbed| {
        for mode in [Mode::AfXdp, Mode::AfPacket] {
            let config = PortConfig { mode, packet_ring_bytes: 1 << 20, ..testbed.config() };
            let mut port = Port::open(&config).unwrap();
            let before = port.control.as_ref().map(|control| control.counters().unwrap());
            let wire = Sender::new("wire0");
            let sent = 20_000;
            for number in 0..sent {
                wire.send(&numbered_sip(number));
            }
            let frames = receive(&mut port, sent as usize);
            let statistics = port.sources[0].statistics();
            assert!(statistics.missed() > 0, "{mode:?}: the ring was not overrun: {statistics:?}");
            assert_eq!(statistics.frames, frames.len() as u64);
            assert_eq!(statistics.frames + statistics.missed(), u64::from(sent), "{mode:?}: {statistics:?}");
            if let Some(before) = before {
                let after = counters(&port);
                assert!(after.is_balanced());
                assert_eq!(after.redirected_total() - before.redirected_total(), u64::from(sent));
            }
            // What came after the overrun is received as before.
            wire.send(&numbered_sip(u32::MAX));
            assert_eq!(bytes(&receive(&mut port, 1)), [numbered_sip(u32::MAX)]);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_handler_that_panics_loses_one_frame() {
    in_testbed(1, 1500, |testbed| {
        for mode in [Mode::AfXdp, Mode::AfPacket] {
            let mut port = Port::open(&PortConfig { mode, ..testbed.config() }).unwrap();
            let wire = Sender::new("wire0");
            // As many rounds as the UMEM has frames: none leaks.
            for round in 0..1100u32 {
                (0..3).for_each(|number| wire.send(&numbered_sip(round * 3 + number)));
                let source = &mut port.sources[0];
                let mut seen = Vec::new();
                let give_up_at = Instant::now() + Duration::from_secs(3);
                while seen.len() < 3 && Instant::now() < give_up_at {
                    let before = seen.len();
                    // Unwinding without the message of a panic.
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        source.receive(Duration::from_millis(100), 64, &mut |frame| {
                            seen.push(frame.bytes.to_vec());
                            if seen.len() == 2 {
                                std::panic::resume_unwind(Box::new("on purpose"));
                            }
                        })
                    }));
                    assert_eq!(result.is_err(), before < 2 && seen.len() == 2, "{mode:?}, round {round}: {result:?}");
                }
                let expected: Vec<_> = (0..3).map(|number| numbered_sip(round * 3 + number)).collect();
                assert_eq!(seen, expected, "{mode:?}, round {round}");
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn af_packet_puts_vlan_tags_back_and_stamps() {
    in_testbed(1, 1500, |testbed| {
        let mut port = Port::open(&PortConfig { mode: Mode::AfPacket, ..testbed.config() }).unwrap();
        assert_eq!((port.mode, port.fallback_reason.as_deref()), (CaptureMode::AfPacket, None));
        let wire = Sender::new("wire0");
        let datagram = ipv4(UDP, 0, &[], &udp(30_000, 30_002, &rtp()));
        let sent = [
            ethernet(&[], 0x0800, &datagram),
            ethernet(&[(0x8100, 0xA064)], 0x0800, &datagram),
            ethernet(&[(0x88A8, 100), (0x8100, 20)], 0x0800, &datagram),
            ethernet(&[], 0x0800, &ipv4(packets::TCP, 0, &[], &tcp(5060, 1, &[], &sip()))),
        ];
        let started_at = now();
        sent.iter().for_each(|frame| wire.send(frame));
        let frames = receive(&mut port, sent.len());
        assert_eq!(bytes(&frames), sent);
        let times: Vec<CaptureTime> = frames.iter().map(|frame| frame.arrived_at).collect();
        let slack = Duration::from_millis(1);
        assert!(times.is_sorted(), "{times:?}");
        assert!(times[0] >= started_at.saturating_sub(slack) && times[3] <= now().saturating_add(slack), "{times:?}");
        assert!(frames.iter().all(|frame| frame.original_length as usize == frame.bytes.len()));
        let statistics = port.sources[0].statistics();
        assert_eq!((statistics.frames, statistics.missed(), statistics.unstamped), (4, 0, 0));
    });
}

#[test]
#[ignore = "needs root"]
fn where_af_xdp_cannot_be_had_the_fallback_says_why() {
    in_testbed(1, 1500, |testbed| {
        // Another recorder, with pins of its own, has the interface.
        let others = PortConfig { pin_directory: testbed.pin_directory().join("other"), ..testbed.config() };
        drop(Port::open(&others).unwrap());
        let mut port = Port::open(&testbed.config()).unwrap();
        assert_eq!(port.mode, CaptureMode::AfPacket);
        assert!(port.control.is_none());
        let reason = port.fallback_reason.clone().unwrap();
        assert!(reason.contains("another XDP program ('tap'"), "{reason}");
        receive_nothing(&mut port);
        drop(port);

        let error = Port::open(&PortConfig { mode: Mode::AfXdp, ..testbed.config() }).unwrap_err();
        assert!(error.to_string().contains("another XDP program"), "{error}");
        run("ip link set mirror0 down");
        let error = Port::open(&testbed.config()).unwrap_err();
        assert!(error.to_string().contains("is down"), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn two_recorders_do_not_share_an_interface() {
    in_testbed(1, 1500, |testbed| {
        let mut first = open(testbed);
        let error = Port::open(&testbed.config()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        Sender::new("wire0").send(&numbered_sip(1));
        assert_eq!(receive(&mut first, 1).len(), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn af_packet_takes_the_pinned_program_out_of_its_way() {
    in_testbed(1, 1500, |testbed| {
        drop(open(testbed));
        let mut port = Port::open(&PortConfig { mode: Mode::AfPacket, ..testbed.config() }).unwrap();
        assert_eq!(attached_program(), None);
        Sender::new("wire0").send(&numbered_sip(1));
        assert_eq!(receive(&mut port, 1).len(), 1);
        drop(port);
        let mut port = open(testbed);
        Sender::new("wire0").send(&numbered_sip(2));
        assert_eq!(receive(&mut port, 1).len(), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn the_loopback_interface_is_captured_in_generic_mode_when_asked_for() {
    in_testbed(1, 1500, |testbed| {
        let config = PortConfig { interface: "lo".to_owned(), mirror: Mirror::Shared, ..testbed.config() };
        let fallback = Port::open(&config).unwrap();
        assert_eq!(fallback.mode, CaptureMode::AfPacket);
        assert!(fallback.fallback_reason.is_some());
        drop(fallback);
        let port = Port::open(&PortConfig { mode: Mode::AfXdp, ..config }).unwrap();
        assert_eq!(port.mode, CaptureMode::AfXdp { native: false, zero_copy: false });
    });
}

/// Identifier of the XDP program on `mirror0`, as `ip` shows it.
fn attached_program() -> Option<u32> {
    let output = std::process::Command::new("ip").args(["-d", "link", "show", "mirror0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("prog/xdp id ")?;
    rest.split_whitespace().next()?.parse().ok()
}
