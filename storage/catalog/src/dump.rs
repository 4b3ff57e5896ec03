//! Everything a catalog shows, as text: for comparing one that was made anew with the one before.

use crate::{Catalog, CatalogError, Filter, PAGE_LIMIT_MAX, Query};
use serde_json::json;
use sha2::{Digest, Sha256};
use sidetone_model::RecordingId;
use uuid::Uuid;

/// Gives one JSON document for each recording, newest first, with its runs, then one for each fact that is about no recording.
/// Where facts and chunks lie in journals is not told: the same recordings give the same lines, however they came in.
pub fn dump(catalog: &dyn Catalog, line: &mut dyn FnMut(&str)) -> Result<(), CatalogError> {
    let mut query = Query { filter: Filter::everything(), cursor: None, limit: PAGE_LIMIT_MAX };
    loop {
        let page = catalog.search(&query)?;
        for recording in page.recordings {
            let runs = catalog.runs(recording.id)?;
            line(&json!({ "recording": recording, "runs": runs }).to_string());
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    for fact in catalog.facts(RecordingId(Uuid::nil()))? {
        line(&json!({ "sequence": fact.record.sequence, "fact": fact.record.fact }).to_string());
    }
    Ok(())
}

/// SHA-256 of the lines of [`dump`], each with a line feed.
pub fn digest(catalog: &dyn Catalog) -> Result<[u8; 32], CatalogError> {
    let mut digest = Sha256::new();
    dump(catalog, &mut |line| {
        digest.update(line.as_bytes());
        digest.update(b"\n");
    })?;
    Ok(digest.finalize().into())
}
