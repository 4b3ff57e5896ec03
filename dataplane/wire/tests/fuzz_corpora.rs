//! Replays the corpus of the fuzz target `wire`, and everything that once crashed it.

#[path = "../../../tools/fuzz/harness/wire.rs"]
mod harness;

use std::path::Path;

#[test]
fn the_corpus_keeps_every_promise() {
    let corpus = Path::new("../../tools/fuzz/corpus/wire");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display())) {
        harness::wire(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 16, "{inputs} inputs in {}", corpus.display());
}
