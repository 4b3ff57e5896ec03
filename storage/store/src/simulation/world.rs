//! The workload, and the machine's lives.

use super::machine::{Life, MortalCatalog, MortalIo};
use super::oracle::{Oracle, Told, header, payload};
use crate::logs::Logs;
use crate::read_segments::Into;
use crate::rebuild::{RebuildProgress, from_journals, from_segments};
use crate::sabotage::Sabotage;
use crate::{
    AnnotationChange, JournalConfig, Limits, SealingOptions, SegmentConfig, Store, StoreError, StoreEvent,
    StoreOptions, VerifyOptions, VolumeState,
};
use sidetone_catalog::{Catalog, MemoryCatalog, dump};
use sidetone_log::simulation::{Operation, Random, SimulatedDisk};
use sidetone_log::{Fact, Io, VolumeNumber};
use sidetone_model::{CaptureTime, Hold, NodeName, RecordingId, RecordingState, Retention, Tick, TrackId};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

const HOME: &str = "/store";
const SECOND: u64 = 1_000_000_000;

/// What happened in a seed, or in many.
#[derive(Clone, Default, Debug)]
pub(super) struct Report {
    lives: u64,
    crashes_in_open: u64,
    chunks: u64,
    chunks_refused: u64,
    over: u64,
    complete: u64,
    runs: u64,
    adopted: u64,
    retired: u64,
    facts_copied: u64,
    facts_renewed: u64,
    batches_dropped: u64,
    catalog_failures: u64,
    segment_failures: u64,
    volume_changes: u64,
    stalls: u64,
    missing: u64,
    partial_runs: u64,
}

impl Report {
    pub(super) fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.crashes_in_open += other.crashes_in_open;
        self.chunks += other.chunks;
        self.chunks_refused += other.chunks_refused;
        self.over += other.over;
        self.complete += other.complete;
        self.runs += other.runs;
        self.adopted += other.adopted;
        self.retired += other.retired;
        self.facts_copied += other.facts_copied;
        self.facts_renewed += other.facts_renewed;
        self.batches_dropped += other.batches_dropped;
        self.catalog_failures += other.catalog_failures;
        self.segment_failures += other.segment_failures;
        self.volume_changes += other.volume_changes;
        self.stalls += other.stalls;
        self.missing += other.missing;
        self.partial_runs += other.partial_runs;
    }

    /// A test in which something never happens proves nothing about it.
    pub(super) fn assert_everything_happened(&self) {
        for (what, count) in [
            ("crash while opening", self.crashes_in_open),
            ("refused chunk", self.chunks_refused),
            ("complete recording", self.complete),
            ("run", self.runs),
            ("adopted run", self.adopted),
            ("retired file", self.retired),
            ("copied fact", self.facts_copied),
            ("renewed fact", self.facts_renewed),
            ("dropped batch", self.batches_dropped),
            ("failure of the catalog", self.catalog_failures),
            ("failure of a segment", self.segment_failures),
            ("change of a volume's state", self.volume_changes),
            ("stalled volume", self.stalls),
            ("missing volume", self.missing),
            ("recording sealed in parts", self.partial_runs),
        ] {
            assert!(count > 0, "no {what} in all seeds");
        }
    }
}

