//! What the fuzzer has found interesting, once more.

#[path = "../../../tools/fuzz/harness/log.rs"]
mod harness;

use std::path::Path;

#[test]
fn the_fuzzers_corpus_does_not_break_the_reader() {
    let directory = Path::new("../../tools/fuzz/corpus/log_record");
    let mut inputs = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        harness::log_record(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 5, "the corpus is there: {inputs}");
}
