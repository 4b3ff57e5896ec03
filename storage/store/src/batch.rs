//! What the writer tells the keeper: what has become durable.

use crate::handle::Delivery;
use sidetone_catalog::Changes;
use sidetone_log::{Fact, FactRecord, FactSequence, LogPosition, Run, VolumeNumber};
use sidetone_model::{Recording, RecordingId, RecordingState};
use std::sync::Arc;

/// Records that became durable on a volume together. When the keeper has everything before `after` in the catalog, on all
/// volumes, applying `changes` brings it to `to`; when it has not, it reads the journals instead.
pub(crate) struct Batch {
    pub(crate) volume: VolumeNumber,
    /// What had become durable when these had not.
    pub(crate) after: Vec<(VolumeNumber, LogPosition)>,
    pub(crate) to: LogPosition,
    pub(crate) changes: Changes,
    /// What is to be known of the facts in `changes`, which does not show them.
    pub(crate) notes: Vec<Note>,
    /// Volumes that did not take facts of these, and whom the facts are about.
    pub(crate) owed: Vec<(VolumeNumber, RecordingId)>,
    /// Resolved when the catalog has reached `to` on this volume.
    pub(crate) deliveries: Vec<Arc<Delivery>>,
}

/// A fact of a batch that concerns the keeper.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Note {
    /// A recording is over.
    Over(Arc<Recording>, FactSequence),
    /// A run was announced.
    Sealed(RecordingId, Run),
}

impl Note {
    pub(crate) fn of(record: &FactRecord) -> Option<Self> {
        match &record.fact {
            Fact::Recording { recording, .. } if recording.state != RecordingState::Active => {
                Some(Self::Over(Arc::clone(recording), record.sequence))
            }
            Fact::Sealed { recording, run, .. } => Some(Self::Sealed(*recording, run.clone())),
            _ => None,
        }
    }
}
