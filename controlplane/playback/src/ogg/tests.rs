use super::*;

#[test]
fn checksum_is_that_of_ogg() {
    // The parameters without inversion; check value computed with Python over the same polynomial, bit by bit.
    assert_eq!(crc32(b""), 0);
    assert_eq!(crc32(b"\x01"), 0x04c1_1db7);
    assert_eq!(crc32(b"123456789"), 0x89a1_897f);
}

#[test]
fn a_page_breaks_where_its_lengths_are_full() {
    let mut out = Vec::new();
    let mut pager = Pager::new(7, 2, Tick(0), 0);
    // Each packet takes 11 lengths (2550 = 10 · 255, and a zero): 23 packets a page.
    let packet = vec![0x55; 2550];
    for _ in 0..50 {
        pager.push(&packet, &mut out);
    }
    pager.flush(true, &mut out);
    assert_eq!(pager.number, 5);
    let pages = pages(&out);
    assert_eq!(pages.iter().map(|page| page.packets).collect::<Vec<_>>(), [23, 23, 4]);
    assert_eq!(pages.iter().map(|page| page.granule).collect::<Vec<_>>(), [23 * 960, 46 * 960, 50 * 960]);
    assert_eq!(pages.iter().map(|page| page.flags).collect::<Vec<_>>(), [0, 0, END_OF_STREAM]);
    assert_eq!(pages.iter().map(|page| page.number).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn pages_of_equal_packets_have_the_length_foretold() {
    for packets in 1..=PAGE_TICKS {
        let mut out = Vec::new();
        let mut pager = Pager::new(7, 2, Tick(0), 0);
        (0..packets).for_each(|_| pager.push(&[1; 60], &mut out));
        pager.flush(false, &mut out);
        assert_eq!(out.len() as u64, PAGE_HEADER_BYTES as u64 + packets * 61);
    }
}

#[test]
fn pages_end_with_the_seconds_of_the_epoch() {
    let mut out = Vec::new();
    let mut pager = Pager::new(7, 2, Tick(1030), 0);
    (0..100).for_each(|_| pager.push(&[1; 60], &mut out));
    pager.flush(true, &mut out);
    let pages = pages(&out);
    assert_eq!(pages.iter().map(|page| page.packets).collect::<Vec<_>>(), [20, 50, 30]);
    assert_eq!(pages.iter().map(|page| page.granule).collect::<Vec<_>>(), [20 * 960, 70 * 960, 100 * 960]);
}

struct FoundPage {
    flags: u8,
    granule: u64,
    number: u32,
    packets: usize,
}

/// Reads pages the plain way, and checks their checksums.
fn pages(mut bytes: &[u8]) -> Vec<FoundPage> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(&bytes[..5], b"OggS\0");
        let lengths = &bytes[27..27 + usize::from(bytes[26])];
        let total = 27 + lengths.len() + lengths.iter().map(|&length| usize::from(length)).sum::<usize>();
        let mut page = bytes[..total].to_vec();
        page[22..26].fill(0);
        assert_eq!(bytes[22..26], crc32(&page).to_le_bytes());
        found.push(FoundPage {
            flags: bytes[5],
            granule: u64::from_le_bytes(bytes[6..14].try_into().unwrap()),
            number: u32::from_le_bytes(bytes[18..22].try_into().unwrap()),
            packets: lengths.iter().filter(|&&length| length < 255).count(),
        });
        bytes = &bytes[total..];
    }
    found
}
