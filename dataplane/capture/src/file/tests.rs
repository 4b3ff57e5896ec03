use super::*;
use proptest::prelude::*;
use std::io::Write;

/// Numbers in the byte order of the file that is being built.
struct Writer {
    order: ByteOrder,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(order: ByteOrder) -> Self {
        Self { order, bytes: Vec::new() }
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes.extend(match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        });
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend(match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        });
        self
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    fn pcap_header(&mut self, magic: u32, link_type: u32) -> &mut Self {
        self.u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65_535).u32(link_type)
    }

    fn pcap_frame(&mut self, seconds: u32, fraction: u32, original_length: u32, bytes: &[u8]) -> &mut Self {
        self.u32(seconds).u32(fraction).u32(bytes.len() as u32).u32(original_length).raw(bytes)
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut writer = Writer::new(self.order);
        body(&mut writer);
        writer.bytes.resize(writer.bytes.len().next_multiple_of(4), 0);
        let length = writer.bytes.len() as u32 + 12;
        self.u32(kind).u32(length).raw(&writer.bytes).u32(length)
    }

    fn section(&mut self) -> &mut Self {
        self.block(0x0A0D_0D0A, |body| {
            body.u32(0x1A2B_3C4D).u16(1).u16(0).u32(u32::MAX).u32(u32::MAX);
        })
    }

    /// `resolution` as in if_tsresol; `offset_seconds` as in if_tsoffset.
    fn interface(
        &mut self,
        link_type: u16,
        snap_length: u32,
        resolution: Option<u8>,
        offset_seconds: u64,
    ) -> &mut Self {
        self.block(1, |body| {
            body.u16(link_type).u16(0).u32(snap_length);
            body.u16(2).u16(3).raw(b"eth\0");
            if let Some(resolution) = resolution {
                body.u16(9).u16(1).raw(&[resolution, 0, 0, 0]);
            }
            if offset_seconds != 0 {
                body.u16(14).u16(8);
                let (high, low) = ((offset_seconds >> 32) as u32, offset_seconds as u32);
                match body.order {
                    ByteOrder::Little => body.u32(low).u32(high),
                    ByteOrder::Big => body.u32(high).u32(low),
                };
            }
            body.u32(0);
        })
    }

    fn packet(&mut self, interface: u32, ticks: u64, original_length: u32, bytes: &[u8]) -> &mut Self {
        self.block(6, |body| {
            body.u32(interface).u32((ticks >> 32) as u32).u32(ticks as u32).u32(bytes.len() as u32);
            body.u32(original_length).raw(bytes);
        })
    }
}

type Seen = (u64, LinkLayer, Vec<u8>, u32);

fn open(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<CaptureFile, CaptureError>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let capture = CaptureFile::open(file.path());
    (file, capture)
}

fn read_all(capture: &mut CaptureFile) -> (Vec<Seen>, CaptureError) {
    let mut seen = Vec::new();
    loop {
        let result = capture.receive(Duration::ZERO, 3, &mut |frame| {
            seen.push((frame.arrived_at.0, frame.link, frame.bytes.to_vec(), frame.original_length));
        });
        match result {
            Ok(frames) => assert!(frames > 0, "a file never times out"),
            Err(error) => return (seen, error),
        }
    }
}

fn read(bytes: &[u8]) -> (Vec<Seen>, CaptureError) {
    let (_file, capture) = open(bytes);
    read_all(&mut capture.unwrap())
}

const ETHERNET: LinkLayer = LinkLayer::Ethernet;

#[test]
fn pcap_is_read_in_both_byte_orders_and_resolutions() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for (magic, nanos) in [(0xA1B2_C3D4, 1000), (0xA1B2_3C4D, 1)] {
            let mut writer = Writer::new(order);
            writer.pcap_header(magic, 1);
            for number in 0..10u8 {
                writer.pcap_frame(1_700_000_000 + u32::from(number), 5, 2000, &[number; 60]);
            }
            let (seen, end) = read(&writer.bytes);
            let expected: Vec<Seen> = (0..10u8)
                .map(|number| {
                    let time = (1_700_000_000 + u64::from(number)) * 1_000_000_000 + 5 * nanos;
                    (time, ETHERNET, vec![number; 60], 2000)
                })
                .collect();
            assert_eq!(seen, expected);
            assert!(matches!(end, CaptureError::EndOfCapture { truncated: false }), "{end}");
        }
    }
}

