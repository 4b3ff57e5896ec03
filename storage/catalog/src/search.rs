//! How a query is answered: choose lists that hold every match, walk them newest first, and look at each document.
//!
//! Lists only propose; the document decides. So a posting that is out of date costs a look and never a wrong answer. The
//! work for a page is bounded: what is found by then is the page, and the next one goes on where it ended.

use crate::apply::{bad_row, decode};
use crate::condition::Condition;
use crate::database::{Family, View};
use crate::order::{NANOS_PER_MILLISECOND, OrderKey, TIME_BYTES, TimeKey, behind, parse_time, time_key};
use crate::plan::{Bounds, Found, Limits, Source, Work};
use crate::row::Row;
use crate::{COUNT_EXACT_MAX, CatalogError, Count, Cursor, Filter, PAGE_LIMIT_MAX, Query, RecordingPage};
use sidetone_log::Run;
use sidetone_log::merkle::recording_root;
use sidetone_model::{CaptureTime, Proof, Recording, RecordingId, RecordingState};
use std::ops::ControlFlow;
use uuid::Uuid;

/// Work of going to a document, and of reading it, or only its beginning.
const DOCUMENT_SEEK_WORK: u64 = 40;
const DOCUMENT_WORK: u64 = 5;
const GLANCE_WORK: u64 = 1;

