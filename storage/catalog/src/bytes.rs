//! Numbers and texts as few bytes. docs/formats.md says the same in tables.
//!
//! Constraints: what is read back is what was written, bit for bit. Reading never panics, and takes no more memory than a
//! small multiple of the bytes that are there.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;
use uuid::Uuid;

/// Kinds of texts, in the low three bits of the number before one; the bits above are a length.
mod text_kind {
    pub(super) const PLAIN: u64 = 0;
    /// IPv4 address (4) and port (2, big-endian), as `SocketAddr` writes them.
    pub(super) const SOCKET_V4: u64 = 1;
    /// IPv6 address (16) and port (2, big-endian), without scope.
    pub(super) const SOCKET_V6: u64 = 2;
    /// So many bytes as lower-case hexadecimal digits, then another text.
    pub(super) const HEX: u64 = 3;
    /// A UUID (16) as lower-case hexadecimal digits with hyphens, then another text.
    pub(super) const UUID: u64 = 4;
    /// `0x` and eight lower-case hexadecimal digits (4, big-endian).
    pub(super) const SSRC: u64 = 5;
}

/// A run of hexadecimal digits is packed from so many bytes on.
const HEX_BYTES_MIN: usize = 4;
const UUID_TEXT_BYTES: usize = 36;

/// Nanoseconds in the units in which seconds are written; longest first.
const SECONDS_UNITS: [u64; 6] = [1_000_000_000, 20_000_000, 1_000_000, 125_000, 1_000, 1];
/// In place of a unit: the eight bytes of the number follow.
const SECONDS_RAW: u8 = 0xff;

#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Seven bits a byte, low ones first; the high bit says that more follow.
    pub(crate) fn number(&mut self, number: impl Into<u128>) {
        let mut rest: u128 = number.into();
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.bytes(&value.to_bits().to_le_bytes());
    }

    /// Seconds as a multiple of the longest unit that keeps them exact.
    pub(crate) fn seconds(&mut self, seconds: f64) {
        let nanos = (seconds * 1e9).round();
        if (0.0..9e15).contains(&nanos) {
            let nanos = nanos as u64;
            for (method, read) in [from_duration, from_quotient].into_iter().enumerate() {
                if read(nanos).to_bits() == seconds.to_bits() {
                    let is_unit = |unit: &u64| nanos.is_multiple_of(*unit);
                    let unit = SECONDS_UNITS.iter().position(is_unit).expect("the last unit is 1");
                    self.byte((unit * 2 + method) as u8);
                    self.number(nanos / SECONDS_UNITS[unit]);
                    return;
                }
            }
        }
        self.byte(SECONDS_RAW);
        self.float(seconds);
    }

    pub(crate) fn text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let first = bytes.first().copied().unwrap_or_default();
        if (first.is_ascii_digit() || first == b'[')
            && let Ok(address) = text.parse::<SocketAddr>()
            && address.to_string() == text
        {
            match address {
                SocketAddr::V4(address) => {
                    self.number(text_kind::SOCKET_V4);
                    self.bytes(&address.ip().octets());
                }
                // The scope is not kept, and must not be there: it would show in the text.
                SocketAddr::V6(address) if address.scope_id() == 0 && address.flowinfo() == 0 => {
                    self.number(text_kind::SOCKET_V6);
                    self.bytes(&address.ip().octets());
                }
                SocketAddr::V6(_) => return self.plain_text(text),
            }
            return self.bytes(&address.port().to_be_bytes());
        }
        if let Some(digits) = text.strip_prefix("0x")
            && digits.len() == 8
            && hex_digits(digits.as_bytes()) == 8
        {
            self.number(text_kind::SSRC);
            return self.packed_hex(digits.as_bytes());
        }
        if let Some(head) = text.get(..UUID_TEXT_BYTES)
            && let Ok(uuid) = Uuid::try_parse(head)
            && uuid.hyphenated().to_string() == head
        {
            self.number(text_kind::UUID);
            self.bytes(uuid.as_bytes());
            return self.plain_text(&text[UUID_TEXT_BYTES..]);
        }
        let packed = hex_digits(bytes) / 2;
        if packed >= HEX_BYTES_MIN {
            self.number((packed as u64) << 3 | text_kind::HEX);
            self.packed_hex(&bytes[..packed * 2]);
            return self.plain_text(&text[packed * 2..]);
        }
        self.plain_text(text);
    }

    fn plain_text(&mut self, text: &str) {
        self.number((text.len() as u64) << 3 | text_kind::PLAIN);
        self.bytes(text.as_bytes());
    }

    fn packed_hex(&mut self, digits: &[u8]) {
        let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        for pair in digits.chunks_exact(2) {
            self.byte(value(pair[0]) << 4 | value(pair[1]));
        }
    }
}

/// How many lower-case hexadecimal digits a text begins with.
fn hex_digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count()
}

