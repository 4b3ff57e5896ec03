//! How a query is answered: choose the narrowest index, walk it newest first, and look at each document.
//!
//! An index only proposes; the document decides. So an entry that is out of date costs a look and never a wrong answer.

use crate::keys::{
    OrderKey, SUFFIX_BYTES_MAX, TEXT_BYTES_MAX, normalize, order_key, parse_order_key, party_texts, state_byte,
    successor, suffix_prefix,
};
use crate::rocks::{Family, List, RocksCatalog};
use crate::{CatalogError, Cursor, PAGE_LIMIT_MAX, RecordingPage, RecordingQuery};
use sidetone_model::{CaptureTime, Recording, RecordingId, RecordingState};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// So many different numbers and names are followed one by one; a text that more contain is looked for in all
/// recordings, of which then many match.
const TEXTS_MAX: usize = 128;
/// Entries looked through to find these.
const TEXT_ENTRIES_MAX: usize = 4096;
/// Documents looked at for one page; what is found by then is the page.
const DOCUMENTS_MAX: usize = 20_000;

pub(crate) fn search(catalog: &RocksCatalog, query: &RecordingQuery) -> Result<RecordingPage, CatalogError> {
    let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
    let party = query.party.as_deref().map(normalize).filter(|party| !party.is_empty());
    let mut page = RecordingPage::default();
    if party.as_ref().is_some_and(|party| party.len() > TEXT_BYTES_MAX) {
        return Ok(page);
    }
    let Some(first) = first_order_key(query) else { return Ok(page) };
    let mut candidates = Candidates::new(lists(catalog, query, party.as_deref(), first)?)?;
    let mut looked_at = 0;
    let mut last = None;
    while let Some((started_at, id, state)) = candidates.next()? {
        if query.from.is_some_and(|from| started_at < from) {
            break;
        }
        if let (Some(wanted), Some(state)) = (query.state, state)
            && state != state_byte(wanted)
        {
            continue;
        }
        if page.recordings.len() == limit || looked_at == DOCUMENTS_MAX {
            page.next = last;
            break;
        }
        looked_at += 1;
        last = Some(Cursor { started_at, recording: id });
        let Some(recording) = catalog.document(id)? else { continue };
        if recording.started_at == started_at && matches(&recording, query.state, party.as_deref()) {
            page.recordings.push(recording);
        }
    }
    Ok(page)
}

fn matches(recording: &Recording, state: Option<RecordingState>, party: Option<&str>) -> bool {
    state.is_none_or(|state| recording.state == state)
        && party.is_none_or(|party| party_texts(recording).iter().any(|text| text.contains(party)))
}

/// The first place that the query's end of time and its cursor leave; `None` when they leave nothing.
fn first_order_key(query: &RecordingQuery) -> Option<OrderKey> {
    let newest = RecordingId(uuid::Uuid::max());
    let until = match query.to {
        None => order_key(CaptureTime(u64::MAX), newest),
        Some(to) => order_key(CaptureTime(to.0.checked_sub(1)?), newest),
    };
    match query.cursor {
        None => Some(until),
        Some(cursor) => Some(successor(order_key(cursor.started_at, cursor.recording))?.max(until)),
    }
}

/// The narrowest set of lists whose union holds every match.
fn lists<'a>(
    catalog: &'a RocksCatalog,
    query: &RecordingQuery,
    party: Option<&str>,
    first: OrderKey,
) -> Result<Vec<List<'a>>, CatalogError> {
    if let Some(hashes) = party.map(|party| texts_with(catalog, party)).transpose()?.flatten() {
        return Ok(hashes.iter().map(|hash| catalog.list(Family::ByParty, hash, &first)).collect());
    }
    Ok(vec![match query.state {
        Some(state) => catalog.list(Family::ByState, &[state_byte(state)], &first),
        None => catalog.list(Family::ByTime, &[], &first),
    }])
}

/// Hashes of all texts that contain `part`, or of a few more; `None` when they are too many.
fn texts_with(catalog: &RocksCatalog, part: &str) -> Result<Option<BTreeSet<[u8; 8]>>, CatalogError> {
    let prefix = suffix_prefix(part);
    debug_assert!(prefix.len() <= SUFFIX_BYTES_MAX);
    let mut list = catalog.list(Family::PartyTexts, prefix, &[]);
    let mut hashes = BTreeSet::new();
    let mut entries = 0;
    while let Some(hash) = list.next(|rest, _| rest.last_chunk::<8>().copied())? {
        hashes.insert(hash.ok_or(CatalogError::Corrupt { what: "index entry" })?);
        entries += 1;
        if hashes.len() > TEXTS_MAX || entries > TEXT_ENTRIES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(hashes))
}

/// Several lists as one, newest first, each recording once.
struct Candidates<'a> {
    lists: Vec<List<'a>>,
    /// The next entry of each list, smallest key first.
    heads: BinaryHeap<Reverse<(OrderKey, usize, Option<u8>)>>,
    last: Option<OrderKey>,
}

impl<'a> Candidates<'a> {
    fn new(lists: Vec<List<'a>>) -> Result<Self, CatalogError> {
        let mut candidates = Self { heads: BinaryHeap::with_capacity(lists.len()), lists, last: None };
        for index in 0..candidates.lists.len() {
            candidates.pull(index)?;
        }
        Ok(candidates)
    }

    /// Takes the next entry of list `index` among the heads.
    fn pull(&mut self, index: usize) -> Result<(), CatalogError> {
        let head = self.lists[index].next(|key, value| {
            let order: Option<OrderKey> = key.try_into().ok();
            order.map(|order| (order, value.first().copied()))
        })?;
        if let Some(entry) = head {
            let (order, state) = entry.ok_or(CatalogError::Corrupt { what: "index entry" })?;
            self.heads.push(Reverse((order, index, state)));
        }
        Ok(())
    }

    /// Start time, identifier, and, where the index holds it, the state.
    fn next(&mut self) -> Result<Option<(CaptureTime, RecordingId, Option<u8>)>, CatalogError> {
        while let Some(Reverse((order, index, state))) = self.heads.pop() {
            self.pull(index)?;
            if self.last.replace(order) == Some(order) {
                continue;
            }
            let (started_at, id) = parse_order_key(&order).ok_or(CatalogError::Corrupt { what: "index entry" })?;
            return Ok(Some((started_at, id, state)));
        }
        Ok(None)
    }
}
