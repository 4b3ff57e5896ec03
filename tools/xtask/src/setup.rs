//! Installs what is missing. Looks at programs and files first, so that a machine that has everything is left alone and a
//! second call costs no time.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::env;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The linker's release that goes with the LLVM of rustc 1.95 and 1.96.
const BPF_LINKER_VERSION: &str = "0.10.0";
const LLVM_VERSION_MAX: u32 = 22;

/// What something is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Build,
    /// Namespaces and phones: the demo and the tests.
    Bed,
    /// Measuring what was recorded: the tests.
    Measure,
}

impl Purpose {
    pub(crate) const ALL: [Purpose; 3] = [Purpose::Build, Purpose::Bed, Purpose::Measure];
}

/// How to see that something is there.
enum Sign {
    /// A program on the search path.
    Program(&'static str),
    /// One of these paths; `*` stands for any one name, or part of one.
    File(&'static [&'static str]),
}

struct Need {
    purpose: Purpose,
    package: &'static str,
    sign: Sign,
    why: &'static str,
}

const fn program(purpose: Purpose, package: &'static str, name: &'static str, why: &'static str) -> Need {
    Need { purpose, package, sign: Sign::Program(name), why }
}

const fn file(purpose: Purpose, package: &'static str, paths: &'static [&'static str], why: &'static str) -> Need {
    Need { purpose, package, sign: Sign::File(paths), why }
}

const NEEDS: &[Need] = &[
    program(Purpose::Build, "build-essential", "g++", "compiles RocksDB, the catalog"),
    program(Purpose::Build, "cmake", "cmake", "compiles libopus, the recording codec"),
    program(Purpose::Build, "pkg-config", "pkg-config", "finds libraries"),
    program(Purpose::Build, "clang", "clang", "compiles RocksDB's bindings"),
    file(
        Purpose::Build,
        "libclang-dev",
        &["/usr/lib/llvm-*/lib/libclang.so*", "/usr/lib/*-linux-gnu/libclang*.so*"],
        "reads RocksDB's headers",
    ),
    program(Purpose::Bed, "iproute2", "tc", "makes the phone networks and the mirror port"),
    program(Purpose::Bed, "ethtool", "ethtool", "sets the mirror port up for XDP"),
    program(Purpose::Bed, "util-linux", "nsenter", "starts phones in their networks"),
    program(Purpose::Bed, "tcpdump", "tcpdump", "takes the reference capture"),
    program(Purpose::Bed, "sip-tester", "sipp", "SIPp: phones that place many calls"),
    program(Purpose::Bed, "baresip-core", "baresip", "a second make of phone"),
    program(Purpose::Bed, "espeak-ng", "espeak-ng", "synthesises what the phones say"),
    program(Purpose::Bed, "sox", "sox", "converts speech to 8 kHz"),
    program(Purpose::Measure, "tshark", "tshark", "checks packet parsing against another implementation"),
    program(Purpose::Measure, "ffmpeg", "ffmpeg", "plays recordings"),
    program(Purpose::Measure, "opus-tools", "opusdec", "plays recordings with Opus's own tools"),
    program(Purpose::Measure, "chromium", "chromium", "plays recordings in a browser"),
    program(Purpose::Measure, "chromium-driver", "chromedriver", "steers that browser"),
    program(Purpose::Measure, "curl", "curl", "asks the HTTP interface"),
    program(Purpose::Measure, "python3", "python3", "runs the audio measurements"),
    file(
        Purpose::Measure,
        "python3-venv",
        &["/usr/lib/python3*/ensurepip", "/usr/lib/python3*/dist-packages/venv"],
        "holds the measurements' packages apart from the system's",
    ),
    file(
        Purpose::Measure,
        "python3-dev",
        &["/usr/include/python3.*/Python.h"],
        "compiles PESQ, the speech quality measure",
    ),
];

/// Debian's compiler with library sources, from which `core` is compiled for eBPF.
const DEBIAN_RUST: [Need; 2] = [
    file(
        Purpose::Build,
        "rustc-web",
        &["/usr/bin/rustc"],
        "compiles the XDP program (a nightly with rust-src would do too)",
    ),
    file(
        Purpose::Build,
        "rust-web-src",
        &["/usr/lib/rustlib/src/rust/library/core/Cargo.toml"],
        "the library sources that the XDP program is compiled with",
    ),
];

/// Installs what `purposes` need and is not there. Says what and why, and asks unless `yes` or without a terminal.
pub(crate) fn ensure(workspace: &Workspace, purposes: &[Purpose], yes: bool) -> Result<()> {
    let mut packages: Vec<&Need> =
        NEEDS.iter().filter(|need| purposes.contains(&need.purpose) && !is_there(&need.sign)).collect();
    if purposes.contains(&Purpose::Build) && !nightly_has_sources() {
        packages.extend(DEBIAN_RUST.iter().filter(|need| !is_there(&need.sign)));
    }
    let linker = purposes.contains(&Purpose::Build) && !has_bpf_linker();
    // Without its packages a present Python is not asked: the environment is made after they are there.
    let python = purposes.contains(&Purpose::Measure) && find_python(workspace).is_none();
    if packages.is_empty() && !linker && !python {
        return Ok(());
    }

    println!("Sidetone needs some things that this machine does not have yet:");
    for need in &packages {
        println!("  {:<16} {}  (Debian package)", need.package, need.why);
    }
    if linker {
        println!("  {:<16} links the XDP program  (cargo install, one to three minutes)", "bpf-linker");
    }
    if python {
        let place = workspace.cache.join("python");
        println!("  {:<16} speech quality and alignment  (Python packages in {})", "numpy, pesq", place.display());
    }
    if !confirmed(yes)? {
        bail!("nothing was installed; run `cargo xtask setup` when you are ready");
    }
    install_packages(&packages)?;
    if linker {
        install_bpf_linker(workspace)?;
    }
    if python {
        install_python(workspace)?;
    }
    Ok(())
}

fn confirmed(yes: bool) -> Result<bool> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    print!("Install them now? [Y/n] ");
    std::io::stdout().flush().context("cannot write to the terminal")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes"))
}