#[test]
fn link_types_are_recognised() {
    let table = [
        (0, LinkLayer::Null),
        (108, LinkLayer::Null),
        (1, ETHERNET),
        (101, LinkLayer::RawIp),
        (228, LinkLayer::RawIp),
        (229, LinkLayer::RawIp),
        (113, LinkLayer::LinuxCooked),
        (276, LinkLayer::LinuxCooked2),
        // With a frame check sequence of 4 bytes.
        (0x4400_0001, ETHERNET),
    ];
    for (link_type, link) in table {
        let mut writer = Writer::new(ByteOrder::Little);
        writer.pcap_header(0xA1B2_C3D4, link_type).pcap_frame(1, 1, 1, b"x");
        assert_eq!(read(&writer.bytes).0[0].1, link, "{link_type}");
    }
    let (_file, capture) = open(&Writer::new(ByteOrder::Big).pcap_header(0xA1B2_C3D4, 147).bytes);
    let error = capture.unwrap_err();
    assert!(matches!(error, CaptureError::UnsupportedLink { link_type: 147, .. }), "{error}");
}

#[test]
fn modified_pcap_has_longer_record_headers() {
    let mut writer = Writer::new(ByteOrder::Little);
    writer.pcap_header(0xA1B2_CD34, 1);
    writer.u32(1).u32(2).u32(3).u32(3).u32(9).u32(9).raw(b"abc");
    assert_eq!(read(&writer.bytes).0, [(1_000_002_000, ETHERNET, b"abc".to_vec(), 3)]);
}

fn sections(order: ByteOrder) -> (Vec<u8>, Vec<Seen>) {
    let mut writer = Writer::new(order);
    writer.section();
    writer.interface(1, 0, None, 0);
    writer.interface(101, 40, Some(9), 1_000_000_000);
    writer.interface(1, 0, Some(0x8A), 0);
    writer.packet(0, 1_700_000_000_000_001, 70, &[1; 61]);
    // Name resolution and statistics are passed over, whatever they say.
    writer.block(4, |body| {
        body.raw(&[0xFF; 300]);
    });
    writer.packet(1, 700_000_000_000_000_001, 3, &[2; 3]);
    writer.packet(2, 1024 * 1_700_000_000 + 512, 5, &[3; 5]);
    // An obsolete packet block: interface and drop count in 16 bits each.
    writer.block(2, |body| {
        body.u16(1).u16(9).u32(0).u32(5).u32(2).u32(2).raw(b"op");
    });
    // A simple packet: no time of its own, interface 0.
    writer.block(3, |body| {
        body.u32(4).raw(b"simp");
    });
    // A section of its own, with its own interfaces.
    writer.section();
    writer.interface(113, 0, Some(3), 0);
    writer.packet(0, 1_700_000_000_001, 4, b"sll!");
    let expected = vec![
        (1_700_000_000_000_001_000, ETHERNET, vec![1; 61], 70),
        (1_700_000_000_000_000_001, LinkLayer::RawIp, vec![2; 3], 3),
        (1_700_000_000_500_000_000, ETHERNET, vec![3; 5], 5),
        (1_000_000_000_000_000_005, LinkLayer::RawIp, b"op".to_vec(), 2),
        (1_000_000_000_000_000_005, ETHERNET, b"simp".to_vec(), 4),
        (1_700_000_000_001_000_000, LinkLayer::LinuxCooked, b"sll!".to_vec(), 4),
    ];
    (writer.bytes, expected)
}

