//! Which verdicts there are about an address: the kernel's map can only be asked for whole keys.
//!
//! Constraint: bounded by the size of the kernel's map; what has expired there is let go here, oldest first.

use super::address_bytes;
use sidetone_tap_abi::{FlowKey, MAX_FLOWS};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

/// Address, family, port.
type Endpoint = ([u8; 16], u32, u16);

#[derive(Debug, Default)]
pub(super) struct FlowIndex {
    by_endpoint: HashMap<Endpoint, HashSet<FlowKey>>,
    expires_at_ns: HashMap<FlowKey, u64>,
    /// In the order of expiry; entries that were renewed or removed since differ from `expires_at_ns`.
    order: VecDeque<(u64, FlowKey)>,
}

impl FlowIndex {
    /// Adds or renews a verdict. `expires_at_ns` never goes back from one call to the next.
    pub(super) fn insert(&mut self, key: FlowKey, expires_at_ns: u64, now_ns: u64) {
        if self.expires_at_ns.insert(key, expires_at_ns).is_none() {
            for endpoint in endpoints(&key) {
                self.by_endpoint.entry(endpoint).or_default().insert(key);
            }
        }
        self.order.push_back((expires_at_ns, key));
        while let Some(&(at_ns, oldest)) = self.order.front()
            && (at_ns <= now_ns || self.order.len() > 2 * MAX_FLOWS as usize)
        {
            self.order.pop_front();
            if self.expires_at_ns.get(&oldest) == Some(&at_ns) {
                self.remove(&oldest);
            }
        }
    }

    /// Removes and returns all verdicts about the address.
    pub(super) fn remove_address(&mut self, address: SocketAddr) -> Vec<FlowKey> {
        let (bytes, family) = address_bytes(address.ip());
        let Some(keys) = self.by_endpoint.get(&(bytes, family, address.port())) else {
            return Vec::new();
        };
        let keys: Vec<FlowKey> = keys.iter().copied().collect();
        for key in &keys {
            self.remove(key);
        }
        keys
    }

    fn remove(&mut self, key: &FlowKey) {
        self.expires_at_ns.remove(key);
        for endpoint in endpoints(key) {
            if let Some(keys) = self.by_endpoint.get_mut(&endpoint) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_endpoint.remove(&endpoint);
                }
            }
        }
    }
}

fn endpoints(key: &FlowKey) -> [Endpoint; 2] {
    [(key.source, key.is_ipv6, key.source_port), (key.destination, key.is_ipv6, key.destination_port)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source_port: u16, destination_port: u16, ssrc: u32) -> FlowKey {
        let (source, is_ipv6) = address_bytes([10, 0, 0, 1].into());
        let (destination, _) = address_bytes([10, 0, 0, 2].into());
        FlowKey { source, destination, source_port, destination_port, ssrc, is_ipv6, ..FlowKey::default() }
    }

    #[test]
    fn an_address_finds_the_verdicts_in_both_directions_and_no_others() {
        let mut index = FlowIndex::default();
        index.insert(key(4000, 5000, 1), 30, 0);
        index.insert(key(4002, 5000, 2), 30, 0);
        index.insert(key(4002, 5002, 3), 30, 0);
        let mut found = index.remove_address("10.0.0.2:5000".parse().unwrap());
        found.sort_by_key(|key| key.ssrc);
        assert_eq!(found, [key(4000, 5000, 1), key(4002, 5000, 2)]);
        assert!(index.remove_address("10.0.0.2:5000".parse().unwrap()).is_empty());
        assert!(index.remove_address("10.0.0.1:5002".parse().unwrap()).is_empty());
        assert_eq!(index.remove_address("10.0.0.1:4002".parse().unwrap()), [key(4002, 5002, 3)]);
        assert!(index.by_endpoint.is_empty() && index.expires_at_ns.is_empty());
    }

    #[test]
    fn expired_verdicts_leave_and_renewed_ones_stay() {
        let mut index = FlowIndex::default();
        index.insert(key(1, 2, 1), 30, 0);
        index.insert(key(3, 4, 1), 31, 1);
        index.insert(key(1, 2, 1), 50, 20);
        index.insert(key(5, 6, 1), 65, 35);
        assert!(index.remove_address("10.0.0.1:3".parse().unwrap()).is_empty());
        assert_eq!(index.remove_address("10.0.0.1:1".parse().unwrap()), [key(1, 2, 1)]);
    }

    #[test]
    fn memory_is_bounded_when_verdicts_never_expire() {
        let mut index = FlowIndex::default();
        for number in 0..3 * MAX_FLOWS {
            index.insert(key(number as u16, 9, number), u64::from(number) + 1_000_000_000, 0);
        }
        assert_eq!(index.order.len(), 2 * MAX_FLOWS as usize);
        assert_eq!(index.expires_at_ns.len(), 2 * MAX_FLOWS as usize);
        assert_eq!(index.by_endpoint[&(address_bytes([10, 0, 0, 2].into()).0, 0, 9)].len(), 2 * MAX_FLOWS as usize);
    }
}
