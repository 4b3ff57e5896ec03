//! Opus packets as bytes: how long one lasts, and its self-delimiting form (RFC 6716 §3, appendix B).

use std::num::NonZeroUsize;

/// One grid step at 48 kHz, the clock of Ogg Opus.
pub(crate) const SAMPLES_PER_TICK_48K: u64 = 960;

/// What stands for a grid step without audio: a frame of digital silence as libopus encodes it (SILK narrowband, 20 ms,
/// mono, code 0). Whatever came before, a decoder is at zero, but for the last bit of 16, within 20 ms.
///
/// A packet of the table-of-contents byte alone would be shorter, but it means "lost": libopus goes on with
/// something like the last sound for half a second (20 dB below it), and FFmpeg's own decoder takes the frame for
/// data and gives noise, louder than the speech before.
pub(crate) const SILENT_PACKET: [u8; 6] = [0x08, 0x08, 0xac, 0xb3, 0x0e, 0xc6];

/// The longest frame (RFC 6716 §3.4, requirement 2).
const FRAME_BYTES_MAX: usize = 1275;
/// The longest packet of one grid step: eight frames of 2.5 ms, and room for their lengths. Padding could make it
/// longer than a page of a file.
const PACKET_BYTES_MAX: usize = 8 * FRAME_BYTES_MAX + 32;

/// Where the length field that the ordinary form leaves out belongs, and its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Delimiter {
    at: usize,
    length: usize,
}

/// Whether a stored packet may stand in a file: well-formed, and exactly one grid step long. All streams of a file need
/// packets of the same duration; a decoder refuses others.
pub(crate) fn lasts_one_tick(packet: &[u8]) -> bool {
    packet.len() <= PACKET_BYTES_MAX
        && parse(packet).is_some_and(|(samples, _)| samples == SAMPLES_PER_TICK_48K as usize)
}

/// Appends `packet` in self-delimiting form.
///
/// # Panics
/// When the packet is not well-formed; callers have asked [`lasts_one_tick`].
pub(crate) fn push_self_delimited(packet: &[u8], out: &mut Vec<u8>) {
    let (_, Delimiter { at, length }) = parse(packet).expect("only well-formed packets get here");
    out.extend_from_slice(&packet[..at]);
    if length < 252 {
        out.push(length as u8);
    } else {
        // RFC 6716 §3.2.1: the second byte counts fours, the first the rest.
        let first = 252 + (length & 3);
        out.extend_from_slice(&[first as u8, ((length - first) / 4) as u8]);
    }
    out.extend_from_slice(&packet[at..]);
}

/// Duration in samples at 48 kHz, and the missing length field; `None` when malformed.
fn parse(packet: &[u8]) -> Option<(usize, Delimiter)> {
    let (&toc, rest) = packet.split_first()?;
    let (frames, delimiter) = match toc & 3 {
        0 => (1, Delimiter { at: 1, length: rest.len() }),
        1 if rest.len() % 2 == 0 => (2, Delimiter { at: 1, length: rest.len() / 2 }),
        1 => return None,
        2 => {
            let (first, field_bytes) = frame_length(rest)?;
            let length = rest.len().checked_sub(field_bytes + first)?;
            (2, Delimiter { at: 1 + field_bytes, length })
        }
        _ => parse_code_3(packet)?,
    };
    if delimiter.length > FRAME_BYTES_MAX {
        return None;
    }
    // RFC 6716 §3.4, requirement 5: at most 120 ms.
    let samples = frames * samples_per_frame(toc);
    (samples <= 5760).then_some((samples, delimiter))
}

/// Code 3: a count byte, padding, and frames of equal (CBR) or given (VBR) lengths (RFC 6716 §3.2.5).
fn parse_code_3(packet: &[u8]) -> Option<(usize, Delimiter)> {
    let count_byte = *packet.get(1)?;
    let frames = NonZeroUsize::new(usize::from(count_byte & 0x3f))?;
    let mut at = 2;
    let mut padding = 0;
    if count_byte & 0x40 != 0 {
        loop {
            let byte = *packet.get(at)?;
            at += 1;
            padding += usize::from(byte.min(254));
            if byte != 255 {
                break;
            }
        }
    }
    let mut length = packet.len().checked_sub(at + padding)?;
    if count_byte & 0x80 == 0 {
        if length % frames != 0 {
            return None;
        }
        return Some((frames.get(), Delimiter { at, length: length / frames }));
    }
    for _ in 1..frames.get() {
        let (frame, field_bytes) = frame_length(&packet[at..])?;
        at += field_bytes;
        length = length.checked_sub(field_bytes + frame)?;
    }
    Some((frames.get(), Delimiter { at, length }))
}

/// RFC 6716 §3.2.1: a frame's length in one or two bytes, and how many.
fn frame_length(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [first, ..] if first < 252 => Some((usize::from(first), 1)),
        [first, second, ..] => Some((usize::from(second) * 4 + usize::from(first), 2)),
        _ => None,
    }
}

/// RFC 6716 table 2, in samples at 48 kHz.
fn samples_per_frame(toc: u8) -> usize {
    let configuration = toc >> 3;
    match configuration {
        0..=11 => [480, 960, 1920, 2880][usize::from(configuration & 3)],
        12..=15 => [480, 960][usize::from(configuration & 1)],
        _ => [120, 240, 480, 960][usize::from(configuration & 3)],
    }
}

#[cfg(test)]
mod tests;
