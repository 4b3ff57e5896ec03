//! The 49 messages of RFC 4475 over UDP and, cut at every place, over TCP.
//!
//! The messages are looked for in `$SIDETONE_CORPUS/torture-rfc4475`, else beside the repository.

use sidetone_model::{CaptureTime, Domain};
use sidetone_signalling::message::{self, Method, StartLine};
use sidetone_signalling::{Datagram, SipConfig, SipDecoder, SipFramer, Transport};
use std::path::PathBuf;

/// Name, method or status, Call-ID, CSeq number, CSeq method, outcome. A status of 0 means that the start line is
/// refused; an empty Call-ID that there is none; a CSeq of `None` that it does not fit 32 bits.
type Row = (&'static str, &'static str, &'static str, Option<u32>, Method, &'static str);

const MESSAGES: [Row; 49] = [
    ("badaspec", "OPTIONS", "badaspec.sdf0234n2nds0a099u23h3hnnw009cdkne3", Some(3923239), Method::Options, "request"),
    ("badbranch", "OPTIONS", "badbranch.sadonfo23i420jv0as0derf3j3n", Some(8), Method::Options, "request"),
    ("baddate", "INVITE", "baddate.239423mnsadf3j23lj42--sedfnm234", Some(1392934), Method::Invite, "request"),
    ("baddn", "OPTIONS", "baddn.31415@c.example.com", Some(3923239), Method::Options, "request"),
    ("badinv01", "INVITE", "badinv01.0ha0isndaksdjasdf3234nas", Some(8), Method::Invite, "request"),
    ("badvers", "OPTIONS", "badvers.31417@c.example.com", Some(1), Method::Options, "malformed_version"),
    ("bcast", "200", "bcast.0384840201234ksdfak3j2erwedfsASdf", Some(35), Method::Invite, "response"),
    ("bext01", "OPTIONS", "bext01.0ha0isndaksdj", Some(8), Method::Options, "request"),
    (
        "bigcode",
        "4294967301",
        "bigcode.asdof3uj203asdnf3429uasdhfas3ehjasdfas9i",
        Some(353494),
        Method::Invite,
        "malformed_status_code",
    ),
    ("clerr", "INVITE", "clerr.0ha0isndaksdjweiafasdk3", Some(8), Method::Invite, "request"),
    ("cparam01", "REGISTER", "cparam01.70710@saturn.example.com", Some(2), Method::Register, "request"),
    ("cparam02", "REGISTER", "cparam02.70710@saturn.example.com", Some(3), Method::Register, "request"),
    ("dblreq", "REGISTER", "dblreq.0ha0isndaksdj99sdfafnl3lk233412", Some(8), Method::Register, "request"),
    ("esc01", "INVITE", "esc01.239409asdfakjkn23onasd0-3234", Some(234234), Method::Invite, "request"),
    ("esc02", "RE%47IST%45R", "esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf", Some(29344), Method::Other, "request"),
    ("escnull", "REGISTER", "escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd", Some(14398234), Method::Register, "request"),
    (
        "escruri",
        "INVITE",
        "escruri.23940-asdfhj-aje3br-234q098w-fawerh2q-h4n5",
        Some(149209342),
        Method::Invite,
        "request",
    ),
    ("insuf", "INVITE", "", Some(193942), Method::Invite, "malformed_missing_call_id"),
    (
        "intmeth",
        "!interesting-Method0123456789_*+`.%indeed'~",
        "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
        Some(139122385),
        Method::Other,
        "request",
    ),
    ("inv2543", "INVITE", "inv2543.1717@ift.client.example.com", Some(56), Method::Invite, "request"),
    ("invut", "INVITE", "invut.0ha0isndaksdjadsfij34n23d", Some(235448), Method::Invite, "request"),
    (
        "longreq",
        "INVITE",
        "longreq.onereallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallylongcallid",
        Some(3882340),
        Method::Invite,
        "request",
    ),
    ("ltgtruri", "INVITE", "ltgtruri.1@192.0.2.5", Some(1), Method::Invite, "request"),
    ("lwsdisp", "OPTIONS", "lwsdisp.1234abcd@funky.example.com", Some(60), Method::Options, "request"),
    ("lwsruri", "INVITE", "lwsruri.asdfasdoeoi2323-asdfwrn23-asd834rk423", Some(2130706432), Method::Invite, "request"),
    ("lwsstart", "INVITE", "lwsstart.dfknq234oi243099adsdfnawe3@example.com", Some(1893884), Method::Invite, "request"),
    ("mcl01", "OPTIONS", "mcl01.fhn2323orihawfdoa3o4r52o3irsdf", Some(15932), Method::Options, "request"),
    ("mismatch01", "OPTIONS", "mismatch01.dj0234sxdfl3", Some(8), Method::Invite, "malformed_method_mismatch"),
    ("mismatch02", "NEWMETHOD", "mismatch02.dj0234sxdfl3", Some(8), Method::Invite, "malformed_method_mismatch"),
    ("mpart01", "MESSAGE", "3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..", Some(1), Method::Message, "request"),
    ("multi01", "INVITE", "multi01.98asdh@192.0.2.1", Some(5), Method::Invite, "request"),
    ("ncl", "INVITE", "ncl.0ha0isndaksdj2193423r542w35", Some(0), Method::Invite, "request"),
    ("noreason", "100", "noreason.asndj203insdf99223ndf", Some(35), Method::Invite, "response"),
    ("novelsc", "OPTIONS", "novelsc.asdfasser0q239nwsdfasdkl34", Some(3923423), Method::Options, "request"),
    ("quotbal", "INVITE", "quotbal.aksdj", Some(8), Method::Invite, "request"),
    ("regaut01", "REGISTER", "regaut01.0ha0isndaksdj", Some(9338), Method::Register, "request"),
    ("regbadct", "REGISTER", "regbadct.k345asrl3fdbv@10.0.0.1", Some(1), Method::Register, "request"),
    ("regescrt", "REGISTER", "regescrt.k345asrl3fdbv@192.0.2.1", Some(14398234), Method::Register, "request"),
    (
        "scalar02",
        "REGISTER",
        "scalar02.23o0pd9vanlq3wnrlnewofjas9ui32",
        None,
        Method::Register,
        "malformed_missing_cseq",
    ),
    ("scalarlg", "503", "scalarlg.noase0of0234hn2qofoaf0232aewf2394r", None, Method::Options, "malformed_missing_cseq"),
    ("sdp01", "INVITE", "sdp01.ndaksdj9342dasdd", Some(8), Method::Invite, "request"),
    ("semiuri", "OPTIONS", "semiuri.0ha0isndaksdj", Some(8), Method::Options, "request"),
    ("transports", "OPTIONS", "transports.kijh4akdnaqjkwendsasfdj", Some(60), Method::Options, "request"),
    ("trws", "OPTIONS", "trws.oicu34958239neffasdhr2345r", Some(238923), Method::Options, "request"),
    ("unkscm", "OPTIONS", "unkscm.nasdfasser0q239nwsdfasdkl34", Some(3923423), Method::Options, "request"),
    ("unksm2", "REGISTER", "unksm2.daksdj@hyphenated-host.example.com", Some(234902), Method::Register, "request"),
    ("unreason", "200", "unreason.1234ksdfak3j2erwedfsASdf", Some(35), Method::Invite, "response"),
    ("wsinv", "INVITE", "wsinv.ndaksdj@192.0.2.1", Some(9), Method::Invite, "request"),
    ("zeromf", "OPTIONS", "zeromf.jfasdlfnm2o2l43r5u0asdfas", Some(39234321), Method::Options, "request"),
];

