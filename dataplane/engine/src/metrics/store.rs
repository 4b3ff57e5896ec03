//! Metrics of the store: its volumes, writer, keeper and catalog.

use super::{family, float_counter, push, push_float, single_counter, single_gauge};
use prometheus::proto::{MetricFamily, MetricType};
use sidetone_store::{KeeperStatistics, StoreStatistics, VolumeState, VolumeStatistics, WriterStatistics};

pub(super) fn families(store: &StoreStatistics) -> Vec<MetricFamily> {
    let mut families = volumes(&store.volumes);
    families.extend(journals(&store.volumes));
    families.extend(store.writer.iter().flat_map(writer));
    families.extend(store.keeper.iter().flat_map(keeper));
    families.extend([
        single_gauge("sidetone_store_recordings", "Recordings in the catalog.", store.catalog.recordings),
        single_gauge(
            "sidetone_store_recordings_incomplete",
            "Recordings in the catalog of which something is missing.",
            store.catalog.recordings_incomplete,
        ),
        single_gauge("sidetone_store_catalog_bytes", "Bytes of the catalog on disk.", store.catalog.size_bytes),
    ]);
    families
}

fn volumes(volumes: &[VolumeStatistics]) -> Vec<MetricFamily> {
    let mut state = family(
        "sidetone_store_volume_state",
        "1 for the state that a volume is in, 0 for the others.",
        MetricType::GAUGE,
    );
    let mut faults =
        family("sidetone_store_volume_faults_total", "Failures of a volume, by what it said.", MetricType::COUNTER);
    for volume in volumes {
        let number = volume.volume.0.to_string();
        for one in VolumeState::ALL {
            push(&mut state, &[("volume", &number), ("state", one.name())], u64::from(one == volume.state));
        }
        let of = &volume.faults;
        for (kind, count) in [
            ("no_space", of.no_space),
            ("read_only", of.read_only),
            ("permission", of.permission),
            ("io", of.io),
            ("stalled", of.stalled),
        ] {
            push(&mut faults, &[("volume", &number), ("kind", kind)], count);
        }
    }
    let each = |name: &str, help: &str, value: fn(&VolumeStatistics) -> u64| {
        of_each(volumes, name, help, MetricType::GAUGE, |volume| Some(value(volume) as f64))
    };
    vec![
        state,
        faults,
        each("sidetone_store_volume_free_bytes", "Bytes that can still be written to a volume.", |v| v.free_bytes),
        each("sidetone_store_volume_bytes", "Size of a volume's file system.", |v| v.total_bytes),
        each("sidetone_store_volume_recordings", "Recordings whose audio goes to a volume now.", |v| v.recordings),
        each("sidetone_store_journal_files", "Journal files on a volume.", |v| v.journal_files),
        each("sidetone_store_journal_bytes", "Space that a volume's journal takes.", |v| v.journal_bytes),
        each("sidetone_store_segment_files", "Segments on a volume.", |v| v.segment_files),
        each("sidetone_store_segment_bytes", "Space that a volume's segments take.", |v| v.segment_bytes),
    ]
}

fn journals(volumes: &[VolumeStatistics]) -> Vec<MetricFamily> {
    type Value = fn(&sidetone_store::JournalStatistics) -> f64;
    let each = |name: &str, help: &str, kind, value: Value| {
        of_each(volumes, name, help, kind, |volume| volume.journal.as_ref().map(value))
    };
    vec![
        each(
            "sidetone_store_journal_file",
            "Number of the journal file that is durable up to journal_durable_bytes.",
            MetricType::GAUGE,
            |journal| f64::from(journal.durable.file),
        ),
        each(
            "sidetone_store_journal_durable_bytes",
            "Offset in that file before which everything is durable.",
            MetricType::GAUGE,
            |journal| journal.durable.offset as f64,
        ),
        each(
            "sidetone_store_journal_pending_bytes",
            "Bytes of records appended to a volume that are not durable yet.",
            MetricType::GAUGE,
            |journal| journal.pending_bytes as f64,
        ),
        each(
            "sidetone_store_journal_flushes_total",
            "Flushes of a volume's journal.",
            MetricType::COUNTER,
            |journal| journal.flushes as f64,
        ),
        each(
            "sidetone_store_journal_written_bytes_total",
            "Bytes written to a volume's journal, with headers and padding.",
            MetricType::COUNTER,
            |journal| journal.written_bytes as f64,
        ),
        each(
            "sidetone_store_journal_flush_seconds",
            "Duration of the last flush of a volume's journal.",
            MetricType::GAUGE,
            |journal| journal.flush_ns_last as f64 / 1e9,
        ),
        each(
            "sidetone_store_journal_flush_seconds_max",
            "Duration of the longest flush of a volume's journal.",
            MetricType::GAUGE,
            |journal| journal.flush_ns_max as f64 / 1e9,
        ),
    ]
}

