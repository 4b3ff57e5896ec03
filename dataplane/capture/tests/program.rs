//! The loaded XDP program against the table that the host's tests use, by BPF_PROG_TEST_RUN.

#[path = "../../../ebpf/tap-abi/tests/packets/mod.rs"]
mod packets;
mod testbed;

use aya::EbpfLoader;
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use packets::{Case, cases};
use sidetone_capture::{Mirror, Port, PortConfig, TAP_OBJECT, monotonic_ns};
use sidetone_tap_abi::{
    ABI_VERSION, COUNTERS, Counter, FlowKey, FlowVerdict, MAP_COUNTERS, MAP_FLOWS, MAP_PORTS, MAP_SETTINGS,
    MAP_SOCKETS, METADATA_BYTES, NANOS_PER_PORT_SECOND, PROGRAM_NAME, PortEntry, Reason, Verdict,
};
use testbed::{Testbed, in_testbed};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);
// SAFETY: plain structures of the ABI without padding.
unsafe impl aya::Pod for Plain<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<FlowVerdict> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<PortEntry> {}

/// A second copy of the program over the maps of the one that runs, which can be run by hand.
struct Bench {
    ebpf: aya::Ebpf,
}

impl Bench {
    fn new(testbed: &Testbed) -> Self {
        let pins = testbed.pin_directory().join(format!("v{ABI_VERSION}")).join("mirror0");
        let mut loader = EbpfLoader::new();
        for map in [MAP_SOCKETS, MAP_FLOWS, MAP_PORTS, MAP_SETTINGS, MAP_COUNTERS] {
            loader.map_pin_path(map, pins.join(map));
        }
        let mut ebpf = loader.load(TAP_OBJECT.expect("built with the XDP program")).unwrap();
        let program: &mut Xdp = ebpf.program_mut(PROGRAM_NAME).unwrap().try_into().unwrap();
        program.load().unwrap();
        let mut bench = Self { ebpf };
        bench.fill_tables();
        bench
    }

    fn fill_tables(&mut self) {
        let now_ns = monotonic_ns();
        let mut ports: Array<_, Plain<PortEntry>> = self.ebpf.map_mut(MAP_PORTS).unwrap().try_into().unwrap();
        let now = u32::try_from(now_ns / NANOS_PER_PORT_SECOND).unwrap();
        let media = PortEntry { signalling_until: 0, media_until: now + 60 };
        ports.set(packets::MEDIA_PORT.into(), Plain(media), 0).unwrap();
        // Port seconds start at 1; the machine has been up for longer.
        let expired = PortEntry { signalling_until: now.max(1), media_until: 1 };
        ports.set(packets::EXPIRED_PORT.into(), Plain(expired), 0).unwrap();
        let mut flows: HashMap<_, Plain<FlowKey>, Plain<FlowVerdict>> =
            self.ebpf.map_mut(MAP_FLOWS).unwrap().try_into().unwrap();
        let [(held, held_ssrc), (expired, expired_ssrc)] = packets::discarded_streams();
        let verdict = |discard_until_ns| Plain(FlowVerdict { discard_until_ns });
        flows.insert(Plain(FlowKey::new(&held, held_ssrc)), verdict(now_ns + 60_000_000_000), 0).unwrap();
        flows.insert(Plain(FlowKey::new(&expired, expired_ssrc)), verdict(now_ns), 0).unwrap();
    }

    fn counters(&self) -> Vec<u64> {
        let counters: PerCpuArray<_, u64> = self.ebpf.map(MAP_COUNTERS).unwrap().try_into().unwrap();
        (0..COUNTERS).map(|index| counters.get(&index, 0).unwrap().iter().sum()).collect()
    }

    /// Runs the program once: its action, and the frame with what lies in front of it.
    fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &Xdp = self.ebpf.program(PROGRAM_NAME).unwrap().try_into().unwrap();
        let mut out = vec![0; 16 * 1024];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }
}

/// The table with sockets in place, on a port of the given kind.
fn drive_table(mirror: Mirror) {
    in_testbed(1, 1500, move |testbed| {
        let port = Port::open(&PortConfig { mirror, ..testbed.config() }).unwrap();
        let bench = Bench::new(testbed);
        let mut before = bench.counters();
        for Case { description, frame, expected } in cases() {
            let started_at_ns = monotonic_ns();
            let (action, out) = bench.run(&frame);
            let after = bench.counters();
            let (expected_action, expected_counter) = match (expected, mirror) {
                (Verdict::Redirect(interest), _) => (XDP_REDIRECT, Counter::Redirected(interest)),
                (Verdict::Unwanted(reason), Mirror::Dedicated) => (XDP_DROP, Counter::Dropped(reason)),
                (Verdict::Unwanted(reason), Mirror::Shared) => (XDP_PASS, Counter::Passed(reason)),
            };
            assert_eq!(action, expected_action, "{description}");
            for index in 0..COUNTERS {
                let counted = [Counter::Received, expected_counter].iter().any(|counter| counter.index() == index);
                let grown = after[index as usize] - before[index as usize];
                assert_eq!(grown, u64::from(counted), "{description}: counter {index}");
            }
            if action == XDP_REDIRECT {
                let (metadata, bytes) = out.split_at(METADATA_BYTES as usize);
                let stamp_ns = u64::from_ne_bytes(metadata.try_into().unwrap());
                assert!((started_at_ns..=monotonic_ns()).contains(&stamp_ns), "{description}: stamp {stamp_ns}");
                assert_eq!(bytes, frame, "{description}");
            } else {
                assert_eq!(out, frame, "{description}");
            }
            before = after;
        }
        drop(port);
    });
}

#[test]
#[ignore = "needs root"]
fn the_program_judges_the_table_on_a_dedicated_port() {
    drive_table(Mirror::Dedicated);
}

#[test]
#[ignore = "needs root"]
fn the_program_judges_the_table_on_a_shared_port() {
    drive_table(Mirror::Shared);
}

#[test]
#[ignore = "needs root"]
fn without_a_socket_wanted_frames_are_counted_and_dropped_or_passed() {
    for (mirror, expected_action) in [(Mirror::Dedicated, XDP_DROP), (Mirror::Shared, XDP_PASS)] {
        in_testbed(1, 1500, move |testbed| {
            drop(Port::open(&PortConfig { mirror, ..testbed.config() }).unwrap());
            let bench = Bench::new(testbed);
            let before = bench.counters();
            let frame = packets::udp_frame(5060, 5060, &packets::sip());
            let (action, out) = bench.run(&frame);
            assert_eq!(action, expected_action);
            assert_eq!(out, frame, "no metadata on a frame that goes to the host");
            let counter = match mirror {
                Mirror::Dedicated => Counter::Dropped(Reason::NoSocket),
                Mirror::Shared => Counter::Passed(Reason::NoSocket),
            };
            let after = bench.counters();
            assert_eq!(after[counter.index() as usize] - before[counter.index() as usize], 1);
            assert_eq!(after.iter().sum::<u64>() - before.iter().sum::<u64>(), 2);
        });
    }
}
