//! The network: two phone networks, a switch between them, and its mirror port.
//!
//! ```text
//!  namespace …-phones-a          namespace …-switch              namespace …-phones-b
//!   eth0 10.80.1.0/16 ──── port-a ─┐             ┌─ port-b ──── eth0 10.80.2.0/16
//!                                  ├── bridge0 ──┤
//!                                  tc: what enters either port is mirrored
//!                                        mirror0
//!                                           │
//!                                   st<run>m<number>, in the network of this process: the appliance listens here
//! ```
//!
//! Each frame between the phones enters the switch through exactly one port, so that the mirror shows each once. A frame
//! from the mirror is taken by the appliance's XDP program before any tool on the far end could see it: reference captures
//! are taken at `mirror0`.

use crate::process::{self, Network, Running, shell};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const NAMESPACE_PREFIX: &str = "sidetone-";
/// Addresses of each phone network: .1 is for the baresip phone, the following for one SIPp instance each.
pub const ADDRESSES_PER_SIDE: u8 = 32;

static BEDS_MADE: AtomicU32 = AtomicU32::new(0);

/// Which phone network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    A,
    B,
}

/// The namespaces, while this value lives.
pub struct Bed {
    switch: Network,
    phones_a: Network,
    phones_b: Network,
    mirror: String,
}

fn namespace_name(network: &Network) -> &str {
    match network {
        Network::Namespace(name) => name,
        Network::Own => unreachable!("a bed is made of namespaces"),
    }
}

