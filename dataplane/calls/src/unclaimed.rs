//! The list of streams that no call claimed: bounded, in the order of their ends, the oldest make room.

use crate::{StreamGone, UnclaimedStream};
use sidetone_model::StreamKey;
use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
pub(crate) struct UnclaimedList {
    most: usize,
    streams: VecDeque<(StreamKey, UnclaimedStream)>,
    /// Position since the beginning of the list, of which `forgotten` entries are gone.
    positions: HashMap<StreamKey, u64, foldhash::quality::RandomState>,
    forgotten: u64,
}

impl UnclaimedList {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, streams: VecDeque::new(), positions: HashMap::default(), forgotten: 0 }
    }

    pub(crate) fn push(&mut self, gone: &StreamGone) {
        let key = gone.key;
        if let Some(&position) = self.positions.get(&key) {
            let index = usize::try_from(position - self.forgotten).unwrap_or(usize::MAX);
            if let Some((_, stream)) = self.streams.get_mut(index) {
                stream.packets = stream.packets.saturating_add(gone.packets);
            }
            return;
        }
        if self.most == 0 {
            return;
        }
        if self.streams.len() >= self.most
            && let Some((oldest, _)) = self.streams.pop_front()
        {
            self.positions.remove(&oldest);
            self.forgotten += 1;
        }
        self.positions.insert(key, self.forgotten + self.streams.len() as u64);
        let stream = UnclaimedStream {
            domain: key.domain.to_string(),
            ssrc: format!("0x{:08x}", key.ssrc),
            source: key.source.to_string(),
            destination: key.destination.to_string(),
            packets: gone.packets,
        };
        self.streams.push_back((key, stream));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &UnclaimedStream> {
        self.streams.iter().map(|(_, stream)| stream)
    }
}
