//! `sidetone recordings tag`: through the recorder that has the store open, or on the store itself.

use crate::client::Recorder;
use crate::config::Config;
use crate::output::{print, print_json};
use crate::recordings::StoreDirectory;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use sidetone_model::{Annotations, RecordingId};
use sidetone_store::{AnnotationChange, Store, StoreError, StoreOptions};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct TagArguments {
    /// Recording id.
    id: RecordingId,
    #[command(flatten)]
    store: StoreDirectory,
    /// Tags to set.
    #[arg(value_name = "KEY=VALUE", required_unless_present = "remove")]
    tags: Vec<Tag>,
    /// Tags to remove; may be given several times.
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
pub(crate) struct Tag {
    key: String,
    value: String,
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err("write it KEY=VALUE; --remove KEY takes a tag away".to_owned()),
        }
    }
}

pub(crate) fn tag(arguments: &TagArguments) -> Result<ExitCode> {
    if let Some(tag) = arguments.tags.iter().find(|tag| arguments.remove.contains(&tag.key)) {
        bail!("the tag {} is to be set and removed: leave one of them out", tag.key);
    }
    let directory = &arguments.store.directory;
    let mut options = StoreOptions::new(Config::default().node_name());
    options.create = false;
    let (before, annotations, through) = match Store::open(directory, &options) {
        Ok(store) => {
            let before = store.reader.annotations(arguments.id)?;
            (before, on_store(store, arguments)?, "the store".to_owned())
        }
        Err(StoreError::Locked { path, process }) => through_recorder(arguments, &Recorder::new(&path, &process))?,
        Err(error) => return Err(error.into()),
    };
    let not_there: Vec<_> = arguments.remove.iter().filter(|key| !before.tags.contains_key(*key)).collect();
    if arguments.json {
        print_json(
            &json!({ "id": arguments.id, "annotations": annotations, "not_there": not_there, "through": through }),
        )?;
    } else {
        let mut text: String = annotations.tags.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        text.extend(not_there.iter().map(|key| format!("there was no tag {key} to remove\n")));
        print(format_args!("{text}changed through {through}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The annotations before and after, and who has changed them.
fn through_recorder(arguments: &TagArguments, recorder: &Recorder) -> Result<(Annotations, Annotations, String)> {
    let set = arguments.tags.iter().map(|tag| (tag.key.as_str(), Some(tag.value.as_str())));
    let tags: BTreeMap<_, _> = set.chain(arguments.remove.iter().map(|key| (key.as_str(), None))).collect();
    let recording = format!("/api/v1/recordings/{}", arguments.id);
    let before = recorder.get(&recording)?["annotations"].take();
    let after = recorder.patch(&format!("{recording}/annotations"), &json!({ "tags": tags }))?;
    let read = |answer| serde_json::from_value(answer).context("the recorder's answer is no set of annotations");
    Ok((read(before)?, read(after)?, recorder.name()))
}

/// The store as this process's own, for as long as it takes.
fn on_store(store: Store, arguments: &TagArguments) -> Result<Annotations> {
    let (mut writer, mut keeper, _reader, handle) = store.split();
    let change = AnnotationChange {
        set_tags: arguments.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        remove_tags: arguments.remove.iter().cloned().collect(),
        ..AnnotationChange::default()
    };
    let done = AtomicBool::new(false);
    let annotated = std::thread::scope(|scope| {
        let annotating = scope.spawn(|| {
            let result = handle.annotate(arguments.id, &change);
            done.store(true, Ordering::Release);
            result
        });
        while !done.load(Ordering::Acquire) {
            // It says itself when the store cannot be written.
            if let Err(error) = writer.flush() {
                tracing::warn!(%error, "the store cannot be written");
            }
            keeper.step();
            std::thread::sleep(Duration::from_millis(2));
        }
        annotating.join().expect("annotating does not panic")
    });
    let annotations = annotated.map_err(|error| match error {
        StoreError::NoRecording { .. } => {
            anyhow::anyhow!("{error} in this store (`sidetone recordings list` shows what there is)")
        }
        error => error.into(),
    })?;
    keeper.close(writer).context("the tags are durable, and closing the store failed")?;
    Ok(annotations)
}
