//! A disk that fails on demand: a small ext4 in a file, mounted through a loop device.
//!
//! What can happen to it is what happens to disks, seen from above the file system: it fills up ([`Disk::fill`]), the kernel makes
//! it read-only because of an error ([`Disk::make_read_only`]), all writing and syncing fails with an I/O error
//! ([`Disk::shut_down`]), it is unmounted ([`Disk::take_away`]) or torn away from under its users ([`Disk::detach`]); and it
//! comes back, checked and with what was durable on it ([`Disk::give_back`]).

use crate::interrupt;
use crate::process::{Network, command, output, shell};
use anyhow::{Context, Result, bail};
use rustix::ioctl::{Opcode, Setter, opcode};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Mount points and images of ours: `sidetone-disk-<pid>-<name>`.
const PREFIX: &str = "sidetone-disk-";
/// `FS_IOC_SHUTDOWN`, also known as `EXT4_IOC_SHUTDOWN` (Linux: include/uapi/linux/fs.h, fs/ext4/ioctl.c).
const SHUT_DOWN: Opcode = opcode::read::<u32>(b'X', 125);
const BLOCK_BYTES: u64 = 4096;
/// How long a recorder may take to let go of a disk that fails.
const RELEASE_LIMIT: Duration = Duration::from_secs(30);

/// Bytes that files may still take on the file system of `path`.
///
/// # Errors
/// When it does not answer.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let space = rustix::fs::statvfs(path).with_context(|| format!("cannot ask for the space at {}", path.display()))?;
    Ok(space.f_bavail * space.f_frsize)
}

/// What becomes of what is on its way to the disk when that is shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum InFlight {
    /// All of it is written first.
    Written = 0,
    /// The file system's own log is written, data is not.
    LogWritten = 1,
    /// Nothing is written any more, as when power fails.
    Lost = 2,
}

/// The disk, while this value lives.
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    ballast_bytes: u64,
}

