//! Replays the fuzzers' corpora of the signalling parsers: what fuzzing has reached once stays reached, without a
//! fuzzer.

#[path = "../../../tools/fuzz/harness/signalling.rs"]
mod signalling;

use std::path::PathBuf;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = PathBuf::from("../../tools/fuzz/corpus").join(target);
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", directory.display());
    for input in inputs {
        // A panic below is the input's: the last one named here.
        println!("{}", input.display());
        run(&std::fs::read(&input).unwrap());
    }
}

#[test]
fn sip() {
    replay("sip", signalling::sip);
}

#[test]
fn sip_stream() {
    replay("sip_stream", signalling::sip_stream);
}

#[test]
fn sdp() {
    replay("sdp", signalling::sdp);
}
