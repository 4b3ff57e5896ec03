//! Where a side of a leg receives: what its session descriptions say, and the index from addresses to legs.
//!
//! Constraint: a hostile description costs a bounded amount of memory; what is beyond the bounds is not looked at.

use crate::StreamFormat;
use serde::{Deserialize, Serialize};
use sidetone_model::Domain;
use sidetone_signalling::event::{
    LegSide, MediaBinding, MediaDirection, MediaKind, MediaPhase, MediaSecurity, PayloadFormat, is_usable,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::call::LegNumber;

/// Media descriptions of one side that are looked at (RFC 8866 sets no bound).
const LINES_MAX: usize = 8;
/// Candidate addresses of one media description that are looked at.
const CANDIDATES_MAX: usize = 8;
/// Formats of one stream.
const FORMATS_MAX: usize = 64;

/// One side's descriptions: those in force, and an offer or preview that may come into force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SideBindings {
    committed: Vec<MediaBinding>,
    preview: Vec<MediaBinding>,
}

impl SideBindings {
    pub(crate) fn set(&mut self, phase: MediaPhase, bindings: &[MediaBinding]) {
        let mut bindings: Vec<MediaBinding> = bindings.iter().take(LINES_MAX).cloned().collect();
        for binding in &mut bindings {
            binding.candidates.truncate(CANDIDATES_MAX);
        }
        match phase {
            MediaPhase::Preview => self.preview = bindings,
            MediaPhase::Committed => {
                self.committed = bindings;
                self.preview.clear();
            }
        }
    }

    /// All descriptions, those in force first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &MediaBinding> {
        self.committed.iter().chain(&self.preview)
    }

    /// Every address at which this side may receive, each once per description.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (SocketAddr, MediaKind)> {
        self.all().flat_map(|binding| addresses(binding).map(|address| (address, binding.kind)))
    }

    pub(crate) fn receives_at(&self, address: SocketAddr) -> bool {
        self.at(address).next().is_some()
    }

    fn at(&self, address: SocketAddr) -> impl Iterator<Item = &MediaBinding> {
        self.all().filter(move |binding| addresses(binding).any(|known| known == address))
    }

    fn audio(&self) -> impl Iterator<Item = &MediaBinding> {
        self.all().filter(|binding| binding.kind == MediaKind::Audio)
    }

    /// Whether packets of this type at this address are audio. Several media may share a port (RFC 8843): the
    /// payload type tells them apart, and audio is assumed where it does not.
    pub(crate) fn is_audio(&self, address: SocketAddr, payload_type: u8) -> bool {
        let names = |binding: &MediaBinding| binding.formats.iter().any(|f| f.payload_type == payload_type);
        let audio = |binding: &&MediaBinding| binding.kind == MediaKind::Audio;
        if self.at(address).filter(audio).any(names) {
            return true;
        }
        !self.at(address).filter(|binding| !audio(binding)).any(names) && self.at(address).any(|b| audio(&b))
    }

    /// Whether an audio description of this side names the payload type.
    pub(crate) fn names_payload_type(&self, payload_type: u8) -> bool {
        self.audio().any(|binding| binding.formats.iter().any(|f| f.payload_type == payload_type))
    }

    pub(crate) fn has_audio(&self) -> bool {
        self.audio().any(|binding| addresses(binding).next().is_some())
    }

    pub(crate) fn has_other_than_audio(&self) -> bool {
        self.all().any(|binding| binding.kind != MediaKind::Audio && addresses(binding).next().is_some())
    }

    /// Whether this side holds the other one, or is held silent (RFC 3264 §8.4; `c=0.0.0.0` by RFC 2543).
    pub(crate) fn is_on_hold(&self) -> bool {
        let in_force = if self.committed.is_empty() { &self.preview } else { &self.committed };
        let mut audio = in_force.iter().filter(|binding| binding.kind == MediaKind::Audio).peekable();
        audio.peek().is_some()
            && audio.all(|binding| {
                binding.address.is_none()
                    || matches!(binding.direction, MediaDirection::Inactive | MediaDirection::SendOnly)
            })
    }
}

/// How to read packets that `sender` sends to `receiver` at `destination`: with the receiver's formats at that address
/// (RFC 3264 §5.1). Senders that use their own numbers for types that the receiver did not name are understood too.
pub(crate) fn stream_format(receiver: &SideBindings, sender: &SideBindings, destination: SocketAddr) -> StreamFormat {
    let is_audio = |binding: &&MediaBinding| binding.kind == MediaKind::Audio;
    let known = receiver.at(destination).any(|binding| is_audio(&binding));
    let receiving: Vec<&MediaBinding> =
        receiver.audio().filter(|binding| !known || addresses(binding).any(|a| a == destination)).collect();
    let mut formats: Vec<PayloadFormat> = Vec::new();
    for format in receiving.iter().copied().chain(sender.audio()).flat_map(|binding| &binding.formats) {
        if formats.len() < FORMATS_MAX && !formats.iter().any(|f| f.payload_type == format.payload_type) {
            formats.push(format.clone());
        }
    }
    let security = receiving.first().copied().or_else(|| sender.audio().next()).map(|binding| &binding.security);
    StreamFormat { formats: formats.into(), encrypted: !matches!(security, None | Some(MediaSecurity::None)) }
}

fn addresses(binding: &MediaBinding) -> impl Iterator<Item = SocketAddr> {
    binding
        .address
        .into_iter()
        .chain(binding.candidates.iter().copied())
        .filter(|address| address.port() != 0 && is_usable(address.ip()))
}

/// Position in the order in which addresses were named; the newer one wins where an address is used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BindingNumber(pub u64);

/// From an address to the legs that receive there.
#[derive(Debug, Default)]
pub(crate) struct BindingIndex {
    entries: BTreeMap<(Domain, SocketAddr, BindingNumber), (LegNumber, LegSide)>,
    next: u64,
}

impl BindingIndex {
    pub(crate) fn insert(
        &mut self,
        domain: Domain,
        address: SocketAddr,
        leg: LegNumber,
        side: LegSide,
    ) -> BindingNumber {
        let number = BindingNumber(self.next);
        self.next += 1;
        self.entries.insert((domain, address, number), (leg, side));
        number
    }

    pub(crate) fn remove(&mut self, domain: Domain, address: SocketAddr, number: BindingNumber) {
        self.entries.remove(&(domain, address, number));
    }

    /// The newest first.
    pub(crate) fn at(
        &self,
        domain: Domain,
        address: SocketAddr,
    ) -> impl Iterator<Item = (BindingNumber, LegNumber, LegSide)> {
        self.entries
            .range((domain, address, BindingNumber(0))..=(domain, address, BindingNumber(u64::MAX)))
            .rev()
            .map(|(&(_, _, number), &(leg, side))| (number, leg, side))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
