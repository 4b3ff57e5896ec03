//! Every metric of the data plane: name, help and where its value comes from. The one place to look, and to add.
//!
//! Two equations hold when nothing is in flight:
//! * frames: `received = Σ frames_total + Σ frames_dropped_total + frames_held`
//! * tracks: `frames_total{end="track"} = Σ track_packets_total + track_packets_waiting`

mod store;

use crate::assemble::Observed;
use crate::counters::{DropReason, Durations, Kept, PacketEnd};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use sidetone_capture::CaptureMode;
use sidetone_signalling::MessageOutcome;
use sidetone_store::StoreStatistics;
use std::collections::HashMap;
use std::ops::Range;

/// What metrics and status say of a port.
#[derive(Clone, Debug)]
pub struct PortInfo {
    pub interface: String,
    pub mode: CaptureMode,
    /// Why the port is not captured with AF_XDP, when it is not.
    pub fallback_reason: Option<String>,
    /// Its receive queues among all.
    pub queues: Range<usize>,
    /// The XDP program counts for it; index among the ports that have one.
    pub tap: Option<usize>,
}

/// Asks the store how it is; `None` when it cannot say.
pub type StoreSource = Box<dyn Fn() -> Option<StoreStatistics> + Send + Sync>;

/// Collects the metrics of data plane and store for a Prometheus registry.
pub struct EngineMetrics {
    observed: Observed,
    ports: Vec<PortInfo>,
    store: StoreSource,
    desc: Desc,
}

impl EngineMetrics {
    /// # Errors
    /// Never, unless a metric's name is not a valid one.
    pub fn new(observed: Observed, ports: Vec<PortInfo>, store: StoreSource) -> Result<Self, prometheus::Error> {
        let desc =
            Desc::new("sidetone_engine".into(), "All metrics of the data plane.".into(), Vec::new(), HashMap::new())?;
        Ok(Self { observed, ports, store, desc })
    }
}

impl Collector for EngineMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.frames();
        families.extend(self.tracks());
        families.extend(self.signalling());
        families.extend(self.calls());
        families.extend(self.writer());
        families.extend((self.store)().iter().flat_map(store::families));
        families
    }
}

impl EngineMetrics {
    fn frames(&self) -> Vec<MetricFamily> {
        let statistics = self.observed.call_statistics();
        let receive = &self.observed.receive;
        let mut mode =
            family("sidetone_capture_mode", "How frames of a port are captured; always 1.", MetricType::GAUGE);
        let mut received = family(
            "sidetone_frames_received_total",
            "Frames that reached a mirror port, those the NIC or a ring missed included.",
            MetricType::COUNTER,
        );
        let mut bytes = family(
            "sidetone_frame_bytes_received_total",
            "Bytes of frames handed to the receive threads.",
            MetricType::COUNTER,
        );
        let mut kept = family(
            "sidetone_frames_total",
            "Frames by where they ended: on a track, as signalling, as RTCP, or passed on by a shared port.",
            MetricType::COUNTER,
        );
        let mut dropped = family(
            "sidetone_frames_dropped_total",
            "Frames that were dropped, each with one reason.",
            MetricType::COUNTER,
        );
        let mut held = family(
            "sidetone_frames_held",
            "Frames of streams that no call has claimed yet, in the pre-roll.",
            MetricType::GAUGE,
        );
        let mut flows = family("sidetone_streams", "Streams known to the receive threads.", MetricType::GAUGE);
        let mut errors = family(
            "sidetone_capture_errors_total",
            "Failures of a capture source; it is tried again.",
            MetricType::COUNTER,
        );
        for port in &self.ports {
            let interface = port.interface.as_str();
            let queues = &receive[port.queues.clone()];
            let sum = |count: &dyn Fn(&crate::ReceiveCounters) -> u64| queues.iter().map(|q| count(q)).sum::<u64>();
            let missed = sum(&|q| q.missed.get());
            let mut total = sum(&|q| q.frames_received.get()) + missed;
            let mut passed = 0;
            if let Some(tap) = port.tap.and_then(|index| statistics.taps.get(index)) {
                // What the program let through is what the sources received or missed; the rest ended in the program.
                passed = tap.passed_total();
                total += passed + tap.dropped_total();
                for reason in sidetone_capture::Reason::ALL {
                    let labels = [("interface", interface), ("stage", "xdp"), ("reason", reason.label())];
                    push(&mut dropped, &labels, tap.dropped(reason));
                }
            }
            push(&mut mode, &[("interface", interface), ("mode", port.mode.label())], 1);
            push(&mut received, &[("interface", interface)], total);
            push(&mut bytes, &[("interface", interface)], sum(&|q| q.bytes_received.get()));
            for end in Kept::ALL {
                push(&mut kept, &[("interface", interface), ("end", end.label())], sum(&|q| q.kept(*end)));
            }
            push(&mut kept, &[("interface", interface), ("end", "passed")], passed);
            for reason in DropReason::ALL {
                let labels = [("interface", interface), ("stage", "receive"), ("reason", reason.label())];
                push(&mut dropped, &labels, sum(&|q| q.dropped(*reason)));
            }
            push(&mut dropped, &[("interface", interface), ("stage", "capture"), ("reason", "missed")], missed);
            push(&mut held, &[("interface", interface)], sum(&|q| q.held.get()));
            push(&mut flows, &[("interface", interface)], sum(&|q| q.flows.get()));
            push(&mut errors, &[("interface", interface)], sum(&|q| q.errors.get()));
        }
        vec![mode, received, bytes, kept, dropped, held, flows, errors]
    }