impl Bed {
    /// Removes what dead runs left behind, then makes the network.
    ///
    /// # Errors
    /// Without root, or when a tool (ip, tc, ethtool, nsenter, setpriv) or kernel feature is missing. What was made up to
    /// then is removed again.
    pub fn create() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces need root: run this with sudo");
        }
        remove_stale()?;
        mount_bpf_file_system()?;
        let (pid, number) = (std::process::id(), BEDS_MADE.fetch_add(1, Ordering::Relaxed));
        let network = |part: &str| Network::Namespace(format!("{NAMESPACE_PREFIX}{pid}-{number}-{part}"));
        let bed = Self {
            switch: network("switch"),
            phones_a: network("phones-a"),
            phones_b: network("phones-b"),
            mirror: mirror_name(pid, number),
        };
        // From here on dropping `bed` removes whatever exists.
        bed.build().context("cannot make the network of namespaces")?;
        Ok(bed)
    }

    fn build(&self) -> Result<()> {
        let own = Network::Own;
        let switch = namespace_name(&self.switch);
        for namespace in [&self.switch, &self.phones_a, &self.phones_b] {
            shell(&own, &format!("ip netns add {}", namespace_name(namespace)))?;
            // Neighbour discovery is no part of the test: no frame is on the wire that no phone sent.
            for scope in ["all", "default"] {
                set_kernel_parameter(namespace, &format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
            }
        }
        shell(&own, &format!("ip -n {switch} link add name bridge0 type bridge mcast_snooping 0"))?;
        for (port, phones, subnet) in [("port-a", &self.phones_a, 1), ("port-b", &self.phones_b, 2)] {
            let namespace = namespace_name(phones);
            shell(&own, &format!("ip -n {switch} link add name {port} type veth peer name eth0 netns {namespace}"))?;
            // Whole packets with real checksums, as they come from a phone.
            shell(phones, "ethtool -K eth0 tx off gso off tso off gro off")?;
            shell(&own, &format!("ip -n {namespace} link set dev lo up"))?;
            // Address resolution of each of the addresses from the address that is used, not from the first.
            set_kernel_parameter(phones, "net/ipv4/conf/all/arp_announce", "2")?;
            for host in 1..=ADDRESSES_PER_SIDE {
                shell(&own, &format!("ip -n {namespace} addr add 10.80.{subnet}.{host}/16 dev eth0"))?;
            }
            shell(&own, &format!("ip -n {namespace} link set dev eth0 up"))?;
            shell(&own, &format!("ip -n {switch} link set dev {port} master bridge0 up"))?;
        }
        shell(&own, &format!("ip -n {switch} link set dev bridge0 up"))?;

        let mirror = &self.mirror;
        shell(&own, &format!("ip link add name {mirror} type veth peer name mirror0 netns {switch}"))?;
        // Native XDP on veth needs frames one by one.
        shell(&own, &format!("ethtool -K {mirror} gro off"))?;
        set_kernel_parameter(&own, &format!("net/ipv6/conf/{mirror}/disable_ipv6"), "1")?;
        shell(&own, &format!("ip link set dev {mirror} up"))?;
        shell(&own, &format!("ip -n {switch} link set dev mirror0 up"))?;
        for port in ["port-a", "port-b"] {
            shell(&own, &format!("tc -n {switch} qdisc add dev {port} ingress"))?;
            shell(
                &own,
                &format!(
                    "tc -n {switch} filter add dev {port} parent ffff: protocol all u32 match u32 0 0 \
                     action mirred egress mirror dev mirror0"
                ),
            )?;
        }
        Ok(())
    }

    /// The interface on which the appliance listens, in the network of this process.
    pub fn mirror_interface(&self) -> &str {
        &self.mirror
    }

    pub fn phones(&self, side: Side) -> &Network {
        match side {
            Side::A => &self.phones_a,
            Side::B => &self.phones_b,
        }
    }

    /// Address `host` (1 to `ADDRESSES_PER_SIDE`) of a phone network.
    pub fn address(&self, side: Side, host: u8) -> String {
        let subnet = match side {
            Side::A => 1,
            Side::B => 2,
        };
        format!("10.80.{subnet}.{host}")
    }

    /// Starts to write what leaves through the mirror port into `capture`.
    ///
    /// # Errors
    /// When tcpdump does not begin to listen.
    pub fn start_reference_capture(&self, capture: &Path) -> Result<ReferenceCapture> {
        let log = capture.with_extension("tcpdump.log");
        if log.exists() {
            fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
        }
        let mut command = process::command(&self.switch, "tcpdump");
        // 64 MiB of kernel buffer; tcpdump keeps root, since changed credentials would lose the parent-death signal.
        command.args([
            "-Z",
            "root",
            "-n",
            "-i",
            "mirror0",
            "-s",
            "0",
            "-B",
            "65536",
            "--time-stamp-precision=nano",
            "-w",
        ]);
        command.arg(capture);
        let mut running = Running::start("tcpdump", &mut command, &log)?;
        crate::interrupt::wait_for("tcpdump to listen", Duration::from_secs(10), || {
            if running.ended()?.is_some() {
                bail!("tcpdump ended: {}", running.log_tail());
            }
            Ok(fs::read_to_string(&log)?.contains("listening on").then_some(()))
        })?;
        Ok(ReferenceCapture { running })
    }

    /// Frames that the mirror port sent towards the appliance, and those that its queue had no room for.
    ///
    /// # Errors
    /// When the statistics cannot be read.
    pub fn mirror_counts(&self) -> Result<MirrorCounts> {
        let text =
            shell(&Network::Own, &format!("ip -n {} -s -j link show dev mirror0", namespace_name(&self.switch)))?;
        let value: serde_json::Value = serde_json::from_str(&text).context("`ip -j` printed no JSON")?;
        let count = |name: &str| {
            value[0]["stats64"]["tx"][name].as_u64().with_context(|| format!("no transmit counter `{name}` in {text}"))
        };
        Ok(MirrorCounts { sent: count("packets")?, dropped: count("dropped")? })
    }
}

/// See `Bed::mirror_counts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MirrorCounts {
    pub sent: u64,
    pub dropped: u64,
}

/// Where the appliance pins its XDP program. systemd mounts it on every machine; without systemd it may be missing. It is
/// left mounted.
fn mount_bpf_file_system() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf") && line.contains(" /sys/fs/bpf ")) {
        return Ok(());
    }
    shell(&Network::Own, "mount -t bpf bpf /sys/fs/bpf").map(|_| ())
}

