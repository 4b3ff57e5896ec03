#![no_main]

#[path = "../harness/headers.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::headers(data));
