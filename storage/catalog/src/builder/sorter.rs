//! Sorting more entries than fit into memory: runs in order in one file, and then all runs merged.
//!
//! An entry is a key and a value; keys may come more than once. Several threads may put entries in, and several may
//! take them out, each from a range of keys of its own.
//!
//! A run in the file: for each entry the lengths of key and value (4 each, little-endian), key, value.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const LENGTHS_BYTES: usize = 8;
/// Written at once, and read at once while there are few runs.
const BLOCK_BYTES: usize = 128 << 10;
/// Memory of a merge, for all of its runs together, as long as no block has to be smaller than is of use.
const MERGE_BYTES: usize = 64 << 20;
const BLOCK_BYTES_MIN: usize = 16 << 10;
/// The keys of a run are remembered at such distances: where a range of keys begins is found by them.
const MARK_BYTES: u64 = 128 << 10;

pub(super) struct Sorter {
    file: File,
    end: AtomicU64,
    runs: Mutex<Vec<Run>>,
    /// Not full, and not in use.
    batches: Mutex<Vec<Batch>>,
    batch_bytes: usize,
}

/// Entries in order.
struct Run {
    end: u64,
    /// Keys and where their entries begin; the first entry has one.
    marks: Vec<(Vec<u8>, u64)>,
}

/// Entries in memory, in no order.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Place>,
}

struct Place {
    /// The first bytes of the key, which decide most comparisons.
    prefix: u64,
    at: u32,
    key_bytes: u32,
    value_bytes: u32,
}

impl Batch {
    /// The key and the value are what the parts are together.
    pub(super) fn push(&mut self, key: &[&[u8]], value: &[&[u8]]) {
        let at = self.bytes.len();
        key.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let key_end = self.bytes.len();
        value.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let length = |bytes: usize| u32::try_from(bytes).expect("a batch is below 4 GiB");
        self.entries.push(Place {
            prefix: prefix(&self.bytes[at..key_end]),
            at: length(at),
            key_bytes: length(key_end - at),
            value_bytes: length(self.bytes.len() - key_end),
        });
    }

    fn key(&self, place: &Place) -> &[u8] {
        &self.bytes[place.at as usize..][..place.key_bytes as usize]
    }

    fn room(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Place>()
    }
}

impl Sorter {
    /// With a file in `directory` that has no name. A batch takes about so many bytes of memory; there are as many as threads that
    /// put entries in at the same time.
    pub(super) fn new(directory: &Path, batch_bytes: usize) -> io::Result<Self> {
        let path = directory.join("unsorted");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let (runs, batches) = Default::default();
        Ok(Self { file, end: AtomicU64::new(0), runs, batches, batch_bytes })
    }

    /// Puts entries in.
    pub(super) fn fill<T>(&self, put: impl FnOnce(&mut Batch) -> T) -> io::Result<T> {
        let mut batch = lock(&self.batches).pop().unwrap_or_default();
        let result = put(&mut batch);
        if batch.room() >= self.batch_bytes {
            self.write(&mut batch)?;
        }
        lock(&self.batches).push(batch);
        Ok(result)
    }

    /// Everything has been put in.
    pub(super) fn seal(&self) -> io::Result<()> {
        let batches = std::mem::take(&mut *lock(&self.batches));
        batches.into_iter().try_for_each(|mut batch| self.write(&mut batch))
    }

