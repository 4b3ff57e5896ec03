//! G.711: A-law and µ-law codes to 16-bit linear samples, by tables computed at compile time from the
//! Recommendation's segments (ITU-T G.711, tables 1a to 2b). Stateless: any byte is a sample.

/// Which companding law.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Law {
    A,
    Mu,
}

impl Law {
    fn table(self) -> &'static [i16; 256] {
        match self {
            Self::A => &A_LAW,
            Self::Mu => &MU_LAW,
        }
    }

    /// One code to one sample, scaled to 16 bits.
    pub fn decode_sample(self, code: u8) -> i16 {
        self.table()[usize::from(code)]
    }

    /// Decodes as many codes as both sides have room for.
    pub fn decode(self, codes: &[u8], samples: &mut [i16]) {
        let table = self.table();
        for (sample, code) in samples.iter_mut().zip(codes) {
            *sample = table[usize::from(*code)];
        }
    }
}

static A_LAW: [i16; 256] = a_law_table();
static MU_LAW: [i16; 256] = mu_law_table();

const fn a_law_table() -> [i16; 256] {
    let mut table = [0i16; 256];
    let mut code = 0;
    while code < 256 {
        // Even bits are inverted on the line (G.711 §3.1).
        let bits = code ^ 0x55;
        let segment = (bits >> 4) & 7;
        let mantissa = ((bits & 0x0f) << 4) as i32;
        // Middle of the quantization interval; segment 0 is linear, each further one doubles the step.
        let magnitude = if segment == 0 { mantissa + 8 } else { (mantissa + 0x108) << (segment - 1) };
        table[code] = if bits & 0x80 != 0 { magnitude as i16 } else { -magnitude as i16 };
        code += 1;
    }
    table
}

const fn mu_law_table() -> [i16; 256] {
    /// Added by the encoder, so that segments begin at powers of two: 33 of 14 bits, scaled to 16.
    const BIAS: i32 = 0x84;
    let mut table = [0i16; 256];
    let mut code = 0;
    while code < 256 {
        // All bits are inverted on the line (G.711 §3.2).
        let bits = code ^ 0xff;
        let segment = (bits >> 4) & 7;
        let magnitude = ((((bits & 0x0f) << 3) as i32 + BIAS) << segment) - BIAS;
        table[code] = if bits & 0x80 != 0 { -magnitude as i16 } else { magnitude as i16 };
        code += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_points_are_those_of_the_recommendation() {
        // Decision values 4096 (A, 13 bits) and 8159 (µ, 14 bits) bound the outermost intervals.
        assert_eq!(Law::A.decode_sample(0xaa), 4032 * 8);
        assert_eq!(Law::A.decode_sample(0x2a), -4032 * 8);
        assert_eq!(Law::A.decode_sample(0xd5), 8);
        assert_eq!(Law::A.decode_sample(0x55), -8);
        assert_eq!(Law::Mu.decode_sample(0x80), 8031 * 4);
        assert_eq!(Law::Mu.decode_sample(0x00), -8031 * 4);
        assert_eq!(Law::Mu.decode_sample(0xff), 0);
        assert_eq!(Law::Mu.decode_sample(0x7f), 0);
    }
}
