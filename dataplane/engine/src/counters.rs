//! Counters that one thread writes and any thread reads, and the ends that a frame can have.

use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Written by one thread only, so that adding is a load and a store and no locked instruction.
#[derive(Default, Debug)]
pub struct Counter(CachePadded<AtomicU64>);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations by size, as a Prometheus histogram has them.
#[derive(Default, Debug)]
pub struct Durations {
    /// One for each bound, and one for what is longer.
    counts: [Counter; Self::BOUNDS_MS.len() + 1],
    nanos: Counter,
}

impl Durations {
    pub const BOUNDS_MS: [u32; 12] = [250, 500, 750, 900, 950, 1000, 1100, 1250, 1500, 2000, 5000, 10_000];

    pub(crate) fn observe(&self, duration: Duration) {
        let index = Self::BOUNDS_MS.partition_point(|&bound| Duration::from_millis(bound.into()) < duration);
        self.counts[index].add(1);
        self.nanos.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many were not longer than each bound.
    pub fn up_to(&self) -> impl Iterator<Item = (u32, u64)> {
        let mut sum = 0;
        Self::BOUNDS_MS.iter().zip(&self.counts).map(move |(&bound, count)| {
            sum += count.get();
            (bound, sum)
        })
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }

    /// Sum of all.
    pub fn seconds(&self) -> f64 {
        self.nanos.get() as f64 / 1e9
    }
}

macro_rules! labelled_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

labelled_enum! {
    /// Where a frame ended that was not dropped.
    Kept {
        /// It belongs to a track.
        Track = "track",
        /// The call thread has it: signalling, a fragment, a segment of a signalling connection.
        Signalling = "signalling",
        /// Control packets of a media stream; recognised, not kept.
        Rtcp = "rtcp",
    }
}

labelled_enum! {
    /// Why a frame was dropped. Every dropped frame has exactly one reason.
    DropReason {
        /// Its headers could not be read.
        Unparsed = "unparsed",
        /// Neither signalling nor media: not what a call recorder listens for.
        NotVoice = "not_voice",
        /// A tunnel that is not opened.
        Tunnel = "tunnel",
        /// Media that no call claimed within the pre-roll.
        Unclaimed = "unclaimed",
        /// Media of a stream that policy does not want.
        Discarded = "discarded",
        /// Media without a call, and no room in the pre-roll.
        PreRollFull = "pre_roll_full",
        /// Media of a new stream, and no room in the flow table (`max_streams`).
        FlowTableFull = "flow_table_full",
        /// The call thread did not keep up.
        SignallingRingFull = "signalling_ring_full",
    }
}

/// What one receive thread counts. `received = Σ kept + Σ dropped + held`.
#[derive(Default, Debug)]
pub struct ReceiveCounters {
    pub frames_received: Counter,
    pub bytes_received: Counter,
    kept: [Counter; Kept::ALL.len()],
    dropped: [Counter; DropReason::ALL.len()],
    /// Packets in the pre-roll.
    pub held: Counter,
    /// Streams in the flow table.
    pub flows: Counter,
    /// Packets of tracks that found an encoder's ring full.
    pub lost_to_encoder: Counter,
    /// What the source missed before it reached us (NIC, kernel ring); counts as received and dropped.
    pub missed: Counter,
    pub errors: Counter,
    /// 1 while the source fails.
    pub(crate) failing: Counter,
}

impl ReceiveCounters {
    pub(crate) fn keep(&self, end: Kept) {
        self.kept[end as usize].add(1);
    }

    pub(crate) fn discard(&self, reason: DropReason, frames: u64) {
        self.dropped[reason as usize].add(frames);
    }

    pub fn kept(&self, end: Kept) -> u64 {
        self.kept[end as usize].get()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].get()
    }

    /// Nothing is captured at the moment.
    pub fn is_failing(&self) -> bool {
        self.failing.get() != 0
    }

    /// `received − Σ ends − held`: zero whenever the thread is between two frames.
    pub fn unaccounted(&self) -> i64 {
        let kept: u64 = Kept::ALL.iter().map(|end| self.kept(*end)).sum();
        let dropped: u64 = DropReason::ALL.iter().map(|reason| self.dropped(*reason)).sum();
        self.frames_received.get().wrapping_sub(kept + dropped + self.held.get()) as i64
    }
}

/// What the call thread counts.
#[derive(Default, Debug)]
pub struct CallCounters {
    /// Decisions that another thread has had no room for yet.
    pub commands_waiting: Counter,
    pub tap_errors: Counter,
}

/// What one encoder thread counts. What became of packets is in [`PacketEnds`], summed over its tracks.
#[derive(Default, Debug)]
pub struct EncoderCounters {
    /// Packets of streams whose track was already finished.
    pub after_end: Counter,
    ends: [Counter; PacketEnd::ALL.len()],
    /// Packets that are encoded, but the writer had no room for their end.
    pub cut_short: Counter,
    /// Packets that wait in reorder windows and open chunks.
    pub waiting: Counter,
    pub tracks: Counter,
    pub chunks: Counter,
    pub panics: Counter,
}

/// Packets of tracks by what became of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct PacketSums {
    pub(crate) ends: [u64; PacketEnd::ALL.len()],
    pub(crate) cut_short: u64,
}

impl EncoderCounters {
    pub fn ended(&self, end: PacketEnd) -> u64 {
        if end == PacketEnd::AfterEnd { self.after_end.get() } else { self.ends[end as usize].get() }
    }

    /// Shows these sums over all tracks, past and present.
    pub(crate) fn publish(&self, sums: &PacketSums, waiting: u64) {
        for (counter, sum) in self.ends.iter().zip(sums.ends) {
            counter.set(sum);
        }
        self.cut_short.set(sums.cut_short);
        self.waiting.set(waiting);
    }
}

labelled_enum! {
    /// What became of a packet of a track. `lost_to_encoder` and `lost_to_writer` are the recorder's own losses.
    PacketEnd {
        /// Its audio is in a chunk that the writer took.
        Encoded = "encoded",
        /// Received before.
        Duplicate = "duplicate",
        /// Its place had been encoded when it came.
        Late = "late",
        /// Events, comfort noise, empty packets.
        NoAudio = "no_audio",
        /// Encrypted, malformed, or of a codec without a decoder.
        Undecodable = "undecodable",
        /// Spoken over by another stream of the same track.
        Overlapped = "overlapped",
        /// A sequence number that fits nothing before or after.
        Stray = "stray",
        /// Of more streams than a track tells apart.
        BeyondStreamLimit = "beyond_stream_limit",
        /// Its track was over when it came.
        AfterEnd = "after_end",
        /// An encoder's ring was full, or Opus failed.
        LostToEncoder = "lost_to_encoder",
        /// The writer had no room for its chunk.
        LostToWriter = "lost_to_writer",
    }
}

/// What the writer thread counts.
#[derive(Default, Debug)]
pub struct WriterCounters {
    pub chunks: Counter,
    pub facts: Counter,
    pub bytes: Counter,
    pub flushes: Counter,
    pub flush_nanos: Counter,
    /// From when audio was heard until it was durable, for each chunk.
    pub durable_after: Durations,
    pub lost_packets: Counter,
    pub errors: Counter,
    /// How often somebody set the system clock.
    pub clock_steps: Counter,
    /// 1 while no volume takes audio.
    pub(crate) failing: Counter,
}

impl WriterCounters {
    /// No volume takes audio at the moment: what is heard is lost.
    pub fn is_failing(&self) -> bool {
        self.failing.get() != 0
    }
}
