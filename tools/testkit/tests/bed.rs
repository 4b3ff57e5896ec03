//! The bed itself: what its phones send is what leaves through the mirror port, whole and once.

use sidetone_testkit::bed::Bed;
use sidetone_testkit::g711::Law;
use sidetone_testkit::reference::Reference;
use sidetone_testkit::sipp::{Calls, Plan, Ports};
use sidetone_testkit::speech::Library;
use sidetone_testkit::{baresip, process};
use std::path::PathBuf;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sidetone-bed-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn mirrored(ports: Ports, law: Law, number: u8) -> (Reference, Plan) {
    let directory = directory(&format!("{number}"));
    let conversation = Library::open(&directory.join("speech")).unwrap().conversation(u64::from(number), 4).unwrap();
    let plan = Plan { number, calls: 5, calls_per_second: 10, law, ports, conversation };
    let bed = Bed::create().unwrap();
    let capture = directory.join("reference.pcap");
    let running = bed.start_reference_capture(&capture).unwrap();
    Calls::start(&bed, &directory.join("calls"), &plan).unwrap().wait().unwrap();
    assert_eq!(running.finish().unwrap(), 0, "tcpdump dropped frames");
    let reference = Reference::read(&capture).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    (reference, plan)
}

/// Every stream of every call is there once, whole, and says what it should.
fn assert_whole(reference: &Reference, plan: &Plan) {
    assert_eq!(reference.streams.len(), 10);
    // INVITE, 180, 200, ACK, BYE, 200.
    assert_eq!(reference.sip_messages, 6 * 5);
    for (key, stream) in &reference.streams {
        assert_eq!((stream.packets.len(), stream.missing()), (200, 0), "{key:?}");
        let from_caller = key.source.ip().octets()[2] == 1;
        let said = if from_caller { &plan.conversation.caller } else { &plan.conversation.callee };
        let expected: Vec<i16> = said.iter().map(|&sample| plan.law.decode(plan.law.encode(sample))).collect();
        assert_eq!(stream.decode().unwrap(), expected, "{key:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn calls_with_a_port_each_are_mirrored_whole() {
    let (reference, plan) = mirrored(Ports::PerCall, Law::A, 1);
    assert_whole(&reference, &plan);
    let ports: std::collections::BTreeSet<_> = reference.streams.keys().map(|key| key.source).collect();
    let ssrcs: std::collections::BTreeSet<_> = reference.streams.keys().map(|key| key.ssrc).collect();
    assert_eq!((ports.len(), ssrcs.len()), (10, 1));
}

#[test]
#[ignore = "needs root"]
fn calls_on_one_port_are_mirrored_whole() {
    let (reference, plan) = mirrored(Ports::Shared, Law::Mu, 2);
    assert_whole(&reference, &plan);
    let ports: std::collections::BTreeSet<_> = reference.streams.keys().map(|key| key.source).collect();
    let ssrcs: std::collections::BTreeSet<_> = reference.streams.keys().map(|key| key.ssrc).collect();
    assert_eq!((ports.len(), ssrcs.len()), (2, 5));
}

#[test]
#[ignore = "needs root"]
fn baresip_phones_talk_over_the_bed() {
    let directory = directory("baresip");
    let conversation = Library::open(&directory.join("speech")).unwrap().conversation(3, 6).unwrap();
    let bed = Bed::create().unwrap();
    let capture = directory.join("reference.pcap");
    let running = bed.start_reference_capture(&capture).unwrap();
    baresip::Call::start(&bed, &directory, Law::Mu, &conversation, 4).unwrap().wait().unwrap();
    running.finish().unwrap();
    let reference = Reference::read(&capture).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(reference.streams.len(), 2);
    assert!(reference.rtcp_packets > 0);
    for (key, stream) in &reference.streams {
        assert_eq!(stream.missing(), 0, "{key:?}");
        assert!(stream.rtp_seconds() > 3.0 && stream.rtp_seconds() < 4.5, "{key:?}: {} s", stream.rtp_seconds());
        assert!(stream.packets.iter().all(|packet| packet.payload_type == 0));
    }
}

#[test]
#[ignore = "needs root"]
fn dropped_bed_leaves_nothing_behind() {
    let bed = Bed::create().unwrap();
    let mirror = bed.mirror_interface().to_owned();
    assert!(std::path::Path::new("/sys/class/net").join(&mirror).exists());
    let own = format!("sidetone-{}-", std::process::id());
    let namespaces = || process::shell(&process::Network::Own, "ip netns list").unwrap();
    assert!(namespaces().contains(&own));
    drop(bed);
    assert!(!std::path::Path::new("/sys/class/net").join(&mirror).exists());
}
