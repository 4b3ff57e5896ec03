//! What makes a stream unique on the wire.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// The broadcast domain a frame was seen in: up to two VLAN tags and a tunnel's network identifier.
/// The same addresses in two domains are two different networks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Domain {
    /// Outer VLAN id, 0 when untagged.
    pub vlan_outer: u16,
    /// Inner VLAN id, 0 when there is none.
    pub vlan_inner: u16,
    /// Tunnel network identifier (VXLAN VNI, ERSPAN session, …), 0 when not tunnelled.
    pub network: u32,
}

impl fmt::Display for Domain {
    /// `""` for the untagged network, else parts such as `vlan 100.20` and `vni 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.vlan_outer, self.vlan_inner) {
            (0, 0) => {}
            (outer, 0) => write!(f, "vlan {outer}")?,
            (outer, inner) => write!(f, "vlan {outer}.{inner}")?,
        }
        if self.network != 0 {
            let separator = if self.vlan_outer == 0 && self.vlan_inner == 0 { "" } else { " " };
            write!(f, "{separator}vni {}", self.network)?;
        }
        Ok(())
    }
}

/// One RTP source as seen on the wire. Nothing less is unique: PBXs send every call from one port, and
/// phones reuse SSRCs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamKey {
    pub domain: Domain,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub ssrc: u32,
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ssrc 0x{:08x}", self.source, self.destination, self.ssrc)
    }
}