fn install_packages(needs: &[&Need]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = needs.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get update && apt-get install -y --no-install-recommends {}", names.join(" "));
    if !on_path("apt-get") {
        bail!("this system has no apt-get; install by hand what these Debian packages hold: {}", names.join(" "));
    }
    if !is_root() {
        bail!("installing packages needs root; run\n  sudo sh -c '{by_hand}'\nand start again");
    }
    step("apt-get update", Command::new("apt-get").args(["-q", "update"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["-q", "install", "-y", "--no-install-recommends"])
        .args(&names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    step(&by_hand, &mut install)?;
    // What was installed must be what was missed, or the next run would install it again.
    for need in needs {
        if !is_there(&need.sign) {
            bail!("the Debian package {} was installed but does not bring what is needed ({})", need.package, need.why);
        }
    }
    Ok(())
}

fn install_bpf_linker(workspace: &Workspace) -> Result<()> {
    let mut install = Command::new("cargo");
    // In the checkout, so that the project's toolchain compiles it: the linker uses that compiler's LLVM.
    install.current_dir(&workspace.root);
    workspace.clean_environment(&mut install);
    install.env("CARGO_TARGET_DIR", workspace.target.join("bpf-linker"));
    install.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"]);
    step("cargo install bpf-linker", &mut install)
}

fn install_python(workspace: &Workspace) -> Result<()> {
    let place = workspace.cache.join("python");
    step("python3 -m venv", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let pip = |packages: &[&str]| {
        let mut command = Command::new(place.join("bin/pip"));
        command.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages);
        command
    };
    step("pip install numpy", &mut pip(&["numpy", "cython", "setuptools", "wheel"]))?;
    // Without build isolation it is compiled against the numpy that is there, not against one compiled for the purpose.
    step("pip install pesq", &mut pip(&["--no-build-isolation", "pesq"]))?;
    find_python(workspace).map(|_| ()).context("numpy and pesq were installed, but Python does not find them")
}

/// A Python that has numpy and pesq: the one in the cache, else the system's.
pub(crate) fn find_python(workspace: &Workspace) -> Option<PathBuf> {
    let own = workspace.cache.join("python/bin/python");
    [own, PathBuf::from("python3")]
        .into_iter()
        .find(|python| succeeds(Command::new(python).args(["-c", "import numpy, pesq"])))
}

fn has_bpf_linker() -> bool {
    let Ok(output) = Command::new("bpf-linker").arg("--version").stderr(Stdio::null()).output() else { return false };
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains(BPF_LINKER_VERSION)
}

/// Whether rustup has a nightly with the component rust-src whose LLVM the linker understands.
fn nightly_has_sources() -> bool {
    let ask = |arguments: &[&str]| {
        let output =
            Command::new("rustup").args(["run", "nightly", "rustc"]).args(arguments).stderr(Stdio::null()).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let llvm = ask(&["--version", "--verbose"]).and_then(|version| {
        let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        line.split('.').next()?.parse::<u32>().ok()
    });
    llvm.is_some_and(|llvm| llvm <= LLVM_VERSION_MAX)
        && ask(&["--print", "sysroot"]).is_some_and(|sysroot| {
            Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
        })
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

fn is_there(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => on_path(name),
        Sign::File(patterns) => patterns.iter().any(|pattern| matches_any(pattern)),
    }
}

fn on_path(program: &str) -> bool {
    // Administration programs live in /usr/sbin, which an ordinary user's search path may lack.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|directory| directory.join(program).is_file())
}

/// Whether a path exists; each component may hold one or more `*`.
fn matches_any(pattern: &str) -> bool {
    let mut candidates = vec![PathBuf::from("/")];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        candidates = if component.contains('*') {
            candidates
                .iter()
                .filter_map(|directory| std::fs::read_dir(directory).ok())
                .flat_map(|entries| entries.filter_map(Result::ok))
                .filter(|entry| glob(component, &entry.file_name().to_string_lossy()))
                .map(|entry| entry.path())
                .collect()
        } else {
            candidates.iter().map(|path| path.join(component)).filter(|path| path.exists()).collect()
        };
    }
    !candidates.is_empty()
}

fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && glob(rest, &tail[at..]))),
    }
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("→ {what}");
    let status = command.status().with_context(|| format!("cannot start `{what}`"))?;
    if !status.success() {
        bail!("`{what}` ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_part_of_a_name() {
        assert!(glob("llvm-*", "llvm-14"));
        assert!(glob("libclang*.so*", "libclang-14.so.1"));
        assert!(!glob("libclang*.so*", "libLLVM-14.so.1"));
        assert!(glob("*", ""));
        assert!(!glob("a*b", "a"));
        assert!(matches_any("/proc/se*/status"));
        assert!(!matches_any("/proc/self/no-*"));
    }

    #[test]
    fn every_package_is_named_once_and_has_a_reason() {
        let mut names: Vec<&str> = NEEDS.iter().chain(&DEBIAN_RUST).map(|need| need.package).collect();
        assert!(NEEDS.iter().chain(&DEBIAN_RUST).all(|need| !need.why.is_empty()));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
