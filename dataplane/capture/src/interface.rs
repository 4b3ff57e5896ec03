//! What the kernel says of a network interface, by rtnetlink and ioctl: sysfs shows those of the network namespace it
//! was mounted in, which need not be ours.

use crate::CaptureError;
use crate::system::set_option;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::AsRawFd;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_MTU: u16 = 4;
const IFLA_STATS64: u16 = 23;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Places in `struct rtnl_link_stats64`.
const STATS64_RX_FIFO_ERRORS: usize = 14;
const STATS64_RX_MISSED_ERRORS: usize = 15;

const ETHTOOL_GCHANNELS: u32 = 0x3C;

/// One interface in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Interface {
    name: String,
    index: u32,
    netlink: OwnedFd,
}

/// One answer about an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    pub(crate) is_up: bool,
    pub(crate) mtu: u32,
    /// Receive queues that were allocated; not all need be in use.
    pub(crate) receive_queues: u32,
    /// The NIC had no buffer or no room for this many frames, since it exists.
    pub(crate) missed: u64,
    /// Identifier of the XDP program that runs, 0 for none.
    pub(crate) xdp_program: u32,
    /// `XDP_ATTACHED_*`: 1 native, 2 generic, 3 hardware, 4 several.
    pub(crate) xdp_mode: u8,
}

impl Interface {
    pub(crate) fn open(name: &str) -> Result<Self, CaptureError> {
        let failed = |operation| move |error: rustix::io::Errno| CaptureError::system(name, operation, error.into());
        let netlink = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(failed("open a netlink socket"))?;
        let index = rustix::net::netdevice::name_to_index(&netlink, name).map_err(failed("look up its index"))?;
        Ok(Self { name: name.to_owned(), index, netlink })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Asks the kernel about the interface (RTM_GETLINK, rtnetlink(7)).
    pub(crate) fn link(&self) -> Result<Link, CaptureError> {
        self.query().map_err(|error| CaptureError::system(&self.name, "ask for its state", error))
    }

    fn query(&self) -> io::Result<Link> {
        let mut request = [0u8; 32];
        request[0..4].copy_from_slice(&32u32.to_ne_bytes());
        request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request[20..24].copy_from_slice(&self.index.to_ne_bytes());
        rustix::net::send(&self.netlink, &request, SendFlags::empty())?;
        let mut answer = vec![0u8; 64 * 1024];
        let (length, _) = rustix::net::recv(&self.netlink, answer.as_mut_slice(), RecvFlags::empty())?;
        parse_link(&answer[..length])
    }

    /// Receive queues in use: the driver's channels, else what was allocated.
    pub(crate) fn queues(&self, link: &Link) -> u32 {
        match self.channels() {
            Ok(queues) if queues > 0 => queues,
            Ok(_) | Err(_) => link.receive_queues.max(1),
        }
    }

    /// `ETHTOOL_GCHANNELS`: receive channels and combined ones.
    fn channels(&self) -> io::Result<u32> {
        #[repr(C)]
        #[derive(Default)]
        struct Channels {
            command: u32,
            max: [u32; 4],
            receive: u32,
            transmit: u32,
            other: u32,
            combined: u32,
        }
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        // SAFETY: `ifreq` is a plain C structure for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if self.name.len() >= request.ifr_name.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        let control = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // SAFETY: SIOCETHTOOL reads the request and fills `channels`, which live until after the call.
        let result = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(channels.receive + channels.combined)
    }

    /// Sees frames for other machines, too, for as long as the packet socket lives.
    pub(crate) fn set_promiscuous(&self, packet_socket: impl AsFd) -> Result<(), CaptureError> {
        let request = libc::packet_mreq {
            mr_ifindex: self.index.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: packet_mreq is the plain structure of this option (packet(7)).
        unsafe { set_option(packet_socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request) }
            .map_err(|error| CaptureError::system(&self.name, "switch to promiscuous mode", error))
    }
}

/// A packet socket that receives nothing until it is bound.
pub(crate) fn packet_socket(interface: &str) -> Result<OwnedFd, CaptureError> {
    rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|error| CaptureError::system(interface, "open a packet socket", error.into()))
}

fn parse_link(message: &[u8]) -> io::Result<Link> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink: short message");
    let length = u32_at(message, 0).ok_or_else(short)? as usize;
    let kind = u16_at(message, 4).ok_or_else(short)?;
    let message = message.get(..length).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let error = u32_at(message, 16).ok_or_else(short)?.cast_signed();
        return Err(io::Error::from_raw_os_error(-error));
    }
    if kind != RTM_NEWLINK {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "rtnetlink: an answer to another question"));
    }
    let flags = u32_at(message, 24).ok_or_else(short)?;
    let mut link = Link { is_up: flags & libc::IFF_UP as u32 != 0, ..Link::default() };
    for (kind, value) in attributes(message.get(32..).ok_or_else(short)?) {
        match kind {
            IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
            IFLA_NUM_RX_QUEUES => link.receive_queues = u32_at(value, 0).unwrap_or(0),
            IFLA_STATS64 => {
                let counter = |place: usize| value.get(place * 8..)?.first_chunk().copied().map(u64::from_ne_bytes);
                link.missed =
                    counter(STATS64_RX_FIFO_ERRORS).unwrap_or(0) + counter(STATS64_RX_MISSED_ERRORS).unwrap_or(0);
            }
            IFLA_XDP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_XDP_ATTACHED => link.xdp_mode = value.first().copied().unwrap_or(0),
                        IFLA_XDP_PROG_ID => link.xdp_program = u32_at(value, 0).unwrap_or(0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(link)
}

/// The attributes in a netlink message: type without flags, value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3FFF;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_described() {
        let interface = Interface::open("lo").unwrap();
        let link = interface.link().unwrap();
        assert!(link.mtu >= 1500, "{link:?}");
        assert_eq!(interface.index(), 1);
        assert!(interface.queues(&link) >= 1);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Interface::open("nonesuch0").unwrap_err();
        assert!(matches!(&error, CaptureError::NoInterface { interface } if interface == "nonesuch0"), "{error}");
        assert!(error.to_string().contains("ip link"));
    }

    #[test]
    fn a_damaged_answer_is_an_error_and_no_panic() {
        let mut message = vec![0u8; 64];
        message[0..4].copy_from_slice(&64u32.to_ne_bytes());
        message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        message[32..34].copy_from_slice(&3u16.to_ne_bytes());
        assert_eq!(parse_link(&message).unwrap(), Link::default());
        for length in 0..64 {
            assert!(parse_link(&message[..length]).is_err());
        }
    }
}
