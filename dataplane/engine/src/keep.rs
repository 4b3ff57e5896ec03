//! The keeper thread: catalog, segments, volumes that come and go; and what the data plane has to know of that.

use crate::message::{EngineEvent, EventSink};
use sidetone_store::{Keeper, StoreError, StoreEvent, StoreReader, VolumeNumber, VolumeState};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether recordings may begin. Written by the keeper's thread, read by all.
#[derive(Debug)]
pub struct Room {
    takes_new: AtomicBool,
    volumes: Mutex<BTreeMap<VolumeNumber, VolumeState>>,
}

impl Default for Room {
    /// Before anything is known.
    fn default() -> Self {
        Self { takes_new: AtomicBool::new(true), volumes: Mutex::default() }
    }
}

impl Room {
    /// Some volume takes recordings that begin.
    pub fn takes_new(&self) -> bool {
        self.takes_new.load(Ordering::Relaxed)
    }

    /// The volumes that do not take everything, and what they take.
    pub fn troubled(&self) -> Vec<(VolumeNumber, VolumeState)> {
        let volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes
            .iter()
            .filter(|(_, state)| **state != VolumeState::Ok)
            .map(|(&volume, &state)| (volume, state))
            .collect()
    }

    fn set(&self, volume: VolumeNumber, state: VolumeState) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.insert(volume, state);
        self.takes_new.store(volumes.values().any(|state| state.takes_new()), Ordering::Relaxed);
    }
}

/// Has the keeper tell of everything from now on.
pub(crate) fn watch(
    keeper: &mut Keeper,
    reader: &StoreReader,
    room: &Arc<Room>,
    events: &EventSink,
) -> Result<(), StoreError> {
    for volume in reader.statistics()?.volumes {
        room.set(volume.volume, volume.state);
    }
    let (room, events) = (Arc::clone(room), Arc::clone(events));
    keeper.on_event(move |event| {
        if let StoreEvent::VolumeChanged { volume, after, .. } = event {
            room.set(volume, after);
        }
        events(match event {
            StoreEvent::RecordingOver(recording) => EngineEvent::RecordingCompleted(recording),
            event => EngineEvent::Store(event),
        });
    });
    Ok(())
}