    fn tracks(&self) -> Vec<MetricFamily> {
        let encoders = &self.observed.encoders;
        let sum = |count: &dyn Fn(&crate::EncoderCounters) -> u64| encoders.iter().map(|e| count(e)).sum::<u64>();
        let mut packets = family(
            "sidetone_track_packets_total",
            "Packets on tracks by what became of them; `lost_*` are the recorder's own losses.",
            MetricType::COUNTER,
        );
        for end in PacketEnd::ALL {
            push(&mut packets, &[("result", end.label())], self.observed.packets_ended(*end));
        }
        vec![
            packets,
            single_gauge(
                "sidetone_track_packets_waiting",
                "Packets in reorder windows and open chunks.",
                sum(&|e| e.waiting.get()),
            ),
            single_gauge("sidetone_tracks", "Tracks that are being recorded.", sum(&|e| e.tracks.get())),
            single_counter("sidetone_chunks_encoded_total", "Chunks handed to the writer.", sum(&|e| e.chunks.get())),
            single_counter(
                "sidetone_worker_panics_total",
                "Tracks dropped because they broke an invariant; a fault in Sidetone.",
                sum(&|e| e.panics.get()),
            ),
        ]
    }

    fn signalling(&self) -> Vec<MetricFamily> {
        let statistics = self.observed.call_statistics();
        let mut messages =
            family("sidetone_sip_messages_total", "SIP messages by what they were.", MetricType::COUNTER);
        for outcome in MessageOutcome::LABELS {
            push(&mut messages, &[("outcome", outcome)], statistics.messages.get(outcome).copied().unwrap_or(0));
        }
        let (fragments, tcp) = (&statistics.fragments, &statistics.tcp);
        vec![
            messages,
            single_counter("sidetone_ip_fragments_total", "IP fragments taken for reassembly.", fragments.fragments),
            single_counter(
                "sidetone_ip_fragments_dropped_total",
                "IP fragments that became no datagram.",
                fragments.dropped(),
            ),
            single_gauge("sidetone_ip_fragments_held", "IP fragments that wait for others.", fragments.held_fragments),
            single_counter(
                "sidetone_ip_fragmented_media_total",
                "Media packets that came in IP fragments; they are not recorded.",
                statistics.fragmented_media,
            ),
            single_counter("sidetone_tcp_segments_total", "TCP segments of signalling connections.", tcp.segments),
            single_counter(
                "sidetone_tcp_segments_dropped_total",
                "TCP segments whose bytes were not used.",
                tcp.dropped(),
            ),
            single_counter("sidetone_tcp_gaps_total", "Places in TCP streams where bytes are missing.", tcp.gaps),
            single_gauge("sidetone_tcp_streams", "TCP streams that are being followed.", tcp.open_streams),
            single_gauge(
                "sidetone_call_thread_commands_waiting",
                "Decisions of the call thread that another thread has had no room for yet.",
                self.observed.call.commands_waiting.get(),
            ),
            single_counter(
                "sidetone_tap_errors_total",
                "Verdicts that the XDP program's maps did not take.",
                self.observed.call.tap_errors.get(),
            ),
        ]
    }

    fn calls(&self) -> Vec<MetricFamily> {
        let tracker = self.observed.call_statistics().tracker;
        let mut not_recorded =
            family("sidetone_calls_not_recorded_total", "Calls seen and not recorded, by reason.", MetricType::COUNTER);
        for (reason, count) in [
            ("unanswered", tracker.not_recorded_unanswered),
            ("no_media", tracker.not_recorded_no_media),
            ("no_audio", tracker.not_recorded_no_audio),
            ("too_many_calls", tracker.not_recorded_too_many_calls),
            ("no_room", tracker.not_recorded_no_room),
        ] {
            push(&mut not_recorded, &[("reason", reason)], count);
        }
        vec![
            single_counter("sidetone_calls_seen_total", "Calls seen in signalling.", tracker.calls_seen),
            single_counter("sidetone_calls_recorded_total", "Calls that got a recording.", tracker.calls_recorded),
            not_recorded,
            single_gauge("sidetone_calls_active", "Calls that go on now.", tracker.calls_active),
            single_gauge("sidetone_recordings_active", "Recordings that are being made.", tracker.recordings_active),
            single_counter(
                "sidetone_recordings_restored_total",
                "Recordings that went on after a restart of the process.",
                tracker.recordings_restored,
            ),
            single_gauge("sidetone_streams_unclaimed", "Streams that no call has claimed.", tracker.streams_unclaimed),
            single_counter(
                "sidetone_streams_never_claimed_total",
                "Streams that ended without having been recorded.",
                tracker.streams_never_claimed,
            ),
        ]
    }

