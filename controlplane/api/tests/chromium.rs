//! The page and the dual .opus in a real browser: tests/chromium.py against the sample server's recordings.

mod support;

use std::process::Command;
use support::{Server, sample::recording};

#[test]
fn chromium_shows_the_page_and_plays_both_channels() {
    let missing: Vec<&str> = ["chromium", "chromedriver", "python3"]
        .into_iter()
        .filter(|program| {
            let found = std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
            !found
        })
        .collect();
    if !missing.is_empty() {
        let explanation =
            format!("NOT TESTED in a browser: {missing:?} not found (apt-get install chromium chromium-driver)");
        assert!(std::env::var_os("CI").is_none(), "{explanation}");
        eprintln!("{explanation}");
        return;
    }
    let mut kept = recording(1);
    kept.duration_seconds = 10.0;
    kept.tracks[0].duration_seconds = 10.0;
    // The callee joins late: the right channel is silent first.
    kept.tracks[1].start_offset_seconds = 1.5;
    kept.tracks[1].duration_seconds = 8.5;
    let server = Server::start(std::slice::from_ref(&kept));
    let output = Command::new("timeout")
        .args(["150", "python3", "tests/chromium.py"])
        .args(["--url", &format!("http://{}", server.address), "--recording", &kept.id.to_string()])
        .args(["--left-hz", &support::tone_hz(kept.tracks[0].id).to_string()])
        .args(["--right-hz", &support::tone_hz(kept.tracks[1].id).to_string()])
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}\n{out}");
    println!("{out}");
}
