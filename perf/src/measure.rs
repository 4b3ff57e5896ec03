//! What benchmarks of the store read off the machine: CPU time by thread, bytes written, and what a list of times says.

use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

/// CPU time of this process and of its threads, so far, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuTimes {
    pub(crate) process: f64,
    /// By name; those of RocksDB, and the kernel's workers behind io_uring, are one entry each.
    threads: BTreeMap<String, f64>,
}

pub(crate) const ROCKSDB: &str = "rocksdb";
pub(crate) const IO_WORKERS: &str = "iou-wrk";

impl CpuTimes {
    pub(crate) fn now() -> Result<Self> {
        let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let process = usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9;
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/task").context("cannot list this process's threads")? {
            let directory = entry?.path();
            let read = |name| fs::read_to_string(directory.join(name));
            // A thread may end meanwhile.
            let (Ok(name), Ok(statistics)) = (read("comm"), read("schedstat")) else { continue };
            let name = [ROCKSDB, IO_WORKERS].into_iter().find(|known| name.starts_with(known)).unwrap_or(name.trim());
            let first = statistics.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
            let nanos = first.context("the kernel keeps no schedstat")?;
            *threads.entry(name.to_owned()).or_default() += nanos as f64 / 1e9;
        }
        Ok(Self { process, threads })
    }

    pub(crate) fn thread(&self, name: &str) -> f64 {
        self.threads.get(name).copied().unwrap_or(0.0)
    }
}

impl Sub for &CpuTimes {
    type Output = CpuTimes;

    fn sub(self, earlier: Self) -> CpuTimes {
        let since = |(name, seconds): (&String, &f64)| (name.clone(), seconds - earlier.thread(name));
        CpuTimes { process: self.process - earlier.process, threads: self.threads.iter().map(since).collect() }
    }
}

/// CPU time of this thread, in seconds.
pub(crate) fn thread_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Bytes that this process has caused to be written to block devices so far: direct writes when they are made, others when
/// they reach the page cache.
pub(crate) fn written_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/io").context("cannot read /proc/self/io")?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.parse::<u64>().ok()).with_context(|| format!("/proc/self/io tells no {name}"))
    };
    Ok(field("write_bytes")?.saturating_sub(field("cancelled_write_bytes")?))
}

/// Makes sure that reading anything below a directory goes to the device.
pub(crate) fn forget_cached(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let entry = entry?;
        let forget = || -> io::Result<()> {
            if entry.file_type()?.is_dir() {
                return Ok(());
            }
            let file = fs::File::open(entry.path())?;
            file.sync_all()?;
            Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
        };
        match forget() {
            // RocksDB and the keeper remove files at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.with_context(|| format!("cannot drop {} from the page cache", entry.path().display()))?,
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            forget_cached(&entry.path())?;
        }
    }
    Ok(())
}

/// The machine's load average over a minute: other work on it shows here.
pub(crate) fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    text.split(' ').next().and_then(|load| load.parse().ok()).context("/proc/loadavg is no number")
}

/// Times in milliseconds, of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.0.extend(&others.0);
    }

    pub(crate) fn summary(&self) -> TimeSummary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| match sorted.len() {
            0 => f64::NAN,
            count => sorted[((count - 1) as f64 * share).round() as usize],
        };
        TimeSummary { count: sorted.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TimeSummary {
    pub(crate) count: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// One figure over several rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        assert!(!values.is_empty(), "at least one round is measured");
        Self { median: values[values.len() / 2], low: values[0], high: values[values.len() - 1] }
    }
}
