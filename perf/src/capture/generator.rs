//! Traffic from within the kernel: BPF_PROG_TEST_RUN with live frames.

use anyhow::{Context, Result, bail};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use sidetone_tap_abi::ABI_VERSION;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Frames that the kernel runs in one go (the most that it allows is 256).
const BATCH_FRAMES: u32 = 64;
const BURST_INTERVAL: Duration = Duration::from_millis(10);
pub(super) const FIRST_SSRC: u32 = 0x5EED_0000;

pub(super) struct Generator {
    ebpf: Ebpf,
}

/// 20 ms of PCMU: Ethernet, IPv4, UDP, RTP, 160 bytes. The program gives each copy a source port and an SSRC.
pub(super) fn frame() -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0];
    frame.extend([0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x27, 0x10, 0x9C, 0x40, 0, 180, 0, 0]);
    frame.extend([0x80, 0, 0, 1, 0, 0, 0, 160, 0x5E, 0xED, 0, 0]);
    frame.extend([0xD5; 160]);
    frame
}

/// Source port of a stream, as the program counts them.
pub(super) fn source_port(stream: u32) -> u16 {
    10_000 + (stream % 25_000) as u16 * 2
}

impl Generator {
    /// A generator that sends out of the interface.
    pub(super) fn new(interface_index: u32, streams: u32) -> Result<Self> {
        let path = object()?;
        let mut ebpf = EbpfLoader::new().load_file(&path).with_context(|| format!("cannot load {}", path.display()))?;
        let program: &mut Xdp = ebpf.program_mut("generate").context("no program 'generate'")?.try_into()?;
        program.load()?;
        let mut target: Array<_, [u32; 2]> = ebpf.map_mut("TARGET").context("no map 'TARGET'")?.try_into()?;
        target.set(0, [interface_index, streams], 0)?;
        Ok(Self { ebpf })
    }

    /// Sends about `frames` frames, at most `pace` a second; returns how many it were.
    pub(super) fn send(&mut self, frames: u32, pace: Option<u32>) -> Result<u64> {
        let before = self.sent()?;
        match pace {
            None => self.run(frames)?,
            Some(pace) => {
                let per_burst = (pace / (1000 / BURST_INTERVAL.as_millis() as u32)).max(1);
                let started_at = Instant::now();
                for burst in 1..=frames.div_ceil(per_burst) {
                    self.run(per_burst)?;
                    let due = started_at + BURST_INTERVAL * burst;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
        }
        Ok(self.sent()? - before)
    }

    fn run(&self, frames: u32) -> Result<()> {
        let program: &Xdp = self.ebpf.program("generate").context("no program 'generate'")?.try_into()?;
        let frame = frame();
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH_FRAMES),
            ..TestRunOptions::new()
        };
        program.test_run(options).context("BPF_PROG_TEST_RUN with live frames (Linux 5.18 and root)")?;
        Ok(())
    }

    fn sent(&self) -> Result<u64> {
        counter(&self.ebpf, "SENT")
    }

    /// Attaches the sink to the receiving end; it stays as long as what is returned.
    pub(super) fn sink(&self, interface: &str) -> Result<Sink> {
        let mut ebpf = EbpfLoader::new().load_file(object()?)?;
        let program: &mut Xdp = ebpf.program_mut("sink").context("no program 'sink'")?.try_into()?;
        program.load()?;
        program.attach(interface, XdpMode::Driver).context("attach the sink")?;
        Ok(Sink { ebpf })
    }
}

/// Drops and counts everything.
pub(super) struct Sink {
    ebpf: Ebpf,
}

impl Sink {
    pub(super) fn received(&self) -> Result<u64> {
        counter(&self.ebpf, "SUNK")
    }
}

fn counter(ebpf: &Ebpf, name: &str) -> Result<u64> {
    let map = ebpf.map(name).with_context(|| format!("no map '{name}'"))?;
    let counter: PerCpuArray<&MapData, u64> = map.try_into()?;
    Ok(counter.get(&0, 0)?.iter().sum())
}

/// Beside the XDP program's object: `tap/` in the target directory that this program was built in.
fn object() -> Result<PathBuf> {
    let name = format!("generate-v{ABI_VERSION}.o");
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let found =
        program.ancestors().skip(2).take(2).map(|directory| directory.join("tap").join(&name)).find(|o| o.is_file());
    let Some(object) = found else {
        bail!("{name} is not in tap/ of the target directory (`cargo xtask build-ebpf` makes it)");
    };
    Ok(object)
}