pub(crate) fn search(view: &View<'_>, query: &Query, limits: &Limits) -> Result<RecordingPage, CatalogError> {
    let condition = Condition::new(&query.filter)?;
    let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
    // A large page that its lists fill is not cut short.
    let page_work = limits.page_work + limit as u64 * (DOCUMENT_SEEK_WORK + DOCUMENT_WORK);
    let mut work = Work::new(page_work);
    let mut recordings = Vec::new();
    let end = walk(view, &condition, query.cursor, limits, &mut work, |mut row| {
        if recordings.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(mut recording) = matching(&condition, &mut row) {
            recording.proof = proof(view, &recording, &row.runs)?;
            recordings.push(recording);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let next = match end {
        End::Reached => None,
        // Something is left behind it.
        End::Stopped => recordings.last().map(Cursor::after),
        End::Paused(cursor) => Some(cursor),
    };
    Ok(RecordingPage { recordings, next })
}

pub(crate) fn count(view: &View<'_>, filter: &Filter, limits: &Limits) -> Result<Count, CatalogError> {
    let condition = Condition::new(filter)?;
    let mut work = Work::new(limits.count_work);
    let mut recordings = 0;
    let mut last = None;
    let end = walk(view, &condition, None, limits, &mut work, |mut row| {
        if recordings == COUNT_EXACT_MAX {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(recording) = matching(&condition, &mut row) {
            recordings += 1;
            last = Some(recording.started_at);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let reached = match end {
        End::Reached => return Ok(Count { recordings, exact: true }),
        End::Stopped => last,
        End::Paused(cursor) => Some(cursor.started_at),
    };
    let estimate = extrapolate(view, &Bounds::of(&condition), reached, recordings);
    Ok(Count { recordings: estimate, exact: false })
}

/// Every recording that matches, newest first, whatever the work. Without its proof.
pub(crate) fn for_each(
    view: &View<'_>,
    filter: &Filter,
    mut take: impl FnMut(Recording) -> Result<(), CatalogError>,
) -> Result<(), CatalogError> {
    let condition = Condition::new(filter)?;
    let mut work = Work::new(u64::MAX);
    walk(view, &condition, None, &Limits::DEFAULT, &mut work, |mut row| {
        matching(&condition, &mut row).map_or(Ok(()), &mut take)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(())
}

/// What the rest holds when matches are as frequent there as down to `reached`: by the room that documents take.
fn extrapolate(view: &View<'_>, bounds: &Bounds, reached: Option<CaptureTime>, recordings: u64) -> u64 {
    let Some(reached) = reached else { return recordings };
    let seen = view.room(Family::Documents, &time_key(bounds.newest), &time_key(reached));
    let all = view.room(Family::Documents, &time_key(bounds.newest), &time_key(bounds.oldest));
    if seen == 0 {
        return recordings;
    }
    (recordings as f64 * all.max(seen) as f64 / seen as f64).round() as u64
}

/// The recording as it is shown, without its proof, when it matches.
fn matching(condition: &Condition, row: &mut Row) -> Option<Recording> {
    row.take_shown().filter(|recording| condition.matches(recording))
}

/// The proof of a recording that is over and whose audio is all sealed.
pub(crate) fn proof(view: &View<'_>, recording: &Recording, runs: &[Run]) -> Result<Option<Proof>, CatalogError> {
    if recording.state == RecordingState::Active || runs.is_empty() {
        return Ok(None);
    }
    if view.need(recording.id)?.is_some_and(|need| need.chunk_count > 0) {
        return Ok(None);
    }
    Ok(Some(Proof {
        chunks: runs.iter().map(|run| u64::from(run.chunks)).sum(),
        bytes: runs.iter().map(|run| run.payload_bytes).sum(),
        merkle_root: recording_root(runs),
    }))
}

/// How a walk ended.
enum End {
    /// Nothing is left.
    Reached,
    /// By who looked.
    Stopped,
    /// The work was used up; it goes on here.
    Paused(Cursor),
}

/// Gives every row that may match to `look`, newest first, from behind `cursor` on, until that breaks or the work is used up.
fn walk(
    view: &View<'_>,
    condition: &Condition,
    cursor: Option<Cursor>,
    limits: &Limits,
    work: &mut Work,
    mut look: impl FnMut(Row) -> Result<ControlFlow<()>, CatalogError>,
) -> Result<End, CatalogError> {
    let bounds = Bounds::of(condition);
    if bounds.is_empty() {
        return Ok(End::Reached);
    }
    let end = time_key(bounds.oldest);
    let mut position = time_key(bounds.newest).to_vec();
    if let Some(cursor) = cursor {
        match position_behind(cursor) {
            Some(behind) => position = position.max(behind),
            None => return Ok(End::Reached),
        }
    }
    let mut source = Source::plan(view, condition, time_of(&position), limits, work)?;
    let mut documents = view.list_from(Family::Documents, &[], &position);
    let mut last = None;
    loop {
        // With a source only documents of its time, else all from here on.
        let mut window = None;
        if let Some(source) = &mut source {
            match source.seek(time_of(&position), work)? {
                Found::End => return Ok(End::Reached),
                Found::Paused(time) => return Ok(End::Paused(before(time))),
                Found::At(time) => {
                    if time != time_of(&position) {
                        position = time.to_vec();
                    }
                    window = Some(time);
                }
            }
            documents.seek(&position);
            work.spend(DOCUMENT_SEEK_WORK);
        }
        while let Some((key, value)) = documents.entry()? {
            let (started, id) = OrderKey::parse(key).ok_or_else(|| documents.damaged("a document's key"))?;
            if window.is_some_and(|window| window != time_of(key)) {
                break;
            }
            if time_of(key) > end {
                return Ok(End::Reached);
            }
            if let Some(last) = last.filter(|_| work.is_spent()) {
                return Ok(End::Paused(last));
            }
            let glance = Row::glance(value, started).map_err(|bad| bad_row(view.database, bad, id))?;
            if condition.glance(&glance) == Some(false) {
                work.spend(GLANCE_WORK);
            } else {
                work.spend(DOCUMENT_WORK);
                if look(decode(view.database, value, id, Some(started))?)?.is_break() {
                    return Ok(End::Stopped);
                }
            }
            last = Some(Cursor { started_at: started, recording: id });
            documents.advance();
        }
        match window.and_then(behind) {
            Some(next) => position = next.to_vec(),
            None => return Ok(End::Reached),
        }
    }
}

fn time_of(position: &[u8]) -> TimeKey {
    let mut time = [0; TIME_BYTES];
    time.copy_from_slice(&position[..TIME_BYTES]);
    time
}

/// Behind everything that started in the millisecond after this one: just before what started in it.
fn before(time: TimeKey) -> Cursor {
    // A pause is always behind where the walk began, so that there is a later time.
    let later = parse_time(time).unwrap_or_default().0.saturating_add(NANOS_PER_MILLISECOND);
    Cursor { started_at: CaptureTime(later), recording: RecordingId(Uuid::max()) }
}

/// The first key behind a cursor; `None` behind the last.
fn position_behind(cursor: Cursor) -> Option<Vec<u8>> {
    if cursor.recording.0.is_max() {
        return behind(time_key(cursor.started_at)).map(|time| time.to_vec());
    }
    Some([OrderKey::from(cursor).as_bytes(), &[0]].concat())
}