    /// Empties a batch into a run.
    fn write(&self, batch: &mut Batch) -> io::Result<()> {
        let mut entries = std::mem::take(&mut batch.entries);
        entries.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| batch.key(a).cmp(batch.key(b))));
        let bytes = (batch.bytes.len() + entries.len() * LENGTHS_BYTES) as u64;
        let mut at = self.end.fetch_add(bytes, Ordering::Relaxed);
        let mut run = Run { end: at + bytes, marks: Vec::new() };
        let mut block = Vec::with_capacity(2 * BLOCK_BYTES);
        let mut next_mark = at;
        for entry in &entries {
            let begin = at + block.len() as u64;
            if begin >= next_mark {
                run.marks.push((batch.key(entry).to_vec(), begin));
                next_mark = begin + MARK_BYTES;
            }
            block.extend_from_slice(&entry.key_bytes.to_le_bytes());
            block.extend_from_slice(&entry.value_bytes.to_le_bytes());
            let both = (entry.key_bytes + entry.value_bytes) as usize;
            block.extend_from_slice(&batch.bytes[entry.at as usize..][..both]);
            if block.len() >= BLOCK_BYTES {
                self.file.write_all_at(&block, at)?;
                at += block.len() as u64;
                block.clear();
            }
        }
        self.file.write_all_at(&block, at)?;
        if !entries.is_empty() {
            lock(&self.runs).push(run);
        }
        entries.clear();
        batch.bytes.clear();
        batch.entries = entries;
        Ok(())
    }

    /// Gives back the room in the file; nothing is in it any more.
    pub(super) fn clear(&self) -> io::Result<()> {
        lock(&self.runs).clear();
        self.end.store(0, Ordering::Relaxed);
        self.file.set_len(0)
    }

    /// Keys that divide everything that was sealed into so many ranges of about the same size, or fewer.
    pub(super) fn splits(&self, ranges: usize) -> Vec<Vec<u8>> {
        let runs = lock(&self.runs);
        let mut keys: Vec<&[u8]> = runs.iter().flat_map(|run| &run.marks).map(|(key, _)| &key[..]).collect();
        keys.sort_unstable();
        let mut splits: Vec<Vec<u8>> =
            (1..ranges).filter_map(|range| keys.get(keys.len() * range / ranges)).map(|key| key.to_vec()).collect();
        splits.dedup();
        splits
    }

    /// What was sealed of a range of keys, from `from` on and before `to`, in order.
    pub(super) fn merge<'a>(&'a self, from: Option<&[u8]>, to: Option<&'a [u8]>) -> io::Result<Merge<'a>> {
        let mut sources = Vec::new();
        let runs = lock(&self.runs);
        let block_bytes = (MERGE_BYTES / (2 * runs.len()).max(1)).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES);
        for run in &*runs {
            let from = from.unwrap_or_default();
            let before = run.marks.partition_point(|(key, _)| &key[..] < from);
            let next = run.marks.get(before.saturating_sub(1)).map_or(run.end, |(_, at)| *at);
            let mut source = Source { next, end: run.end, to, ..Source::of(&self.file, block_bytes) };
            let mut is_in = source.advance()?;
            while is_in && source.key() < from {
                is_in = source.advance()?;
            }
            if is_in {
                sources.push(source);
            }
        }
        let mut merge = Merge { sources, is_begun: false };
        (0..merge.sources.len() / 2).rev().for_each(|at| merge.sink(at));
        Ok(merge)
    }
}

/// The rest of a run, from one of its entries on.
struct Source<'a> {
    file: &'a File,
    /// Read at once.
    block_bytes: usize,
    /// Where the file is read next, and where the run ends.
    next: u64,
    end: u64,
    to: Option<&'a [u8]>,
    block: Vec<u8>,
    /// The entry: where its key begins in the block, where its value begins, and where that ends.
    at: usize,
    value: usize,
    entry_end: usize,
    prefix: u64,
}

impl<'a> Source<'a> {
    fn of(file: &'a File, block_bytes: usize) -> Self {
        Self {
            file,
            block_bytes,
            next: 0,
            end: 0,
            to: None,
            block: Vec::new(),
            at: 0,
            value: 0,
            entry_end: 0,
            prefix: 0,
        }
    }

    fn key(&self) -> &[u8] {
        &self.block[self.at..self.value]
    }

    /// To the next entry; false when there is none in the range.
    fn advance(&mut self) -> io::Result<bool> {
        let begin = self.entry_end;
        if !self.has(begin, LENGTHS_BYTES)? {
            return Ok(false);
        }
        let length = |at: usize| {
            u32::from_le_bytes([self.block[at], self.block[at + 1], self.block[at + 2], self.block[at + 3]]) as usize
        };
        // What is read may have moved to the front.
        let begin = self.entry_end;
        let (key, value) = (length(begin), length(begin + 4));
        if !self.has(begin, LENGTHS_BYTES + key + value)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at = self.entry_end + LENGTHS_BYTES;
        self.value = self.at + key;
        self.entry_end = self.value + value;
        self.prefix = prefix(self.key());
        Ok(self.to.is_none_or(|to| self.key() < to))
    }

