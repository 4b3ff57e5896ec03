//! CPU time per captured packet: AF_XDP, TPACKET_V3 and tcpdump on the same generated traffic.
//!
//! The generator is an XDP program that BPF_PROG_TEST_RUN runs with live frames; it sends RTP of many streams into a
//! virtual wire in a network namespace of its own. The kernel's side of the receiving end runs in the generator's thread
//! (softirq) or in ksoftirqd, the other side in the capturing thread or process. All three are measured by the scheduler's
//! clock (`/proc/…/schedstat`), so that other work on the machine does not count; what the same frames cost when they are
//! dropped at once is shown beside, and subtracted. This holds where the kernel charges softirq to the thread that it
//! interrupts (CONFIG_IRQ_TIME_ACCOUNTING off), which is checked.
//!
//! Rounds of all ways take turns, and the median counts.

mod generator;
mod receivers;

use anyhow::{Context, Result, bail};
use generator::Generator;
use receivers::{Capturing, Receiver};
use serde::Serialize;
use std::fs;
use std::io::IsTerminal;
use std::process::Command;
use std::time::{Duration, Instant};

/// Set in the copy of this program that runs in the namespace.
const INSIDE: &str = "SIDETONE_PERF_INSIDE";

#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Frames per round and way.
    #[arg(long, default_value_t = 500_000)]
    frames: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// RTP streams in the traffic.
    #[arg(long, default_value_t = 10_000)]
    streams: u32,
    /// Packets per second of the paced part (in bursts; setting one up takes the kernel milliseconds, so that it may be fewer).
    #[arg(long, default_value_t = 100_000)]
    pace: u32,
    /// Descriptors of the AF_XDP receive ring.
    #[arg(long, default_value_t = sidetone_capture::PortConfig::default().ring_frames)]
    ring_frames: u32,
}

/// One way of getting rid of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// Dropped by the smallest XDP program: what the generator and the wire cost.
    Sink,
    /// Dropped by our XDP program, because every stream was discarded.
    Discarded,
    AfXdp,
    TpacketV3,
    Tcpdump,
}

impl Way {
    const ALL: [Self; 5] = [Self::Sink, Self::Discarded, Self::AfXdp, Self::TpacketV3, Self::Tcpdump];

    fn title(self) -> &'static str {
        match self {
            Self::Sink => "dropped at once (generator and wire)",
            Self::Discarded => "XDP program, stream discarded",
            Self::AfXdp => "AF_XDP, payload copied out",
            Self::TpacketV3 => "TPACKET_V3, payload copied out",
            Self::Tcpdump => "tcpdump -w /dev/null",
        }
    }
}

/// What one round of one way cost.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Of generator, ksoftirqd and receiver.
    cpu_ns: u64,
    kernel_ns: u64,
    sent: u64,
    received: u64,
    elapsed: Duration,
}

#[derive(Serialize)]
struct Row {
    way: Way,
    /// Generator and wire subtracted.
    cpu_ns_per_packet: f64,
    cpu_ns_per_packet_low: f64,
    cpu_ns_per_packet_high: f64,
    /// Of it in the generator's thread and ksoftirqd; the rest in the receiving thread or process.
    kernel_side_ns_per_packet: f64,
    packets_per_second: f64,
    /// Share of the frames that the receiver did not get, over all rounds.
    lost: f64,
    mode: String,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    /// Frames per second that were asked for; absent: as fast as they go.
    pace: Option<u32>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Report {
    kernel: String,
    frame_bytes: usize,
    streams: u32,
    frames_per_round: u32,
    rounds: u32,
    parts: Vec<Part>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return run_in_namespace();
    }
    check_accounting()?;
    let mut parts = Vec::new();
    for (name, pace) in [("as fast as it goes", None), ("paced", Some(options.pace))] {
        parts.push(Part { name, pace, rows: measure(options, pace)? });
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let report = Report {
        kernel: kernel.trim().to_owned(),
        frame_bytes: generator::frame().len(),
        streams: options.streams,
        frames_per_round: options.frames,
        rounds: options.rounds,
        parts,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_tables(&report);
    }
    Ok(())
}

/// The same command in a network namespace that ends with it.
fn run_in_namespace() -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let status = Command::new("unshare")
        .arg("--net")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .context("cannot start unshare (package util-linux)")?;
    if !status.success() {
        bail!("the measurement in its own network namespace ended with {status} (it needs root)");
    }
    Ok(())
}

