//! The configuration file: every part's own settings under one roof, validated once.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sidetone_api::ApiError;
use sidetone_calls::{Orphans, TrackerConfig};
use sidetone_capture::{Mirror, Mode, PortConfig};
use sidetone_engine::{EngineConfig, EventSink, Setup};
use sidetone_media::TrackConfig;
use sidetone_model::{NodeName, Seed};
use sidetone_signalling::SipConfig;
use sidetone_store::{JournalConfig, SegmentConfig, SpaceOptions, StoreOptions, VolumeStatistics, Watermark};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The documented sample: what `config print` shows.
pub(crate) const SAMPLE: &str = include_str!("sample.toml");

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: Node,
    pub(crate) store: Store,
    pub(crate) capture: Capture,
    pub(crate) signalling: Signalling,
    pub(crate) calls: Calls,
    pub(crate) audio: Audio,
    pub(crate) engine: EngineConfig,
    pub(crate) api: Api,
    pub(crate) log: Log,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) directory: PathBuf,
    pub(crate) volumes: Vec<PathBuf>,
    pub(crate) create_volumes: bool,
    pub(crate) segment_mib: u64,
    pub(crate) journal_file_mib: u64,
    pub(crate) space: Space,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            directory: "/var/lib/sidetone".into(),
            volumes: Vec::new(),
            create_volumes: false,
            segment_mib: SegmentConfig::default().file_bytes >> 20,
            journal_file_mib: JournalConfig::default().file_bytes >> 20,
            space: Space::default(),
        }
    }
}

/// Free space below which a volume takes less and less.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Space {
    pub(crate) low_percent: f64,
    pub(crate) no_new_percent: f64,
    pub(crate) no_new_mib_max: u64,
    pub(crate) reserve_percent: f64,
    pub(crate) reserve_mib_max: u64,
}

impl Default for Space {
    fn default() -> Self {
        let SpaceOptions { low, no_new, reserve } = SpaceOptions::default();
        let percent = |mark: Watermark| mark.part * 100.0;
        Self {
            low_percent: percent(low),
            no_new_percent: percent(no_new),
            no_new_mib_max: no_new.bytes_max >> 20,
            reserve_percent: percent(reserve),
            reserve_mib_max: reserve.bytes_max >> 20,
        }
    }
}

impl Store {
    fn validate(&self) -> Result<()> {
        // As on the command line: what is there twice is there by mistake.
        let all: Vec<&PathBuf> = std::iter::once(&self.directory).chain(&self.volumes).collect();
        for (index, directory) in all.iter().enumerate() {
            if all[..index].contains(directory) {
                bail!("[store] names {} twice: the store directory is a volume already", directory.display());
            }
        }
        if let Some(relative) = self.volumes.iter().find(|volume| !volume.is_absolute()) {
            bail!(
                "[store] volumes names {}: give absolute paths, which mean the same whoever starts this",
                relative.display()
            );
        }
        for (name, value, low, high) in
            [("segment_mib", self.segment_mib, 16, 1 << 20), ("journal_file_mib", self.journal_file_mib, 32, 1 << 16)]
        {
            if !(low..=high).contains(&value) {
                bail!("[store] {name} = {value} is out of range; choose {low} to {high}");
            }
        }
        let Space { low_percent, no_new_percent, no_new_mib_max, reserve_percent, reserve_mib_max } = self.space;
        for (name, percent) in
            [("low_percent", low_percent), ("no_new_percent", no_new_percent), ("reserve_percent", reserve_percent)]
        {
            if !(0.0..=90.0).contains(&percent) {
                bail!("[store.space] {name} = {percent} is out of range; choose 0 to 90");
            }
        }
        if low_percent < no_new_percent || no_new_percent < reserve_percent || no_new_mib_max < reserve_mib_max {
            bail!(
                "[store.space] must go down: low_percent, no_new_percent, reserve_percent; no_new_mib_max, reserve_mib_max"
            );
        }
        Ok(())
    }

    /// What an operator should know of the directories that are to be volumes and are none of the store's.
    pub(crate) fn not_volumes(&self, volumes: &[VolumeStatistics]) -> Vec<String> {
        let is_none = |directory: &&PathBuf| volumes.iter().all(|volume| volume.directory != **directory);
        let tell = |directory: &PathBuf| {
            format!(
                "{} is named in [store] volumes and is no volume of the store: mount its file system, or start once with \
                 create_volumes = true, which makes a volume of it",
                directory.display()
            )
        };
        self.volumes.iter().filter(is_none).map(tell).collect()
    }

