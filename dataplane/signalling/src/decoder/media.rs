//! Offers and answers of one leg: which session descriptions were proposed, which are in force (RFC 3264, RFC 6337).
//!
//! Constraints: a description is kept per hop, told by the top Via of the message that carried it, since a relay may
//! rewrite it on the way; a newer one of the same hop replaces the older. Counts are bounded by [`HOPS_MAX`] and
//! [`FORKS_MAX`].

use crate::event::{LegSide, MediaBinding, MediaSecurity};
use crate::message::Method;
use crate::sdp::{MediaDescription, SessionDescription};
use sidetone_model::CaptureTime;
use std::sync::Arc;

pub(super) const HOPS_MAX: usize = 8;
pub(super) const FORKS_MAX: usize = 12;
const BRANCHES_MAX: usize = 16;

/// Digest of a top Via: tells the hops of one transaction apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hop(pub(super) u64);

/// A description as it is kept, with its size on the wire.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) description: SessionDescription,
    pub(super) bytes: usize,
}

/// What one side said of itself in one message, on every hop where it was seen.
#[derive(Clone, Default, Debug)]
pub(super) struct Descriptions {
    hops: Vec<(Hop, Arc<Kept>)>,
}

impl Descriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.hops.iter().map(|(_, kept)| kept.bytes).sum()
    }

    pub(super) fn set(&mut self, hop: Hop, kept: &Arc<Kept>) {
        if let Some((_, older)) = self.hops.iter_mut().find(|(known, _)| *known == hop) {
            *older = Arc::clone(kept);
        } else if self.hops.len() < HOPS_MAX {
            self.hops.push((hop, Arc::clone(kept)));
        }
    }

    /// Adds this side's bindings to `bindings`, leaving out what is there already. With the peer's descriptions the
    /// exchange is complete: lines that the peer refused, and keys and multiplexing that it did not take up, are
    /// settled.
    pub(super) fn append_bindings(&self, peer: Option<&Self>, bindings: &mut Vec<MediaBinding>) {
        for (_, kept) in &self.hops {
            for (position, line) in kept.description.media.iter().enumerate() {
                let binding = match peer {
                    Some(peer) if !peer.is_empty() => settle(line, position, peer),
                    _ => line.binding.clone(),
                };
                if !bindings.contains(&binding) {
                    bindings.push(binding);
                }
            }
        }
    }

    /// The lines at this position, one per hop that has so many.
    fn lines(&self, position: usize) -> impl Iterator<Item = &MediaDescription> {
        self.hops.iter().filter_map(move |(_, kept)| kept.description.media.get(position))
    }
}

fn settle(line: &MediaDescription, position: usize, peer: &Descriptions) -> MediaBinding {
    let mut binding = line.binding.clone();
    let mut answered = peer.lines(position).peekable();
    if answered.peek().is_none() {
        return binding;
    }
    let (mut rejected, mut multiplexed, mut secured) = (true, false, false);
    for answer in answered {
        rejected &= answer.rejected;
        multiplexed |= answer.rtcp_mux;
        secured |= answer.binding.security != MediaSecurity::None;
    }
    if rejected {
        (binding.address, binding.rtcp) = (None, None);
        binding.candidates.clear();
    } else if line.rtcp_mux && !multiplexed {
        binding.rtcp = line.rtcp_unmultiplexed;
    }
    if line.opportunistic_security && !secured {
        binding.security = MediaSecurity::None;
    }
    binding
}

/// The called side as one of possibly several that answer, told by its tag.
#[derive(Clone, Debug)]
pub(super) struct Fork {
    pub(super) tag: Arc<str>,
    /// From provisional responses.
    pub(super) provisional: Descriptions,
    /// From 2xx responses.
    pub(super) accepting: Descriptions,
    pub(super) accepted: bool,
}

