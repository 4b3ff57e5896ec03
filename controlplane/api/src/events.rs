//! What happens, as it happens: [`EventBus`] for whoever has something to tell, server-sent events for whoever listens.
//!
//! Constraints: publishing never waits. A subscriber that reads too slowly loses events, is told how many (`lagged`),
//! and reads the lists again. Events carry no identifiers and none are kept for later: `Last-Event-ID` has no meaning here.

use crate::problem::{Problem, ProblemKind};
use crate::query::{NoParameters, Parameters};
use crate::routes::AppState;
use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sidetone_model::{Annotations, CaptureTime, Recording, RecordingId, TrackId};
use sidetone_store::VolumeState;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Events kept for the slowest subscriber; each is one reference to a recording document.
const BUS_CAPACITY: usize = 1024;
/// Events written ahead to one client's connection.
const AHEAD_EVENTS: usize = 8;
/// A comment line in this interval keeps proxies and browsers from taking a quiet stream for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a browser is told to wait before it connects again.
const RETRY: Duration = Duration::from_secs(2);

/// Something happened. Of a call or recording the document travels along as it stood then.
#[derive(Clone, Debug)]
pub enum Event {
    /// A call is being recorded.
    CallStarted(Arc<Recording>),
    /// Something of an active recording changed: answered, a party, a track, a loss.
    CallUpdated(Arc<Recording>),
    /// The call is over; its last audio may still be on the way to the disk.
    CallEnded(Arc<Recording>),
    /// The recording is closed and durable: `complete` or `incomplete`.
    RecordingCompleted(Arc<Recording>),
    /// Somebody changed its tags or its hold.
    RecordingAnnotated { recording: RecordingId, annotations: Annotations },
    /// Stored audio could not be read when somebody played it; it was silent.
    RecordingDamaged { recording: RecordingId, gaps: Vec<AudioGap> },
    /// A volume of the store takes less than before, or more again.
    VolumeChanged(VolumeChange),
    /// Something else happened to the store that an operator should know.
    StoreAlert(StoreAlert),
}

/// A volume's state is another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VolumeChange {
    pub volume: u8,
    pub directory: String,
    pub state: VolumeState,
    pub previous_state: VolumeState,
}

/// In words, and of a kind that programs can tell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StoreAlert {
    pub kind: StoreAlertKind,
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAlertKind {
    CatalogFailing,
    CatalogRecovered,
    JournalDamaged,
    AudioDamaged,
}

/// Stored audio that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct AudioGap {
    pub track: TrackId,
    pub from: CaptureTime,
    pub to: CaptureTime,
    pub reason: String,
}

#[derive(Serialize)]
struct Annotated<'a> {
    recording: RecordingId,
    annotations: &'a Annotations,
}

#[derive(Serialize)]
struct Damaged<'a> {
    recording: RecordingId,
    gaps: &'a [AudioGap],
}

impl Event {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CallStarted(_) => "call.started",
            Self::CallUpdated(_) => "call.updated",
            Self::CallEnded(_) => "call.ended",
            Self::RecordingCompleted(_) => "recording.completed",
            Self::RecordingAnnotated { .. } => "recording.annotated",
            Self::RecordingDamaged { .. } => "recording.damaged",
            Self::VolumeChanged(_) => "volume.changed",
            Self::StoreAlert(_) => "store.alert",
        }
    }

    /// The data on the wire: JSON in one line.
    fn data(&self) -> serde_json::Result<String> {
        match self {
            Self::CallStarted(recording)
            | Self::CallUpdated(recording)
            | Self::CallEnded(recording)
            | Self::RecordingCompleted(recording) => serde_json::to_string(recording),
            Self::RecordingAnnotated { recording, annotations } => {
                serde_json::to_string(&Annotated { recording: *recording, annotations })
            }
            Self::RecordingDamaged { recording, gaps } => {
                serde_json::to_string(&Damaged { recording: *recording, gaps })
            }
            Self::VolumeChanged(change) => serde_json::to_string(change),
            Self::StoreAlert(alert) => serde_json::to_string(alert),
        }
    }
}

/// Carries events from any thread to all subscribers. Clones are the same bus.
#[derive(Clone, Debug)]
pub struct EventBus {
    sender: broadcast::Sender<Event>,
}

