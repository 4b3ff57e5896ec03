#![no_main]

#[path = "../harness/signalling.rs"]
mod signalling;

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalling::sdp(data));
