//! What a file says of itself: its name, its comments, Ogg's stream number.

use crate::{Channels, Format};
use sha2::{Digest, Sha256};
use sidetone_model::{PartyRole, Recording, RecordingId, Tick};
use std::fmt::Write as _;

/// The longest text taken from signalling into the comments of a file, in bytes.
const COMMENT_BYTES_MAX: usize = 256;

/// Ogg's stream number: any, but the same for the same file.
pub(crate) fn serial(recording: RecordingId, channels: Channels) -> u32 {
    let digest = Sha256::new().chain_update(recording.0.as_bytes()).chain_update([channels as u8]).finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

pub(crate) fn comments(recording: &Recording, channels: Channels, first_tick: Tick) -> Vec<(&'static str, String)> {
    let mut comments = vec![
        ("ENCODER", concat!("sidetone ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("DATE", first_tick.start().to_string()),
        ("RECORDING_ID", recording.id.to_string()),
        ("CONVERSATION_ID", recording.conversation_id.to_string()),
        ("CHANNELS", channels.to_string()),
    ];
    for (name, role) in [("CALLER", PartyRole::Caller), ("CALLEE", PartyRole::Callee)] {
        if let Some(party) = recording.parties.iter().find(|party| party.role == role) {
            let text = [party.name.as_str(), party.number.as_str()];
            let text = text.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
            comments.push((name, shortened(&text)));
        }
    }
    comments
}

/// The beginning of a text, at most [`COMMENT_BYTES_MAX`] bytes, without control characters.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if short.len() + character.len_utf8() > COMMENT_BYTES_MAX {
            break;
        }
        short.push(character);
    }
    short
}

pub(crate) fn file_name(recording: &Recording, channels: Channels, format: Format, first_tick: Tick) -> String {
    let time = first_tick.start().to_string();
    // 2005-01-14T17:58:02… → 2005-01-14T175802Z
    let mut name = time.get(..19).unwrap_or(&time).replace(':', "") + "Z";
    for role in [PartyRole::Caller, PartyRole::Callee] {
        let party = recording.parties.iter().find(|party| party.role == role);
        let text = party.map_or("", |party| if party.number.is_empty() { &party.name } else { &party.number });
        let safe: String =
            text.chars().filter(|character| character.is_ascii_alphanumeric() || *character == '+').take(32).collect();
        if !safe.is_empty() {
            name.push('_');
            name.push_str(&safe);
        }
    }
    write!(name, "_{channels}.{format}").expect("writing to a string cannot fail");
    name
}
