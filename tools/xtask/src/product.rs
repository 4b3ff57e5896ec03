//! Building and starting the recorder.

use crate::ebpf;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Compiles the XDP program; returns the object file.
pub(crate) fn build_tap(workspace: &Workspace) -> Result<PathBuf> {
    // Where the recorder's build looks for it.
    let directory = workspace.target.join("tap");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    ebpf::build(&workspace.root, &directory).context("building the XDP program")
}

/// Names a recorder that was built elsewhere: demo and end-to-end tests then use it as it is.
const PROGRAM_VARIABLE: &str = "SIDETONE_PROGRAM";

/// Compiles the XDP program and then the recorder; returns the program. Or returns the one that `SIDETONE_PROGRAM` names.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(program) = std::env::var_os(PROGRAM_VARIABLE).map(PathBuf::from) {
        if !program.is_file() {
            bail!("{PROGRAM_VARIABLE} names {}, which is no file", program.display());
        }
        println!("  using {} as it is ({PROGRAM_VARIABLE})", program.display());
        return Ok(program);
    }
    build_tap(workspace)?;
    run_cargo(workspace, &["build", "--release", "--package", "sidetone"])?;
    let program = workspace.program("sidetone");
    if !program.exists() {
        bail!("cargo built no {}", program.display());
    }
    Ok(program)
}

pub(crate) fn run_cargo(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let status = workspace.cargo().args(arguments).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("`cargo {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Becomes `sidetone run`, so that signals and the exit code are the recorder's own.
pub(crate) fn run(workspace: &Workspace, arguments: &[std::ffi::OsString]) -> Result<ExitCode> {
    crate::setup::ensure(workspace, &[crate::setup::Purpose::Build], false)?;
    let program = build(workspace)?;
    let mut command = Command::new(&program);
    command.arg("run").args(arguments);
    workspace.clean_environment(&mut command);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