fn writer(writer: &WriterStatistics) -> Vec<MetricFamily> {
    let mut refused = family(
        "sidetone_store_chunks_refused_total",
        "Chunks that no volume took: of recordings that began, or any.",
        MetricType::COUNTER,
    );
    push(&mut refused, &[("reason", "no_new")], writer.chunks_refused_new);
    push(&mut refused, &[("reason", "no_audio")], writer.chunks_refused);
    vec![
        single_counter("sidetone_store_chunks_total", "Chunks of audio that became durable.", writer.chunks),
        single_counter("sidetone_store_facts_total", "Facts that became durable.", writer.facts),
        single_counter("sidetone_store_bytes_total", "Bytes of records that became durable.", writer.bytes),
        refused,
        single_gauge("sidetone_store_backlog", "Records appended that are not durable yet.", writer.backlog),
        single_gauge(
            "sidetone_store_held_facts",
            "Facts that wait until the audio of their recording is durable.",
            writer.held_facts,
        ),
        single_gauge(
            "sidetone_store_stranded_bytes",
            "Bytes of records that a failed volume gave back and no other has taken yet.",
            writer.stranded_bytes,
        ),
        single_counter(
            "sidetone_store_batches_dropped_total",
            "Durable batches that the catalog had to read from the journals because it was behind.",
            writer.batches_dropped,
        ),
    ]
}

fn keeper(keeper: &KeeperStatistics) -> Vec<MetricFamily> {
    vec![
        single_counter("sidetone_store_sealed_runs_total", "Runs of audio copied into segments.", keeper.sealed_runs),
        single_counter("sidetone_store_sealed_bytes_total", "Bytes of audio in these.", keeper.sealed_bytes),
        single_counter(
            "sidetone_store_seal_failures_total",
            "Attempts to move audio into segments that failed; they are repeated.",
            keeper.seal_failures,
        ),
        single_gauge(
            "sidetone_store_unsealed_recordings",
            "Recordings that need a journal.",
            keeper.pending_recordings,
        ),
        single_gauge(
            "sidetone_store_unsealed_bytes",
            "Bytes of audio that lie only in journals.",
            keeper.unsealed_bytes,
        ),
        single_gauge(
            "sidetone_store_unsealed_seconds_max",
            "Age of the oldest audio that lies only in a journal.",
            keeper.unsealed_seconds_max,
        ),
        single_counter(
            "sidetone_store_damaged_places_total",
            "Places of journals and segments that could not be read.",
            keeper.damaged_places,
        ),
        single_counter(
            "sidetone_store_damaged_chunks_total",
            "Chunks found damaged when they should be sealed.",
            keeper.damaged_chunks,
        ),
        single_counter(
            "sidetone_store_catch_ups_total",
            "How often the catalog was brought up to date from the journals.",
            keeper.catch_ups,
        ),
        single_counter(
            "sidetone_store_catalog_failures_total",
            "Failures of the catalog; recording goes on without it.",
            keeper.catalog_failures,
        ),
        apply_seconds(keeper),
        single_counter(
            "sidetone_store_segments_closed_total",
            "Segments that got their footer.",
            keeper.segments_closed,
        ),
        single_counter(
            "sidetone_store_retired_files_total",
            "Journal files that were needed no more.",
            keeper.retired_files,
        ),
        float_counter("sidetone_store_retired_bytes_total", "Bytes of these.", keeper.retired_bytes as f64),
    ]
}

fn apply_seconds(keeper: &KeeperStatistics) -> MetricFamily {
    let mut family = family(
        "sidetone_store_catalog_apply_seconds_max",
        "Longest time that bringing a batch into the catalog took.",
        MetricType::GAUGE,
    );
    push_float(&mut family, &[], keeper.apply_ns_max as f64 / 1e9);
    family
}

fn of_each(
    volumes: &[VolumeStatistics],
    name: &str,
    help: &str,
    kind: MetricType,
    value: impl Fn(&VolumeStatistics) -> Option<f64>,
) -> MetricFamily {
    let mut family = family(name, help, kind);
    for volume in volumes {
        if let Some(value) = value(volume) {
            push_float(&mut family, &[("volume", &volume.volume.0.to_string())], value);
        }
    }
    family
}

/// A store with one volume.
#[cfg(test)]
pub(super) fn some_statistics() -> StoreStatistics {
    StoreStatistics {
        store_id: Default::default(),
        node: sidetone_model::NodeName("test".into()),
        catalog: Default::default(),
        volumes: vec![VolumeStatistics {
            volume: sidetone_store::VolumeNumber(0),
            volume_id: Default::default(),
            directory: "/store".into(),
            state: VolumeState::Ok,
            free_bytes: 1,
            total_bytes: 2,
            journal_files: 1,
            journal_bytes: 1,
            segment_files: 0,
            segment_bytes: 0,
            recordings: 0,
            faults: Default::default(),
            journal: Some(Default::default()),
        }],
        writer: Some(Default::default()),
        keeper: Some(Default::default()),
    }
}