#[test]
fn pcapng_is_read_with_several_interfaces_clocks_and_sections() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let (bytes, expected) = sections(order);
        let (seen, end) = read(&bytes);
        assert_eq!(seen, expected, "{order:?}");
        assert!(matches!(end, CaptureError::EndOfCapture { truncated: false }), "{end}");
    }
    // Sections in different byte orders in one file.
    let (little, mut expected) = sections(ByteOrder::Little);
    let (big, more) = sections(ByteOrder::Big);
    expected.extend(more);
    assert_eq!(read(&[little, big].concat()).0, expected);
}

#[test]
fn a_file_cut_anywhere_is_read_up_to_there_and_says_so() {
    let (pcapng, expected_pcapng) = sections(ByteOrder::Little);
    let mut writer = Writer::new(ByteOrder::Little);
    writer.pcap_header(0xA1B2_C3D4, 1);
    (0..5u8).for_each(|number| {
        writer.pcap_frame(1, 1, 60, &[number; 60]);
    });
    let expected_pcap = read(&writer.bytes).0;
    for (bytes, expected) in [(pcapng, expected_pcapng), (writer.bytes, expected_pcap)] {
        let mut frames_before = 0;
        for length in 24..bytes.len() {
            let (seen, end) = read(&bytes[..length]);
            assert_eq!(seen, expected[..seen.len()], "{length} bytes");
            assert!(seen.len() >= frames_before);
            frames_before = seen.len();
            assert!(matches!(end, CaptureError::EndOfCapture { .. }), "{length} bytes: {end}");
        }
        let (_, end) = read(&bytes[..bytes.len() - 1]);
        assert!(matches!(end, CaptureError::EndOfCapture { truncated: true }), "{end}");
    }
}

#[test]
fn corruption_is_named_with_file_and_place() {
    let pcap = |length: u32| {
        let mut writer = Writer::new(ByteOrder::Little);
        writer.pcap_header(0xA1B2_C3D4, 1).pcap_frame(1, 1, 1, b"x");
        writer.u32(1).u32(1).u32(length).u32(1).raw(b"y");
        writer.bytes
    };
    let (sections, _) = sections(ByteOrder::Little);
    let changed = |place: usize, byte: u8| {
        let mut bytes = sections.clone();
        bytes[place] = byte;
        bytes
    };
    let unknown_interface = {
        let mut writer = Writer::new(ByteOrder::Little);
        writer.section().packet(0, 1, 1, b"x");
        writer.bytes
    };
    let too_long_packet = {
        let mut writer = Writer::new(ByteOrder::Little);
        writer.section().interface(1, 0, None, 0);
        writer.block(6, |body| {
            body.u32(0).u32(0).u32(0).u32(5).u32(5).raw(b"four");
        });
        writer.bytes
    };
    let table: [(&str, Vec<u8>, u64, usize); 7] = [
        ("longer than 256 KiB", pcap(262_145), 41, 1),
        ("no multiple of 4", changed(32, 13), 28, 0),
        ("two length fields differ", changed(24, 99), 0, 0),
        ("longer than 1 MiB", changed(35, 1), 28, 0),
        ("byte-order magic", changed(8, 0), 0, 0),
        ("not described", unknown_interface, 28, 0),
        ("does not fit", too_long_packet, 28 + 32, 0),
    ];
    for (cause, bytes, place, frames) in table {
        let (file, capture) = open(&bytes);
        let (seen, error) = read_all(&mut capture.unwrap());
        assert_eq!(seen.len(), frames, "{cause}");
        let text = error.to_string();
        assert!(matches!(error, CaptureError::Corrupt { offset, .. } if offset == place), "{cause}: {text}");
        assert!(text.contains(cause) && text.contains(file.path().to_str().unwrap()), "{text}");
    }
}