impl EventBus {
    pub fn new() -> Self {
        Self { sender: broadcast::Sender::new(BUS_CAPACITY) }
    }

    /// Hands `event` to all subscribers there are now; without any it is gone. Never waits, and may be called from threads
    /// outside of tokio.
    pub fn publish(&self, event: Event) {
        // The error says that nobody listens, which is no failure.
        drop(self.sender.send(event));
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

/// Server-sent events: `call.started`, `call.updated`, `call.ended` and `recording.completed`, each with the recording
/// document as data (without its annotations); `recording.annotated` and `recording.damaged` with the recording's `id` in
/// `recording` and its `annotations` or the `gaps` found; `volume.changed` with a volume's new state; `store.alert` with what
/// else an operator should know of the store; `lagged` with `{"missed": n}` when this client read too slowly and `n` events were dropped: read
/// the lists again. A comment every 15 s keeps the connection open. Events are not numbered and not kept:
/// `Last-Event-ID` is ignored; subscribe first, then read `/api/v1/calls`.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "live",
    responses(
        (status = 200, description = "The stream; ends when the server stops", content_type = "text/event-stream", body = String),
        (status = 503, description = "Too many subscribers", content_type = "application/problem+json", body = crate::problem::ProblemDocument),
    )
)]
pub(crate) async fn events(
    State(state): State<AppState>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Result<Response, Problem> {
    let permit = Arc::clone(&state.subscribers).try_acquire_owned().map_err(|_full| {
        Problem::new(ProblemKind::Busy, "as many clients as are allowed follow the events already")
            .remedy("close other pages or programs that read /api/v1/events, then try again")
    })?;
    let mut subscription = state.events.subscribe();
    let mut stopping = state.stopping.clone();
    let lagged_total = state.metrics.events_lagged.clone();
    let subscribers = state.metrics.event_subscribers.clone();
    let (to_client, stream) = mpsc::channel::<Result<sse::Event, Infallible>>(AHEAD_EVENTS);
    // The task ends with the client (its receiver is dropped), with the bus, or with the server.
    tokio::spawn(async move {
        let _permit = permit;
        subscribers.inc();
        let mut next = Some(sse::Event::default().retry(RETRY).comment("connected"));
        loop {
            if let Some(event) = next.take()
                && to_client.send(Ok(event)).await.is_err()
            {
                break;
            }
            tokio::select! {
                () = to_client.closed() => break,
                _ = stopping.wait_for(|stopping| *stopping) => break,
                received = subscription.recv() => match received {
                    Ok(event) => match event.data() {
                        Ok(data) => next = Some(sse::Event::default().event(event.name()).data(data)),
                        Err(error) => tracing::error!(%error, event = event.name(), "an event cannot be written as JSON"),
                    },
                    Err(RecvError::Lagged(missed)) => {
                        lagged_total.inc_by(missed);
                        next = Some(sse::Event::default().event("lagged").data(format!("{{\"missed\":{missed}}}")));
                    }
                    Err(RecvError::Closed) => break,
                },
            }
        }
        subscribers.dec();
    });
    let response = Sse::new(ReceiverStream::new(stream)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies that buffer (nginx) would hold events back.
    Ok(([("x-accel-buffering", "no")], response).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_without_subscribers_neither_waits_nor_keeps() {
        let bus = EventBus::new();
        let recording = Arc::new(crate::sample::recording(1));
        for _ in 0..3 * BUS_CAPACITY {
            bus.publish(Event::CallStarted(Arc::clone(&recording)));
        }
        assert_eq!(Arc::strong_count(&recording), 1);
    }

    #[test]
    fn a_slow_subscriber_learns_how_much_it_missed() {
        let bus = EventBus::new();
        let mut subscription = bus.subscribe();
        let recording = Arc::new(crate::sample::recording(1));
        for _ in 0..BUS_CAPACITY + 7 {
            bus.publish(Event::CallUpdated(Arc::clone(&recording)));
        }
        assert!(matches!(subscription.try_recv(), Err(broadcast::error::TryRecvError::Lagged(7))));
        assert_eq!(subscription.try_recv().unwrap().name(), "call.updated");
    }
}
