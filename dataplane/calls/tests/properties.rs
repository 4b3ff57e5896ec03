//! Whatever happens, in whatever order: nothing panics, a stream is on one track at a time (the world checks it on every
//! command), every call ends as recorded or as not recorded, and every recording is closed exactly once.

mod world;

use proptest::prelude::*;
use sidetone_calls::{Orphans, TrackerConfig};
use sidetone_model::{CaptureTime, Domain, EndReason, RecordingState};
use sidetone_signalling::event::*;
use std::time::Duration;
use world::*;

#[derive(Clone, Debug)]
enum Step {
    Start { leg: u8, caller: u8, callee: u8, in_progress: bool },
    Media { leg: u8, callee: bool, committed: bool, port: u8, kind: u8, direction: u8 },
    Answered { leg: u8 },
    Related { leg: u8, other: u8, replaces: bool },
    Identity { leg: u8, callee: bool, number: u8 },
    Refreshed { leg: u8, seconds: Option<u8> },
    Ended { leg: u8, reason: u8 },
    Stream { source: u8, destination: u8, ssrc: u8, domain: u8 },
    SightAgain { slot: u8 },
    Gone { slot: u8 },
    Pass { seconds: u8 },
    Talk { seconds: u8, parity: u8 },
    Jump { seconds: i64 },
    Restart,
    Room(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let leg = 0..6u8;
    prop_oneof![
        4 => (leg.clone(), 0..4u8, 0..4u8, any::<bool>())
            .prop_map(|(leg, caller, callee, p)| Step::Start { leg, caller, callee, in_progress: p }),
        8 => (leg.clone(), any::<bool>(), any::<bool>(), 0..5u8, 0..6u8, 0..4u8).prop_map(
            |(leg, callee, committed, port, kind, direction)| Step::Media { leg, callee, committed, port, kind, direction }
        ),
        4 => leg.clone().prop_map(|leg| Step::Answered { leg }),
        2 => (leg.clone(), 0..6u8, any::<bool>())
            .prop_map(|(leg, other, replaces)| Step::Related { leg, other, replaces }),
        1 => (leg.clone(), any::<bool>(), 0..3u8)
            .prop_map(|(leg, callee, number)| Step::Identity { leg, callee, number }),
        1 => (leg.clone(), proptest::option::of(any::<u8>()))
            .prop_map(|(leg, seconds)| Step::Refreshed { leg, seconds }),
        3 => (leg, 0..4u8).prop_map(|(leg, reason)| Step::Ended { leg, reason }),
        8 => (0..5u8, 0..5u8, 0..3u8, 0..2u8)
            .prop_map(|(source, destination, ssrc, domain)| Step::Stream { source, destination, ssrc, domain }),
        2 => (0..20u8).prop_map(|slot| Step::SightAgain { slot }),
        2 => (0..20u8).prop_map(|slot| Step::Gone { slot }),
        3 => (0..30u8).prop_map(|seconds| Step::Pass { seconds }),
        3 => (1..6u8, 0..3u8).prop_map(|(seconds, parity)| Step::Talk { seconds, parity }),
        1 => (-2_000_000_000..2_000_000_000i64).prop_map(|seconds| Step::Jump { seconds }),
        1 => Just(Step::Restart),
        2 => any::<bool>().prop_map(Step::Room),
    ]
}

fn leg_of(n: u8) -> LegRef {
    // Two domains, and legs that share a call reference.
    let domain = Domain { vlan_outer: u16::from(n / 4), ..Domain::default() };
    leg_in(&format!("{}@a", n % 4), domain)
}

fn media_address(n: u8) -> String {
    format!("10.0.0.{}:{}", 1 + n / 2, 4000 + 2 * u16::from(n))
}

fn binding(port: u8, kind: u8, direction: u8) -> MediaBinding {
    let mut binding = audio(&media_address(port));
    match kind {
        0 => binding.kind = MediaKind::Video,
        1 => binding.address = None,
        2 => binding.candidates = vec![address(&media_address((port + 1) % 5))],
        3 => binding.security = MediaSecurity::Unreadable,
        _ => {}
    }
    binding.direction =
        [MediaDirection::SendRecv, MediaDirection::SendOnly, MediaDirection::RecvOnly, MediaDirection::Inactive]
            [usize::from(direction)];
    binding
}

fn side(callee: bool) -> LegSide {
    if callee { LegSide::Callee } else { LegSide::Caller }
}

fn run(steps: &[Step], config: &TrackerConfig, restarts: bool) -> World {
    let mut world = World::new(config.clone());
    for step in steps {
        match step.clone() {
            Step::Start { leg, caller, callee, in_progress } => {
                let identity = |n: u8| identity(&n.to_string(), &format!("10.0.1.{n}:5060"));
                world.start_with(&leg_of(leg), identity(caller), identity(callee), in_progress);
            }
            Step::Media { leg, callee, committed, port, kind, direction } => {
                let phase = if committed { MediaPhase::Committed } else { MediaPhase::Preview };
                world.media(&leg_of(leg), side(callee), phase, vec![binding(port, kind, direction)]);
            }
            Step::Answered { leg } => world.event(&leg_of(leg), CallEventKind::Answered),
            Step::Related { leg, other, replaces } => {
                let relation = if replaces { Relation::Replaces } else { Relation::SameCall };
                let other_call_id = leg_of(other).call_id;
                world.event(&leg_of(leg), CallEventKind::Related { other_call_id, relation });
            }
            Step::Identity { leg, callee, number } => {
                let identity = identity(&number.to_string(), "");
                world.event(&leg_of(leg), CallEventKind::Identity { side: side(callee), identity });
            }
            Step::Refreshed { leg, seconds } => {
                let expires_at = seconds.map(|s| world.now.saturating_add(Duration::from_secs(s.into())));
                world.event(&leg_of(leg), CallEventKind::Refreshed { expires_at });
            }
            Step::Ended { leg, reason } => {
                let reason = [EndReason::CallerHungUp, EndReason::CalleeHungUp, EndReason::Failed, EndReason::Released]
                    [usize::from(reason)];
                world.event(&leg_of(leg), CallEventKind::Ended { reason, detail: String::new() });
            }
            Step::Stream { source, destination, ssrc, domain } => {
                let domain = Domain { vlan_outer: domain.into(), ..Domain::default() };
                let (source, destination) = (media_address(source), media_address(destination));
                world.stream_of(domain, &source, &destination, ssrc.into(), 8);
            }
            Step::SightAgain { slot } => world.sight(slot.into()),
            Step::Gone { slot } => world.gone(slot.into()),
            Step::Pass { seconds } => world.pass(Duration::from_secs(seconds.into())),
            Step::Talk { seconds, parity } => {
                let slots: Vec<u32> =
                    world.streams.keys().copied().filter(|slot| slot % 3 != u32::from(parity)).collect();
                world.talk(&slots, seconds.into());
            }
            Step::Jump { seconds } => {
                world.now = CaptureTime(world.now.0.saturating_add_signed(seconds.saturating_mul(1_000_000_000)));
            }
            Step::Restart if restarts => world.restart(config.clone(), Duration::from_secs(2)),
            Step::Restart => {}
            Step::Room(has_room) => world.room(has_room),
        }
    }
    world.finish_all();
    world
}

fn some_config() -> impl Strategy<Value = TrackerConfig> {
    (any::<bool>(), any::<bool>(), 1..8usize, 1..20usize).prop_map(|(keep_unanswered, orphans, calls, streams)| {
        TrackerConfig {
            keep_unanswered,
            orphans: if orphans { Orphans::Record } else { Orphans::Discard },
            max_calls: calls,
            max_streams: streams,
            max_unclaimed: 5,
            ..config()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_call_is_accounted_for_and_every_recording_closed_once(
        steps in proptest::collection::vec(step(), 0..80),
        config in some_config(),
    ) {
        let world = run(&steps, &config, false);
        for document in world.recordings() {
            prop_assert_ne!(document.state, RecordingState::Active);
            prop_assert_eq!(world.closed.get(&document.id), Some(&1));
        }
        prop_assert_eq!(world.closed.len(), world.documents.len());
        let statistics = world.tracker.statistics();
        prop_assert_eq!(
            statistics.calls_seen,
            statistics.calls_recorded + statistics.not_recorded(),
            "{:?}", statistics
        );
        prop_assert_eq!(statistics.not_recorded(), world.not_recorded.len() as u64);
        prop_assert_eq!(
            statistics.calls_recorded + statistics.orphans_recorded,
            world.documents.len() as u64
        );
        prop_assert_eq!(statistics.calls_active + statistics.recordings_active, 0);
        prop_assert!(world.tracks.is_empty());
        prop_assert!(world.tracker.unclaimed().count() <= 5);
    }

    #[test]
    fn restarts_go_on_in_the_same_recordings(
        steps in proptest::collection::vec(step(), 0..80),
        config in some_config(),
    ) {
        let world = run(&steps, &TrackerConfig { max_calls: 100, ..config }, true);
        for document in world.recordings() {
            prop_assert_ne!(document.state, RecordingState::Active);
            prop_assert_eq!(world.closed.get(&document.id), Some(&1));
            let restarted = document.gaps.iter().any(|gap| gap.reason == "restart");
            prop_assert!(!restarted || document.state == RecordingState::Incomplete);
            prop_assert!(document.gaps.iter().all(|gap| gap.to.is_some_and(|to| to >= gap.from)));
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_commands(
        steps in proptest::collection::vec(step(), 0..60),
        config in some_config(),
    ) {
        let one = run(&steps, &config, true);
        let other = run(&steps, &config, true);
        prop_assert_eq!(one.history, other.history);
        prop_assert_eq!(one.documents, other.documents);
        prop_assert_eq!(one.not_recorded, other.not_recorded);
    }
}