    fn writer(&self) -> Vec<MetricFamily> {
        let writer = &self.observed.writer;
        vec![
            single_counter(
                "sidetone_writer_chunks_total",
                "Chunks of audio appended to the journal.",
                writer.chunks.get(),
            ),
            single_counter("sidetone_writer_facts_total", "Facts appended to the journal.", writer.facts.get()),
            single_counter(
                "sidetone_writer_bytes_total",
                "Bytes of audio appended to the journal.",
                writer.bytes.get(),
            ),
            single_counter(
                "sidetone_writer_flushes_total",
                "Flushes of everything appended, done on all volumes.",
                writer.flushes.get(),
            ),
            float_counter(
                "sidetone_writer_flush_seconds_total",
                "Time that flushes took.",
                writer.flush_nanos.get() as f64 / 1e9,
            ),
            histogram(
                "sidetone_writer_durable_seconds",
                "From when audio was heard until it was durable, for each chunk; with what waited in the pre-roll.",
                &writer.durable_after,
            ),
            single_counter(
                "sidetone_writer_packets_lost_total",
                "Packets whose encoded audio, or the end of it, could not be written.",
                writer.lost_packets.get() + self.observed.encoders.iter().map(|e| e.cut_short.get()).sum::<u64>(),
            ),
            single_counter("sidetone_writer_errors_total", "Failed operations of the store.", writer.errors.get()),
            single_counter(
                "sidetone_clock_steps_total",
                "How often somebody set the system clock by a quarter of a second or more.",
                writer.clock_steps.get(),
            ),
        ]
    }
}

fn family(name: &str, help: &str, kind: MetricType) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family
}

fn push(family: &mut MetricFamily, labels: &[(&str, &str)], value: u64) {
    push_float(family, labels, value as f64);
}

fn push_float(family: &mut MetricFamily, labels: &[(&str, &str)], value: f64) {
    let mut metric = Metric::default();
    let pair = |(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).into());
        label.set_value((*value).into());
        label
    };
    metric.set_label(labels.iter().map(pair).collect());
    if family.get_field_type() == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    family.mut_metric().push(metric);
}

fn single_counter(name: &str, help: &str, value: u64) -> MetricFamily {
    float_counter(name, help, value as f64)
}

fn histogram(name: &str, help: &str, durations: &Durations) -> MetricFamily {
    let mut family = family(name, help, MetricType::HISTOGRAM);
    let mut histogram = Histogram::default();
    let buckets = durations.up_to().map(|(bound_ms, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::from(bound_ms) / 1e3);
        bucket.set_cumulative_count(count);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(durations.count());
    histogram.set_sample_sum(durations.seconds());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family.mut_metric().push(metric);
    family
}

fn float_counter(name: &str, help: &str, value: f64) -> MetricFamily {
    let mut family = family(name, help, MetricType::COUNTER);
    push_float(&mut family, &[], value);
    family
}

fn single_gauge(name: &str, help: &str, value: u64) -> MetricFamily {
    let mut family = family(name, help, MetricType::GAUGE);
    push(&mut family, &[], value);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/metrics.md names every metric with its help, and no other of ours.
    #[test]
    fn the_manual_lists_exactly_these_metrics() {
        let observed = Observed {
            receive: vec![Default::default()],
            call: Default::default(),
            encoders: vec![Default::default()],
            writer: Default::default(),
            live: Default::default(),
            room: Default::default(),
            statistics: Default::default(),
        };
        let port = PortInfo {
            interface: "eth1".into(),
            mode: CaptureMode::AfPacket,
            fallback_reason: None,
            queues: 0..1,
            tap: None,
        };
        let metrics = EngineMetrics::new(observed, vec![port], Box::new(|| Some(store::some_statistics()))).unwrap();
        let families = metrics.collect();
        let manual = include_str!("../../../docs/metrics.md");
        for family in &families {
            let row = format!("| `{}` |", family.name());
            let line = manual.lines().find(|line| line.starts_with(&row));
            let line = line.unwrap_or_else(|| panic!("{} is not in docs/metrics.md", family.name()));
            assert!(line.contains(family.help()), "{line} does not say: {}", family.help());
        }
        let named = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        for (name, _) in named.filter(|(name, _)| name.starts_with("sidetone_") && !name.starts_with("sidetone_api_")) {
            let is_metric = families.iter().any(|family| family.name() == name);
            assert!(is_metric || name.contains([' ', '{']), "there is no metric {name}");
        }
        for reason in DropReason::ALL {
            assert!(manual.contains(reason.label()), "the reason {} is not explained", reason.label());
        }
    }
}