#[test]
fn what_is_no_capture_is_refused_with_the_reason() {
    let table: [(&[u8], &str); 5] = [
        (b"", "shorter"),
        (b"GIF89a............................", "magic number"),
        (&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0], "gzip"),
        (&[0x28, 0xB5, 0x2F, 0xFD, 0, 0], "zstd"),
        (&[0xD4, 0xC3, 0xB2, 0xA1, 2, 0, 4, 0], "cut off"),
    ];
    for (bytes, reason) in table {
        let (_file, capture) = open(bytes);
        let error = capture.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let error = CaptureFile::open("/nonexistent/capture.pcap").unwrap_err();
    assert!(matches!(error, CaptureError::File { .. }) && error.to_string().contains("/nonexistent/capture.pcap"));
    assert!(matches!(CaptureFile::open("/").unwrap_err(), CaptureError::File { .. }));
}

#[test]
fn frames_of_an_unknown_link_layer_are_counted_and_alone_are_an_error() {
    let mut writer = Writer::new(ByteOrder::Little);
    writer.section().interface(147, 0, None, 0).packet(0, 1, 1, b"x");
    let (_, error) = read(&writer.bytes);
    assert!(matches!(error, CaptureError::UnsupportedLink { link_type: 147, .. }), "{error}");
    writer.interface(1, 0, None, 0).packet(1, 1, 1, b"y").packet(0, 2, 1, b"z");
    let (_file, capture) = open(&writer.bytes);
    let mut capture = capture.unwrap();
    let (seen, _) = read_all(&mut capture);
    assert_eq!(seen.len(), 1);
    assert_eq!((capture.statistics().frames, capture.statistics().unsupported), (1, 2));
    assert_eq!((capture.position(), capture.len()), (writer.bytes.len() as u64, writer.bytes.len() as u64));
}

#[test]
fn a_large_block_that_is_not_read_is_passed_over() {
    let mut writer = Writer::new(ByteOrder::Little);
    writer.section().interface(1, 0, None, 0);
    writer.block(10, |body| {
        body.raw(&vec![7; 5 << 20]);
    });
    writer.packet(0, 1, 1, b"x");
    let (seen, end) = read(&writer.bytes);
    assert_eq!(seen.len(), 1);
    assert!(matches!(end, CaptureError::EndOfCapture { truncated: false }), "{end}");
}

#[test]
fn times_saturate_instead_of_wrapping() {
    let mut writer = Writer::new(ByteOrder::Little);
    writer.section();
    writer.interface(1, 0, Some(0), 0).packet(0, u64::MAX, 1, b"x");
    writer.interface(1, 0, Some(0x7F), 0).packet(1, u64::MAX, 1, b"x");
    writer.interface(1, 0, Some(0xFF), 0).packet(2, u64::MAX, 1, b"x");
    writer.interface(1, 0, None, i64::MIN.cast_unsigned()).packet(3, 5, 1, b"x");
    writer.interface(1, 0, None, i64::MAX.cast_unsigned()).packet(4, 5, 1, b"x");
    let times: Vec<u64> = read(&writer.bytes).0.into_iter().map(|seen| seen.0).collect();
    assert_eq!(times, [u64::MAX, 0, 0, 0, u64::MAX]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic_and_come_to_an_end(
        start in prop::sample::select(vec![0usize, 1, 2, 3]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = match start {
            0 => Vec::new(),
            1 => sections(ByteOrder::Little).0,
            2 => sections(ByteOrder::Big).0,
            _ => {
                let mut writer = Writer::new(ByteOrder::Big);
                writer.pcap_header(0xA1B2_C3D4, 1).pcap_frame(1, 1, 60, &[1; 60]).pcap_frame(2, 1, 60, &[2; 60]);
                writer.bytes
            }
        };
        bytes.extend(tail);
        for (index, byte) in changes {
            if !bytes.is_empty() {
                let place = index.index(bytes.len());
                bytes[place] = byte;
            }
        }
        let (_file, capture) = open(&bytes);
        if let Ok(mut capture) = capture {
            let (seen, _) = read_all(&mut capture);
            let total: usize = seen.iter().map(|seen| seen.2.len()).sum();
            prop_assert!(total <= bytes.len());
            prop_assert!(capture.position() <= bytes.len() as u64);
        }
    }
}
