//! One simulated file: what its readers see, and what would be left of it.

use super::Random;
use std::ops::Range;

const SECTOR_BYTES: usize = 512;

#[derive(Default)]
pub(super) struct FileState {
    /// What reads give: the page cache.
    cached: Content,
    /// What a crash cannot take.
    durable: Content,
    /// Between the two, in the order of its making.
    pending: Vec<Change>,
    /// Written to the cache, and out of reach of the sync that comes next; only on a defective device.
    late: Vec<Change>,
    /// Submitted and not complete.
    flying: Vec<Flying>,
    /// Byte ranges that the device cannot read.
    pub(super) unreadable: Vec<Range<u64>>,
    /// Open for reading or writing so many times.
    pub(super) handles: u32,
}

#[derive(Clone, Default)]
struct Content {
    /// Shorter than `length` where zeros follow.
    bytes: Vec<u8>,
    length: u64,
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

struct Flying {
    token: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Content {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset as usize..end].copy_from_slice(bytes);
    }

    fn set_length(&mut self, length: u64) {
        self.length = length;
        self.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    }
}

impl FileState {
    pub(super) fn length(&self) -> u64 {
        self.cached.length
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> usize {
        let length = self.cached.length.saturating_sub(offset).min(bytes.len() as u64) as usize;
        bytes[..length].fill(0);
        let known = usize::try_from(offset).ok().and_then(|offset| self.cached.bytes.get(offset..)).unwrap_or_default();
        let known = &known[..known.len().min(length)];
        bytes[..known.len()].copy_from_slice(known);
        length
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.cached.set_length(length);
        self.pending.push(Change::Length(length));
    }

    pub(super) fn submit(&mut self, token: u64, offset: u64, bytes: Vec<u8>) {
        self.flying.push(Flying { token, offset, bytes });
    }

    /// A write is over.
    pub(super) fn complete(&mut self, token: u64, is_late: bool) {
        let write = self.land(token);
        let changes = if is_late { &mut self.late } else { &mut self.pending };
        let end = write.offset + write.bytes.len() as u64;
        self.cached.write(write.offset, &write.bytes);
        changes.push(Change::Write { offset: write.offset, bytes: write.bytes });
        if end > self.cached.length {
            self.cached.length = end;
            changes.push(Change::Length(end));
        }
    }

    /// A write has failed: some of its sectors may be written all the same.
    pub(super) fn fail(&mut self, token: u64, random: &mut Random) {
        let write = self.land(token);
        for (offset, sector) in surviving_sectors(write.offset, &write.bytes, random) {
            // Within the file: its length is not changed by what failed.
            if offset + sector.len() as u64 <= self.cached.length {
                self.cached.write(offset, sector);
                self.pending.push(Change::Write { offset, bytes: sector.to_vec() });
            }
        }
    }

    fn land(&mut self, token: u64) -> Flying {
        let index = self.flying.iter().position(|flying| flying.token == token).expect("the write is in flight");
        self.flying.swap_remove(index)
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::replace(&mut self.pending, std::mem::take(&mut self.late)) {
            match change {
                Change::Write { offset, bytes } => self.durable.write(offset, &bytes),
                Change::Length(length) => self.durable.length = length,
            }
        }
        self.durable.set_length(self.durable.length);
    }

    /// As on Linux: what could not be written stays readable and is forgotten. No later sync writes it, or says so.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        self.keep_some(random);
    }

    /// Reads show what is on the device. What waits to be written stays.
    pub(super) fn drop_cache(&mut self) {
        if self.pending.is_empty() && self.late.is_empty() {
            self.cached = self.durable.clone();
        }
    }

    /// The power fails: of what is not durable, any sectors are there.
    pub(super) fn crash(&mut self, random: &mut Random) {
        self.land_some(random);
        self.pending.append(&mut self.late);
        self.keep_some(random);
        self.cached = self.durable.clone();
        self.handles = 0;
    }

    /// The process ends: what it had submitted is done or not.
    pub(super) fn land_some(&mut self, random: &mut Random) {
        for token in self.flying.iter().map(|flying| flying.token).collect::<Vec<_>>() {
            if random.chance(500) {
                self.complete(token, false);
            } else {
                self.fail(token, random);
            }
        }
        self.handles = 0;
    }

    fn keep_some(&mut self, random: &mut Random) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => {
                    for (offset, sector) in surviving_sectors(offset, &bytes, random) {
                        self.durable.write(offset, sector);
                    }
                }
                Change::Length(length) if random.chance(500) => self.durable.length = length,
                Change::Length(_) => {}
            }
        }
        self.durable.set_length(self.durable.length);
    }

    /// Flips bits of what is on the device.
    pub(super) fn damage(&mut self, offset: u64, mask: u8) {
        for content in [&mut self.cached, &mut self.durable] {
            let mut byte = [content.bytes.get(offset as usize).copied().unwrap_or_default()];
            byte[0] ^= mask;
            content.write(offset, &byte);
        }
    }
}

/// All, none, the first or any sectors of a write.
fn surviving_sectors<'a>(offset: u64, bytes: &'a [u8], random: &mut Random) -> Vec<(u64, &'a [u8])> {
    let sectors = bytes.chunks(SECTOR_BYTES).enumerate();
    let sectors = sectors.map(|(index, sector)| (offset + (index * SECTOR_BYTES) as u64, sector));
    match random.below(4) {
        0 => Vec::new(),
        1 => sectors.collect(),
        2 => {
            let count = random.below(bytes.len().div_ceil(SECTOR_BYTES) as u64 + 1);
            sectors.take(count as usize).collect()
        }
        _ => {
            let share = random.below(1001) as u32;
            sectors.filter(|_| random.chance(share)).collect()
        }
    }
}
