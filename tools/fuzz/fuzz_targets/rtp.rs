#![no_main]

#[path = "../harness/media.rs"]
mod media;

libfuzzer_sys::fuzz_target!(|data: &[u8]| media::rtp(data));