    /// How the store is opened for writing.
    pub(crate) fn options(&self, node: NodeName) -> StoreOptions {
        let mut options = StoreOptions::new(node);
        options.volumes.clone_from(&self.volumes);
        options.create_volumes = self.create_volumes;
        options.segments.file_bytes = self.segment_mib << 20;
        options.journal.file_bytes = self.journal_file_mib << 20;
        let mark = |percent: f64, mib_max: u64| Watermark { part: percent / 100.0, bytes_max: mib_max << 20 };
        options.space = SpaceOptions {
            low: Watermark { part: self.space.low_percent / 100.0, bytes_max: u64::MAX },
            no_new: mark(self.space.no_new_percent, self.space.no_new_mib_max),
            reserve: mark(self.space.reserve_percent, self.space.reserve_mib_max),
        };
        options
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Capture {
    pub(crate) interfaces: Vec<String>,
    pub(crate) mirror: MirrorChoice,
    pub(crate) mode: ModeChoice,
    pub(crate) pin_directory: PathBuf,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mirror: MirrorChoice::Dedicated,
            mode: ModeChoice::Auto,
            pin_directory: "/sys/fs/bpf/sidetone".into(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MirrorChoice {
    Dedicated,
    Shared,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModeChoice {
    Auto,
    AfXdp,
    AfPacket,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Signalling {
    pub(crate) ports: Vec<u16>,
}

impl Default for Signalling {
    fn default() -> Self {
        Self { ports: vec![5060] }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Calls {
    pub(crate) keep_unanswered: bool,
    pub(crate) orphans: Orphans,
    pub(crate) media_silence_seconds: u32,
    pub(crate) hold_limit_seconds: u32,
    pub(crate) max_calls: u32,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            keep_unanswered: false,
            orphans: Orphans::Discard,
            media_silence_seconds: 60,
            hold_limit_seconds: 14_400,
            max_calls: 20_000,
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Audio {
    pub(crate) bitrate_bits_per_second: u32,
    pub(crate) complexity: u8,
}

impl Default for Audio {
    fn default() -> Self {
        let track = TrackConfig::default();
        Self { bitrate_bits_per_second: track.bitrate_bits_per_second, complexity: track.complexity }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Api {
    pub(crate) listen: SocketAddr,
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 8080).into() }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// Reads and validates a file; without one, the defaults.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the configuration file {} cannot be used", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| explain(&error))?;
        config.validate()?;
        Ok(config)
    }

    /// Whether a part could not work with this. Whether interfaces and directories exist is seen when it starts.
    pub(crate) fn validate(&self) -> Result<()> {
        self.store.validate()?;
        self.engine.validate().map_err(|problem| anyhow::anyhow!("[engine] {problem}"))?;
        self.track().check().context("[audio] cannot be used")?;
        if self.signalling.ports.is_empty() || self.signalling.ports.contains(&0) {
            bail!("[signalling] ports must name at least one port from 1 to 65535");
        }
        if self.calls.media_silence_seconds == 0 || self.calls.max_calls == 0 {
            bail!("[calls] media_silence_seconds and max_calls must be at least 1");
        }
        if !self.api.listen.ip().is_loopback() {
            return Err(ApiError::NotLoopback { address: self.api.listen }).context("[api] listen");
        }
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        for directive in self.log.level.split(',').map(str::trim) {
            let level = directive.rsplit('=').next().unwrap_or(directive);
            if !LEVELS.contains(&level) {
                bail!("[log] level = \"{}\": '{level}' is no level; choose {}", self.log.level, LEVELS.join(", "));
            }
        }
        for (index, interface) in self.capture.interfaces.iter().enumerate() {
            if self.capture.interfaces[..index].contains(interface) {
                bail!("[capture] interfaces names {interface} twice");
            }
        }
        Ok(())
    }

    pub(crate) fn node_name(&self) -> NodeName {
        if !self.node.name.is_empty() {
            return NodeName(self.node.name.clone());
        }
        NodeName(rustix::system::uname().nodename().to_string_lossy().into_owned())
    }

    /// What the data plane is told. `seed` is what recording identifiers are derived from.
    pub(crate) fn setup(&self, seed: Seed, events: EventSink) -> Setup {
        let mut tracker = TrackerConfig::new(self.node_name(), seed);
        tracker.keep_unanswered = self.calls.keep_unanswered;
        tracker.orphans = self.calls.orphans;
        tracker.media_silence = Duration::from_secs(self.calls.media_silence_seconds.into());
        tracker.hold_limit = Duration::from_secs(self.calls.hold_limit_seconds.into());
        tracker.max_calls = self.calls.max_calls as usize;
        // Decided while the pre-roll still holds the stream's first packet.
        tracker.pre_roll_wait = self.engine.pre_roll().saturating_sub(Duration::from_millis(500));
        tracker.max_streams = tracker.max_streams.max(self.engine.max_streams as usize);
        Setup {
            engine: self.engine.clone(),
            sip: SipConfig { max_dialogs: self.calls.max_calls as usize * 4, ..SipConfig::default() },
            signalling_ports: self.signalling.ports.clone(),
            tracker,
            track: self.track(),
            events,
        }
    }

    fn track(&self) -> TrackConfig {
        TrackConfig {
            bitrate_bits_per_second: self.audio.bitrate_bits_per_second,
            complexity: self.audio.complexity,
            ..TrackConfig::default()
        }
    }

    pub(crate) fn ports(&self) -> Vec<PortConfig> {
        let port = |interface: &String| PortConfig {
            interface: interface.clone(),
            mirror: match self.capture.mirror {
                MirrorChoice::Dedicated => Mirror::Dedicated,
                MirrorChoice::Shared => Mirror::Shared,
            },
            mode: match self.capture.mode {
                ModeChoice::Auto => Mode::Auto,
                ModeChoice::AfXdp => Mode::AfXdp,
                ModeChoice::AfPacket => Mode::AfPacket,
            },
            signalling_ports: self.signalling.ports.clone(),
            pin_directory: self.capture.pin_directory.clone(),
            ..PortConfig::default()
        };
        self.capture.interfaces.iter().map(port).collect()
    }
}

/// A configuration error in words, with the nearest known name for one that is unknown.
fn explain(error: &toml::de::Error) -> anyhow::Error {
    let text = error.to_string();
    let text = text.trim_end();
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field")
        && let Some((unknown, known)) = quoted.split_first()
        && let Some(nearest) = known.iter().min_by_key(|name| strsim::damerau_levenshtein(unknown, name))
    {
        return anyhow::anyhow!("{text}\nunknown key '{unknown}'; did you mean '{nearest}'?");
    }
    anyhow::anyhow!("{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_default_and_names_every_key() {
        assert_eq!(Config::parse(SAMPLE).unwrap(), Config::default());
        let shown: toml::Table = toml::from_str(SAMPLE).unwrap();
        let all = toml::Table::try_from(Config::default()).unwrap();
        for (section, keys) in &all {
            for (key, value) in keys.as_table().unwrap() {
                let known = shown.get(section).and_then(|s| s.get(key));
                assert!(known.is_some(), "[{section}] {key} is not in the sample");
                for below in value.as_table().into_iter().flat_map(toml::Table::keys) {
                    assert!(known.unwrap().get(below).is_some(), "[{section}.{key}] {below} is not in the sample");
                }
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let error = Config::parse("[audio]\nbitrate_bits_per_secnd = 9000").unwrap_err().to_string();
        assert!(error.contains("did you mean 'bitrate_bits_per_second'?"), "{error}");
        let error = Config::parse("[store.space]\nlow_percnt = 9").unwrap_err().to_string();
        assert!(error.contains("did you mean 'low_percent'?"), "{error}");
        let error = Config::parse("[adio]").unwrap_err().to_string();
        assert!(error.contains("did you mean 'audio'?"), "{error}");
    }

    #[test]
    fn what_the_store_is_told_is_what_it_would_do_by_itself() {
        let node = NodeName("a".into());
        assert_eq!(Config::default().store.options(node.clone()), StoreOptions::new(node));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (text, name) in [
            ("[audio]\ncomplexity = 11", "complexity"),
            ("[engine]\nflush_interval_ms = 1", "flush_interval_ms"),
            ("[signalling]\nports = []", "ports"),
            ("[log]\nlevel = \"loud\"", "loud"),
            ("[api]\nlisten = \"0.0.0.0:80\"", "127.0.0.1"),
            ("[capture]\ninterfaces = [\"a\", \"a\"]", "twice"),
            ("[store]\nsegment_mib = 1", "segment_mib"),
            ("[store]\njournal_file_mib = 4", "32"),
            ("[store]\nvolumes = [\"/mnt/a\", \"/mnt/a\"]", "twice"),
            ("[store]\ndirectory = \"/mnt/a\"\nvolumes = [\"/mnt/a\"]", "twice"),
            ("[store]\nvolumes = [\"mnt/a\"]", "absolute"),
            ("[store.space]\nlow_percent = 5", "must go down"),
            ("[store.space]\nlow_percent = 101", "low_percent"),
            ("[store.space]\nreserve_mib_max = 100000", "must go down"),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }
}
