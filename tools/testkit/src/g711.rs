//! G.711 (ITU-T G.711, 1988): one byte for a sample, logarithmic. The bed's own coder, apart from the product's, so that
//! the one can be checked against the other.

use std::fmt;

/// The two laws, with the payload types of RFC 3551 §6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Law {
    /// PCMA, payload type 8.
    A,
    /// PCMU, payload type 0.
    Mu,
}

impl Law {
    pub fn payload_type(self) -> u8 {
        match self {
            Law::A => 8,
            Law::Mu => 0,
        }
    }

    /// As in `a=rtpmap`.
    pub fn encoding_name(self) -> &'static str {
        match self {
            Law::A => "PCMA",
            Law::Mu => "PCMU",
        }
    }

    pub fn from_payload_type(payload_type: u8) -> Option<Self> {
        match payload_type {
            8 => Some(Law::A),
            0 => Some(Law::Mu),
            _ => None,
        }
    }

    pub fn encode(self, sample: i16) -> u8 {
        match self {
            Law::A => encode_a(sample),
            Law::Mu => encode_mu(sample),
        }
    }

    pub fn decode(self, code: u8) -> i16 {
        match self {
            Law::A => decode_a(code),
            Law::Mu => decode_mu(code),
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.encoding_name())
    }
}

/// Position of the highest set bit of a magnitude, counted from segment 0, and the four bits below it.
fn segment(magnitude: i32, lowest: u32) -> (i32, i32) {
    let top = 31 - magnitude.max(1).leading_zeros();
    let exponent = top.saturating_sub(lowest).min(7);
    let shift = if exponent == 0 { lowest - 3 } else { exponent + lowest - 4 };
    (i32::try_from(exponent).unwrap_or(7), (magnitude >> shift) & 0x0f)
}

fn encode_a(sample: i16) -> u8 {
    // 13 bits; negative values mirror onto one's complement, so that −1 and 0 are the two smallest levels.
    let value = i32::from(sample) >> 3;
    let (sign, magnitude) = if value >= 0 { (0x80, value) } else { (0x00, !value) };
    // Segment 0 and 1 share a step of 2; from bit 5 on each segment doubles it.
    let code = if magnitude < 32 {
        magnitude >> 1
    } else {
        let (exponent, mantissa) = segment(magnitude, 4);
        (exponent << 4) | mantissa
    };
    u8::try_from((sign | code) & 0xff).unwrap_or(0) ^ 0x55
}

fn decode_a(code: u8) -> i16 {
    let code = code ^ 0x55;
    let exponent = u32::from(code >> 4) & 7;
    let mantissa = i32::from(code & 0x0f);
    let magnitude = if exponent == 0 { (mantissa << 4) + 8 } else { ((mantissa << 4) + 0x108) << (exponent - 1) };
    let value = if code & 0x80 != 0 { magnitude } else { -magnitude };
    i16::try_from(value).unwrap_or(i16::MAX)
}

fn encode_mu(sample: i16) -> u8 {
    const BIAS: i32 = 33;
    let value = i32::from(sample) >> 2;
    let (sign, magnitude) = if value >= 0 { (0x00, value) } else { (0x80, !value) };
    let biased = (magnitude + BIAS).min(0x1fff);
    let (exponent, mantissa) = segment(biased, 5);
    // Segment 0 begins at the bias, which has bit 5 set: its mantissa lies in the four bits below.
    let mantissa = if exponent == 0 { (biased >> 1) & 0x0f } else { mantissa };
    !u8::try_from((sign | (exponent << 4) | mantissa) & 0xff).unwrap_or(0)
}

fn decode_mu(code: u8) -> i16 {
    let code = !code;
    let exponent = u32::from(code >> 4) & 7;
    let mantissa = i32::from(code & 0x0f);
    let magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    let value = if code & 0x80 != 0 { -magnitude } else { magnitude };
    i16::try_from(value).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_decoding_and_encoding() {
        for law in [Law::A, Law::Mu] {
            for code in 0..=255u8 {
                let sample = law.decode(code);
                // µ-law has two zeros; the positive one is written.
                let expected = if law == Law::Mu && code == 0x7f { 0xff } else { code };
                assert_eq!(law.encode(sample), expected, "{law} code {code:#04x} is {sample}");
            }
        }
    }

    #[test]
    fn a_sample_is_coded_to_a_level_within_its_segments_step() {
        for law in [Law::A, Law::Mu] {
            for sample in i16::MIN..=i16::MAX {
                let decoded = i32::from(law.decode(law.encode(sample)));
                let error = (decoded - i32::from(sample)).abs();
                // Half a step is 1/32 of the magnitude; below segment 1 the step is at most 16; the top is clipped.
                let bound =
                    (i32::from(sample).abs() / 32 + 8).max(if i32::from(sample).abs() > 32_100 { 700 } else { 0 });
                assert!(error <= bound + 8, "{law} {sample} became {decoded}");
            }
        }
    }

    #[test]
    fn levels_are_those_of_the_recommendation() {
        // ITU-T G.711 tables 1 and 2, scaled to 16 bits: the largest and smallest positive levels.
        assert_eq!(decode_a(0x80 ^ 0x55), 8);
        assert_eq!(decode_a(0xff ^ 0x55), 32_256);
        assert_eq!(decode_mu(0xff), 0);
        assert_eq!(decode_mu(0x80), 32_124);
    }
}
