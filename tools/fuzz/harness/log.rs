//! What the fuzzer does with the journal's reader: any bytes as records with a right checksum, and as a whole file.

use sidetone_log::format::{self, FileHeader, Meaning};
use sidetone_log::{Content, chunk_packets, scan_bytes};
use sidetone_model::CaptureTime;
use uuid::Uuid;

/// The first four bytes choose type, flags and version; the rest is the body, and once more the content of a file.
pub(crate) fn log_record(data: &[u8]) {
    format::decode_record(data);
    scan_bytes(data);
    let Some((choice, body)) = data.split_first_chunk::<4>() else { return };
    let kind = [format::TYPE_PADDING, format::TYPE_SYNC, format::TYPE_CHUNK, format::TYPE_FACT, u16::from(choice[1])];
    let kind = kind[usize::from(choice[0]) % kind.len()];
    let Ok(record) = format::record(kind, choice[2], choice[3], body) else { return };
    let (length, meaning) = format::decode_record(&record).expect("a sealed record is a record");
    assert_eq!(length as usize, record.len());
    if let Meaning::Content(content) = meaning {
        // What was understood can be written again, and then means the same.
        let again = match &content {
            Content::Chunk(chunk) => {
                chunk_packets(&chunk.payload).count();
                format::chunk_record(&chunk.header, &chunk.payload)
            }
            Content::Fact(fact) => format::fact_record(fact),
        };
        let (_, second) = format::decode_record(&again.expect("it was a record")).expect("it is one again");
        assert_eq!(second, Meaning::Content(content));
    }
    // The same as a file: a header, one flush with this record, and the raw bytes behind it.
    let file_id = Uuid::from_u128(7);
    let header = FileHeader {
        version: format::FORMAT_VERSION,
        store_id: Uuid::from_u128(1),
        boot_id: Uuid::nil(),
        file_id,
        file: 1,
        preallocated_bytes: 0,
        created_at: CaptureTime(0),
        previous_end: 0,
        node: "fuzz".into(),
    };
    assert_eq!(FileHeader::decode(&header.encode()).as_ref(), Ok(&header));
    let mut file = header.encode().to_vec();
    let sync = [file_id.as_bytes().as_slice(), &1u64.to_le_bytes()].concat();
    for part in [format::record(format::TYPE_SYNC, 0, 1, &sync).expect("a sync record is short"), record] {
        file.extend_from_slice(&part);
        file.resize(file.len().next_multiple_of(format::RECORD_ALIGNMENT_BYTES), 0);
    }
    file.extend_from_slice(data);
    let (records, _, end) = scan_bytes(&file);
    assert!(end <= (file.len() + format::RECORD_BYTES_MAX) as u64);
    // A record of type sync that is not this file's is none.
    assert!(records > u64::from(kind != format::TYPE_SYNC), "{records} records");
}
