//! Records that are not durable yet, in blocks of memory, at the places that they have or will have in a file.
//!
//! Bound to no file: what a failed file leaves goes to the next one, or back to the caller. Memory is what was allocated at
//! the beginning.

use crate::block::{Block, Memory};
use crate::format::{
    ALIGNMENT_BYTES, Frame, RECORD_ALIGNMENT_BYTES, SYNC_BYTES, TYPE_PADDING, TYPE_SYNC, aligned, decode_frame,
    fill_padding,
};
use crate::io::Write;
use std::collections::VecDeque;
use std::io;

/// Space of the sync record at the beginning of a flush.
const SYNC_ALIGNED_BYTES: usize = SYNC_BYTES.next_multiple_of(RECORD_ALIGNMENT_BYTES);
/// What a record may need besides its own bytes: a sync record before and padding behind.
pub(crate) const OVERHEAD_BYTES: usize = SYNC_ALIGNED_BYTES + ALIGNMENT_BYTES;

/// A run of bytes from `start` to `end`; those from `gathering` on belong to the flush being gathered, those before to the
/// one in flight, if there is one.
pub(crate) struct Backlog {
    memory: Memory,
    free: Vec<Block>,
    block_bytes: usize,
    /// Ready to be written, in the order of their offsets.
    ready: VecDeque<Write>,
    filling: Option<Filling>,
    start: u64,
    gathering: u64,
    end: u64,
}

/// The block that records are copied into.
struct Filling {
    block: Block,
    used: usize,
    /// Where the block goes in the file.
    offset: u64,
}

impl Backlog {
    /// `blocks` blocks of `block_bytes` each, a multiple of 4096. Bytes go to `start`, such a multiple too.
    pub(crate) fn allocate(blocks: u16, block_bytes: usize, start: u64) -> io::Result<Self> {
        let free = Block::allocate(blocks, block_bytes)?;
        Ok(Self {
            memory: free[0].memory().clone(),
            free,
            block_bytes,
            ready: VecDeque::new(),
            filling: None,
            start,
            gathering: start,
            end: start,
        })
    }

    /// Where all its blocks lie.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Everything before is durable.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Where the flush being gathered begins.
    pub(crate) fn gathering(&self) -> u64 {
        self.gathering
    }

    /// Where the next byte goes.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Something waits for a flush to begin.
    pub(crate) fn is_gathering(&self) -> bool {
        self.end > self.gathering
    }

    /// The longest record that can be pushed now.
    pub(crate) fn room(&self) -> usize {
        let filling = self.filling.as_ref().map_or(0, |filling| filling.block.len() - filling.used);
        let room = (filling + self.free.len() * self.block_bytes).saturating_sub(OVERHEAD_BYTES);
        room - room % RECORD_ALIGNMENT_BYTES
    }

    /// Appends a record, whose bytes are `parts` together, and gives its offset.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> u64 {
        let length = parts.iter().map(|part| part.len()).sum();
        assert!(self.room() >= length, "the caller makes room first");
        if !self.is_gathering() {
            // Written over when the file is known.
            self.copy(&[0; SYNC_ALIGNED_BYTES]);
        }
        let offset = self.end;
        for part in parts {
            self.copy(part);
        }
        self.copy(&[0; RECORD_ALIGNMENT_BYTES][..aligned(length) - length]);
        offset
    }

    fn copy(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filling = self.filling.get_or_insert_with(|| Filling {
                block: self.free.pop().expect("there is room"),
                used: 0,
                offset: self.end,
            });
            let length = bytes.len().min(filling.block.len() - filling.used);
            let (now, later) = bytes.split_at(length);
            filling.block[filling.used..filling.used + length].copy_from_slice(now);
            filling.used += length;
            self.end += length as u64;
            bytes = later;
            if filling.used == filling.block.len() {
                self.finish_block();
            }
        }
    }

    fn finish_block(&mut self) {
        if let Some(Filling { block, used, offset }) = self.filling.take() {
            self.ready.push_back(Write { block, length: used, offset });
        }
    }

    /// Ends the flush being gathered with padding up to a multiple of 4096; what is pushed from now on belongs to the
    /// next one.
    pub(crate) fn end_flush(&mut self) {
        if let Some(filling) = &mut self.filling {
            let end = filling.used.next_multiple_of(ALIGNMENT_BYTES);
            if end > filling.used {
                fill_padding(&mut filling.block[filling.used..end]);
                self.end += (end - filling.used) as u64;
                filling.used = end;
            }
            self.finish_block();
        }
        self.gathering = self.end;
    }

    /// The next block to write.
    pub(crate) fn pop_ready(&mut self) -> Option<Write> {
        self.ready.pop_front()
    }

    /// A block that is needed no longer.
    pub(crate) fn recycle(&mut self, block: Block) {
        self.free.push(block);
    }

    /// Everything before `end` is durable.
    pub(crate) fn advance(&mut self, end: u64) {
        assert!(end <= self.gathering, "only whole flushes become durable");
        self.start = end;
    }

    /// Takes back what was popped and did not become durable: all of it from `start` on.
    pub(crate) fn take_back(&mut self, writes: Vec<Write>) {
        self.ready.extend(writes);
        self.ready.make_contiguous().sort_by_key(|write| write.offset);
        let mut offset = self.start;
        for write in &self.ready {
            assert_eq!(write.offset, offset, "what is not durable is all there");
            offset += write.length as u64;
        }
        assert_eq!(offset, self.filling.as_ref().map_or(self.end, |filling| filling.offset));
    }

    /// Moves everything to `start`, as one flush.
    pub(crate) fn rebase(&mut self, start: u64) {
        let (from, second) = (self.start, self.gathering);
        let sync_of_second = (second > from && second < self.end).then_some(second);
        let pieces = self.ready.iter_mut().map(|write| (&mut write.offset, &mut write.block));
        let pieces = pieces.chain(self.filling.iter_mut().map(|filling| (&mut filling.offset, &mut filling.block)));
        for (offset, block) in pieces {
            if Some(*offset) == sync_of_second {
                // A sync record says that all before it is durable; here it would be wrong.
                fill_padding(&mut block[..SYNC_ALIGNED_BYTES]);
            }
            *offset = *offset - from + start;
        }
        self.end = self.end - from + start;
        self.start = start;
        self.gathering = start;
    }

    /// The records that are here, each with its offset, in order; afterwards there are none. Nothing may be popped and not taken
    /// back.
    pub(crate) fn drain(&mut self) -> Vec<(u64, Vec<u8>)> {
        let (start, second) = (self.start, self.gathering);
        self.finish_block();
        let mut bytes = Vec::with_capacity((self.end - self.start) as usize);
        for Write { block, length, .. } in std::mem::take(&mut self.ready) {
            bytes.extend_from_slice(&block[..length]);
            self.free.push(block);
        }
        assert_eq!(bytes.len() as u64, self.end - self.start, "what is not durable is all there");
        (self.gathering, self.end) = (self.start, self.start);
        let mut records = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let offset = start + at as u64;
            if offset == start || offset == second {
                at += SYNC_ALIGNED_BYTES;
                continue;
            }
            let Frame::Record(record) = decode_frame(&bytes[at..]) else { panic!("memory holds whole records") };
            let length = record.length as usize;
            if record.kind != TYPE_PADDING && record.kind != TYPE_SYNC {
                records.push((offset, bytes[at..at + length].to_vec()));
            }
            at += aligned(length);
        }
        records
    }
}
