//! What can go wrong between the wire and the first byte. Each message names cause and remedy in one line.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("interface {interface}: there is no such network interface (`ip link` lists those that exist)")]
    NoInterface { interface: String },

    #[error("interface {interface}: is down (`ip link set {interface} up`)")]
    InterfaceDown { interface: String },

    #[error(
        "interface {interface}: {operation}: not permitted; run as root, or grant CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
    )]
    Privilege {
        interface: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },

    #[error("interface {interface}: {operation}: {source}")]
    System {
        interface: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },

    #[error("interface {interface}: {operation}: {}", with_causes(source.as_ref()))]
    Tap {
        interface: String,
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    #[error("interface {interface}: another process receives from queue {queue} by AF_XDP; end it first")]
    Busy { interface: String, queue: u32 },

    #[error("interface {interface}: AF_XDP cannot be had: {reason}")]
    NoAfXdp { interface: String, reason: String },

    /// Not a failure: every frame of the file has been handed over.
    #[error("end of the capture file{}", if *truncated { ", which was cut off in the middle of a record" } else { "" })]
    EndOfCapture {
        /// The file ends within a record.
        truncated: bool,
    },

    #[error("{}: {operation}: {source}", path.display())]
    File {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: io::Error,
    },

    #[error("{}: not a capture file: {reason}", path.display())]
    NotACapture { path: PathBuf, reason: &'static str },

    #[error("{}: corrupt at byte {offset}: {cause}", path.display())]
    Corrupt {
        path: PathBuf,
        /// Where the record or block starts that makes no sense.
        offset: u64,
        cause: &'static str,
    },

    #[error(
        "{}: link type {link_type} is not supported (supported: Ethernet, raw IP, Linux cooked 1 and 2, null/loop)",
        path.display()
    )]
    UnsupportedLink { path: PathBuf, link_type: u32 },
}

impl CaptureError {
    /// Sorts a system call's failure into the variant with the right remedy.
    pub(crate) fn system(interface: &str, operation: &'static str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { interface, operation, source },
            Some(libc::ENODEV) => Self::NoInterface { interface },
            Some(libc::ENETDOWN) => Self::InterfaceDown { interface },
            _ => Self::System { interface, operation, source },
        }
    }

    pub(crate) fn tap(
        interface: &str,
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Tap { interface: interface.to_owned(), operation, source: Box::new(source) }
    }
}

/// The error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
