//! Recordings of a large installation, made from a seed: what is random in reality is as random here, and what repeats repeats
//! as often. The same number gives the same recording.

use sidetone_log::{Fact, FactRecord, FactSequence, LogPosition, Run, SegmentNumber, Through, VolumeNumber};
use sidetone_model::{
    Annotations, CaptureTime, ConversationId, EndReason, Gap, Leg, Losses, MerkleRoot, NodeName, Party, PartyRole,
    Recording, RecordingId, RecordingState, Retention, SCHEMA_VERSION, Seed, Side, Stream, Tick, Track, TrackId,
    TrackKind,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) const AGENTS: u64 = 10_000;
/// All recordings lie in these years, however many there are.
const BEGIN: u64 = 1_577_836_800;
pub(super) const YEARS_SECONDS: u64 = 5 * 365 * 86_400;
const FIRST_NAMES: [&str; 40] = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Elif",
    "Finn",
    "Greta",
    "Hannes",
    "Ida",
    "Jonas",
    "Katrin",
    "Lukas",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Quirin",
    "Rosa",
    "Samir",
    "Thea",
    "Ulrich",
    "Vera",
    "Werner",
    "Xenia",
    "Yusuf",
    "Zoë",
    "Andreas",
    "Birgit",
    "Christian",
    "Dörte",
    "Emre",
    "Franziska",
    "Günter",
    "Heike",
    "Ingo",
    "Jana",
    "Karl",
    "Lena",
    "Mehmet",
    "Nadja",
];
const SYLLABLES: [&str; 24] = [
    "mül", "schmi", "wag", "be", "hoff", "koch", "bau", "rich", "klei", "wolf", "schrö", "neu", "schwar", "zim", "kru",
    "hart", "lan", "wer", "kö", "pe", "fu", "vo", "jä", "sei",
];
const ENDINGS: [&str; 16] = [
    "ler", "dt", "ner", "cker", "mann", "er", "ter", "ert", "de", "ger", "bauer", "stein", "berg", "inger", "rich",
    "ke",
];

