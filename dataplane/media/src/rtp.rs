//! The RTP header (RFC 3550 §5.1): pure parsing, no state, no allocation. Every length that the packet claims about
//! itself (CC, X, P) is checked against the bytes that are there.

/// Length of the fixed header in bytes.
pub const FIXED_HEADER_BYTES: usize = 12;

/// The fields of an RTP header that matter to a recorder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpHeader {
    pub marker: bool,
    /// 0 ..= 127.
    pub payload_type: u8,
    pub sequence: u16,
    /// In units of the payload type's RTP clock.
    pub timestamp: u32,
    /// Zero is legal.
    pub ssrc: u32,
    /// Contributing sources listed, 0 ..= 15.
    pub contributing_sources: u8,
    pub has_extension: bool,
    pub has_padding: bool,
}

/// Why bytes are no RTP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RtpError {
    #[error("{length_bytes} bytes are too short for an RTP header of {FIXED_HEADER_BYTES}")]
    TooShort { length_bytes: usize },
    #[error("RTP version {version} is not 2")]
    Version { version: u8 },
    #[error("the list of {count} contributing sources goes beyond the packet's {length_bytes} bytes")]
    ContributingSources { count: u8, length_bytes: usize },
    #[error("the header extension goes beyond the packet's {length_bytes} bytes")]
    Extension { length_bytes: usize },
    #[error("padding of {padding_bytes} bytes does not fit into {available_bytes} bytes of payload")]
    Padding { padding_bytes: u8, available_bytes: usize },
}

/// The header and the media payload, without contributing sources, extension and padding.
///
/// # Errors
/// Any length that contradicts the packet; a version other than 2.
pub fn parse(packet: &[u8]) -> Result<(RtpHeader, &[u8]), RtpError> {
    let (header, payload) = parse_keeping_padding(packet)?;
    if !header.has_padding {
        return Ok((header, payload));
    }
    let padding_bytes = payload.last().copied().unwrap_or(0);
    match payload.len().checked_sub(usize::from(padding_bytes)) {
        Some(media_bytes) if padding_bytes > 0 => Ok((header, &payload[..media_bytes])),
        _ => Err(RtpError::Padding { padding_bytes, available_bytes: payload.len() }),
    }
}

/// As [`parse`], but leaves padding in the payload: that of SRTP is encrypted, and the packet's last byte belongs to the
/// authentication tag (RFC 3711 §3.1).
///
/// # Errors
/// As [`parse`], except those about padding.
pub fn parse_keeping_padding(packet: &[u8]) -> Result<(RtpHeader, &[u8]), RtpError> {
    let header = parse_fixed(packet)?;
    let length_bytes = packet.len();
    let mut rest = packet
        .get(FIXED_HEADER_BYTES + 4 * usize::from(header.contributing_sources)..)
        .ok_or(RtpError::ContributingSources { count: header.contributing_sources, length_bytes })?;
    if header.has_extension {
        let (preamble, after) = rest.split_first_chunk::<4>().ok_or(RtpError::Extension { length_bytes })?;
        let words = usize::from(u16::from_be_bytes([preamble[2], preamble[3]]));
        rest = after.get(4 * words..).ok_or(RtpError::Extension { length_bytes })?;
    }
    Ok((header, rest))
}

/// The fixed header alone: enough to count a packet whose rest is cut off or lies.
///
/// # Errors
/// [`RtpError::TooShort`] and [`RtpError::Version`].
pub fn parse_fixed(packet: &[u8]) -> Result<RtpHeader, RtpError> {
    let fixed = packet.first_chunk::<FIXED_HEADER_BYTES>().ok_or(RtpError::TooShort { length_bytes: packet.len() })?;
    let version = fixed[0] >> 6;
    if version != 2 {
        return Err(RtpError::Version { version });
    }
    Ok(RtpHeader {
        marker: fixed[1] & 0x80 != 0,
        payload_type: fixed[1] & 0x7f,
        sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
        timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        contributing_sources: fixed[0] & 0x0f,
        has_extension: fixed[0] & 0x10 != 0,
        has_padding: fixed[0] & 0x20 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Header of the given first byte, then `rest`.
    fn packet(first_byte: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first_byte, 0x88, 0x12, 0x34, 0, 0, 0, 0xa0, 0xde, 0xad, 0xbe, 0xef];
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn fields_are_read_in_network_order() {
        let bytes = packet(0x80, &[1, 2, 3]);
        let (header, payload) = parse(&bytes).unwrap();
        assert_eq!(
            header,
            RtpHeader {
                marker: true,
                payload_type: 8,
                sequence: 0x1234,
                timestamp: 160,
                ssrc: 0xdead_beef,
                contributing_sources: 0,
                has_extension: false,
                has_padding: false,
            }
        );
        assert_eq!(payload, [1, 2, 3]);
    }

    #[test]
    fn contributing_sources_extension_and_padding_are_not_media() {
        let rest = [[9; 8].as_slice(), &[0xbe, 0xde, 0, 1, 7, 7, 7, 7], &[1, 2, 3], &[0, 0, 3]].concat();
        let bytes = packet(0x80 | 0x20 | 0x10 | 2, &rest);
        assert_eq!(parse(&bytes).unwrap().1, [1, 2, 3]);
        assert_eq!(parse_keeping_padding(&bytes).unwrap().1, [1, 2, 3, 0, 0, 3]);
    }

    #[test]
    fn every_lie_about_length_is_caught() {
        assert_eq!(parse(&packet(0x80, &[])[..11]), Err(RtpError::TooShort { length_bytes: 11 }));
        assert_eq!(parse(&packet(0x40, &[0; 160])), Err(RtpError::Version { version: 1 }));
        assert_eq!(parse(&packet(0x8f, &[0; 59])), Err(RtpError::ContributingSources { count: 15, length_bytes: 71 }));
        assert!(parse(&packet(0x8f, &[0; 60])).unwrap().1.is_empty());
        assert_eq!(parse(&packet(0x90, &[0xbe, 0xde, 0])), Err(RtpError::Extension { length_bytes: 15 }));
        assert_eq!(
            parse(&packet(0x90, &[0xbe, 0xde, 0xff, 0xff, 0, 0])),
            Err(RtpError::Extension { length_bytes: 18 })
        );
        for (padded, padding_bytes) in [(&[1, 2, 0][..], 0), (&[1, 2, 4][..], 4), (&[][..], 0)] {
            assert_eq!(
                parse(&packet(0xa0, padded)),
                Err(RtpError::Padding { padding_bytes, available_bytes: padded.len() })
            );
        }
        assert!(parse(&packet(0xa0, &[0, 0, 3])).unwrap().1.is_empty(), "a packet may be all padding");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_and_the_payload_lies_within(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((header, payload)) = parse(&bytes) {
                prop_assert!(payload.len() + FIXED_HEADER_BYTES <= bytes.len());
                prop_assert_eq!(parse_fixed(&bytes), Ok(header));
            }
        }
    }
}