/// The BPF file system keeps the XDP program and maps of an interface that is gone; ours are of no more use.
fn remove_pins(interface: &str) -> Result<()> {
    let Ok(versions) = fs::read_dir("/sys/fs/bpf/sidetone") else { return Ok(()) };
    for version in versions {
        let pins = version.context("cannot list /sys/fs/bpf/sidetone")?.path().join(interface);
        if pins.exists() {
            fs::remove_dir_all(&pins).with_context(|| format!("cannot remove {}", pins.display()))?;
        }
    }
    Ok(())
}

/// The mirror's far end of bed `number` of process `pid`: at most 15 characters, process ids having up to 7 digits.
fn mirror_name(pid: u32, number: u32) -> String {
    format!("st{pid}m{number}")
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Deleting the switch takes the veth pairs, and so the mirror's far end, with it.
        for namespace in [&self.phones_a, &self.phones_b, &self.switch] {
            if let Err(error) = remove_namespace(namespace_name(namespace)) {
                eprintln!("warning: {error:#}");
            }
        }
        // Deleting is asynchronous; who looks at the interfaces after the bed is gone shall not find its port.
        let interface = Path::new("/sys/class/net").join(&self.mirror);
        for _ in 0..50 {
            if !interface.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = remove_pins(&self.mirror) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// tcpdump at the mirror port.
pub struct ReferenceCapture {
    running: Running,
}

impl ReferenceCapture {
    /// Ends the capture; returns how many frames the kernel dropped beside it.
    ///
    /// # Errors
    /// When tcpdump does not end, or does not say how many it dropped.
    pub fn finish(mut self) -> Result<u64> {
        // Its ring hands over a block at the latest after a second.
        crate::interrupt::sleep(Duration::from_millis(1500))?;
        self.running.terminate(Duration::from_secs(20))?;
        let log = self.running.log_tail();
        log.lines()
            .find_map(|line| {
                line.strip_suffix(" packets dropped by kernel").or(line.strip_suffix(" packet dropped by kernel"))
            })
            .and_then(|count| count.trim().parse().ok())
            .with_context(|| format!("tcpdump does not say what it dropped: {log}"))
    }
}

fn set_kernel_parameter(network: &Network, name: &str, value: &str) -> Result<()> {
    let mut command = process::command(network, "sh");
    // A kernel without IPv6 has nothing to switch off.
    command.args(["-c", &format!("test ! -e /proc/sys/{name} || echo {value} > /proc/sys/{name}")]);
    process::output(&mut command).map(|_| ())
}

fn remove_namespace(name: &str) -> Result<()> {
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    // Whatever still runs in a namespace of ours was started for it.
    for pid in shell(&Network::Own, &format!("ip netns pids {name}"))?.split_whitespace() {
        let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            eprintln!("warning: cannot end process {pid} in the namespace {name}: {error}");
        }
    }
    shell(&Network::Own, &format!("ip netns del {name}")).map(|_| ())
}

/// Process and number in `sidetone-<pid>-<number>-<part>`.
fn owner(namespace: &str) -> Option<(u32, u32)> {
    let mut parts = namespace.strip_prefix(NAMESPACE_PREFIX)?.splitn(3, '-');
    let owner = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    matches!(parts.next()?, "switch" | "phones-a" | "phones-b").then_some(owner)
}

/// Removes the namespaces of runs that are no longer alive.
///
/// # Errors
/// When the namespaces cannot be listed or one cannot be removed.
pub fn remove_stale() -> Result<()> {
    let directory = Path::new("/run/netns");
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory).context("cannot list /run/netns")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((pid, number)) = owner(&name)
            && pid != std::process::id()
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            remove_namespace(&name)?;
            remove_pins(&mirror_name(pid, number))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_taken_for_ours() {
        assert_eq!(owner("sidetone-4711-0-switch"), Some((4711, 0)));
        assert_eq!(owner("sidetone-4711-2-phones-a"), Some((4711, 2)));
        assert_eq!(owner("sidetone-4711"), None);
        assert_eq!(owner("sidetone-x-0-switch"), None);
        assert_eq!(mirror_name(4_194_304, 9999).len(), 14);
        assert_eq!(owner("sidetone-4711-0-other"), None);
        assert_eq!(owner("blue-4711-0-switch"), None);
    }
}
