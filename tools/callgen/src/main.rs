//! `callgen`: writes reproducible SIP and RTP traffic to a capture file.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use sidetone_callgen::{
    CallShape, Change, Codec, Ending, Impairment, Options, Outcome, Ports, Traffic, Transport, load_speech, write_pcap,
};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Writes SIP calls with G.711 speech to a capture file. The same options write the same bytes, everywhere.
///
/// Example: callgen --calls 100 --talk 60 --mix --out calls.pcap --truth calls.json
#[derive(Parser, Debug)]
#[command(name = "callgen")]
struct Arguments {
    /// Capture file to write (pcap with nanoseconds).
    #[arg(long, short)]
    out: PathBuf,
    /// Where to write what really happened, as JSON: calls, times, streams, packets, losses.
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Speech to take phrases from: a WAV file (one channel, 16 bits, 8000 Hz) or raw samples; repeat for several voices.
    /// Synthesised when absent.
    #[arg(long)]
    speech: Vec<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 10)]
    calls: usize,
    /// Seconds over which the calls start evenly.
    #[arg(long, default_value_t = 5.0)]
    ramp: f64,
    /// Seconds from answer to hang-up.
    #[arg(long, default_value_t = 10.0)]
    talk: f64,
    /// One call of every kind in turn: late offers, hold, TCP, cancelled calls, … instead of what follows.
    #[arg(long)]
    mix: bool,
    /// What all calls do; repeat, or separate by commas.
    #[arg(long, value_delimiter = ',')]
    with: Vec<Feature>,
    /// Send all calls between one pair of ports: only the SSRC tells them apart.
    #[arg(long)]
    one_port: bool,
    #[arg(long)]
    ipv6: bool,
    /// VLAN tags, outer one first.
    #[arg(long, value_delimiter = ',')]
    vlan: Vec<u16>,
    /// Share of RTP packets that are missing, in percent.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Share of RTP packets that come twice, in percent.
    #[arg(long, default_value_t = 0.0)]
    duplicates: f64,
    /// Share of RTP packets that come after their successor, in percent.
    #[arg(long, default_value_t = 0.0)]
    reordering: f64,
    /// Standard deviation of the delay in milliseconds.
    #[arg(long, default_value_t = 0.3)]
    jitter: f64,
    /// How much faster the callers' clocks run, and slower the callees', in parts per million.
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    drift: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Feature {
    /// µ-law instead of A-law.
    Pcmu,
    Tcp,
    /// 401 and INVITE with credentials.
    Auth,
    LateOffer,
    /// A re-INVITE moves the caller to another port.
    ChangePort,
    /// A re-INVITE changes the codec.
    ChangeCodec,
    Hold,
    CalleeHangsUp,
    MissingBye,
    Cancel,
    Busy,
    /// Media a second before the INVITE.
    MediaFirst,
    /// The capture begins in mid-call.
    InProgress,
    /// An INVITE of 3 KB: IP fragments, or several TCP segments.
    LargeInvite,
}

fn shape(features: &[Feature]) -> CallShape {
    let mut shape = CallShape::default();
    for feature in features {
        match feature {
            Feature::Pcmu => shape.codec = Codec::Pcmu,
            Feature::Tcp => shape.transport = Transport::Tcp,
            Feature::Auth => shape.authenticates = true,
            Feature::LateOffer => shape.late_offer = true,
            Feature::ChangePort => shape.change = Some(Change::Port),
            Feature::ChangeCodec => shape.change = Some(Change::Codec),
            Feature::Hold => shape.hold = true,
            Feature::CalleeHangsUp => shape.ending = Ending::CalleeHangsUp,
            Feature::MissingBye => shape.ending = Ending::MissingBye,
            Feature::Cancel => shape.outcome = Outcome::Cancelled,
            Feature::Busy => shape.outcome = Outcome::Busy,
            Feature::MediaFirst => shape.media_first = true,
            Feature::InProgress => shape.in_progress = true,
            Feature::LargeInvite => shape.large_invite = true,
        }
    }
    shape
}

fn seconds(name: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("--{name} {value}"))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(!arguments.mix || arguments.with.is_empty(), "--mix and --with exclude each other");
    let speech = arguments.speech.iter().map(|path| Ok(Arc::new(load_speech(path)?))).collect::<Result<Vec<_>>>()?;
    let options = Options {
        seed: arguments.seed,
        calls: arguments.calls,
        ramp: seconds("ramp", arguments.ramp)?,
        talk: seconds("talk", arguments.talk)?,
        shapes: if arguments.mix { CallShape::variety() } else { vec![shape(&arguments.with)] },
        ports: if arguments.one_port { Ports::One } else { Ports::PerCall },
        ipv6: arguments.ipv6,
        vlans: arguments.vlan,
        impairment: Impairment {
            loss: arguments.loss / 100.0,
            duplicates: arguments.duplicates / 100.0,
            reordering: arguments.reordering / 100.0,
            jitter_ms: arguments.jitter,
        },
        clock_drift_ppm: arguments.drift,
        speech,
        ..Options::default()
    };
    let mut traffic = Traffic::new(&options)?;
    let file = File::create(&arguments.out).with_context(|| format!("cannot create {}", arguments.out.display()))?;
    write_pcap(file, traffic.by_ref()).with_context(|| format!("cannot write {}", arguments.out.display()))?;
    let truth = traffic.into_truth();
    if let Some(path) = &arguments.truth {
        let text = serde_json::to_string_pretty(&truth)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!(
        "{}: {} calls, {} of them to be recorded, {} frames",
        arguments.out.display(),
        truth.calls.len(),
        truth.calls.iter().filter(|call| call.is_recordable).count(),
        truth.frames
    );
    Ok(())
}
