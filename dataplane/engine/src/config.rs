//! What an operator may choose about the data plane. The defaults start a working box.

use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Encoder threads; 0 chooses one for every core beyond the first.
    pub encoder_threads: u16,
    /// Cores for the receive threads, in queue order; empty leaves placement to the kernel.
    pub receive_cores: Vec<u16>,
    /// Cores for the encoder threads; empty leaves placement to the kernel.
    pub encoder_cores: Vec<u16>,
    /// Streams that can be known at once, per receive queue. Memory is taken at start.
    pub max_streams: u32,
    /// How long media waits for signalling that claims it, in seconds.
    pub pre_roll_seconds: u32,
    /// Memory of the pre-roll per receive queue, in MiB.
    pub pre_roll_mib: u32,
    /// Ring between a receive thread and an encoder thread, in KiB.
    pub media_ring_kib: u32,
    /// Ring between a receive thread and the call thread, in KiB.
    pub signalling_ring_kib: u32,
    /// Ring between an encoder thread and the writer, in KiB.
    pub chunk_ring_kib: u32,
    /// Longest time for which heard audio may be only in memory, in milliseconds, 250 and more. How it is shared out is told by
    /// [`sidetone_media::LatencyBudget`].
    pub flush_interval_ms: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            encoder_threads: 0,
            receive_cores: Vec::new(),
            encoder_cores: Vec::new(),
            max_streams: 32_768,
            pre_roll_seconds: 5,
            pre_roll_mib: 64,
            media_ring_kib: 8 * 1024,
            signalling_ring_kib: 8 * 1024,
            chunk_ring_kib: 8 * 1024,
            flush_interval_ms: 1000,
        }
    }
}

impl EngineConfig {
    pub fn encoder_thread_count(&self) -> u16 {
        if self.encoder_threads > 0 {
            return self.encoder_threads;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        u16::try_from(cores.saturating_sub(1).max(1)).unwrap_or(u16::MAX)
    }

    pub fn pre_roll(&self) -> Duration {
        Duration::from_secs(self.pre_roll_seconds.into())
    }

    pub fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.flush_interval_ms.into())
    }

    /// Memory taken at start for `queues` receive queues, in bytes: rings, flow tables and pre-roll.
    pub fn memory_bytes(&self, queues: u64) -> u64 {
        const FLOW_BYTES: u64 = 256;
        let encoders = u64::from(self.encoder_thread_count());
        let kib = queues * encoders * u64::from(self.media_ring_kib)
            + queues * u64::from(self.signalling_ring_kib)
            + encoders * u64::from(self.chunk_ring_kib)
            + queues * u64::from(self.pre_roll_mib) * 1024;
        kib * 1024 + queues * u64::from(self.max_streams) * FLOW_BYTES
    }

    /// The first value that cannot work, as a sentence with the remedy.
    pub fn validate(&self) -> Result<(), String> {
        let ranges = [
            ("max_streams", u64::from(self.max_streams), 16, 1 << 22),
            ("pre_roll_seconds", u64::from(self.pre_roll_seconds), 1, 60),
            ("pre_roll_mib", u64::from(self.pre_roll_mib), 1, 16 * 1024),
            ("media_ring_kib", u64::from(self.media_ring_kib), 256, 1 << 20),
            ("signalling_ring_kib", u64::from(self.signalling_ring_kib), 256, 1 << 20),
            ("chunk_ring_kib", u64::from(self.chunk_ring_kib), 256, 1 << 20),
            ("flush_interval_ms", u64::from(self.flush_interval_ms), 250, 60_000),
            ("encoder_threads", u64::from(self.encoder_threads), 0, 256),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("{name} = {value} is out of range; choose {low} to {high}"));
            }
        }
        Ok(())
    }
}