impl Disk {
    /// Makes a disk of `mebibytes` (8 and more) in `directory` and mounts it. `name` tells it from others there.
    ///
    /// # Errors
    /// Without root, or when a tool (mkfs.ext4, mount) or the loop device is missing.
    pub fn create(directory: &Path, name: &str, mebibytes: u64) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("mounting needs root: run this with sudo");
        }
        remove_stale()?;
        let own = format!("{PREFIX}{}-{name}", std::process::id());
        let directory = directory.canonicalize().with_context(|| format!("no directory {}", directory.display()))?;
        let disk =
            Self { image: directory.join(format!("{own}.ext4")), mount_point: directory.join(&own), ballast_bytes: 0 };
        fs::create_dir(&disk.mount_point).with_context(|| format!("cannot make {}", disk.mount_point.display()))?;
        let image = File::create_new(&disk.image).with_context(|| format!("cannot make {}", disk.image.display()))?;
        image.set_len(mebibytes << 20).with_context(|| format!("cannot size {}", disk.image.display()))?;
        // No reserved blocks: full means full, also for root. Few inodes, so that a large disk in a sparse file takes little.
        let mut make = command(&Network::Own, "mkfs.ext4");
        make.args(["-q", "-F", "-m", "0", "-N", "16384", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        make.arg(&disk.image);
        output(&mut make)?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    fn mount(&self) -> Result<()> {
        let mut mount = command(&Network::Own, "mount");
        // The loop device goes with the last user of the file system.
        mount.args(["-t", "ext4", "-o", "loop,errors=remount-ro"]).arg(&self.image).arg(&self.mount_point);
        output(&mut mount).map(|_| ())
    }

    /// The loop device, while it is mounted.
    fn device(&self) -> Result<Option<String>> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let own = self.mount_point.to_string_lossy();
        let mut mounted = mounts.lines().filter_map(|line| line.split_once(' '));
        Ok(mounted
            .find(|(_, rest)| rest.split(' ').next() == Some(&own))
            .and_then(|(device, _)| device.strip_prefix("/dev/"))
            .map(str::to_owned))
    }

    /// Bytes that files may still take.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.mount_point)
    }

    fn ballast(&self) -> PathBuf {
        self.mount_point.join("ballast")
    }

    /// Fills it up to `left` bytes with a file of another program; the file system's own needs may take a little more.
    ///
    /// # Errors
    /// When there is less room than that, or the file cannot grow.
    pub fn fill(&mut self, left: u64) -> Result<()> {
        let file = File::options().create(true).append(true).open(self.ballast()).context("cannot open the ballast")?;
        let free = self.free_bytes()?;
        let mut more =
            free.checked_sub(left).with_context(|| format!("{free} bytes are free, {left} are to be left"))?;
        while more >= BLOCK_BYTES {
            let grown = self.ballast_bytes + more;
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, grown) {
                Ok(()) => self.ballast_bytes = grown,
                Err(rustix::io::Errno::NOSPC) => more /= 2,
                Err(error) => return Err(error).with_context(|| format!("cannot take {more} bytes")),
            }
            more = more.min(self.free_bytes()?.saturating_sub(left));
        }
        Ok(())
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn drain(&mut self) -> Result<()> {
        self.ballast_bytes = 0;
        fs::remove_file(self.ballast()).context("cannot remove the ballast")
    }

    /// From now on every access to data fails with EIO, until [`Self::give_back`].
    ///
    /// # Errors
    /// When it is not mounted, or the kernel refuses.
    pub fn shut_down(&self, in_flight: InFlight) -> Result<()> {
        let directory = File::open(&self.mount_point).context("cannot open the disk's root directory")?;
        // SAFETY: the opcode is that of FS_IOC_SHUTDOWN, which reads a u32 (for historical reasons it is encoded as the other
        // direction), and the descriptor is open.
        let result = unsafe { rustix::ioctl::ioctl(&directory, Setter::<SHUT_DOWN, u32>::new(in_flight as u32)) };
        result.context("the file system cannot be shut down")
    }

    /// The kernel meets an error and makes the file system read-only, also for those who have files open.
    ///
    /// # Errors
    /// When it is not mounted, or the kernel has no such switch.
    pub fn make_read_only(&self) -> Result<()> {
        let device = self.device()?.context("the disk is not mounted")?;
        let switch = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        let mut file = File::options().write(true).open(&switch).with_context(|| format!("cannot open {switch}"))?;
        file.write_all(b"test of a recorder").with_context(|| format!("cannot write {switch}"))
    }

    /// Unmounts it; what remains is an empty directory. Users have some time to close their files: a recorder lets go of a disk
    /// that fails.
    ///
    /// # Errors
    /// When files on it stay open.
    pub fn take_away(&self) -> Result<()> {
        let mut last = String::new();
        let done = interrupt::wait_for("everybody to let go of the disk", RELEASE_LIMIT, || {
            let mut unmount = command(&Network::Own, "umount");
            match output(unmount.arg(&self.mount_point)) {
                Ok(_) => Ok(Some(())),
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        done.with_context(|| format!("{last}; open are {:?}", self.open_files()))
    }

    /// What processes have open on it, as far as that can be seen.
    fn open_files(&self) -> BTreeSet<String> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let links = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok()).flatten().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let ours =
            targets.filter_map(|target| Some(target.strip_prefix(&self.mount_point).ok()?.display().to_string()));
        ours.collect()
    }

    /// Takes it out of the directory tree though files on it are open: these go on to work, unseen by others.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn detach(&self) -> Result<()> {
        output(command(&Network::Own, "umount").arg("--lazy").arg(&self.mount_point)).map(|_| ())
    }

    /// Unmounts it if need be, repairs the file system as at a start of the machine, and mounts it again.
    ///
    /// # Errors
    /// When files on it are still open, or it cannot be repaired.
    pub fn give_back(&self) -> Result<()> {
        if self.device()?.is_some() {
            self.take_away()?;
        }
        // 0: nothing to do, 1: repaired (e2fsck(8)).
        let image = self.image.display();
        interrupt::wait_for("the loop device to be released", Duration::from_secs(5), || {
            let users = shell(&Network::Own, &format!("losetup --associated {image}"))?;
            Ok(users.trim().is_empty().then_some(()))
        })?;
        let mut check = command(&Network::Own, "sh");
        check.args(["-c", "e2fsck -p \"$0\" || test $? -eq 1"]).arg(&self.image);
        output(&mut check)?;
        self.mount()
    }

    fn remove(&self) -> Result<()> {
        remove_mount(&self.mount_point)?;
        remove_image(&self.image)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn remove_mount(mount_point: &Path) -> Result<()> {
    // More than one file system can be stacked on one directory.
    for _ in 0..4 {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let own = format!(" {} ", mount_point.display());
        if !mounts.contains(&own) {
            break;
        }
        output(command(&Network::Own, "umount").arg("--lazy").arg(mount_point))?;
    }
    if mount_point.exists() {
        // Files that were written while nothing was mounted are of the test.
        fs::remove_dir_all(mount_point).with_context(|| format!("cannot remove {}", mount_point.display()))?;
    }
    Ok(())
}

fn remove_image(image: &Path) -> Result<()> {
    if image.exists() {
        fs::remove_file(image).with_context(|| format!("cannot remove {}", image.display()))?;
    }
    Ok(())
}

/// Process in `sidetone-disk-<pid>-<name>`.
fn owner(mount_point: &Path) -> Option<u32> {
    let name = mount_point.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    name.split_once('-')?.0.parse().ok()
}

/// Unmounts and removes the disks of runs that are no longer alive.
///
/// # Errors
/// When the mounts cannot be listed or one cannot be removed.
pub fn remove_stale() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    for line in mounts.lines() {
        let Some(mount_point) = line.split(' ').nth(1).map(PathBuf::from) else { continue };
        if let Some(pid) = owner(&mount_point)
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            remove_mount(&mount_point)?;
            remove_image(&mount_point.with_extension("ext4"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_mounts_are_taken_for_ours() {
        assert_eq!(owner(Path::new("/tmp/x/sidetone-disk-4711-home")), Some(4711));
        assert_eq!(owner(Path::new("/tmp/sidetone-disk-4711-a/b")), None);
        assert_eq!(owner(Path::new("/tmp/sidetone-disk-x-home")), None);
        assert_eq!(owner(Path::new("/")), None);
    }
}
