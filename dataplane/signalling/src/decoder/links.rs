//! Which legs carry an identifier that a box in the middle copied from one to the other (protocols: RFC 7989
//! Session-ID, Cisco-Guid, P-Charging-Vector, the UCID in User-to-User, X-…-Call-ID).
//!
//! Constraints: holds only identifiers of legs that exist, at most [`LINKS_PER_LEG_MAX`] of each. An identifier that
//! more than [`SHARED_BY_MAX`] calls carry identifies nothing (test equipment sends constants) and links no more
//! legs.

use crate::header::{list, parameter};
use crate::message::{HeaderName, Message};
use foldhash::quality::RandomState;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) const LINKS_PER_LEG_MAX: usize = 8;
const SHARED_BY_MAX: usize = 8;
const VALUE_BYTES_MAX: usize = 512;

#[derive(Default, Debug)]
pub(super) struct LinkTable {
    carriers: HashMap<Arc<str>, Carriers, RandomState>,
}

/// The legs that carry one identifier, as their Call-IDs.
#[derive(Default, Debug)]
struct Carriers {
    /// At most [`SHARED_BY_MAX`], oldest first.
    calls: Vec<Arc<str>>,
    /// How many legs carry it besides; nothing more is to be known of them.
    surplus: usize,
}

impl LinkTable {
    /// A leg of `call_id` carries `link`. Returns the call that carried it first, if that is another one.
    pub(super) fn register(&mut self, link: &Arc<str>, call_id: &Arc<str>) -> Option<Arc<str>> {
        let carriers = self.carriers.entry(Arc::clone(link)).or_default();
        let first = carriers.calls.first().cloned();
        if carriers.calls.len() == SHARED_BY_MAX {
            carriers.surplus += 1;
        } else {
            carriers.calls.push(Arc::clone(call_id));
        }
        first.filter(|first| first != call_id && carriers.surplus == 0)
    }

    /// The leg is gone. To be called once for every [`Self::register`].
    pub(super) fn unregister(&mut self, link: &Arc<str>, call_id: &Arc<str>) {
        let Some(carriers) = self.carriers.get_mut(link) else { return };
        match carriers.calls.iter().position(|known| known == call_id) {
            Some(position) => drop(carriers.calls.remove(position)),
            None => carriers.surplus = carriers.surplus.saturating_sub(1),
        }
        if carriers.calls.is_empty() && carriers.surplus == 0 {
            self.carriers.remove(link);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.carriers.len()
    }
}

/// The link that every leg has by itself, so that another leg's X-…-Call-ID finds it.
pub(super) fn own_link(call_id: &str) -> String {
    format!("call-id {call_id}")
}

/// The identifiers that this message carries.
pub(super) fn links(message: &Message<'_>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for header in &message.headers {
        let value = header.value.trim();
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            continue;
        }
        match header.name {
            HeaderName::SessionId => {
                let (local, parameters) = value.split_once(';').map_or((value, ""), |(local, rest)| (local, rest));
                let remote = parameter(parameters, "remote").unwrap_or_default();
                let identifiers = [local.trim(), remote.trim()].into_iter().filter(|text| is_session_identifier(text));
                found.extend(identifiers.map(|text| format!("session-id {}", text.to_ascii_lowercase())));
            }
            HeaderName::CiscoGuid => found.push(format!("cisco-guid {value}")),
            HeaderName::PChargingVector => {
                let icid = parameter(value, "icid-value").filter(|icid| !icid.is_empty());
                found.extend(icid.map(|icid| format!("icid {icid}")));
            }
            HeaderName::UserToUser => {
                found.extend(list(value).find_map(universal_call_identifier).map(|ucid| format!("ucid {ucid}")));
            }
            HeaderName::Other if is_call_id_header(header.name_bytes) => found.push(own_link(value)),
            _ => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(LINKS_PER_LEG_MAX - 1);
    found
}

/// 32 hexadecimal digits, not all zero (RFC 7989 §5).
fn is_session_identifier(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.bytes().any(|byte| byte != b'0')
}

/// `X-…-Call-ID` and spellings like it.
fn is_call_id_header(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with(b"x-") && (name.ends_with(b"call-id") || name.ends_with(b"callid"))
}

/// Avaya's universal call identifier: in the hexadecimal data a tag FA of length 08, as first element or behind one
/// byte of protocol discriminator.
fn universal_call_identifier(value: &str) -> Option<String> {
    let data = value.split(';').next()?.trim().to_ascii_uppercase();
    if !data.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let behind = data.strip_prefix("FA08").or_else(|| data.get(2..)?.strip_prefix("FA08"))?;
    behind.get(..16).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    #[test]
    fn identifiers_are_found_in_their_headers() {
        let cases = [
            (
                "Session-ID: AB30317F1A784DC48FF824D0D3715D86;remote=00000000000000000000000000000000",
                vec!["session-id ab30317f1a784dc48ff824d0d3715d86"],
            ),
            ("Session-ID: nothex", vec![]),
            ("Cisco-Guid: 1-2-3-4", vec!["cisco-guid 1-2-3-4"]),
            ("P-Charging-Vector: icid-value=\"a;b\";icid-generated-at=h", vec!["icid a;b"]),
            ("User-to-User: 00FA080001000200030004;encoding=hex", vec!["ucid 0001000200030004"]),
            ("User-to-User: 56616c;encoding=hex", vec![]),
            ("X-Orig-Call-ID: abc@h", vec!["call-id abc@h"]),
            ("X-Other: abc", vec![]),
        ];
        for (header, expected) in cases {
            let text = format!("INVITE sip:a SIP/2.0\r\n{header}\r\n\r\n");
            assert_eq!(links(&message::parse(text.as_bytes()).unwrap()), expected, "{header}");
        }
    }

    #[test]
    fn a_constant_links_no_calls_and_leaves_nothing_behind() {
        let mut table = LinkTable::default();
        let link: Arc<str> = Arc::from("cisco-guid 1");
        let calls: Vec<Arc<str>> = (0..20).map(|n| Arc::from(format!("call {n}"))).collect();
        let related = calls.iter().filter(|call| table.register(&link, call).is_some()).count();
        assert_eq!(related, SHARED_BY_MAX - 1);
        for call in &calls {
            table.unregister(&link, call);
        }
        assert_eq!(table.len(), 0);
    }
}
