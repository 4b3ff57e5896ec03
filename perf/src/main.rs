//! Benchmarks: the ways of doing the same thing, side by side in one run, since a machine's mood changes absolute figures
//! by a factor of two.
#![forbid(unsafe_code)]

mod capture;
mod pipeline;

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
    /// CPU time of replay per call-second, and the share of Opus in it.
    Pipeline(pipeline::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Capture(options) => capture::run(&options),
        What::Pipeline(options) => pipeline::run(&options),
    }
}
