//! What a store gets wrong on purpose in a test, so that the test can show that it would notice.

use crate::shared::Shared;

/// Never in a store that is not being tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sabotage {
    /// The keeper hears of records when their flush begins.
    #[cfg_attr(not(test), expect(dead_code, reason = "what it does is compiled for tests only"))]
    TellBeforeDurable,
    /// A fact that a recording is over does not wait for its audio on other volumes.
    EndBeforeAudio,
    /// A run is announced before its segment is flushed.
    AnnounceBeforeFlush,
    /// A segment is closed while runs in it are not announced.
    CloseBeforeAnnounced,
    /// Journal files go before the catalog is durable.
    RetireBeforePersist,
    /// Journal files go whatever still lies in them.
    RetireNeeded,
    /// Facts count as copied that were not.
    SettleWithoutCopy,
    /// What a volume misses while it is away is forgotten.
    ForgetOwed,
}

impl Shared {
    pub(crate) fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        cfg!(test) && self.sabotage == Some(sabotage)
    }
}

#[cfg(test)]
impl crate::StoreWriter {
    /// The keeper hears of everything appended, durable or not.
    pub(crate) fn tell_before_durable(&mut self) {
        for lane in 0..self.lanes.len() {
            let early = self.lanes[lane].not_durable();
            if early.to > self.lanes[lane].told {
                self.settle(lane, early);
            }
        }
    }
}

#[cfg(test)]
impl crate::lane::Lane {
    fn not_durable(&self) -> crate::lane::Settled {
        let mut early = crate::lane::Settled::default();
        let volume = self.shared.volume.number;
        for item in self.items() {
            let position = item.located.position;
            let offset = position.offset + u64::from(item.located.length).next_multiple_of(16);
            early.to = sidetone_log::LogPosition { offset, ..position };
            match &item.what {
                crate::lane::What::Chunk(header) => early.changes.chunk(header, volume, item.located),
                crate::lane::What::Fact(fact) => {
                    early.changes.fact((*fact.record).clone(), &[(volume, position)]);
                }
            }
        }
        early
    }
}