fn messages() -> Option<Vec<(Row, Vec<u8>)>> {
    let beside = PathBuf::from("../../../shared/corpus");
    let directory = std::env::var_os("SIDETONE_CORPUS").map_or(beside, PathBuf::from).join("torture-rfc4475");
    if !directory.is_dir() {
        eprintln!("SKIPPED: no RFC 4475 messages in {}; set SIDETONE_CORPUS", directory.display());
        return None;
    }
    let read = |row: &Row| {
        let path = directory.join(row.0).with_extension("dat");
        (*row, std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    Some(MESSAGES.iter().map(read).collect())
}

fn outcome(bytes: &[u8], transport: Transport) -> &'static str {
    let mut decoder = SipDecoder::new(&SipConfig::default());
    let mut events = Vec::new();
    let datagram = Datagram {
        time: CaptureTime(1),
        domain: Domain::default(),
        transport,
        source: "192.0.2.1:5060".parse().unwrap(),
        destination: "192.0.2.2:5060".parse().unwrap(),
        bytes,
    };
    decoder.on_message(&datagram, &mut events).label()
}

#[test]
fn every_message_means_over_udp_what_the_rfc_says() {
    let Some(messages) = messages() else { return };
    for ((name, start, call_id, cseq, method, expected), bytes) in &messages {
        assert_eq!(outcome(bytes, Transport::Udp), *expected, "{name}");
        let message = match message::parse(bytes) {
            Ok(message) => message,
            Err(error) => {
                assert!(["badvers", "bigcode"].contains(name), "{name}: {error}");
                continue;
            }
        };
        match &message.start {
            StartLine::Request { method_name, .. } => assert_eq!(method_name, start, "{name}"),
            StartLine::Response { status, .. } => assert_eq!(status.to_string(), *start, "{name}"),
        }
        assert_eq!(message.call_id().unwrap_or_default(), *call_id, "{name}");
        assert_eq!(message.cseq(), cseq.map(|number| (number, *method)), "{name}");
    }
}

#[test]
fn every_message_is_the_same_over_tcp_wherever_it_is_cut() {
    let Some(messages) = messages() else { return };
    for ((name, start, call_id, ..), bytes) in &messages {
        let frames = |cut: usize| {
            let mut found: Vec<Vec<u8>> = Vec::new();
            let mut framer = SipFramer::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                framer.push(part, |message| found.push(message.to_vec()));
            }
            // The end of the stream shows what waits for a body that is longer than the message.
            framer.gap(|message| found.push(message.to_vec()));
            (found, framer.statistics())
        };
        let whole = frames(bytes.len());
        for cut in 0..bytes.len() {
            assert_eq!(frames(cut), whole, "{name} cut at {cut}");
        }
        let found = &whole.0;
        let refused = ["badvers", "bigcode"].contains(name);
        let expected = if refused { 0 } else { 1 + usize::from(*name == "dblreq") };
        assert_eq!(found.len(), expected, "{name}");
        for message in found.iter().take(1) {
            let parsed = message::parse(message).unwrap();
            match &parsed.start {
                StartLine::Request { method_name, .. } => assert_eq!(method_name, start, "{name}"),
                StartLine::Response { status, .. } => assert_eq!(status.to_string(), *start, "{name}"),
            }
            assert_eq!(parsed.call_id().unwrap_or_default(), *call_id, "{name}");
            assert_eq!(outcome(message, Transport::Tcp), outcome(bytes, Transport::Udp), "{name}");
        }
    }
}

