//! Silence of a given size, for audio whose place in the file is known and which cannot be read any more.
//!
//! The length of a file is told before it is read. When a chunk turns out to be unreadable only later, what stands in for it must
//! take exactly as many bytes. Opus packets can be padded (RFC 6716 §3.2.5), so silence of any size can be had.

use crate::opus_packet::SILENT_PACKET;

/// Table-of-contents byte of the silent packet with code 3: a count of frames and padding follow.
const TOC_CODE_3: u8 = SILENT_PACKET[0] | 3;
const ONE_FRAME: u8 = 1;
const PADDED: u8 = 0x40;

/// Appends a packet of 20 ms that takes `bytes` bytes, at least one. From six on it is digital silence; a shorter one is
/// an empty frame, which decoders take for a lost one.
pub(crate) fn push_silence(bytes: usize, out: &mut Vec<u8>) {
    let begin = out.len();
    let frame = if bytes < SILENT_PACKET.len() { &[][..] } else { &SILENT_PACKET[1..] };
    match bytes - frame.len() {
        0 => unreachable!("a packet has at least one byte"),
        1 => {
            out.push(SILENT_PACKET[0]);
            out.extend_from_slice(frame);
        }
        2 => {
            out.extend_from_slice(&[TOC_CODE_3, ONE_FRAME]);
            out.extend_from_slice(frame);
        }
        more => {
            out.extend_from_slice(&[TOC_CODE_3, ONE_FRAME | PADDED]);
            // A length byte of 255 says 254 and that another one follows.
            let mut padding = more - 3;
            while padding > 254 {
                out.push(255);
                padding -= 255;
            }
            out.push(padding as u8);
            out.extend_from_slice(frame);
            out.resize(begin + bytes, 0);
        }
    }
    debug_assert_eq!(out.len() - begin, bytes);
}

/// How many bytes each of several packets gets so that all together take `total`: at least what `least` says for each, and
/// at most `most`, as evenly as that allows. `None` when that cannot be.
pub(crate) fn share_out(least: &[usize], most: usize, total: usize) -> Option<Vec<usize>> {
    let mut shares = least.to_vec();
    let mut rest = total.checked_sub(shares.iter().sum())?;
    if shares.iter().any(|&share| share > most) {
        return None;
    }
    // Those with the least first: each takes up to its part of what is left for it and those behind it.
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(shares[index]));
    for (done, &index) in order.iter().enumerate() {
        let remaining = order.len() - done;
        let given: usize = order[done..].iter().map(|&index| shares[index]).sum();
        let even = (given + rest) / remaining;
        let more = even.clamp(shares[index], most) - shares[index];
        let more = more.min(rest);
        shares[index] += more;
        rest -= more;
    }
    (rest == 0).then_some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opus_packet::{lasts_one_tick, push_self_delimited};
    use proptest::prelude::*;

    #[test]
    fn silence_of_any_size_is_a_packet_of_20_ms_that_decoders_take() {
        for bytes in (1..=1200).chain([5000, 9000]) {
            let mut packet = vec![7];
            push_silence(bytes, &mut packet);
            let packet = &packet[1..];
            assert_eq!(packet.len(), bytes);
            assert!(lasts_one_tick(packet), "{bytes} bytes");
            let mut delimited = Vec::new();
            push_self_delimited(packet, &mut delimited);
            assert_eq!(delimited.len(), bytes + 1);
            let mut decoder = opus::Decoder::new(8000, opus::Channels::Mono).unwrap();
            let mut frame = [99; 160];
            assert_eq!(decoder.decode(packet, &mut frame, false).unwrap(), 160, "{bytes} bytes");
            assert!(frame.iter().all(|&sample| sample.abs() <= 1), "{bytes} bytes");
        }
    }

    proptest! {
        #[test]
        fn whatever_can_be_shared_out_is(
            parts in proptest::collection::vec((1usize..=254, 1usize..=254), 0..60)
        ) {
            let least: Vec<usize> = parts.iter().map(|&(a, b)| a.min(b)).collect();
            let total: usize = parts.iter().map(|&(a, b)| a.max(b)).sum();
            let shares = share_out(&least, 254, total).expect("these shares are possible");
            prop_assert_eq!(shares.iter().sum::<usize>(), total);
            prop_assert!(shares.iter().zip(&least).all(|(share, least)| share >= least && *share <= 254));
            prop_assert_eq!(share_out(&least, 254, least.len() * 254 + 1), None);
        }
    }
}