impl Fork {
    pub(super) fn descriptions(&self) -> &Descriptions {
        if self.accepting.is_empty() { &self.provisional } else { &self.accepting }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ExchangeState {
    Open,
    /// Accepted; what it agreed is in force.
    Completed,
    /// Refused or overtaken: what it proposed counts for nothing.
    Void,
}

/// One INVITE, UPDATE or PRACK transaction and the descriptions that it carries.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) method: Method,
    pub(super) cseq: u32,
    /// Opens the leg (as opposed to a re-INVITE).
    pub(super) initial: bool,
    pub(super) request_seen: bool,
    pub(super) response_seen: bool,
    pub(super) state: ExchangeState,
    /// From the request.
    pub(super) offer: Descriptions,
    /// From ACK or PRACK, when the offer came in the response.
    pub(super) late_answer: Descriptions,
    pub(super) forks: Vec<Fork>,
    /// The hop nearest to the sender of the request and how many Via fields the request had there.
    upstream: Option<(Hop, usize)>,
    branches: Vec<Hop>,
}

impl Exchange {
    pub(super) fn new(method: Method, cseq: u32, initial: bool) -> Self {
        Self {
            method,
            cseq,
            initial,
            request_seen: false,
            response_seen: false,
            state: ExchangeState::Open,
            offer: Descriptions::default(),
            late_answer: Descriptions::default(),
            forks: Vec::new(),
            upstream: None,
            branches: Vec::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == ExchangeState::Open
    }

    /// The request was seen on this hop.
    pub(super) fn note_request(&mut self, hop: Hop, via_count: usize) {
        self.request_seen = true;
        if self.upstream.is_none_or(|(_, fewest)| via_count < fewest) {
            self.upstream = Some((hop, via_count));
        }
        if !self.branches.contains(&hop) && self.branches.len() < BRANCHES_MAX {
            self.branches.push(hop);
        }
    }

    pub(super) fn was_requested_on(&self, hop: Hop) -> bool {
        self.branches.contains(&hop)
    }

    /// Whether a message of this transaction belongs to a hop behind a proxy, which may go on with another branch
    /// whatever happens there (RFC 3261 §16.7).
    pub(super) fn is_downstream(&self, hop: Hop) -> bool {
        self.upstream.is_some_and(|(upstream, _)| upstream != hop) && self.branches.contains(&hop)
    }

    /// Whether this is the first hop on which the request was seen, or none was seen at all.
    pub(super) fn is_reference_hop(&self, hop: Hop) -> bool {
        self.upstream.is_none_or(|(upstream, _)| upstream == hop)
    }

    /// The fork with this tag; `None` when there are too many.
    pub(super) fn fork(&mut self, tag: &str) -> Option<&mut Fork> {
        let known = self.forks.iter().position(|fork| *fork.tag == *tag);
        let position = match known {
            Some(position) => position,
            None if self.forks.len() < FORKS_MAX => {
                self.forks.push(Fork {
                    tag: Arc::from(tag),
                    provisional: Descriptions::default(),
                    accepting: Descriptions::default(),
                    accepted: false,
                });
                self.forks.len() - 1
            }
            None => return None,
        };
        self.forks.get_mut(position)
    }

    /// The offer is expected in a response (RFC 3261 §13.2.1): the request was seen and had none.
    pub(super) fn is_late_offer(&self) -> bool {
        self.request_seen && self.offer.is_empty()
    }

    /// What the sender of the request says of itself.
    pub(super) fn requester(&self) -> &Descriptions {
        if self.offer.is_empty() { &self.late_answer } else { &self.offer }
    }

    pub(super) fn bytes(&self) -> usize {
        let forks = self.forks.iter().map(|fork| fork.provisional.bytes() + fork.accepting.bytes());
        self.offer.bytes() + self.late_answer.bytes() + forks.sum::<usize>()
    }
}

/// What an UPDATE or PRACK settled before the INVITE was answered (RFC 3311 §5.1).
#[derive(Clone, Debug)]
pub(super) struct EarlySession {
    pub(super) tag: Arc<str>,
    pub(super) sides: BySide<Descriptions>,
}

/// One value for each side of a leg.
#[derive(Clone, Default, Debug)]
pub(super) struct BySide<T> {
    pub(super) caller: T,
    pub(super) callee: T,
}

impl<T> std::ops::Index<LegSide> for BySide<T> {
    type Output = T;
    fn index(&self, side: LegSide) -> &T {
        match side {
            LegSide::Caller => &self.caller,
            LegSide::Callee => &self.callee,
        }
    }
}

impl<T> std::ops::IndexMut<LegSide> for BySide<T> {
    fn index_mut(&mut self, side: LegSide) -> &mut T {
        match side {
            LegSide::Caller => &mut self.caller,
            LegSide::Callee => &mut self.callee,
        }
    }
}

/// Time and words of something that may turn out to be the end.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) time: CaptureTime,
    pub(super) detail: String,
}
