//! Tags, holds and retention of a recording: read, changed and written in one place.
//!
//! Annotations are one register a recording, replaced as a whole. So that two changes at the same time do not undo each other, what
//! was submitted and is not in the catalog yet is kept here, and the next change begins with that.

use crate::handle::{Delivery, Submission, Submitted};
use crate::shared::{Shared, lock};
use crate::{StoreError, StoreHandle};
use sidetone_log::Fact;
use sidetone_model::{Annotations, Hold, RecordingId, Retention};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

/// Tags of one recording, and bytes of a key, of a value, and of a hold's or retention's texts.
const TAGS_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 4096;
const TEXT_BYTES_MAX: usize = 1024;

/// What to change; what is not named stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AnnotationChange {
    pub set_tags: BTreeMap<String, String>,
    pub remove_tags: BTreeSet<String>,
    /// `Some(None)` lifts the hold.
    pub hold: Option<Option<Hold>>,
    /// `Some(None)`: kept without a limit, in the class `standard`.
    pub retention: Option<Option<Retention>>,
}

impl AnnotationChange {
    fn apply(&self, annotations: &mut Annotations) {
        annotations.tags.retain(|key, _| !self.remove_tags.contains(key));
        annotations.tags.extend(self.set_tags.clone());
        if let Some(hold) = &self.hold {
            annotations.hold.clone_from(hold);
        }
        if let Some(retention) = &self.retention {
            annotations.retention.clone_from(retention);
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let bad = |what: String| Err(StoreError::BadAnnotation { what });
        for (key, value) in &self.set_tags {
            if key.trim().is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
                return bad(format!("a tag's key has 1 to {KEY_BYTES_MAX} bytes and no control characters"));
            }
            if value.len() > VALUE_BYTES_MAX {
                return bad(format!("the value of tag '{key}' is longer than {VALUE_BYTES_MAX} bytes"));
            }
        }
        if let Some(Some(hold)) = &self.hold
            && hold.reason.len().max(hold.by.len()) > TEXT_BYTES_MAX
        {
            return bad(format!("a hold's texts have at most {TEXT_BYTES_MAX} bytes"));
        }
        if let Some(Some(retention)) = &self.retention
            && (retention.class.is_empty() || retention.class.len() > KEY_BYTES_MAX)
        {
            return bad(format!("the name of a retention class has 1 to {KEY_BYTES_MAX} bytes"));
        }
        Ok(())
    }
}

/// What was submitted and is not in the catalog yet: the newest, and how many there are.
#[derive(Default)]
pub(crate) struct Annotating {
    submitted: BTreeMap<RecordingId, (Annotations, u32)>,
}

impl Annotating {
    fn resolved(&mut self, recording: RecordingId) {
        if let Some((_, count)) = self.submitted.get_mut(&recording) {
            *count -= 1;
            if *count == 0 {
                self.submitted.remove(&recording);
            }
        }
    }
}

impl StoreHandle {
    /// Changes what is said of a recording and gives the whole of it as it is then. Waits until the change is durable and in
    /// the catalog: about one flush.
    ///
    /// # Errors
    /// [`StoreError::NoRecording`], [`StoreError::BadAnnotation`], [`StoreError::Busy`], [`StoreError::NoVolume`]: nothing
    /// has changed. [`StoreError::TimedOut`]: it may change yet.
    pub fn annotate(&self, recording: RecordingId, change: &AnnotationChange) -> Result<Annotations, StoreError> {
        let (annotations, delivery) = self.begin_annotate(recording, change)?;
        delivery.wait(self.shared.options.limits.annotate)?;
        Ok(annotations)
    }

    /// As [`Self::annotate`], without waiting.
    pub(crate) fn begin_annotate(
        &self,
        recording: RecordingId,
        change: &AnnotationChange,
    ) -> Result<(Annotations, Arc<Delivery>), StoreError> {
        change.check()?;
        // Held until the fact is in the queue: sequences are drawn in its order.
        let mut annotating = lock(&self.shared.annotating);
        let mut annotations = match annotating.submitted.get(&recording) {
            Some((annotations, _)) => annotations.clone(),
            None if self.shared.catalog.recording(recording)?.is_none() => {
                return Err(StoreError::NoRecording { recording });
            }
            None => self.shared.catalog.annotations(recording)?,
        };
        change.apply(&mut annotations);
        if annotations.tags.len() > TAGS_MAX {
            return Err(StoreError::BadAnnotation { what: format!("a recording has at most {TAGS_MAX} tags") });
        }
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        let on_resolved = move || {
            if let Some(shared) = shared.upgrade() {
                lock(&shared.annotating).resolved(recording);
            }
        };
        let delivery = Arc::new(Delivery::new(Some(Box::new(on_resolved))));
        let fact = Fact::Annotations { recording, annotations: annotations.clone() };
        self.send(Submission { fact: Submitted::New(fact), delivery: Some(Arc::clone(&delivery)) })?;
        let entry = annotating.submitted.entry(recording).or_insert_with(|| (Annotations::default(), 0));
        *entry = (annotations.clone(), entry.1 + 1);
        Ok((annotations, delivery))
    }
}
