//! Formatting, lints, dependencies: what needs no test to be run.

use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::process::{Command, ExitCode, Stdio};

/// The checks: a name, and cargo's arguments.
pub(crate) const FORMAT: &[&str] = &["fmt", "--all", "--check"];
/// In the profile of the product, so that what C dependencies compile is compiled once.
pub(crate) const LINTS: &[&str] =
    &["clippy", "--quiet", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"];
pub(crate) const DEPENDENCIES: &[&str] = &["deny", "--all-features", "check"];

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut failed = false;
    let mut checks = vec![("formatting", FORMAT), ("lints", LINTS)];
    if has_deny() {
        checks.push(("dependencies", DEPENDENCIES));
    } else {
        println!("dependencies: skipped, cargo-deny is not installed (cargo install cargo-deny --locked)");
    }
    for (name, arguments) in checks {
        println!("{name}: cargo {}", arguments.join(" "));
        let status = workspace.cargo().args(arguments).status().context("cannot start cargo")?;
        println!("{name}: {}", if status.success() { "ok" } else { "FAILED" });
        failed |= !status.success();
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn has_deny() -> bool {
    Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
