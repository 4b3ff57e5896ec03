//! What a payload type means on one stream: which decoder, which clock, which name. Built when formats are set, read by
//! index for every packet.

use crate::g711::Law;
use sidetone_calls::StreamFormat;
use sidetone_signalling::event::PayloadFormat;
use sidetone_signalling::sdp::static_format;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

/// Payload types are 7 bits wide.
const PAYLOAD_TYPES: usize = 128;

/// What becomes of a packet, by its payload type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PayloadKind {
    /// Mono at 8 kHz, one byte a sample.
    G711(Law),
    /// A digit or tone by name (RFC 4733), comfort noise (RFC 3389), or an empty packet: no audio by intent.
    NoAudio,
    /// Audio that cannot be read: no decoder for the codec, encrypted, or malformed.
    Undecodable,
}

impl PayloadKind {
    pub(crate) fn is_audio(self) -> bool {
        matches!(self, Self::G711(_))
    }
}

#[derive(Clone, Debug)]
struct Entry {
    kind: PayloadKind,
    clock_rate: u32,
    name: Arc<str>,
}

/// What payload types mean that nobody has described, for all streams.
static UNDESCRIBED: LazyLock<PayloadTable> = LazyLock::new(|| {
    let mut table = PayloadTable { index: [0; PAYLOAD_TYPES], entries: Vec::new(), encrypted: false };
    for known in (0..96).filter_map(static_format) {
        table.set(known.payload_type, &known.encoding, known.clock_rate, known.channels);
    }
    // Reserved today; comfort noise in old equipment (RFC 3551 §6).
    table.set(19, "CN", 8000, 1);
    table
});

/// The meaning of all 128 payload types of a stream; what its session description does not list is in [`UNDESCRIBED`].
#[derive(Clone, Debug)]
pub(crate) struct PayloadTable {
    /// Index into `entries`, plus one; zero for a type that nobody described.
    index: [u8; PAYLOAD_TYPES],
    entries: Vec<Entry>,
    encrypted: bool,
}

impl PayloadTable {
    pub(crate) fn new(format: &StreamFormat) -> Self {
        // Made now, and not with the first packet.
        LazyLock::force(&UNDESCRIBED);
        let entries = Vec::with_capacity(format.formats.len());
        let mut table = Self { index: [0; PAYLOAD_TYPES], entries, encrypted: format.encrypted };
        // First mention wins, as in an SDP `m=` line.
        for PayloadFormat { payload_type, encoding, clock_rate, channels, .. } in format.formats.iter().rev() {
            table.set(*payload_type, encoding, *clock_rate, *channels);
        }
        table
    }

    fn set(&mut self, payload_type: u8, encoding: &str, clock_rate: u32, channels: u8) {
        let Some(index) = self.index.get_mut(usize::from(payload_type)) else { return };
        let mut name = String::with_capacity(encoding.len() + 8);
        name.push_str(encoding);
        if clock_rate != 0 {
            write!(name, "/{clock_rate}").expect("writing to a string does not fail");
        }
        if channels > 1 {
            write!(name, "/{channels}").expect("writing to a string does not fail");
        }
        let entry = Entry { kind: kind_of(encoding, clock_rate, channels), clock_rate, name: name.into() };
        if *index == 0 {
            self.entries.push(entry);
            *index = u8::try_from(self.entries.len()).expect("no more entries than payload types");
        } else {
            self.entries[usize::from(*index) - 1] = entry;
        }
    }

    fn entry(&self, payload_type: u8) -> Option<&Entry> {
        self.described(payload_type).or_else(|| UNDESCRIBED.described(payload_type))
    }

    fn described(&self, payload_type: u8) -> Option<&Entry> {
        let index = usize::from(self.index[usize::from(payload_type & 0x7f)]);
        index.checked_sub(1).map(|i| &self.entries[i])
    }

    /// What a packet of this type is. An event stays an event even when encrypted; all other encrypted payload is
    /// undecodable.
    pub(crate) fn kind(&self, payload_type: u8) -> PayloadKind {
        match self.entry(payload_type).map(|e| e.kind) {
            Some(PayloadKind::NoAudio) => PayloadKind::NoAudio,
            Some(kind) if !self.encrypted => kind,
            _ => PayloadKind::Undecodable,
        }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The RTP clock in Hz; 8000 where nothing is known.
    pub(crate) fn clock_rate(&self, payload_type: u8) -> u32 {
        match self.entry(payload_type) {
            Some(entry) if entry.clock_rate != 0 => entry.clock_rate,
            _ => 8000,
        }
    }

    /// Encoding name and clock as in SDP; `payload type N` for one that nobody described.
    pub(crate) fn name(&self, payload_type: u8) -> String {
        self.entry(payload_type).map_or_else(|| format!("payload type {payload_type}"), |e| e.name.to_string())
    }
}

fn kind_of(encoding: &str, clock_rate: u32, channels: u8) -> PayloadKind {
    let is = |name: &str| encoding.eq_ignore_ascii_case(name);
    if is("telephone-event") || is("tone") || is("CN") {
        PayloadKind::NoAudio
    } else if clock_rate == 8000 && channels <= 1 && is("PCMU") {
        PayloadKind::G711(Law::Mu)
    } else if clock_rate == 8000 && channels <= 1 && is("PCMA") {
        PayloadKind::G711(Law::A)
    } else {
        PayloadKind::Undecodable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(formats: &[(u8, &str, u32)], encrypted: bool) -> PayloadTable {
        let formats = formats
            .iter()
            .map(|&(payload_type, encoding, clock_rate)| PayloadFormat {
                payload_type,
                encoding: encoding.into(),
                clock_rate,
                channels: 1,
                parameters: "".into(),
            })
            .collect();
        PayloadTable::new(&StreamFormat { formats, encrypted })
    }

    #[test]
    fn the_description_overrides_static_types_and_names_dynamic_ones() {
        let table =
            table(&[(8, "pcma", 8000), (96, "PCMU", 8000), (97, "PCMU", 16000), (101, "Telephone-Event", 8000)], false);
        assert_eq!(table.kind(8), PayloadKind::G711(Law::A));
        assert_eq!(table.name(8), "pcma/8000");
        assert_eq!(table.kind(96), PayloadKind::G711(Law::Mu));
        assert_eq!(table.kind(97), PayloadKind::Undecodable);
        assert_eq!(table.clock_rate(97), 16000);
        assert_eq!(table.kind(101), PayloadKind::NoAudio);
        assert_eq!(table.kind(0), PayloadKind::G711(Law::Mu));
        assert_eq!(table.kind(18), PayloadKind::Undecodable);
        assert_eq!((table.kind(77), table.name(77)), (PayloadKind::Undecodable, "payload type 77".to_owned()));
    }

    #[test]
    fn nothing_encrypted_is_decoded() {
        let table = table(&[(0, "PCMU", 8000), (101, "telephone-event", 8000)], true);
        assert_eq!(table.kind(0), PayloadKind::Undecodable);
        assert_eq!(table.kind(101), PayloadKind::NoAudio);
    }

    #[test]
    fn absurd_descriptions_are_harmless() {
        let many: Vec<(u8, &str, u32)> = (0..=255).map(|i| (i, "X", 0)).collect();
        let table = table(&many, false);
        assert_eq!(table.clock_rate(33), 8000);
        assert_eq!(table.name(127), "X");
    }
}
