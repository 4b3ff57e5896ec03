//! A bounded ring of variable-length messages between two threads: an rtrb byte ring with a small header per message.
//!
//! Pushing never waits and never allocates: a message goes in whole or not at all. Popping copies into a buffer of the
//! consumer's that grows to the longest message once.

use sidetone_model::CaptureTime;

/// What goes before each message's bytes. The meaning of `kind`, `index` and `count` belongs to the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct MessageHeader {
    pub(crate) kind: u8,
    pub(crate) variant: u8,
    pub(crate) index: u32,
    pub(crate) count: u32,
    pub(crate) time: CaptureTime,
}

const HEADER_SIZE: usize = 24;

impl MessageHeader {
    fn encode(self, length: u32) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.variant;
        bytes[8..12].copy_from_slice(&self.index.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.time.0.to_ne_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_SIZE]) -> (Self, u32) {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let time = u64::from(word(16)) | u64::from(word(20)) << 32;
        let time = if cfg!(target_endian = "big") { time.rotate_left(32) } else { time };
        let header =
            Self { kind: bytes[4], variant: bytes[5], index: word(8), count: word(12), time: CaptureTime(time) };
        (header, word(0))
    }
}

pub(crate) struct MessageProducer(rtrb::Producer<u8>);

pub(crate) struct MessageConsumer {
    bytes: rtrb::Consumer<u8>,
    /// A header that was taken out while its body had not arrived yet.
    pending: Option<(MessageHeader, usize)>,
}

pub(crate) fn message_ring(capacity_bytes: usize) -> (MessageProducer, MessageConsumer) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity_bytes);
    (MessageProducer(producer), MessageConsumer { bytes: consumer, pending: None })
}

impl MessageProducer {
    /// False when there is no room; nothing is written then.
    #[must_use]
    pub(crate) fn push(&mut self, header: MessageHeader, body: &[u8]) -> bool {
        let Ok(length) = u32::try_from(body.len()) else { return false };
        if self.0.slots() < HEADER_SIZE + body.len() {
            return false;
        }
        let pushed = self.0.push_entire_slice(&header.encode(length)).is_ok() && self.0.push_entire_slice(body).is_ok();
        assert!(pushed, "only this thread takes room from the ring, and the room was just seen");
        true
    }

    /// Bytes that bodies with so many headers may take now. Only grows until the next push.
    pub(crate) fn room_for(&self, messages: usize) -> usize {
        self.0.slots().saturating_sub(messages * HEADER_SIZE)
    }

    pub(crate) fn has_room(&self, body_bytes: usize) -> bool {
        self.0.slots() >= HEADER_SIZE + body_bytes
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.0.buffer().capacity()
    }

    /// Share of the ring in use, 0.0 to 1.0.
    pub(crate) fn fill_ratio(&self) -> f64 {
        1.0 - self.0.slots() as f64 / self.0.buffer().capacity() as f64
    }
}

impl MessageConsumer {
    /// The next message, its bytes in `body` (cleared first); `None` when nothing whole is there.
    pub(crate) fn pop(&mut self, body: &mut Vec<u8>) -> Option<MessageHeader> {
        let (header, length) = match self.pending.take() {
            Some(pending) => pending,
            None => {
                let mut encoded = [0; HEADER_SIZE];
                self.bytes.pop_entire_slice(&mut encoded).ok()?;
                let (header, length) = MessageHeader::decode(&encoded);
                (header, length as usize)
            }
        };
        body.resize(length, 0);
        if self.bytes.pop_entire_slice(body).is_err() {
            self.pending = Some((header, length));
            return None;
        }
        Some(header)
    }

    /// Nothing is in the ring. (The producer may be about to push.)
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_none() && self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_or_were_refused(
            messages in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..200), 0..4u8), 0..200)
        ) {
            let (mut producer, mut consumer) = message_ring(512);
            let mut expected = std::collections::VecDeque::new();
            let mut body = Vec::new();
            for (kind, index, time, bytes, pops) in messages {
                let header = MessageHeader { kind, variant: 1, index, count: 7, time: CaptureTime(time) };
                if producer.push(header, &bytes) {
                    expected.push_back((header, bytes));
                } else {
                    prop_assert!(expected.iter().map(|(_, b)| b.len() + HEADER_SIZE).sum::<usize>() + bytes.len() + HEADER_SIZE > 512);
                }
                for _ in 0..pops {
                    let got = consumer.pop(&mut body).map(|h| (h, body.clone()));
                    prop_assert_eq!(got, expected.pop_front());
                }
            }
            while let Some(want) = expected.pop_front() {
                let got = consumer.pop(&mut body).map(|h| (h, body.clone()));
                prop_assert_eq!(got, Some(want));
            }
            prop_assert!(consumer.is_empty());
        }
    }

    #[test]
    fn two_threads_agree_on_every_message() {
        let (mut producer, mut consumer) = message_ring(4096);
        let writer = std::thread::spawn(move || {
            for index in 0..20_000u32 {
                let body = vec![index as u8; (index % 300) as usize];
                while !producer.push(MessageHeader { index, ..Default::default() }, &body) {
                    std::thread::yield_now();
                }
            }
        });
        let mut body = Vec::new();
        for index in 0..20_000u32 {
            let header = loop {
                if let Some(header) = consumer.pop(&mut body) {
                    break header;
                }
                std::thread::yield_now();
            };
            assert_eq!((header.index, body.len()), (index, (index % 300) as usize));
            assert!(body.iter().all(|b| *b == index as u8));
        }
        writer.join().unwrap();
    }
}
