//! Benchmarks: the ways of doing the same thing, side by side in one run, since a machine's mood changes absolute figures
//! by a factor of two.
#![forbid(unsafe_code)]

mod calls;
mod capture;
mod catalog;
mod lockstep;
mod measure;
mod metered;
mod pipeline;
mod playback;
mod recorder;
mod store;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Benchmarks, side by side")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// CPU time per packet: AF_XDP, TPACKET_V3 and tcpdump on the same traffic. Needs root.
    Capture(capture::Options),
    /// The catalog by size: recordings per second, bytes each, latency of searches, time to open.
    Catalog(catalog::Options),
    /// CPU time of replay per call-second, and the share of Opus in it.
    Pipeline(pipeline::Options),
    /// Time to the first byte of a recording, and what players do to recording.
    Playback(playback::Options),
    /// What the store takes, what that costs, how many bytes it writes, how fast it is there again.
    Store(store::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Capture(options) => capture::run(&options),
        What::Catalog(options) => catalog::run(&options),
        What::Pipeline(options) => pipeline::run(&options),
        What::Playback(options) => playback::run(&options),
        What::Store(options) => store::run(&options),
    }
}
