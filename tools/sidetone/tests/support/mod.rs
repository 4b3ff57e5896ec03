//! Captures for the tests, made from a seed.

use sidetone_callgen::{Options, Traffic, write_pcap};
use std::path::Path;
use std::time::Duration;

pub(crate) struct Call {
    pub(crate) call_id: String,
    /// RTP packets of the caller's and of the callee's voice.
    pub(crate) packets: [u64; 2],
}

/// Two answered calls of four seconds, written to `path`.
pub(crate) fn two_calls(path: &Path) -> Vec<Call> {
    let options =
        Options { calls: 2, ramp: Duration::from_secs(1), talk: Duration::from_secs(4), ..Options::default() };
    let mut traffic = Traffic::new(&options).unwrap();
    write_pcap(std::fs::File::create(path).unwrap(), traffic.by_ref()).unwrap();
    let calls = traffic.into_truth().calls;
    let packets = |call: &sidetone_callgen::CallTruth, side| {
        call.streams.iter().filter(|stream| stream.side == side).map(|stream| stream.packets).sum()
    };
    calls
        .iter()
        .map(|call| Call {
            call_id: call.call_id.clone(),
            packets: [packets(call, sidetone_callgen::Side::Caller), packets(call, sidetone_callgen::Side::Callee)],
        })
        .collect()
}
