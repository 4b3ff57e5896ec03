//! Replays the fuzzer's corpus of tracks: what fuzzing has reached once stays reached, without a fuzzer.
#![forbid(unsafe_code)]

#[path = "../../../tools/fuzz/harness/media.rs"]
mod media;

use std::path::PathBuf;

#[test]
fn rtp() {
    let directory = PathBuf::from("../../tools/fuzz/corpus/rtp");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", directory.display());
    for input in inputs {
        // A panic below is the input's: the last one named here.
        println!("{}", input.display());
        media::rtp(&std::fs::read(&input).unwrap());
    }
}