#[test]
fn one_stream_of_all_messages_gives_all_of_them_back() {
    let Some(messages) = messages() else { return };
    let mut framer = SipFramer::new();
    let mut call_ids = Vec::new();
    let mut keep = |bytes: &[u8]| {
        let message = message::parse(bytes).unwrap();
        call_ids.extend(message.call_id().map(str::to_owned));
    };
    for (_, bytes) in &messages {
        framer.push(bytes, &mut keep);
        framer.gap(&mut keep);
    }
    let missing: Vec<_> = messages
        .iter()
        .filter(|((name, _, call_id, ..), _)| {
            !["badvers", "bigcode"].contains(name)
                && !call_id.is_empty()
                && !call_ids.iter().any(|found| found == call_id)
        })
        .map(|((name, ..), _)| name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_session_descriptions_in_them_are_read() {
    let Some(messages) = messages() else { return };
    // sdp01 has descriptions only of a profile and format that nobody knows; the others agree on one audio port.
    for name in ["wsinv", "lwsruri", "lwsstart", "ncl", "quotbal", "clerr", "esc01", "longreq", "ltgtruri", "sdp01"] {
        let (_, bytes) = messages.iter().find(|((known, ..), _)| *known == name).unwrap();
        let message = message::parse(bytes).unwrap();
        let description =
            sidetone_signalling::sdp::parse(message.body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let audio = &description.media[0].binding;
        assert_eq!(audio.address.map(|address| address.port()), Some(49217), "{name}");
        assert_eq!(audio.formats.first().map(|format| &*format.encoding), Some("PCMU"), "{name}");
    }
}