/// The figures mean nothing where softirq time is charged to nobody.
fn check_accounting() -> Result<()> {
    let output = Command::new("zcat").arg("/proc/config.gz").output();
    let config = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if config.lines().any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y") {
        bail!(
            "this kernel charges softirq time to no thread (CONFIG_IRQ_TIME_ACCOUNTING): CPU per packet cannot be measured so"
        );
    }
    if config.is_empty() {
        eprintln!(
            "warning: /proc/config.gz cannot be read; if the kernel has CONFIG_IRQ_TIME_ACCOUNTING, the figures are too low"
        );
    }
    Ok(())
}

fn measure(options: &Options, pace: Option<u32>) -> Result<Vec<Row>> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); Way::ALL.len()];
    let mut modes = vec![String::new(); Way::ALL.len()];
    for number in 0..options.rounds {
        for (index, way) in Way::ALL.into_iter().enumerate() {
            if std::io::stderr().is_terminal() {
                eprint!("\r  round {} of {}: {:<40}", number + 1, options.rounds, way.title());
            }
            let (round, mode) =
                measure_once(way, options, pace).with_context(|| format!("measuring '{}'", way.title()))?;
            rounds[index].push(round);
            modes[index] = mode;
        }
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r{:70}\r", "");
    }
    let per_sent = |round: &Round, ns: u64| ns as f64 / round.sent as f64;
    let base = median(rounds[0].iter().map(|round| per_sent(round, round.cpu_ns)).collect());
    let base_kernel = median(rounds[0].iter().map(|round| per_sent(round, round.kernel_ns)).collect());
    Ok(Way::ALL
        .into_iter()
        .zip(rounds)
        .zip(modes)
        .map(|((way, rounds), mode)| {
            let (base, base_kernel) = if way == Way::Sink { (0.0, 0.0) } else { (base, base_kernel) };
            let mut costs: Vec<f64> = rounds.iter().map(|round| per_sent(round, round.cpu_ns) - base).collect();
            costs.sort_by(f64::total_cmp);
            let kernel = rounds.iter().map(|round| per_sent(round, round.kernel_ns) - base_kernel).collect();
            let rates = rounds.iter().map(|round| round.sent as f64 / round.elapsed.as_secs_f64()).collect();
            let sent: u64 = rounds.iter().map(|round| round.sent).sum();
            let received: u64 = rounds.iter().map(|round| round.received).sum();
            Row {
                way,
                cpu_ns_per_packet: median(costs.clone()),
                cpu_ns_per_packet_low: costs[0],
                cpu_ns_per_packet_high: costs[costs.len() - 1],
                kernel_side_ns_per_packet: median(kernel),
                packets_per_second: median(rates),
                lost: 1.0 - received as f64 / sent as f64,
                mode,
            }
        })
        .collect())
}

/// A wire of its own for each round; a warm-up before the clocks are read.
fn measure_once(way: Way, options: &Options, pace: Option<u32>) -> Result<(Round, String)> {
    let wire = Wire::new()?;
    let mut generator = Generator::new(wire.interface_index()?, options.streams)?;
    let mut receiver = Receiver::start(way, &generator, options)?;
    let warm_up = generator.send(options.frames / 10, None)?;
    settle(&receiver)?;

    let before = Clocks::read(&receiver)?;
    let received_before = receiver.received()?;
    let started_at = Instant::now();
    let sent = generator.send(options.frames, pace)?;
    let elapsed = started_at.elapsed();
    settle(&receiver)?;
    let after = Clocks::read(&receiver)?;
    let received = receiver.received()? - received_before;
    let mode = receiver.mode();
    // tcpdump tells what it got only when it ends, warm-up included.
    let received = match receiver.stop()? {
        Some(Capturing { received, warm_up_included: true }) => received.saturating_sub(warm_up),
        Some(Capturing { received, warm_up_included: false }) => received - received_before,
        None => received,
    };
    let kernel_ns = after.generator_ns - before.generator_ns + after.ksoftirqd_ns - before.ksoftirqd_ns;
    let cpu_ns = kernel_ns + after.receiver_ns - before.receiver_ns;
    Ok((Round { cpu_ns, kernel_ns, sent, received, elapsed }, mode))
}

