//! What a UDP payload looks like, by its first bytes (RFC 7983 §7, RFC 5761 §4).

use crate::View;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MediaKind {
    Rtp,
    Rtcp,
    Stun,
    Dtls,
    Zrtp,
    Other,
}

/// Classifies `length` bytes of UDP payload at `offset`. A match is a resemblance, not a proof: other protocols can
/// look like RTP, and user space asks for more than one packet.
#[inline(always)]
pub fn media_kind<V: View + ?Sized>(packet: &V, offset: u32, length: u32) -> MediaKind {
    if length < 8 {
        return MediaKind::Other;
    }
    let Some(start) = packet.bytes::<8>(offset) else {
        return MediaKind::Other;
    };
    match start[0] {
        0..=3 if is_stun(start, length) => MediaKind::Stun,
        // RFC 6189 §5: the cookie "ZRTP" stands where RTP has its timestamp.
        16..=19 if length >= 12 && [start[4], start[5], start[6], start[7]] == *b"ZRTP" => MediaKind::Zrtp,
        // RFC 7983: 20..=63. A record has 13 bytes of header and the version 0xfeff (1.0), 0xfefd (1.2) or 0xfefc (1.3).
        20..=63 if length >= 13 && start[1] == 0xFE => MediaKind::Dtls,
        128..=191 if is_rtcp(start, length) => MediaKind::Rtcp,
        128..=191 if is_rtp(packet, start, offset, length) => MediaKind::Rtp,
        _ => MediaKind::Other,
    }
}

/// The SSRC of an RTP packet whose payload starts at `offset` (RFC 3550 §5.1).
#[inline(always)]
pub fn rtp_ssrc<V: View + ?Sized>(packet: &V, offset: u32) -> Option<u32> {
    packet.u32(offset + 8)
}

/// RFC 8489 §5: length a multiple of 4 and within the datagram, and the magic cookie.
#[inline(always)]
fn is_stun(start: [u8; 8], length: u32) -> bool {
    let message_length = u32::from(u16::from_be_bytes([start[2], start[3]]));
    length >= 20
        && message_length & 3 == 0
        && message_length + 20 <= length
        && [start[4], start[5], start[6], start[7]] == [0x21, 0x12, 0xA4, 0x42]
}

/// RFC 5761 §4: packet types 192 to 223, and the first packet of the compound fits (RFC 3550 §6.4.1).
#[inline(always)]
fn is_rtcp(start: [u8; 8], length: u32) -> bool {
    let packet_length = (u32::from(u16::from_be_bytes([start[2], start[3]])) + 1) * 4;
    matches!(start[1], 192..=223) && packet_length >= 8 && packet_length <= length
}

/// RFC 3550 §5.1: contributing sources and header extension have to fit into the datagram. Payload types 72 to 95
/// are left to RTCP (RFC 5761 §4).
#[inline(always)]
fn is_rtp<V: View + ?Sized>(packet: &V, start: [u8; 8], offset: u32, length: u32) -> bool {
    let payload_type = start[1] & 0x7F;
    if matches!(payload_type, 72..=95) {
        return false;
    }
    let mut header_length = 12 + u32::from(start[0] & 0x0F) * 4;
    if start[0] & 0x10 != 0 {
        let Some(extension_words) = packet.u16(offset + header_length + 2) else {
            return false;
        };
        header_length += 4 + u32::from(extension_words) * 4;
    }
    header_length <= length
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn kind(payload: &[u8]) -> MediaKind {
        media_kind(payload, 0, payload.len() as u32)
    }

    fn padded(start: &[u8], length: usize) -> Vec<u8> {
        let mut payload = start.to_vec();
        payload.resize(length, 0);
        payload
    }

    #[test]
    fn payloads_are_told_apart_by_their_first_bytes() {
        let table: &[(&str, Vec<u8>, MediaKind)] = &[
            ("PCMU packet", padded(&[0x80, 0x00], 172), MediaKind::Rtp),
            ("RTP without payload", padded(&[0x80, 0x08], 12), MediaKind::Rtp),
            ("RTP one byte too short", padded(&[0x80, 0x08], 11), MediaKind::Other),
            ("RTP with 15 contributing sources", padded(&[0x8F, 0x08], 72), MediaKind::Rtp),
            ("RTP whose contributing sources do not fit", padded(&[0x8F, 0x08], 71), MediaKind::Other),
            ("RTP with an empty extension", padded(&[0x90, 0x08], 16), MediaKind::Rtp),
            ("RTP whose extension does not fit", padded(&[0x90, 0x08], 15), MediaKind::Other),
            ("RTP version 1", padded(&[0x40, 0x08], 172), MediaKind::Other),
            ("marker and payload type 65, no RTCP length", padded(&[0x80, 193, 0xFF, 0xFF], 172), MediaKind::Rtp),
            ("payload type 72 without marker", padded(&[0x80, 72], 172), MediaKind::Other),
            ("RTCP sender report", padded(&[0x80, 200, 0, 6], 28), MediaKind::Rtcp),
            ("RTCP receiver report, no blocks", padded(&[0x80, 201, 0, 1], 8), MediaKind::Rtcp),
            ("RTCP longer than the datagram", padded(&[0x80, 200, 0, 7], 28), MediaKind::Other),
            ("RTCP extended report", padded(&[0x80, 207, 0, 1], 8), MediaKind::Rtcp),
            ("STUN binding request", padded(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], 20), MediaKind::Stun),
            ("STUN without the cookie", padded(&[0, 1, 0, 0], 20), MediaKind::Other),
            ("DTLS client hello", padded(&[22, 0xFE, 0xFD], 60), MediaKind::Dtls),
            ("TLS record", padded(&[22, 3, 3], 60), MediaKind::Other),
            ("ZRTP hello", padded(&[0x10, 0, 0, 1, b'Z', b'R', b'T', b'P'], 40), MediaKind::Zrtp),
            ("SIP", b"INVITE sip:a@b SIP/2.0\r\n".to_vec(), MediaKind::Other),
            ("empty", vec![], MediaKind::Other),
        ];
        for (description, payload, expected) in table {
            assert_eq!(kind(payload), *expected, "{description}");
        }
    }

    #[test]
    fn an_extension_counts_with_its_whole_length() {
        let mut packet = padded(&[0x90, 0x00], 12);
        packet.extend([0xBE, 0xDE, 0, 2]);
        packet.extend([0; 8]);
        assert_eq!(kind(&packet), MediaKind::Rtp);
        packet.pop();
        assert_eq!(kind(&packet), MediaKind::Other);
    }
}