pub(super) struct World {
    seed: u64,
    random: Random,
    disk: SimulatedDisk,
    catalog: Arc<MemoryCatalog>,
    further: Vec<PathBuf>,
    /// Whether the last of the further volumes is away.
    is_missing: bool,
    /// Volumes that the store has had from the beginning: one that comes later has what comes later.
    first_volumes: Option<Vec<VolumeNumber>>,
    /// One of the further volumes does not work well when the store is opened.
    is_ill: bool,
    life: Arc<Life>,
    store: Option<Store>,
    oracle: Oracle,
    events: Arc<Mutex<Vec<StoreEvent>>>,
    sabotage: Option<Sabotage>,
    report: Report,
    pub(super) history: Vec<String>,
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        $world.history.push(format!($($text)*))
    };
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let disk = SimulatedDisk::new(seed);
        let further: Vec<PathBuf> =
            (0..random.below(3)).map(|number| PathBuf::from(format!("/v{}", number + 1))).collect();
        further.iter().for_each(|path| disk.mount(path));
        Self {
            seed,
            random,
            disk,
            catalog: Arc::new(MemoryCatalog::new()),
            further,
            is_missing: false,
            first_volumes: None,
            is_ill: false,
            life: Life::new(0),
            store: None,
            oracle: Oracle::default(),
            events: Arc::default(),
            sabotage,
            report: Report::default(),
            history: Vec::new(),
        }
    }

    fn options(&mut self) -> StoreOptions {
        let mut options = StoreOptions::new(NodeName("box".into()));
        options.volumes = self.further.clone();
        options.journal =
            JournalConfig { file_bytes: 4 << 20, buffer_bytes: 2 << 20, block_bytes: 256 << 10, direct_io: true };
        options.segments = SegmentConfig {
            file_bytes: 64 << 10 << self.random.below(5),
            preallocate_bytes: 64 << 10,
            buffer_bytes: 3 << 19,
            block_bytes: 256 << 10,
            direct_io: true,
        };
        options.sealing = SealingOptions {
            interval: Duration::ZERO,
            running_after: Duration::from_secs(20),
            step_bytes: 1 << (10 + self.random.below(12)),
        };
        options.limits = Limits {
            batches: 1 + self.random.below(8) as usize,
            submissions: 1 + self.random.below(16) as usize,
            held_facts: 1 + self.random.below(16) as usize,
            open_segments: 1 + self.random.below(3) as usize,
            stall: Duration::from_micros(400),
            probe: Duration::from_millis(50),
            annotate: Duration::ZERO,
        };
        options
    }

    pub(super) fn run(&mut self) -> Result<Report, String> {
        let lives = 1 + self.random.below(5);
        for _ in 0..lives {
            // Some of the lives end within the start.
            self.start_until_up()?;
            for _ in 0..40 + self.random.below(160) {
                self.step();
                if self.life.is_over() {
                    break;
                }
            }
            self.crash();
        }
        self.end()
    }

    // ---- lives

    fn start_until_up(&mut self) -> Result<(), String> {
        loop {
            self.report.lives += 1;
            let operations = match self.random.below(4) {
                0 => self.random.below(60),
                1 => self.random.below(400),
                2 => self.random.below(3000),
                _ => u64::MAX,
            };
            self.start(operations)?;
            if self.store.is_some() {
                return self.check_after_start();
            }
            self.report.crashes_in_open += 1;
            self.crash();
        }
    }

    fn start(&mut self, operations: u64) -> Result<(), String> {
        note!(self, "start, for {operations} operations");
        self.life = Life::new(operations);
        let options = self.options();
        let io = Arc::new(MortalIo { disk: self.disk.clone(), life: Arc::clone(&self.life) });
        let (catalog, life) = (Arc::clone(&self.catalog), Arc::clone(&self.life));
        let open_catalog = move |_: &Path| -> Result<Arc<dyn Catalog>, StoreError> {
            Ok(Arc::new(MortalCatalog { catalog: Arc::clone(&catalog), life: Arc::clone(&life) }))
        };
        match Store::open_with(io, &open_catalog, Path::new(HOME), &options, self.sabotage) {
            Ok(mut store) => {
                let events = Arc::clone(&self.events);
                store.keeper.on_event(move |event| events.lock().unwrap().push(event));
                self.first_volumes.get_or_insert_with(|| store.handle.shared.numbers());
                self.store = Some(store);
                Ok(())
            }
            Err(_) if self.life.is_over() => Ok(()),
            Err(error) => Err(format!("the store does not open: {error}")),
        }
    }

    fn check_after_start(&mut self) -> Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        if self.life.is_over() {
            return Ok(());
        }
        let statistics = store.reader.statistics().map_err(|error| error.to_string())?;
        let keeper = statistics.keeper.unwrap_or_default();
        self.report.adopted += keeper.adopted_runs;
        if keeper.damaged_places > 0 {
            return Err(format!("damage is told where there is none, at the start: {keeper:?}"));
        }
        let is_missing = self.is_missing || self.is_ill;
        self.oracle.check(&store.reader, is_missing)?;
        if self.random.chance(300) && !is_missing {
            self.check_rebuild("after a start")?;
        }
        Ok(())
    }

    fn crash(&mut self) {
        self.life.end();
        self.take_report();
        self.store = None;
        self.oracle.died();
        self.calm();
        if self.random.chance(500) {
            self.disk.crash();
            let kept = self.random.below(self.catalog.unpersisted() as u64 + 1);
            note!(self, "power cut, {kept} of {} changes of the catalog kept", self.catalog.unpersisted());
            self.catalog.crash(kept as usize);
        } else {
            note!(self, "killed");
            self.disk.kill();
        }
        if let Some(last) = self.further.last() {
            let back = self.is_missing;
            // A store is not made on what lies below a mount point.
            let is_made = self.disk.size(&last.join(crate::description::VOLUME_FILE)).is_ok();
            if back || is_made && self.random.chance(150) {
                note!(self, "volume {} is {}", last.display(), if back { "back" } else { "away" });
                if back {
                    self.disk.mount(last);
                } else {
                    self.disk.unmount(last);
                }
                self.is_missing = !back;
                self.report.missing += u64::from(!back);
            }
        }
        self.is_ill = !self.further.is_empty() && !self.is_missing && self.random.chance(250);
        if self.is_ill {
            // A disk that is ill before the next start.
            let volume = self.random.below(self.further.len() as u64) as usize;
            let path = self.further[volume].clone();
            let what = self.random.below(5);
            note!(self, "{} is ill at the start: {what}", path.display());
            match what {
                0 => self.disk.set_down(&path, true),
                1 => self.disk.set_capacity(&path, Some(self.random.below(2 << 20))),
                2 => self.disk.set_failure_rate(&path, Operation::Sync, 300),
                3 => self.disk.set_failure_rate(&path, Operation::Write, 300),
                _ => self.disk.set_failure_rate(&path, Operation::Create, 300),
            }
            self.oracle.last_ill = self.oracle.step;
        }
    }

    fn take_report(&mut self) {
        let Some(store) = &self.store else { return };
        let Ok(statistics) = store.reader.statistics() else { return };
        let (writer, keeper) = (store.writer.statistics(), statistics.keeper.unwrap_or_default());
        self.report.batches_dropped += writer.batches_dropped;
        self.report.runs += keeper.sealed_runs;
        self.report.retired += keeper.retired_files;
        self.report.facts_copied += keeper.facts_copied;
        self.report.facts_renewed += keeper.facts_renewed;
        self.report.catalog_failures += keeper.catalog_failures;
        self.report.segment_failures += keeper.seal_failures;
        self.report.stalls += statistics.volumes.iter().map(|volume| volume.faults.stalled).sum::<u64>();
        for event in std::mem::take(&mut *self.events.lock().unwrap()) {
            match event {
                StoreEvent::VolumeChanged { .. } => self.report.volume_changes += 1,
                StoreEvent::RecordingOver(_) => self.report.over += 1,
                _ => {}
            }
        }
    }

    // ---- the workload

    fn step(&mut self) {
        self.do_something();
        self.oracle.step += 1;
        let ill = |state: VolumeState| !state.takes_facts() && state != VolumeState::Missing;
        if self.store().handle.shared.states().into_iter().any(|(_, state)| ill(state)) {
            self.oracle.last_ill = self.oracle.step;
        }
    }

    fn do_something(&mut self) {
        match self.random.below(100) {
            0..38 => self.append_chunk(),
            38..45 => self.begin_recording(),
            45..50 => self.update_recording(RecordingState::Active),
            50..56 => self.end_recording(),
            56..61 => self.annotate(),
            61..63 => self.other_fact(),
            63..71 => {
                note!(self, "begin flush");
                self.store().writer.begin_flush();
            }
            71..84 => self.poll(),
            84..95 => self.keep(),
            95..98 => {
                let milliseconds = 1 + self.random.below(30_000);
                note!(self, "{milliseconds} ms pass");
                self.disk.advance_clock(milliseconds * 1_000_000);
            }
            _ => self.trouble(),
        }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("the store is open")
    }

    fn poll(&mut self) {
        let durable = self.store().writer.poll();
        note!(self, "poll: durable before {}", durable.before.0);
        self.oracle.durable(durable.before.0);
        self.oracle.take_deliveries();
    }

    fn keep(&mut self) {
        let busy = self.store().keeper.step();
        note!(self, "keeper's step: {busy}");
        self.oracle.take_deliveries();
    }

    fn pick(&mut self, is_over: bool) -> Option<RecordingId> {
        let candidates: Vec<RecordingId> =
            self.oracle.recordings.iter().filter(|(_, told)| told.is_over == is_over).map(|(&id, _)| id).collect();
        let count = candidates.len() as u64;
        (count > 0).then(|| candidates[self.random.below(count) as usize])
    }

    fn begin_recording(&mut self) {
        let number = self.oracle.recordings.len() as u128 + 1;
        let id = RecordingId(Uuid::from_u128((u128::from(self.seed) << 64) + number));
        let started_at = self.disk.now();
        self.oracle.recordings.insert(id, Told::new(started_at));
        // The first audio may come before the document.
        if self.random.chance(800) {
            self.append_document(id, RecordingState::Active);
        }
    }

    fn append_document(&mut self, id: RecordingId, state: RecordingState) -> bool {
        let fact = self.oracle.told(id).document(id, state);
        let result = self.store().writer.append_fact(fact);
        note!(self, "document of {id}, {state:?}: {result:?}");
        match result {
            Ok(number) => {
                self.oracle.accepted_document(number.0, id, state);
                true
            }
            Err(_) => false,
        }
    }

    fn update_recording(&mut self, state: RecordingState) {
        if let Some(id) = self.pick(false) {
            self.append_document(id, state);
        }
    }

    fn end_recording(&mut self) {
        if let Some(id) = self.pick(false) {
            self.end_this(id);
        }
    }

    fn end_this(&mut self, id: RecordingId) -> bool {
        let is_lossy = self.oracle.told(id).is_lossy;
        let state = if is_lossy { RecordingState::Incomplete } else { RecordingState::Complete };
        let is_over = self.append_document(id, state);
        self.oracle.told(id).is_over = is_over;
        is_over
    }

    fn append_chunk(&mut self) {
        let Some(id) = self.pick(false) else { return };
        let length = match self.random.below(12) {
            0 => self.random.below(800_000),
            1..3 => self.random.below(60_000),
            _ => self.random.below(3000),
        } as usize;
        let track = self.random.below(2) as u8;
        let told = self.oracle.told(id);
        let key = (track, told.next_tick);
        told.next_tick += 50;
        let result = self.store().writer.append_chunk(&header(id, key), &payload(id, key, length));
        note!(self, "chunk {key:?} of {id}, {length} bytes: {result:?}");
        self.report.chunks += 1;
        match result {
            Ok(number) => self.oracle.accepted_chunk(number.0, id, key, length),
            Err(_) => {
                self.report.chunks_refused += 1;
                self.oracle.told(id).is_lossy = true;
            }
        }
    }

    fn annotate(&mut self) {
        let is_over = self.random.chance(700);
        let Some(id) = self.pick(is_over) else { return };
        let version = self.oracle.told(id).annotation + 1;
        let mut change = AnnotationChange::default();
        change.set_tags.insert("version".into(), version.to_string());
        if self.random.chance(200) {
            let hold = Hold { reason: "lawsuit".into(), by: "anna".into(), at: CaptureTime(version) };
            change.hold = Some(self.random.chance(500).then_some(hold));
        }
        if self.random.chance(200) {
            let expires_at = self.random.chance(500).then(|| CaptureTime(4_000_000 * SECOND * self.random.below(1000)));
            change.retention = Some(Some(Retention { class: "short".into(), expires_at }));
        }
        let result = self.store().handle.begin_annotate(id, &change);
        note!(self, "annotation {version} of {id}: {:?}", result.as_ref().map(|_| ()));
        if let Ok((_, delivery)) = result {
            self.oracle.told(id).annotation = version;
            self.oracle.submitted_annotation(id, delivery);
        }
    }

    fn other_fact(&mut self) {
        let at = self.disk.now();
        if self.random.chance(500) {
            let digest = format!("file {}", self.random.next());
            let result = self.store().writer.append_fact(Fact::Replayed { digest: digest.clone(), at });
            if let Ok(number) = result {
                self.oracle.accepted_replayed(number.0, digest);
            }
        } else {
            let _accepted = self.store().handle.submit(Fact::Clock { at, stepped_seconds: 1.5 });
        }
    }

    /// Something goes wrong with a device, or is mended.
    fn trouble(&mut self) {
        let volume = self.random.below(self.further.len() as u64 + 1) as usize;
        let path = self.further.get(volume).cloned().unwrap_or_else(|| PathBuf::from(HOME));
        let what = self.random.below(9);
        note!(self, "trouble {what} with {}", path.display());
        match what {
            0 => self.disk.set_down(&path, true),
            1 => self.disk.set_capacity(&path, Some(self.random.below(24 << 20))),
            2 => self.disk.set_failure_rate(&path, Operation::Sync, 300),
            3 => self.disk.set_failure_rate(&path, Operation::Write, 100),
            4 => self.disk.set_failure_rate(&path, Operation::Create, 300),
            5 => self.disk.set_delay(&path, self.random.below(12) as u32),
            6 => self.life.catalog_down.store(true, Ordering::Relaxed),
            // A disk that hangs.
            7 => self.disk.set_delay(&path, 20_000),
            _ => self.calm(),
        }
    }

    fn calm(&mut self) {
        note!(self, "all is well");
        let paths = self.further.iter().cloned().chain([PathBuf::from(HOME)]);
        for path in paths.collect::<Vec<_>>() {
            self.disk.set_down(&path, false);
            self.disk.set_capacity(&path, None);
            for operation in [Operation::Sync, Operation::Write, Operation::Create] {
                self.disk.set_failure_rate(&path, operation, 0);
            }
            self.disk.set_delay(&path, 0);
        }
        self.life.catalog_down.store(false, Ordering::Relaxed);
    }

    // ---- the end

    /// Everything calms down: then everything must be whole, sealed, and found again by those who know nothing.
    fn end(&mut self) -> Result<Report, String> {
        if self.is_missing {
            let last = self.further.last().expect("a volume is missing").clone();
            self.disk.mount(&last);
            self.is_missing = false;
        }
        self.calm();
        self.is_ill = false;
        self.start(u64::MAX)?;
        self.check_after_start()?;
        for id in self.oracle.recordings.keys().copied().collect::<Vec<_>>() {
            if !self.oracle.told(id).is_over && !self.end_this(id) {
                return Err("a recording cannot end although all is well".into());
            }
        }
        self.settle()?;
        let store = self.store.as_ref().expect("the store is open");
        self.oracle.check(&store.reader, false)?;
        for &id in self.oracle.recordings.keys() {
            let shown = store.reader.recording(id).map_err(|error| error.to_string())?;
            let shown = shown.ok_or_else(|| format!("recording {id} is not there"))?;
            self.report.complete += u64::from(shown.state == RecordingState::Complete);
            let runs = store.reader.runs(id).map_err(|error| error.to_string())?;
            self.report.partial_runs += u64::from(runs.len() > 1);
            if self.oracle.has_audio(&store.reader, id) != shown.proof.is_some() {
                return Err(format!("recording {id} is not sealed: {shown:?}"));
            }
        }
        self.check_rebuild("at the end")?;
        self.check_failing_rebuild()?;
        for number in self.first_volumes.clone().unwrap_or_default() {
            let (_, _, alone) = self.rebuild(Some(number))?;
            self.oracle.check_facts(&alone).map_err(|what| format!("by volume {} alone, {what}", number.0))?;
        }
        let Store { writer, keeper, reader, handle } = self.store.take().expect("the store is open");
        drop(handle);
        keeper.close(writer).map_err(|error| format!("the store does not close: {error}"))?;
        for logs in reader.logs().volumes() {
            let left = logs.journal.files().map_err(|error| error.to_string())?;
            if left.len() > 2 {
                let pending = self.catalog.pending();
                return Err(format!("journal files {left:?} of volume {} are left: {pending:?}", logs.volume.number.0));
            }
        }
        let report = reader.verify(&VerifyOptions::default(), &mut |_| ControlFlow::Continue(()));
        let report = report.map_err(|error| error.to_string())?;
        if !report.is_clean() || report.runs == 0 && self.report.runs > 0 {
            return Err(format!("verifying tells {:?}", report.bad));
        }
        drop(reader);
        Ok(self.report.clone())
    }

    /// Until nothing more happens.
    fn settle(&mut self) -> Result<(), String> {
        for round in 0..400 {
            self.disk.advance_clock(SECOND);
            let store = self.store();
            let durable = store.writer.flush().map_err(|error| format!("all is well, and a flush fails: {error}"))?;
            let busy = store.keeper.step();
            let states_ok = store.reader.statistics().map_err(|error| error.to_string())?;
            let states_ok = states_ok.volumes.iter().all(|volume| volume.state <= VolumeState::Low);
            self.oracle.durable(durable.before.0);
            self.oracle.take_deliveries();
            let pending = self.catalog.pending().map_err(|error| error.to_string())?;
            let needs_audio = pending.iter().any(|pending| pending.unsealed_chunks > 0);
            if round > 20 && !busy && !needs_audio && states_ok && self.oracle.is_all_durable() {
                self.take_report();
                return match self.oracle.is_nobody_waiting() {
                    true => Ok(()),
                    false => Err("somebody waits for a fact, and nothing comes".to_owned()),
                };
            }
        }
        let pending = self.catalog.pending();
        let statistics = self.store().reader.statistics();
        Err(format!("the store does not come to rest: {pending:?} {statistics:?}"))
    }

    /// A catalog made anew of all volumes, or of one.
    fn rebuild(&self, only: Option<VolumeNumber>) -> Result<(RebuildProgress, Vec<String>, MemoryCatalog), String> {
        let failed = |error: &dyn std::fmt::Display| format!("rebuilding: {error}");
        let store = self.store.as_ref().expect("the store is open");
        let io: Arc<dyn Io> = Arc::new(self.disk.clone());
        let shared = &store.handle.shared;
        let mut volumes: Vec<_> = shared.volumes.iter().map(|volume| volume.volume.clone()).collect();
        volumes.retain(|volume| only.is_none_or(|only| volume.number == only));
        let logs = Logs::new(Arc::clone(&io), shared.description.store_id, &volumes);
        let made = MemoryCatalog::new();
        let done = from_segments(&*io, Into::Catalog(&made), &logs, 1, &mut |_| {});
        let mut done = done.map_err(|error| failed(&error))?;
        from_journals(&made, &logs, &mut done).map_err(|error| failed(&error))?;
        let lines = self.lines(&made)?;
        Ok((done, lines, made))
    }

    /// Several threads read, and the catalog fails in the middle: it ends, with that error.
    fn check_failing_rebuild(&mut self) -> Result<(), String> {
        let life = Life::new(self.random.below(3));
        let failing = MortalCatalog { catalog: Arc::new(MemoryCatalog::new()), life: Arc::clone(&life) };
        let store = self.store.as_ref().expect("the store is open");
        let logs = store.reader.logs();
        let filled = from_segments(&self.disk, Into::Catalog(&failing), logs, 2, &mut |_| {})
            .and_then(|mut done| from_journals(&failing, logs, &mut done));
        match (filled, life.is_over()) {
            (Err(StoreError::Catalog(_)), true) | (Ok(_), false) => Ok(()),
            (filled, _) => Err(format!("rebuilding into a catalog that fails: {filled:?}")),
        }
    }

    /// Everything that a catalog shows, and where chunks lie in journals.
    fn lines(&self, catalog: &dyn Catalog) -> Result<Vec<String>, String> {
        let failed = |error: sidetone_catalog::CatalogError| error.to_string();
        let mut lines = Vec::new();
        dump(catalog, &mut |line| lines.push(line.to_owned())).map_err(failed)?;
        lines.push(format!("{:?}", catalog.active_with_resume().map_err(failed)?));
        for &id in self.oracle.recordings.keys() {
            for track in 0..2 {
                let chunks = catalog.journal_chunks(id, TrackId(track), Tick(0), Tick(u64::MAX)).map_err(failed)?;
                lines.push(format!("{id} track {track}: {chunks:?}"));
            }
        }
        Ok(lines)
    }

    /// A catalog made anew is the same.
    fn check_rebuild(&mut self, when: &str) -> Result<(), String> {
        let (done, after, _) = self.rebuild(None)?;
        if done.damaged_places > 0 {
            return Err(format!("rebuilding {when} met damage: {done:?}"));
        }
        let before = self.lines(&*self.catalog)?;
        let differing = before.iter().zip(&after).find(|(before, after)| before != after);
        if let Some((before, after)) = differing {
            let at = before.bytes().zip(after.bytes()).take_while(|(before, after)| before == after).count();
            let part = |line: &str| line.chars().skip(at.saturating_sub(150)).take(250).collect::<String>();
            return Err(format!("rebuilt {when}, the catalog differs:\n{}\n{}", part(before), part(after)));
        }
        if before.len() != after.len() {
            return Err(format!("rebuilt {when}, the catalog has {} lines instead of {}", after.len(), before.len()));
        }
        Ok(())
    }
}
