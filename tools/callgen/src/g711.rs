//! G.711 encoding, by the decision values of ITU-T G.711 tables 1 and 2.

/// µ-law: 14 bits of magnitude and sign, bias 33 (132 in 16-bit samples), all bits inverted.
pub fn encode_mulaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs().min(32_635) + 132) as u32;
    let exponent = 31 - magnitude.leading_zeros() - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

/// A-law: 13 bits, even bits inverted.
pub fn encode_alaw(sample: i16) -> u8 {
    let sign = if sample >= 0 { 0x80 } else { 0 };
    let magnitude = (if sample >= 0 { i32::from(sample) } else { -i32::from(sample) - 1 } >> 3) as u32;
    let code = if magnitude < 32 {
        magnitude >> 1
    } else {
        let exponent = 31 - magnitude.leading_zeros() - 4;
        (exponent << 4) | ((magnitude >> exponent) & 0x0f)
    };
    (sign | code as u8) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_those_of_the_recommendation() {
        // Table 1a and 2a of G.711: the ends of the range, and around zero.
        let table = [
            (0i16, 0xff, 0xd5),
            (-1, 0x7f, 0x55),
            (32_767, 0x80, 0xaa),
            (-32_768, 0x00, 0x2a),
            (8, 0xfe, 0xd5),
            (1000, 0xce, 0xfa),
            (-1000, 0x4e, 0x7a),
        ];
        for (sample, mulaw, alaw) in table {
            assert_eq!((encode_mulaw(sample), encode_alaw(sample)), (mulaw, alaw), "{sample}");
        }
    }

    #[test]
    fn louder_samples_have_greater_codes() {
        for pair in (0..=32_767i16).collect::<Vec<_>>().windows(2) {
            assert!(!encode_mulaw(pair[0]) <= !encode_mulaw(pair[1]));
            assert!(encode_alaw(pair[0]) ^ 0x55 <= encode_alaw(pair[1]) ^ 0x55);
        }
    }
}
