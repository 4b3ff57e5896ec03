//! Where things are: the checkout, the cache, the target directory; and how cargo is started.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// What may be kept over checkouts: `$XDG_CACHE_HOME/sidetone`.
    pub(crate) cache: PathBuf,
    /// `CARGO_TARGET_DIR` of everything that is started.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        // Set by `cargo run`; the fallback serves a copy of the program that is started by hand in the checkout.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = match manifest.as_deref().and_then(Path::parent).and_then(Path::parent) {
            Some(root) => root.to_owned(),
            None => env::current_dir().context("there is no current directory")?,
        };
        if !root.join("ebpf/tap-abi").is_dir() {
            bail!("{} is not the project's checkout: run `cargo xtask` inside it", root.display());
        }
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set to an absolute path: there is no place for a cache")?
            .join("sidetone");
        let target = absolute("SIDETONE_TARGET_DIR").unwrap_or_else(|| cache.join("target"));
        Ok(Self { root, cache, target })
    }

    /// `cargo` in the checkout, with the project's target directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        self.clean_environment(&mut command);
        command
    }

    /// Takes away what `cargo run` gave to this process, so that builds that are started here and builds that the user
    /// starts are the same to cargo; and what belongs to the eBPF toolchain alone.
    pub(crate) fn clean_environment(&self, command: &mut Command) {
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO" {
                command.env_remove(name);
            }
        }
        for name in ["RUSTC", "RUSTC_BOOTSTRAP", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(name);
        }
        if let Some(paths) = env::var_os("LD_LIBRARY_PATH") {
            let kept: Vec<PathBuf> = env::split_paths(&paths)
                .filter(|path| {
                    let text = path.to_string_lossy();
                    !text.contains("/toolchains/") && !text.contains("/debug") && !text.contains("/release")
                })
                .collect();
            match env::join_paths(&kept) {
                Ok(joined) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", joined),
                _ => command.env_remove("LD_LIBRARY_PATH"),
            };
        }
    }

    /// The released program `name` after a build.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The directory of captures with ground truth, if there is one: `SIDETONE_CORPUS`, or `../shared/corpus` beside the
    /// checkout.
    pub(crate) fn corpus(&self) -> Option<PathBuf> {
        let path = match env::var_os("SIDETONE_CORPUS") {
            Some(path) => PathBuf::from(path),
            None => self.root.join("../shared/corpus"),
        };
        path.canonicalize().ok().filter(|path| path.is_dir())
    }

    /// A new directory for one run's files, named after `what` and this process; older ones of dead runs are removed.
    pub(crate) fn run_directory(&self, what: &str) -> Result<RunDirectory> {
        let parent = self.cache.join("runs");
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        for entry in std::fs::read_dir(&parent).with_context(|| format!("cannot list {}", parent.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.rsplit_once('-').and_then(|(_, pid)| pid.parse::<u32>().ok());
            let alive = owner.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists());
            if !alive && !name.starts_with("kept-") {
                std::fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        let path = parent.join(format!("{what}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(RunDirectory { path })
    }
}

/// Files of one run; removed at its end unless kept.
pub(crate) struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the files for someone who looks for the cause of a failure, under a name that later runs of the same kind
    /// replace; returns where they are.
    pub(crate) fn keep(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = name.rsplit_once('-').map_or(name.as_str(), |(kind, _)| kind).to_owned();
        let kept = self.path.with_file_name(format!("kept-{kind}"));
        if kept.exists()
            && let Err(error) = std::fs::remove_dir_all(&kept)
        {
            eprintln!("warning: cannot remove {}: {error}", kept.display());
        }
        match std::fs::rename(&self.path, &kept) {
            Ok(()) => kept,
            Err(error) => {
                eprintln!("warning: cannot keep {}: {error}", self.path.display());
                self.path.clone()
            }
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("warning: cannot remove {}: {error}", self.path.display());
        }
    }
}
