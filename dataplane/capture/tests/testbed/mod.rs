//! A network namespace with a pair of virtual interfaces, `wire0` → `mirror0`, and a BPF file system, for one test.
#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use sidetone_capture::{Port, PortConfig};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) struct Testbed {
    directory: tempfile::TempDir,
}

/// Runs `test` on a thread with network and mount namespaces of its own, which end with it.
///
/// # Panics
/// When the namespaces cannot be made, for want of privilege for example: a test that cannot run has not passed.
pub(crate) fn in_testbed(queues: u32, mtu: u32, test: impl FnOnce(&Testbed) + Send + 'static) {
    let subscriber = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::DEBUG).finish();
    let thread = std::thread::Builder::new().name("testbed".to_owned()).spawn(move || {
        // SAFETY: unshare touches only this thread's namespaces; nothing else runs on it.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
        assert_eq!(result, 0, "this test needs root for its own namespaces: {}", io::Error::last_os_error());
        run("mount --make-rprivate /");
        let testbed = Testbed { directory: tempfile::tempdir().unwrap() };
        run(&format!("mount -t bpf bpf {}", testbed.directory.path().display()));
        run("ip link set lo up");
        run(&format!(
            "ip link add wire0 mtu {mtu} numtxqueues {queues} type veth peer name mirror0 mtu {mtu} numrxqueues {queues}"
        ));
        run(&format!("ethtool -L mirror0 rx {queues}"));
        for interface in ["wire0", "mirror0"] {
            // The kernel's own neighbour discovery would be among the frames.
            run(&format!("sysctl -q -w net.ipv6.conf.{interface}.disable_ipv6=1"));
            run(&format!("ip link set {interface} up"));
        }
        tracing::subscriber::with_default(subscriber, || test(&testbed));
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

impl Testbed {
    pub(crate) fn pin_directory(&self) -> PathBuf {
        self.directory.path().join("sidetone")
    }

    pub(crate) fn config(&self) -> PortConfig {
        PortConfig {
            interface: "mirror0".to_owned(),
            pin_directory: self.pin_directory(),
            ring_frames: 512,
            ..PortConfig::default()
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        run(&format!("umount -l {}", self.directory.path().display()));
    }
}

pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let status = Command::new(program).args(words).status();
    assert!(status.is_ok_and(|status| status.success()), "`{command}` failed");
}

/// Sends frames out of an interface, past the network stack.
pub(crate) struct Sender {
    socket: OwnedFd,
}

impl Sender {
    pub(crate) fn new(interface: &str) -> Self {
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: plain system calls; the address is a C structure for which all zeroes is a value, and lives until
        // after the call.
        unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0, "packet socket: {}", io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(socket);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let length = size_of_val(&address) as u32;
            let result = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
            assert_eq!(result, 0, "bind to {interface}: {}", io::Error::last_os_error());
            Self { socket }
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the frame lives until after the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }
}

/// A frame as a test remembers it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) arrived_at: sidetone_model::CaptureTime,
    pub(crate) original_length: u32,
}

/// Receives from all sources until `count` frames are there, or nothing more comes.
pub(crate) fn receive(port: &mut Port, count: usize) -> Vec<Received> {
    let mut frames = Vec::new();
    let give_up_at = Instant::now() + Duration::from_secs(3);
    while frames.len() < count && Instant::now() < give_up_at {
        for source in &mut port.sources {
            source
                .receive(Duration::from_millis(5), 64, &mut |frame| {
                    frames.push(Received {
                        bytes: frame.bytes.to_vec(),
                        arrived_at: frame.arrived_at,
                        original_length: frame.original_length,
                    });
                })
                .unwrap();
        }
    }
    frames
}

/// Asserts that nothing arrives for a while.
pub(crate) fn receive_nothing(port: &mut Port) {
    for source in &mut port.sources {
        let frames = source
            .receive(Duration::from_millis(50), 64, &mut |frame| panic!("unexpected frame {:02x?}", frame.bytes))
            .unwrap();
        assert_eq!(frames, 0);
    }
}