/// SplitMix64 (Steele, Lea, Flood 2014), begun anew for each part.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn part(seed: u64, part: u64) -> Self {
        let mut random = Self(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self(random.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// The installation and its callers.
pub(super) struct World {
    pub(super) seed: u64,
    /// Recordings in all: they set how densely the years are filled, and how many people call.
    pub(super) recordings: u64,
}

/// One side of a call.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) number: String,
    pub(super) name: String,
    /// Signalling, without the port.
    address: String,
    /// Where media goes.
    media: String,
    pub(super) user: Option<String>,
}

impl World {
    /// Someone whose calls are recorded.
    pub(super) fn agent(&self, number: u64) -> Person {
        let mut random = Random::part(self.seed ^ 1, number);
        let name = name(&mut random);
        let host = format!("10.{}.{}.{}", 20 + number / 1000, number / 250 % 256, 1 + number % 250);
        let user = name.to_lowercase().replace(' ', ".") + &(number % 100).to_string();
        Person { number: (10_000 + number).to_string(), name, address: host.clone(), media: host, user: Some(user) }
    }

    /// Somebody else: few call very often, most once or twice. A third has a name.
    pub(super) fn caller(&self, rank: u64) -> Person {
        let mut random = Random::part(self.seed ^ 2, rank);
        let number = if random.chance(0.8) {
            let area = [30, 40, 89, 69, 221, 211, 711, 341, 351, 151, 160, 170, 171, 172, 175, 176, 177, 179];
            format!("+49{}{:07}", random.pick(&area), random.below(10_000_000))
        } else {
            format!("+{}{:09}", random.pick(&[1u32, 33, 39, 41, 43, 44, 48, 90]), random.below(1_000_000_000))
        };
        let name = if random.chance(0.33) { name(&mut random) } else { String::new() };
        let gateway = rank % 4;
        Person {
            number,
            name,
            address: format!("10.1.0.{}", 10 + gateway),
            media: format!("10.1.1.{}", 10 + gateway),
            user: None,
        }
    }

    /// The rank of who calls: density falls with the rank (Zipf's law).
    pub(super) fn rank(&self, random: &mut Random) -> u64 {
        let people = (self.recordings / 2).max(1000) as f64;
        people.powf(random.unit()) as u64
    }

    pub(super) fn started_at(&self, number: u64) -> CaptureTime {
        let mut random = Random::part(self.seed ^ 3, number);
        let gap = YEARS_SECONDS as f64 * 1e9 / self.recordings as f64;
        let since = (number as f64 + random.unit() * 3.0) * gap;
        CaptureTime(BEGIN * 1_000_000_000 + since as u64 + random.below(1000))
    }

    pub(super) fn end(&self) -> CaptureTime {
        CaptureTime::from_seconds_nanos(BEGIN + YEARS_SECONDS, 0)
    }

    /// Recording `number`, as it stands when it is over.
    pub(super) fn recording(&self, number: u64) -> Recording {
        let mut random = Random::part(self.seed, number);
        let started_at = self.started_at(number);
        let agent = self.agent(random.below(AGENTS));
        let other = if random.chance(0.25) {
            self.agent(random.below(AGENTS))
        } else {
            let rank = self.rank(&mut random);
            self.caller(rank)
        };
        let is_inbound = random.chance(0.6);
        let (caller, callee) = if is_inbound { (&other, &agent) } else { (&agent, &other) };
        let nanos =
            |random: &mut Random, seconds: f64| Duration::from_nanos((seconds * 1e9) as u64 + random.below(1000));
        let ringing = 2.0 + 12.0 * random.unit();
        let talk = (120.0 * (1.1 * random.normal()).exp()).clamp(1.0, 36_000.0);
        let answered_at = started_at.saturating_add(nanos(&mut random, ringing));
        let ended_at = answered_at.saturating_add(nanos(&mut random, talk));
        let call_reference = call_id(&mut random, &caller.address);
        let id = RecordingId::derive(Seed([7; 16]), started_at, &call_reference);
        let state = if random.chance(0.025) { RecordingState::Incomplete } else { RecordingState::Complete };
        let reason = random.pick(&[EndReason::CallerHungUp, EndReason::CalleeHungUp]);
        let domain = "10.1.0.5";
        let leg = Leg {
            protocol: "sip".into(),
            call_id: call_reference,
            from: format!("sip:{}@{domain}", caller.number),
            to: format!("sip:{}@{domain}", callee.number),
            started_at,
            answered_at: Some(answered_at),
            ended_at: Some(ended_at),
            end_reason: Some(reason),
        };
        let party = |id, role, person: &Person| Party {
            id,
            role,
            number: person.number.clone(),
            name: person.name.clone(),
            address: format!("{}:5060", person.address),
            joined_at: if id == 0 { started_at } else { answered_at },
            left_at: Some(ended_at),
        };
        let parties = vec![party(0, PartyRole::Caller, caller), party(1, PartyRole::Callee, callee)];
        let codec =
            if random.chance(0.85) { "PCMA/8000" } else { random.pick(&["G722/8000", "PCMU/8000", "opus/48000"]) };
        let port = |random: &mut Random| 16_384 + 2 * random.below(8192);
        let mut track = |id: u8, from: &Person, to: &Person| {
            let first = answered_at.saturating_add(nanos(&mut random, 0.08));
            let last = ended_at.saturating_sub(nanos(&mut random, 0.05));
            let packets = (talk * 50.0) as u64;
            let lost = if random.chance(0.1) { random.below(1 + packets / 50) } else { 0 };
            // Samples at 8 kHz.
            let seconds = |samples: u64| Duration::from_nanos(samples * 125_000).as_secs_f64();
            Track {
                id: TrackId(id),
                party: Some(id),
                side: if is_inbound == (id == 1) { Side::Near } else { Side::Far },
                kind: TrackKind::Audio,
                encrypted: false,
                decodable: true,
                start_offset_seconds: if id == 0 { 0.0 } else { seconds(random.below(800)) },
                duration_seconds: seconds((talk * 8000.0) as u64),
                concealed_seconds: lost as f64 * 0.02,
                losses: Losses { network: lost, ..Losses::default() },
                streams: vec![Stream {
                    domain: String::new(),
                    ssrc: format!("0x{:08x}", random.next() as u32),
                    source: format!("{}:{}", from.media, port(&mut random)),
                    destination: format!("{}:{}", to.media, port(&mut random)),
                    codec: codec.into(),
                    from: first,
                    to: last,
                    packets: packets - lost.min(packets),
                    lost,
                    duplicates: 0,
                    reordered: if random.chance(0.05) { random.below(20) } else { 0 },
                    late: if random.chance(0.05) { random.below(20) } else { 0 },
                    jitter_ms_mean: random.unit() * 2.0,
                    jitter_ms_max: 2.0 + random.unit() * 20.0,
                }],
            }
        };
        let tracks = vec![track(0, caller, callee), track(1, callee, caller)];
        let gap = Gap { from: answered_at, to: Some(ended_at), reason: "process restarted".into() };
        Recording {
            schema: SCHEMA_VERSION,
            id,
            node: NodeName("recorder-1".into()),
            conversation_id: ConversationId::derive(Seed([7; 16]), started_at, &id.to_string()),
            state,
            started_at,
            answered_at: Some(answered_at),
            ended_at: Some(ended_at),
            duration_seconds: tracks[0].duration_seconds,
            end_reason: Some(reason),
            users: agent.user.into_iter().chain(other.user.clone()).collect(),
            gaps: if state == RecordingState::Incomplete { vec![gap] } else { Vec::new() },
            pauses: Vec::new(),
            legs: vec![leg],
            parties,
            tracks,
            annotations: Annotations::default(),
            proof: None,
        }
    }

    pub(super) fn case(&self, number: u64) -> Option<u64> {
        let mut random = Random::part(self.seed ^ 4, number);
        random.chance(0.2).then(|| random.below(self.recordings / 10 + 1))
    }

    /// What the log holds of recording `number` in the end: its document, what is said of it, and that it is sealed.
    pub(super) fn facts(&self, number: u64) -> [FactRecord; 3] {
        let recording = self.recording(number);
        let id = recording.id;
        let mut random = Random::part(self.seed ^ 5, number);
        let mut tags = BTreeMap::new();
        if let Some(case) = self.case(number) {
            tags.insert("case".to_owned(), format!("C-{case:07}"));
            tags.insert("campaign".to_owned(), format!("campaign {}", case % 30));
        }
        let year = Duration::from_secs(365 * 86_400);
        let class = random.pick(&["standard", "sales", "legal"]);
        let retention =
            Retention { class: class.into(), expires_at: Some(recording.started_at.saturating_add(10 * year)) };
        let annotations = Annotations { tags, hold: None, retention: Some(retention) };
        let tracks = recording.tracks.len() as u64;
        let seconds = recording.duration_seconds.ceil() as u64;
        let payload_bytes = tracks * seconds * 2000 + random.below(1000);
        let first_tick = recording.answered_at.unwrap_or_default().tick();
        let root: [[u8; 8]; 4] = std::array::from_fn(|_| random.next().to_le_bytes());
        let mut run = Run {
            volume: VolumeNumber(0),
            segment: SegmentNumber((number / 2000) as u32 + 1),
            offset: number % 2000 * 524_288 + random.below(1000) * 16,
            length: 0,
            index_offset: payload_bytes + seconds * 180,
            chunks: (tracks * seconds) as u32,
            payload_bytes,
            first_tick,
            end_tick: Tick(first_tick.0 + seconds * 50),
            root: MerkleRoot([0; 32]),
        };
        run.length = run.index_offset + 64 + u64::from(run.chunks) * 5;
        for (place, part) in run.root.0.chunks_exact_mut(8).zip(root) {
            place.copy_from_slice(&part);
        }
        let position =
            LogPosition { file: (number / 300) as u32 + 1, offset: number % 300 * 440_000 + random.below(9000) * 16 };
        let through = vec![Through { volume: VolumeNumber(0), position }];
        let sequence = |fact: u64| FactSequence(number * 8 + 5 + fact);
        [
            FactRecord {
                sequence: sequence(0),
                fact: Fact::Recording { recording: Arc::new(recording), resume: None },
            },
            FactRecord { sequence: sequence(1), fact: Fact::Annotations { recording: id, annotations } },
            FactRecord { sequence: sequence(2), fact: Fact::Sealed { recording: id, run, through } },
        ]
    }
}

fn name(random: &mut Random) -> String {
    let mut last = random.pick(&SYLLABLES).to_owned();
    if random.chance(0.5) {
        last.push_str(random.pick(&SYLLABLES));
    }
    last.push_str(random.pick(&ENDINGS));
    let mut letters = last.chars();
    let last: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    format!("{} {last}", random.pick(&FIRST_NAMES))
}

/// As three kinds of telephone systems make them.
fn call_id(random: &mut Random, address: &str) -> String {
    match random.below(3) {
        0 => {
            let bytes = (u128::from(random.next()) << 64) | u128::from(random.next());
            format!(
                "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                bytes >> 96,
                bytes >> 80 & 0xffff,
                bytes >> 64 & 0xffff,
                bytes >> 48 & 0xffff,
                bytes & 0xffff_ffff_ffff
            )
        }
        1 => format!("{:016x}{:016x}@{address}:5060", random.next(), random.next()),
        _ => {
            const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
            let text: String = (0..16).map(|_| char::from(random.pick(LETTERS))).collect();
            format!("{text}@{address}")
        }
    }
}
