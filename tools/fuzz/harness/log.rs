//! What the fuzzer does with the readers of log files: any bytes as records with a right checksum, and as whole files.

use sidetone_log::format::{self, FileHeader, FileKind, Meaning, Month};
use sidetone_log::{
    Content, Footer, Owner, SegmentEntry, SegmentNumber, VolumeNumber, chunk_packets, read_segment_bytes, scan_bytes,
};
use sidetone_model::CaptureTime;
use uuid::Uuid;

const STORE: Uuid = Uuid::from_u128(1);
const FILE: Uuid = Uuid::from_u128(7);

/// The first four bytes choose type, flags and version; the rest is the body, and once more the content of a file.
pub(crate) fn log_record(data: &[u8]) {
    format::decode_record(data);
    scan_bytes(data);
    let Some((choice, body)) = data.split_first_chunk::<4>() else { return };
    let kind = [
        format::TYPE_PADDING,
        format::TYPE_SYNC,
        format::TYPE_CHUNK,
        format::TYPE_FACT,
        u16::from(choice[1]),
        format::TYPE_RUN_INDEX,
        format::TYPE_SEGMENT_INDEX,
        format::TYPE_FOOTER,
    ];
    let kind = kind[usize::from(choice[0]) % kind.len()];
    let Ok(record) = format::record(kind, choice[2], choice[3], body) else { return };
    let (length, meaning) = format::decode_record(&record).expect("a sealed record is a record");
    assert_eq!(length as usize, record.len());
    written_again(&meaning);
    journal_file(kind, &record, data);
    segment(kind, &record, data);
}

/// What was understood can be written again, and then means the same.
fn written_again(meaning: &Meaning) {
    let again = match meaning {
        Meaning::Content(Content::Chunk(chunk)) => {
            chunk_packets(&chunk.payload).count();
            format::chunk_record(&chunk.header, &chunk.payload)
        }
        Meaning::Content(Content::Fact(fact)) => format::fact_record(fact),
        Meaning::RunIndex(index) => {
            let first = index.entries[0];
            let found = index.chunks_in(first.track, first.first_tick..first.end_tick());
            assert_eq!(found.filter(|entry| **entry == first).count(), 1, "an index finds what it holds");
            format::run_index_record(index)
        }
        Meaning::SegmentIndex(entries) => {
            let mut records = format::segment_index_records(entries).expect("it was a record");
            assert_eq!(records.len(), 1);
            Ok(records.remove(0))
        }
        Meaning::Footer(footer) => Ok(format::footer_record(footer)),
        _ => return,
    };
    let (_, second) = format::decode_record(&again.expect("it was a record")).expect("it is one again");
    assert_eq!(&second, meaning);
}

fn header(kind: FileKind) -> Vec<u8> {
    let header = FileHeader {
        version: format::FORMAT_VERSION,
        file: 1,
        store_id: STORE,
        volume: VolumeNumber(0),
        volume_id: STORE,
        boot_id: Uuid::nil(),
        file_id: FILE,
        preallocated_bytes: 0,
        created_at: CaptureTime(0),
        node: "fuzz".into(),
        kind,
    };
    let bytes = header.encode();
    assert_eq!(FileHeader::decode(&bytes).as_ref(), Ok(&header));
    bytes.to_vec()
}

fn push(file: &mut Vec<u8>, record: &[u8]) {
    file.extend_from_slice(record);
    file.resize(file.len().next_multiple_of(format::RECORD_ALIGNMENT_BYTES), 0);
}

fn sync(sequence: u64) -> Vec<u8> {
    let body = [FILE.as_bytes().as_slice(), &sequence.to_le_bytes()].concat();
    format::record(format::TYPE_SYNC, 0, 1, &body).expect("a sync record is short")
}

/// A journal file: a header, one flush with this record, and the raw bytes behind it.
fn journal_file(kind: u16, record: &[u8], data: &[u8]) {
    let mut file = header(FileKind::Journal { previous_end: 0 });
    push(&mut file, &sync(1));
    push(&mut file, record);
    file.extend_from_slice(data);
    let (records, _, end) = scan_bytes(&file);
    assert!(end <= (file.len() + format::RECORD_BYTES_MAX) as u64);
    // A record of type sync that is not where a flush can begin is none.
    assert!(records > u64::from(kind != format::TYPE_SYNC), "{records} records");
}

/// A segment: a header, a flush with this record and the raw bytes, and, unless they are many, a flush with a footer that says that
/// this record is the index.
fn segment(kind: u16, record: &[u8], data: &[u8]) {
    let mut file = header(FileKind::Segment { class: "fuzz".into(), expires: Month::new(2031, 4) });
    push(&mut file, &sync(1));
    let index_offset = file.len() as u64;
    push(&mut file, record);
    file.extend_from_slice(data);
    let closed = data.len().is_multiple_of(2);
    if closed {
        file.resize(file.len().next_multiple_of(format::ALIGNMENT_BYTES), 0);
        let entries = match format::decode_record(record) {
            Some((_, Meaning::SegmentIndex(entries))) => entries,
            _ => Vec::new(),
        };
        let runs = entries.iter().filter_map(|entry| match entry {
            SegmentEntry::Run(sealed) => Some(&sealed.run),
            SegmentEntry::Facts(_) => None,
        });
        let runs: Vec<_> = runs.collect();
        push(
            &mut file,
            &format::footer_record(&Footer {
                file_id: FILE,
                index_offset,
                index_records: 1,
                runs: runs.len() as u32,
                fact_groups: (entries.len() - runs.len()) as u32,
                chunks: runs.iter().map(|run| u64::from(run.chunks)).sum(),
                payload_bytes: runs.iter().fold(0, |sum, run| sum.saturating_add(run.payload_bytes)),
            }),
        );
        file.resize(file.len().next_multiple_of(format::ALIGNMENT_BYTES), 0);
    }
    let owner = Owner { store_id: STORE, volume: VolumeNumber(0) };
    match read_segment_bytes(&file, SegmentNumber(1), owner) {
        Ok((contents, verified)) => {
            assert_eq!(verified.closed, closed);
            assert!(contents.end <= (file.len() + format::RECORD_BYTES_MAX) as u64);
            // Entries lie in the file, one behind the other.
            let mut end = format::ALIGNMENT_BYTES as u64;
            for bytes in contents.entries.iter().map(SegmentEntry::bytes) {
                assert!(bytes.start >= end && bytes.end >= bytes.start && bytes.end <= contents.end, "{bytes:?}");
                end = bytes.end;
            }
            assert!(!contents.closed || kind == format::TYPE_SEGMENT_INDEX, "no other record is an index");
        }
        Err(sidetone_log::LogError::UnknownRecord { .. }) => {}
        Err(error) => panic!("memory can be read: {error}"),
    }
}
