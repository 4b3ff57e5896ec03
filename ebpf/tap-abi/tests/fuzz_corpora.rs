//! Replays the fuzzer's corpus of frames, and the table's frames, through the same assertions.

#[path = "../../../tools/fuzz/harness/headers.rs"]
mod harness;
mod packets;

use std::path::PathBuf;

#[test]
fn headers() {
    let directory = PathBuf::from("../../tools/fuzz/corpus/headers");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", directory.display());
    for input in inputs {
        // A panic below is the input's: the last one named here.
        println!("{}", input.display());
        harness::headers(&std::fs::read(&input).unwrap());
    }
}

#[test]
fn frames_of_the_table() {
    for case in packets::cases() {
        println!("{}", case.description);
        harness::headers(&case.frame);
    }
}
