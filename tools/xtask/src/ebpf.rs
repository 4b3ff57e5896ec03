//! Compiling the XDP program: `core` is built from source for the kernel, with whichever of two toolchains is there (a
//! nightly with rust-src, or Debian's compiler with its library sources), and bpf-linker links it.

use anyhow::{Context, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_COMPILER: &str = "/usr/bin/rustc";
/// bpf-linker reads the bitcode of compilers with this LLVM and older ones.
const LLVM_VERSION_MAX: u32 = 22;
/// What the library sources must have to build `core` from.
const CORE_SOURCES: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";

/// A compiler that can build `core` for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Toolchain {
    Nightly,
    Debian,
}

/// Compiles `ebpf/tap`. Puts `tap-v<ABI>.o`, the program, and `generate-v<ABI>.o`, the tests' traffic generator, into the
/// directory `out`, and returns the former's path. Files whose contents stay the same are not touched.
///
/// # Errors
/// Says what is missing and how to get it, or that the compiler failed.
pub(crate) fn build(root: &Path, out: &Path) -> Result<PathBuf> {
    let linker_path = find_linker()?;
    let toolchain = find_toolchain()?;
    let abi_version = abi_version(root)?;
    // Beside `out`, which the build of the capture crate watches.
    let target = out.with_file_name("tap-build");
    let mut cargo = match toolchain {
        Toolchain::Nightly => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", "nightly", "cargo"]).env_remove("RUSTC").env_remove("RUSTC_BOOTSTRAP");
            cargo
        }
        Toolchain::Debian => {
            let mut cargo = Command::new("cargo");
            cargo.env("RUSTC", DEBIAN_COMPILER).env("RUSTC_BOOTSTRAP", "1");
            cargo
        }
    };
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    cargo
        .args(["build", "--quiet", "--locked", "--release", "-Zbuild-std=core", "--target", TARGET])
        .current_dir(root.join("ebpf/tap"))
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("PATH", linker_path)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let status = cargo.status().with_context(|| format!("cannot start cargo with {toolchain:?}'s compiler"))?;
    if !status.success() {
        bail!("compiling ebpf/tap with {} failed ({status})", describe(toolchain));
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let built = target.join(TARGET).join("release");
    copy_if_changed(&built.join("generate"), &out.join(format!("generate-v{abi_version}.o")))?;
    let object = out.join(format!("tap-v{abi_version}.o"));
    copy_if_changed(&built.join("tap"), &object)?;
    Ok(object)
}

fn describe(toolchain: Toolchain) -> &'static str {
    match toolchain {
        Toolchain::Nightly => "the nightly toolchain of rustup",
        Toolchain::Debian => "Debian's /usr/bin/rustc",
    }
}

fn find_toolchain() -> Result<Toolchain> {
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    let nightly = inspect(&nightly);
    if nightly.is_ok() {
        return Ok(Toolchain::Nightly);
    }
    let debian = inspect(&Command::new(DEBIAN_COMPILER));
    if debian.is_ok() {
        return Ok(Toolchain::Debian);
    }
    let reason = |result: Result<()>| result.err().map_or_else(String::new, |error| format!("{error:#}"));
    bail!(
        "no compiler can build `core` for the kernel. Either of these helps:\n  \
         apt-get install rustc-web rust-web-src      (now: {})\n  \
         rustup toolchain install nightly --component rust-src      (now: {})",
        reason(debian),
        reason(nightly)
    )
}

/// Checks that the compiler runs, that bpf-linker understands it, and that its library sources are there.
fn inspect(compiler: &Command) -> Result<()> {
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(compiler.get_program());
        command.args(compiler.get_args()).args(arguments).env_remove("RUSTUP_TOOLCHAIN").stderr(Stdio::null());
        let output = command.output().context("not installed")?;
        if !output.status.success() {
            bail!("not installed");
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = run(&["--version", "--verbose"])?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next()?.parse::<u32>().ok())
        .context("it does not say which LLVM it has")?;
    if llvm > LLVM_VERSION_MAX {
        bail!("it has LLVM {llvm}, and bpf-linker reads up to {LLVM_VERSION_MAX}");
    }
    let sources = Path::new(run(&["--print", "sysroot"])?.trim()).join(CORE_SOURCES);
    if !sources.exists() {
        bail!("its library sources are not installed");
    }
    Ok(())
}

/// A PATH on which bpf-linker is.
fn find_linker() -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    directories.extend(cargo_home.map(|home| home.join("bin")));
    if !directories.iter().any(|directory| directory.join("bpf-linker").is_file()) {
        bail!("bpf-linker is not installed: `cargo install bpf-linker --version 0.10.0 --locked` installs it");
    }
    env::join_paths(directories).context("PATH cannot be put together")
}

/// `ABI_VERSION` as the shared crate defines it.
fn abi_version(root: &Path) -> Result<u32> {
    let path = root.join("ebpf/tap-abi/src/version.rs");
    let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    source
        .lines()
        .find_map(|line| line.strip_prefix("pub const ABI_VERSION: u32 = ")?.strip_suffix(';')?.parse().ok())
        .with_context(|| format!("{} does not define ABI_VERSION", path.display()))
}

/// Leaves the file's time alone when nothing changed, so that nothing is built again for it.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    fs::write(&partial, new).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_abi_version_is_read_from_the_shared_crate() {
        let root = Path::new("../..");
        assert!(abi_version(root).unwrap() >= 1);
        assert!(abi_version(Path::new("/nonexistent")).is_err());
    }
}