/// As the data plane computes seconds.
fn from_duration(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// As a decimal fraction is read.
fn from_quotient(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Reads what [`Writer`] wrote. Every method gives `None` when the bytes are none of that.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(crate) fn wide_number(&mut self) -> Option<u128> {
        let mut number = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if shift == 126 && bits > 3 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return T::try_from(number).ok();
            }
        }
        None
    }

    /// A number of things that follow, each at least one byte long.
    pub(crate) fn count(&mut self) -> Option<usize> {
        self.number().filter(|&count: &usize| count <= self.0.len())
    }

    pub(crate) fn float(&mut self) -> Option<f64> {
        Some(f64::from_bits(u64::from_le_bytes(self.array()?)))
    }

    pub(crate) fn seconds(&mut self) -> Option<f64> {
        let code = self.byte()?;
        if code == SECONDS_RAW {
            return self.float();
        }
        let unit = SECONDS_UNITS.get(usize::from(code / 2))?;
        let nanos = self.number::<u64>()?.checked_mul(*unit)?;
        Some(if code.is_multiple_of(2) { from_duration(nanos) } else { from_quotient(nanos) })
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let head: u64 = self.number()?;
        let length = usize::try_from(head >> 3).ok()?;
        Some(match head & 7 {
            text_kind::PLAIN => str::from_utf8(self.bytes(length)?).ok()?.to_owned(),
            text_kind::SOCKET_V4 => {
                let address: [u8; 4] = self.array()?;
                SocketAddrV4::new(address.into(), self.port()?).to_string()
            }
            text_kind::SOCKET_V6 => {
                let address: [u8; 16] = self.array()?;
                SocketAddrV6::new(address.into(), self.port()?, 0, 0).to_string()
            }
            text_kind::HEX => {
                let mut text = String::new();
                self.hex(length, &mut text)?;
                self.rest_of_text(text)?
            }
            text_kind::UUID => {
                let uuid = Uuid::from_bytes(self.array()?);
                self.rest_of_text(uuid.hyphenated().to_string())?
            }
            text_kind::SSRC => {
                let mut text = "0x".to_owned();
                self.hex(4, &mut text)?;
                text
            }
            _ => return None,
        })
    }

    fn port(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    fn hex(&mut self, length: usize, text: &mut String) -> Option<()> {
        const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        for byte in self.bytes(length)? {
            text.push(DIGITS[usize::from(byte >> 4)]);
            text.push(DIGITS[usize::from(byte & 15)]);
        }
        Some(())
    }

    /// Only plain text follows a packed beginning: no nesting without end.
    fn rest_of_text(&mut self, mut text: String) -> Option<String> {
        let head: u64 = self.number()?;
        if head & 7 != text_kind::PLAIN {
            return None;
        }
        text.push_str(str::from_utf8(self.bytes(usize::try_from(head >> 3).ok()?)?).ok()?);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_bytes(text: &str) -> usize {
        let mut writer = Writer::default();
        writer.text(text);
        let mut reader = Reader(&writer.0);
        assert_eq!(reader.text().as_deref(), Some(text));
        assert!(reader.0.is_empty());
        writer.0.len()
    }

    #[test]
    fn texts_that_are_numbers_in_disguise_are_short() {
        assert_eq!(text_bytes("192.0.2.1:5060"), 7);
        assert_eq!(text_bytes("[2001:db8::1]:5060"), 19);
        assert_eq!(text_bytes("0xdeadbeef"), 5);
        assert_eq!(text_bytes("00112233445566778899aabbccddeeff@x"), 21);
        assert_eq!(text_bytes("f81d4fae-7dec-11d0-a765-00a0c91e6bf6"), 18);
        // What would not read back the same stays as it is.
        for text in ["192.0.2.01:5060", "[2001:DB8::1]:5060", "0xDEADBEEF", "[fe80::1%2]:5060", "0xdeadbee", "1.2.3.4"]
        {
            assert_eq!(text_bytes(text), text.len() + 1 + usize::from(text.len() > 15), "{text}");
        }
    }

    #[test]
    fn seconds_on_the_grid_are_short() {
        let cases =
            [(0.0, 2), (12.34, 3), (Duration::from_millis(617 * 20).as_secs_f64(), 3), (0.1 + 0.2, 9), (-1.0, 9)];
        for (seconds, length) in cases {
            let mut writer = Writer::default();
            writer.seconds(seconds);
            assert_eq!(writer.0.len(), length, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "\\PC{0,80}|[0-9a-f]{0,70}(@.{0,9})?|0x[0-9a-fA-F]{8}|[0-9.:\\[\\]a-f]{0,30}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}x?") {
            text_bytes(&text);
        }

        #[test]
        fn any_number_reads_back(number in any::<u64>(), wide in any::<u128>(), bits in any::<u64>(), nanos in 0u64..1u64 << 60) {
            let mut writer = Writer::default();
            writer.number(number);
            writer.number(wide);
            let seconds = [f64::from_bits(bits), from_duration(nanos), from_quotient(nanos), nanos as f64 / 50.0];
            seconds.iter().for_each(|&seconds| writer.seconds(seconds));
            let mut reader = Reader(&writer.0);
            prop_assert_eq!(reader.number::<u64>(), Some(number));
            prop_assert_eq!(reader.wide_number(), Some(wide));
            for seconds in seconds {
                prop_assert_eq!(reader.seconds().map(f64::to_bits), Some(seconds.to_bits()));
            }
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = Reader(&bytes);
            while reader.text().is_some() {}
            let mut reader = Reader(&bytes);
            while reader.seconds().is_some() && reader.wide_number().is_some() {}
        }
    }
}