/// Waits until the receiver has nothing more to do.
fn settle(receiver: &Receiver) -> Result<()> {
    let mut before = receiver.cpu_ns()?;
    let give_up_at = Instant::now() + Duration::from_secs(3);
    loop {
        std::thread::sleep(Duration::from_millis(60));
        let now = receiver.cpu_ns()?;
        // An idle receiver wakes up now and then.
        if now - before < 2_000_000 || Instant::now() > give_up_at {
            return Ok(());
        }
        before = now;
    }
}

/// CPU time so far, by the scheduler.
struct Clocks {
    generator_ns: u64,
    ksoftirqd_ns: u64,
    receiver_ns: u64,
}

impl Clocks {
    fn read(receiver: &Receiver) -> Result<Self> {
        let generator_ns = cpu_ns_of_task(&format!("self/task/{}", rustix::thread::gettid().as_raw_nonzero()))?;
        Ok(Self { generator_ns, ksoftirqd_ns: cpu_ns_of_ksoftirqd()?, receiver_ns: receiver.cpu_ns()? })
    }
}

/// First field of schedstat: nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
fn cpu_ns_of_task(task: &str) -> Result<u64> {
    let path = format!("/proc/{task}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text.split_whitespace().next().with_context(|| format!("{path} is empty"))?;
    first.parse().with_context(|| format!("{path} does not start with a number"))
}

fn cpu_ns_of_ksoftirqd() -> Result<u64> {
    let mut total_ns = 0;
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_process = name.bytes().all(|byte| byte.is_ascii_digit());
        let command =
            if is_process { fs::read_to_string(entry.path().join("comm")).unwrap_or_default() } else { String::new() };
        if command.starts_with("ksoftirqd/") {
            total_ns += cpu_ns_of_task(&name)?;
        }
    }
    Ok(total_ns)
}

/// Two virtual interfaces; the frames go from `generate0` to `mirror0`.
struct Wire;

impl Wire {
    fn new() -> Result<Self> {
        if fs::exists("/proc/self/net/dev")? && fs::read_to_string("/proc/self/net/dev")?.contains("generate0") {
            command("ip link del generate0")?;
        }
        command("ip link add generate0 numtxqueues 1 type veth peer name mirror0 numrxqueues 1")?;
        for interface in ["generate0", "mirror0"] {
            // The kernel's own neighbour discovery would be among the frames.
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            if fs::exists(&path)? {
                fs::write(&path, "1").with_context(|| format!("cannot write {path}"))?;
            }
        }
        command("ip link set generate0 up")?;
        command("ip link set mirror0 up")?;
        // Without native XDP, the receiving end takes redirected frames only with GRO.
        command("ethtool -K mirror0 gro on")?;
        Ok(Self)
    }

    fn interface_index(&self) -> Result<u32> {
        let output =
            Command::new("ip").args(["-o", "link", "show", "generate0"]).output().context("cannot start ip")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let index = text.split(':').next().and_then(|index| index.trim().parse().ok());
        index.context("`ip link` says no index of generate0")
    }
}

fn command(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().context("an empty command")?;
    let status = Command::new(program).args(words).status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn print_tables(report: &Report) {
    println!(
        "CPU time per packet, kernel and user space together: {}-byte frames of {} RTP streams, {} rounds of {} frames, kernel {}",
        report.frame_bytes, report.streams, report.rounds, report.frames_per_round, report.kernel
    );
    for part in &report.parts {
        match part.pace {
            Some(pace) => println!("\n{} to at most {pace} packets/s, in bursts", part.name),
            None => println!("\n{}", part.name),
        }
        println!(
            "  {:<38} {:>10} {:>17} {:>12} {:>12} {:>8}  mode",
            "", "ns/packet", "low – high", "kernel side", "packets/s", "lost"
        );
        for row in &part.rows {
            println!(
                "  {:<38} {:>10.0} {:>17} {:>12.0} {:>12.0} {:>7.2}%  {}",
                row.way.title(),
                row.cpu_ns_per_packet,
                format!("{:.0} – {:.0}", row.cpu_ns_per_packet_low, row.cpu_ns_per_packet_high),
                row.kernel_side_ns_per_packet,
                row.packets_per_second,
                row.lost * 100.0,
                row.mode
            );
        }
    }
    println!("\nGenerator and wire (first line) are subtracted from the other lines.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_task_has_used_some_cpu() {
        assert!(cpu_ns_of_task("self").unwrap() > 0);
        assert!(cpu_ns_of_task("nonesuch").is_err());
    }
}