    /// Whether the run has so many bytes more from `begin`, the end of the entry, on. Then they are in the block, and the end of the
    /// entry says where.
    fn has(&mut self, begin: usize, bytes: usize) -> io::Result<bool> {
        if self.block.len() - begin >= bytes {
            return Ok(true);
        }
        self.block.drain(..begin);
        self.entry_end = 0;
        let rest = self.end - self.next;
        let filled = self.block.len();
        let read = rest.min(self.block_bytes.max(bytes) as u64);
        self.block.resize(filled + read as usize, 0);
        self.file.read_exact_at(&mut self.block[filled..], self.next)?;
        self.next += read;
        Ok(self.block.len() >= bytes)
    }
}

/// Entries of all runs, in the order of their keys.
pub(super) struct Merge<'a> {
    /// A heap: none has a smaller key than the one before it, half as far.
    sources: Vec<Source<'a>>,
    is_begun: bool,
}

impl Merge<'_> {
    /// The next entry: key and value.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        if std::mem::replace(&mut self.is_begun, true)
            && let Some(first) = self.sources.first_mut()
        {
            if !first.advance()? {
                self.sources.swap_remove(0);
            }
            self.sink(0);
        }
        let first = self.sources.first();
        Ok(first.map(|first| (first.key(), &first.block[first.value..first.entry_end])))
    }

    fn sink(&mut self, mut at: usize) {
        let is_before = |a: &Source<'_>, b: &Source<'_>| (a.prefix, a.key()) < (b.prefix, b.key());
        loop {
            let Some(left) = self.sources.get(2 * at + 1) else { return };
            let right = self.sources.get(2 * at + 2);
            let child = 2 * at + 1 + usize::from(right.is_some_and(|right| is_before(right, left)));
            if !is_before(&self.sources[child], &self.sources[at]) {
                return;
            }
            self.sources.swap(at, child);
            at = child;
        }
    }
}

/// Orders as the key does, as far as it goes.
fn prefix(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = key.len().min(8);
    first[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(first)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let key = proptest::collection::vec(0u8..3, 0..12);
        // Now and then one that is longer than a block.
        let value = prop_oneof![20 => 0usize..20, 1 => Just(BLOCK_BYTES + 17)];
        (key, value).prop_map(|(key, length)| {
            let value = key.iter().copied().cycle().take(if key.is_empty() { 0 } else { length }).collect();
            (key, value)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn whatever_is_put_in_comes_out_in_order(
            entries in proptest::collection::vec(entry(), 0..300),
            batch_bytes in prop_oneof![Just(1usize), 50usize..5000, Just(1 << 30)],
            ranges in 1usize..5,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let sorter = Sorter::new(directory.path(), batch_bytes).unwrap();
            std::thread::scope(|scope| {
                for half in entries.chunks(entries.len().div_ceil(2).max(1)) {
                    let sorter = &sorter;
                    scope.spawn(move || {
                        for (key, value) in half {
                            let (a, b) = key.split_at(key.len() / 2);
                            sorter.fill(|batch| batch.push(&[a, b], &[value])).unwrap();
                        }
                    });
                }
            });
            sorter.seal().unwrap();
            let splits = sorter.splits(ranges);
            prop_assert!(splits.len() < ranges);
            let mut found = Vec::new();
            for range in 0..=splits.len() {
                let from = range.checked_sub(1).map(|before| &splits[before][..]);
                let mut merge = sorter.merge(from, splits.get(range).map(|to| &to[..])).unwrap();
                while let Some((key, value)) = merge.next().unwrap() {
                    found.push((key.to_vec(), value.to_vec()));
                }
            }
            prop_assert!(found.is_sorted_by(|(a, _), (b, _)| a <= b));
            let mut expected = entries;
            expected.sort();
            found.sort();
            prop_assert!(found == expected, "{} entries of {}", found.len(), expected.len());
        }
    }
}
