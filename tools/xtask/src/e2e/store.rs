//! What metrics and command line say of the store.

use super::Environment;
use crate::report::Checks;
use anyhow::{Context, Result};
use serde_json::Value;
use sidetone_testkit::metrics::Metrics;
use sidetone_testkit::recorder;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

/// Journal file and offset up to which each volume is durable.
pub(super) fn durable_positions(metrics: &Metrics) -> Result<BTreeMap<String, (u64, u64)>> {
    let by_volume = |name: &str| -> Result<BTreeMap<String, u64>> {
        let samples = metrics.samples(name);
        anyhow::ensure!(!samples.is_empty(), "the appliance has no metric {name}");
        samples
            .iter()
            .map(|sample| {
                let volume = sample.labels.get("volume").with_context(|| format!("{name} without a volume"))?;
                Ok((volume.clone(), sample.value as u64))
            })
            .collect()
    };
    let files = by_volume("sidetone_store_journal_file")?;
    let offsets = by_volume("sidetone_store_journal_durable_bytes")?;
    Ok(files
        .into_iter()
        .filter_map(|(volume, file)| {
            let offset = offsets.get(&volume).copied()?;
            Some((volume, (file, offset)))
        })
        .collect())
}

/// The state of a volume, by the metric that has a sample for each state.
pub(super) fn volume_state(metrics: &Metrics, volume: &str) -> Option<String> {
    let samples = metrics.samples("sidetone_store_volume_state");
    let is_so = |sample: &&sidetone_testkit::metrics::Sample| {
        sample.value == 1.0 && sample.labels.get("volume").is_some_and(|label| label == volume)
    };
    samples.iter().find(is_so).and_then(|sample| sample.labels.get("state")).cloned()
}

/// `sidetone store verify` reads every record of the store and finds nothing wrong.
pub(super) fn check_undamaged(environment: &Environment<'_>, store: &Path, checks: &mut Checks) -> Result<()> {
    let words = ["store", "verify", "--json", "--store"].map(OsStr::new);
    let printed = recorder::command_line(&environment.program, &[&words[..], &[store.as_os_str()]].concat());
    let text = match printed {
        Ok(text) => text,
        Err(error) => {
            checks.expect(false, || format!("the store is damaged: {error:#}"));
            return Ok(());
        }
    };
    let report: Value = serde_json::from_str(&text).context("`store verify --json` printed no JSON")?;
    let count = |name: &str| report[name].as_u64().with_context(|| format!("`store verify` tells no `{name}`: {text}"));
    println!(
        "  store verify: {} chunks, {} facts, {} runs, {} recordings, {} damaged places",
        count("chunks")?,
        count("facts")?,
        count("runs")?,
        count("recordings")?,
        count("bad_places")?
    );
    checks.expect(count("bad_places")? == 0, || format!("the store is damaged: {}", report["bad"]));
    checks.expect(count("chunks")? > 0 && count("recordings")? > 0, || "the store is empty".to_owned());
    Ok(())
}
