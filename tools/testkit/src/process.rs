//! Starting and ending other programs. A program that is left running is ended by its process id: asked first
//! (SIGTERM), forced after a few seconds, and always reaped.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The network that a program sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Network {
    /// The one this process is in.
    Own,
    /// A named namespace (`ip netns`).
    Namespace(String),
}

/// A command in the given network. It dies with this process, also when this process is killed: children of a test that
/// was shot must not go on sending.
///
/// Only the network namespace is changed (`ip netns exec` would also mount another /sys, without the BPF file system).
pub fn command(network: &Network, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]);
    if let Network::Namespace(name) = network {
        command.arg("nsenter").arg(format!("--net=/run/netns/{name}")).arg("--");
    }
    command.arg(program);
    command
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs to the end and returns what was printed.
///
/// # Errors
/// When it cannot be started or does not end with 0; the message has the command and what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let text = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `words` split at blanks, for commands without odd characters.
///
/// # Errors
/// As `output`.
pub fn shell(network: &Network, words: &str) -> Result<String> {
    let mut parts = words.split_whitespace();
    let mut command = command(network, parts.next().unwrap_or_default());
    command.args(parts);
    output(&mut command)
}

/// A program that runs beside this one.
pub struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Running {
    /// Starts `command` in a process group of its own (Ctrl-C reaches only this process, which ends the others in
    /// order), with its output in `log`.
    ///
    /// # Errors
    /// When the log cannot be created or the program not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let text = describe(command);
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot create the log {}", log.display()))?;
        let err = out.try_clone().with_context(|| format!("cannot share the log {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: `{text}`"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output, for messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 15)
    }

    /// How it ended, or nothing while it runs.
    ///
    /// # Errors
    /// When the operating system does not know the process.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// When it runs on past `timeout`, or this process is asked to end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        interrupt::wait_for(&what, timeout, || self.ended())
    }

    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("process id 0")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it runs on past `timeout`; it is then killed.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        let end = Instant::now() + timeout;
        while Instant::now() < end {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill()?;
        bail!("{} did not end within {} s after SIGTERM and was killed", self.name, timeout.as_secs());
    }

    /// Ends it at once, without a chance to tidy up.
    ///
    /// # Errors
    /// When the process cannot be signalled or reaped.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot reap {}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.terminate(Duration::from_secs(5)) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The last `lines` of a text file, or why they cannot be had.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_command_and_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("broken"), "{error}");
    }

    #[test]
    fn dropped_process_is_gone() {
        let log = std::env::temp_dir().join(format!("sidetone-testkit-{}.log", std::process::id()));
        let running = Running::start("sleep", Command::new("sleep").arg("600"), &log).unwrap();
        let pid = Pid::from_raw(i32::try_from(running.pid()).unwrap()).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok());
        drop(running);
        assert!(rustix::process::test_kill_process(pid).is_err());
        fs::remove_file(log).unwrap();
    }
}
