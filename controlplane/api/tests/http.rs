//! The API as its clients meet it: a real server on a loopback port over a real store.

mod support;

use serde_json::{Value, json};
use sidetone_api::{Api, ApiConfig, ApiError, Event, EventBus, StoreAlert, StoreAlertKind, VolumeChange};
use sidetone_model::{Recording, RecordingState};
use sidetone_store::VolumeState;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Answer, Server, active, sample::recording};

const UNKNOWN_ID: &str = "019a3b52-7d3f-7c11-8a51-0d6a1f2e3b4c";

/// `count` recordings with two seconds of sound each.
fn recordings(count: u64) -> Vec<Recording> {
    (0..count).map(|number| with_duration(recording(number), 2.0)).collect()
}

fn with_duration(mut recording: Recording, seconds: f64) -> Recording {
    recording.duration_seconds = seconds;
    for track in &mut recording.tracks {
        track.duration_seconds = seconds;
    }
    recording
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["recordings"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn recordings_are_found_by_time_party_and_state_in_pages_newest_first() {
    let mut kept = recordings(7);
    kept[3].state = RecordingState::Incomplete;
    kept[5].parties[1].name = "Zoë Nakamura".into();
    let server = Server::start(&kept);
    let newest_first: Vec<String> = kept.iter().rev().map(|recording| recording.id.to_string()).collect();

    assert_eq!(ids(&server.get("/api/v1/recordings")), newest_first);
    let mut paged = Vec::new();
    let mut target = "/api/v1/recordings?limit=3".to_owned();
    for _ in 0..10 {
        let page = server.get(&target);
        paged.extend(ids(&page));
        match page.json()["next"].as_str() {
            Some(cursor) => target = format!("/api/v1/recordings?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, newest_first);

    let third = kept[3].id.to_string();
    assert_eq!(ids(&server.get("/api/v1/recordings?state=incomplete")), [third.as_str()]);
    assert_eq!(ids(&server.get("/api/v1/recordings?party=nakamu")), [kept[5].id.to_string()]);
    assert_eq!(ids(&server.get("/api/v1/recordings?party=%2030123%20")).len(), 7);
    assert_eq!(ids(&server.get("/api/v1/recordings?party=nobody")).len(), 0);
    assert_eq!(ids(&server.get("/api/v1/recordings?state=finished")).len(), 7);
    assert_eq!(ids(&server.get("/api/v1/recordings?state=active")).len(), 0);
    let between = format!("from={}&to={}", kept[3].started_at, kept[4].started_at);
    assert_eq!(ids(&server.get(&format!("/api/v1/recordings?{between}"))), [third.as_str()]);
    let mut one = server.get(&format!("/api/v1/recordings/{third}")).json();
    // There once it is sealed.
    one.as_object_mut().unwrap().remove("proof");
    assert_eq!(one, serde_json::to_value(&kept[3]).unwrap());
}

#[test]
fn every_condition_finds_its_recordings_and_no_others() {
    let mut kept = recordings(4);
    kept[1].parties[0].number = "+49 (30) 555-4711".into();
    kept[1].parties[1].name = "Zoë Nakamura".into();
    kept[1].users = vec!["carol".into()];
    kept[1].node.0 = "hamburg-2".into();
    kept[1].parties[1].address = "198.51.100.7:5062".into();
    kept[1].duration_seconds = 77.0;
    kept[1].tracks[0].concealed_seconds = 1.5;
    kept[1].tracks[0].streams[0].codec = "PCMU/8000".into();
    kept[1].tracks[0].streams[0].lost = 100;
    kept[1].tracks[0].streams[0].jitter_ms_mean = 25.0;
    kept[2].annotations.tags.insert("case".into(), "17".into());
    let call_id = kept[1].legs[0].call_id.clone();
    let server = Server::start(&kept);
    let one = [kept[1].id.to_string()];
    for query in [
        "number=%2B49305554711".to_owned(),
        "number=%2B49%2030%20555%204711".into(),
        "number_prefix=%2B4930555".into(),
        "number_suffix=54711".into(),
        "name=nakamu".into(),
        "user=Carol".into(),
        "node=hamburg-2".into(),
        "address=198.51.100.7".into(),
        format!("call_id={call_id}"),
        "text=zo%C3%AB%204711".into(),
        "codec=pcmu".into(),
        "codec=PCMU/8000".into(),
        "min_duration_seconds=77".into(),
        "min_loss_percent=5".into(),
        "min_jitter_ms=20.5".into(),
        "min_concealed_seconds=1.5".into(),
        "name=nakamu&state=complete&min_duration_seconds=1&codec=PCMA".into(),
    ] {
        assert_eq!(ids(&server.get(&format!("/api/v1/recordings?{query}"))), one, "{query}");
    }
    for query in [
        "number=5554711",
        "number_prefix=4711",
        "number_suffix=555",
        "user=caro",
        "codec=opus",
        "text=zo%C3%AB%20smith",
        "name=nakamu&max_duration_seconds=76.9",
        "tag=nothing",
        "hold=true",
    ] {
        assert_eq!(ids(&server.get(&format!("/api/v1/recordings?{query}"))).len(), 0, "{query}");
    }
    assert_eq!(ids(&server.get("/api/v1/recordings?max_duration_seconds=77")).len(), 4, "the bound is included");
    assert_eq!(ids(&server.get("/api/v1/recordings?hold=false")).len(), 4);
}

#[test]
fn all_that_match_are_counted_on_request() {
    let mut kept = recordings(7);
    kept[3].state = RecordingState::Incomplete;
    let server = Server::start(&kept);
    assert_eq!(server.get("/api/v1/recordings").json().get("count"), None);
    let exact = |value: u64| serde_json::json!({ "value": value, "exact": true });
    let count =
        |query: &str| server.get(&format!("/api/v1/recordings?count=true&limit=2{query}")).json()["count"].clone();
    assert_eq!(count(""), exact(7));
    assert_eq!(count("&state=incomplete"), exact(1));
    assert_eq!(count("&party=nobody"), exact(0));
    let page = server.get("/api/v1/recordings?count=true&limit=2").json();
    assert_eq!(page["recordings"].as_array().unwrap().len(), 2, "the page is no longer for it");
}

#[test]
fn tags_and_holds_are_set_found_and_removed() {
    let kept = recordings(3);
    let server = Server::start(&kept);
    let mut events = Events::open(&server);
    let id = kept[1].id.to_string();
    let target = format!("/api/v1/recordings/{id}/annotations");
    let shown = || server.get(&format!("/api/v1/recordings/{id}")).json()["annotations"].clone();

    let answer = server.patch(&target, r#"{"tags": {"case": "4711", "Straße": "Süd = 1"}}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["tags"], serde_json::json!({ "case": "4711", "Straße": "Süd = 1" }));
    assert_eq!(shown(), answer.json());
    let (name, data) = events.next_event().unwrap();
    assert_eq!((name.as_str(), &data["recording"]), ("recording.annotated", &Value::from(id.as_str())));
    assert_eq!(data["annotations"], answer.json());
    for (query, found) in [
        ("tag=case", 1),
        ("tag=case%3D4711", 1),
        ("tag=case%3D1", 0),
        ("tag=case&tag=Stra%C3%9Fe%3DS%C3%BCd%20%3D%201", 1),
        ("tag=case&tag=other", 0),
        ("tag=case=4711&count=true", 1),
    ] {
        assert_eq!(ids(&server.get(&format!("/api/v1/recordings?{query}"))).len(), found, "{query}");
    }

    let hold = r#"{"hold": {"reason": "court order 7", "by": "Ada"}, "tags": {"case": null}}"#;
    let answer = server.patch_as(&target, "application/merge-patch+json; charset=utf-8", hold);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        (&answer.json()["hold"]["reason"], &answer.json()["hold"]["by"]),
        (&"court order 7".into(), &"Ada".into())
    );
    assert_eq!(answer.json()["tags"], serde_json::json!({ "Straße": "Süd = 1" }), "what is not named stays");
    assert_eq!(ids(&server.get("/api/v1/recordings?hold=true")), [id.as_str()]);
    assert_eq!(ids(&server.get("/api/v1/recordings?tag=case")).len(), 0);

    let answer = server.patch(&target, r#"{"hold": {"reason": "again"}}"#);
    assert_eq!(answer.json()["hold"]["by"], "api");
    let answer = server.patch(&target, r#"{"hold": null}"#);
    assert_eq!((answer.status, &answer.json()["hold"]), (200, &Value::Null));
    assert_eq!(ids(&server.get("/api/v1/recordings?hold=true")).len(), 0);
    assert_eq!(shown()["tags"], serde_json::json!({ "Straße": "Süd = 1" }));
}

#[test]
fn many_changes_at_the_same_time_do_not_undo_each_other() {
    let kept = recordings(1);
    let server = Server::start(&kept);
    let target = format!("/api/v1/recordings/{}/annotations", kept[0].id);
    std::thread::scope(|scope| {
        for number in 0..24 {
            let (server, target) = (&server, &target);
            scope.spawn(move || {
                let answer = server.patch(target, &format!("{{\"tags\": {{\"key {number}\": \"{number}\"}}}}"));
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
        }
    });
    let shown = server.get(&format!("/api/v1/recordings/{}", kept[0].id)).json();
    assert_eq!(shown["annotations"]["tags"].as_object().unwrap().len(), 24, "{shown}");
}

#[test]
fn annotations_that_cannot_be_are_refused_with_the_reason() {
    let kept = recordings(1);
    let mut server = Server::start(&kept);
    let target = format!("/api/v1/recordings/{}/annotations", kept[0].id);
    let long_key = format!("{{\"tags\": {{\"{}\": \"\"}}}}", "k".repeat(129));
    let long_value = format!("{{\"tags\": {{\"key\": \"{}\"}}}}", "v".repeat(4097));
    let many: Vec<String> = (0..129).map(|number| format!("\"{number}\": \"\"")).collect();
    let many = format!("{{\"tags\": {{{}}}}}", many.join(","));
    let huge = format!("{{\"tags\": {{\"key\": \"{}\"}}}}", "v".repeat(2 << 20));
    for (body, status, kind, named) in [
        ("", 400, "invalid-request", "EOF"),
        ("[]", 400, "invalid-request", "expected a map"),
        ("{}", 400, "invalid-request", "nothing to change"),
        (r#"{"tag": {}}"#, 400, "invalid-request", "`tag`"),
        (r#"{"tags": {"a": 1}}"#, 400, "invalid-request", "integer"),
        (r#"{"hold": true}"#, 400, "invalid-request", "boolean"),
        (r#"{"hold": {"by": "me"}}"#, 400, "invalid-request", "`reason`"),
        (r#"{"hold": {"reason": "  "}}"#, 422, "invalid-annotation", "reason"),
        (r#"{"tags": {" ": ""}}"#, 422, "invalid-annotation", "key"),
        (r#"{"tags": {"a\u0000": ""}}"#, 422, "invalid-annotation", "control"),
        (&long_key, 422, "invalid-annotation", "128"),
        (&long_value, 422, "invalid-annotation", "4096"),
        (&many, 422, "invalid-annotation", "128 tags"),
        (&huge, 413, "too-large", "limit"),
    ] {
        let answer = server.patch(&target, body);
        let shown = &body[..body.len().min(60)];
        assert_eq!((answer.status, answer.problem().as_str()), (status, kind), "{shown}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(named), "{shown}: {}", answer.text());
    }
    let patch = r#"{"tags": {"a": "b"}}"#;
    let unknown = server.patch(&format!("/api/v1/recordings/{UNKNOWN_ID}/annotations"), patch);
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "no-such-recording"));
    let other_type = server.patch_as(&target, "text/plain", patch);
    assert_eq!((other_type.status, other_type.problem().as_str()), (415, "media-type"));
    let elsewhere = server.patch("/api/v1/recordings", patch);
    assert_eq!((elsewhere.status, elsewhere.header("allow")), (405, Some("GET,HEAD")));
    assert_eq!(server.get(&target).header("allow"), Some("PATCH"));
    let shown = server.get(&format!("/api/v1/recordings/{}", kept[0].id)).json();
    assert_eq!(shown["annotations"]["tags"], serde_json::json!({}), "nothing has changed");

    server.stop_storage();
    let closed = server.patch(&target, patch);
    assert_eq!((closed.status, closed.problem().as_str()), (503, "not-writable"), "{}", closed.text());
    assert_eq!(closed.header("retry-after"), Some("5"));
}

#[test]
fn a_live_call_is_shown_as_it_is_now() {
    let server = Server::start(&recordings(1));
    assert_eq!(server.get("/api/v1/calls").json(), serde_json::json!({"calls": []}));
    let mut call = active(9);
    server.told.calls.lock().unwrap().push(Arc::new(call.clone()));
    assert_eq!(server.get("/api/v1/calls").json()["calls"][0], serde_json::to_value(&call).unwrap());
    call.duration_seconds = 99.0;
    *server.told.calls.lock().unwrap() = vec![Arc::new(call.clone())];
    assert_eq!(server.get(&format!("/api/v1/recordings/{}", call.id)).json()["duration_seconds"], 99.0);
}

#[test]
fn a_running_call_shows_its_tags_although_the_tracker_knows_nothing_of_them() {
    let call = active(9);
    let server = Server::start(std::slice::from_ref(&call));
    let mut live = call.clone();
    live.duration_seconds = 99.0;
    server.told.calls.lock().unwrap().push(Arc::new(live));
    let answer = server.patch(&format!("/api/v1/recordings/{}/annotations", call.id), r#"{"tags": {"vip": ""}}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown = server.get(&format!("/api/v1/recordings/{}", call.id)).json();
    assert_eq!((&shown["duration_seconds"], &shown["annotations"]["tags"]["vip"]), (&99.0.into(), &"".into()));
}

#[test]
fn documents_are_revalidated() {
    let kept = recordings(1);
    let server = Server::start(&kept);
    for target in [
        "/",
        "/page/main.js",
        "/api/v1/calls",
        "/api/v1/recordings",
        "/api/v1/openapi.json",
        &format!("/api/v1/recordings/{}", kept[0].id),
    ] {
        let first = server.get(target);
        let etag = first.header("etag").unwrap_or_else(|| panic!("{target}")).to_owned();
        let again = server.request("GET", target, &[&format!("if-none-match: {etag}")]);
        assert_eq!((again.status, again.header("etag"), again.body.len()), (304, Some(etag.as_str()), 0), "{target}");
        let other = server.request("GET", target, &["if-none-match: \"another\""]);
        assert_eq!((other.status, &other.body), (200, &first.body), "{target}");
        let head = server.request("HEAD", target, &[]);
        assert_eq!((head.status, head.header("etag")), (200, Some(etag.as_str())), "{target}");
        assert_eq!(head.header("content-length"), first.header("content-length"), "{target}");
    }
}

#[test]
fn audio_is_served_whole_and_in_ranges() {
    let kept = vec![with_duration(recording(1), 7.0)];
    let server = Server::start(&kept);
    for (query, magic, content_type) in [
        ("", &b"OggS"[..], "audio/ogg; codecs=opus"),
        ("?format=opus&channels=mix", b"OggS", "audio/ogg; codecs=opus"),
        ("?channels=caller", b"OggS", "audio/ogg; codecs=opus"),
        ("?channels=far", b"OggS", "audio/ogg; codecs=opus"),
        ("?format=wav", b"RIFF", "audio/wav"),
        ("?format=wav&channels=callee", b"RIFF", "audio/wav"),
    ] {
        let target = format!("/api/v1/recordings/{}/audio{query}", kept[0].id);
        let whole = server.get(&target);
        assert_eq!(whole.status, 200, "{query}: {}", whole.text());
        assert!(whole.body.starts_with(magic), "{query}");
        assert_eq!(whole.header("content-type"), Some(content_type));
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        let disposition = whole.header("content-disposition").unwrap();
        assert!(disposition.starts_with("inline; filename=\"") && !disposition.contains("__"), "{disposition}");
        let etag = whole.header("etag").unwrap();
        let length = whole.body.len();
        assert_eq!(whole.body, server.get(&target).body, "the same recording gives the same bytes");

        let head = server.request("HEAD", &target, &["range: bytes=0-9"]);
        assert_eq!((head.status, head.header("content-length")), (200, Some(length.to_string().as_str())), "{query}");

        let mut put_together = Vec::new();
        while put_together.len() < length {
            let (first, last) = (put_together.len(), (put_together.len() + length / 3).min(length - 1));
            let part = server.request(
                "GET",
                &target,
                &[&format!("range: bytes={first}-{last}"), &format!("if-range: {etag}")],
            );
            assert_eq!(part.status, 206, "{query}");
            assert_eq!(part.header("content-range"), Some(format!("bytes {first}-{last}/{length}").as_str()));
            put_together.extend_from_slice(&part.body);
        }
        assert!(put_together == whole.body, "{query}: ranges put together are the file");
        assert_eq!(server.request("GET", &target, &["range: bytes=-10"]).body, whole.body[length - 10..]);
        assert_eq!(server.request("GET", &target, &["range: bytes=0-1,5-6"]).status, 200);
        assert_eq!(server.request("GET", &target, &["range: bytes=0-1", "if-range: \"old\""]).body.len(), length);
        let beyond = server.request("GET", &target, &[&format!("range: bytes={length}-")]);
        assert_eq!((beyond.status, beyond.problem().as_str()), (416, "range-not-satisfiable"));
        assert_eq!(beyond.header("content-range"), Some(format!("bytes */{length}").as_str()));
        assert_eq!(server.request("GET", &target, &[&format!("if-none-match: {etag}")]).status, 304);
    }
}

#[test]
fn audio_that_cannot_be_had_is_refused_with_the_reason() {
    let mut silent = recording(1);
    silent.tracks.clear();
    let server = Server::start(&[silent.clone()]);
    for (target, status, kind) in [
        (format!("/api/v1/recordings/{}/audio", silent.id), 404, "no-audio"),
        (format!("/api/v1/recordings/{UNKNOWN_ID}/audio"), 404, "no-such-recording"),
        ("/api/v1/recordings/1234/audio".to_owned(), 400, "invalid-identifier"),
        (format!("/api/v1/recordings/{UNKNOWN_ID}/audio?format=mp3"), 400, "invalid-parameter"),
        (format!("/api/v1/recordings/{UNKNOWN_ID}/audio?channels=left"), 400, "invalid-parameter"),
    ] {
        let answer = server.get(&target);
        assert_eq!((answer.status, answer.problem().as_str()), (status, kind), "{target}");
    }
}

#[test]
fn parameters_that_are_unknown_or_unusable_are_refused_by_name() {
    let server = Server::start(&[]);
    for (query, named) in [
        ("partty=1", "`partty`"),
        ("limit=0", "`limit`"),
        ("limit=501", "`limit`"),
        ("limit=-1", "invalid digit"),
        ("limit=99999999999999999999", "too large"),
        ("from=yesterday", "yesterday"),
        ("from=2026-11-23T08:00:00Z&to=2026-11-23T08:00:00Z", "`from`"),
        ("state=done", "`done`"),
        ("cursor=xyz", "`cursor`"),
        ("party=1&party=2", "`party`"),
        ("numbr=1", "`numbr`"),
        ("min_duration_seconds=-1", "`min_duration_seconds`"),
        ("min_duration_seconds=inf", "`min_duration_seconds`"),
        ("min_duration_seconds=2&max_duration_seconds=1", "`min_duration_seconds`"),
        ("tag=%3Dx", "`tag`"),
        ("tag=a&tga=b", "`tga`"),
        ("hold=maybe", "true"),
        ("count=1", "true"),
        (&format!("text={}", "a".repeat(200)), "`text`"),
        (&format!("party={}", "a".repeat(200)), "`party`"),
    ] {
        let answer = server.get(&format!("/api/v1/recordings?{query}"));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-parameter"), "{query}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(named), "{query}: {detail}");
    }
    assert_eq!(server.get("/api/v1/recordings?partty=1").json()["remedy"], "did you mean `party`?");
    // On every address there is.
    let described = server.get("/api/v1/openapi.json").json();
    let paths = described["paths"].as_object().unwrap();
    let read = paths.iter().filter(|(_, item)| item["get"].is_object()).map(|(path, _)| path.as_str());
    for path in read.chain(["/", "/page/main.js", "/page/annotations.js"]) {
        let answer = server.get(&format!("{}?nonsense=1", path.replace("{id}", UNKNOWN_ID)));
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("`nonsense`"), "{path}: {}", answer.text());
    }
}

#[test]
fn the_description_covers_what_is_served() {
    let kept = recordings(1);
    let mut server = Server::start(&kept);
    let described = server.get("/api/v1/openapi.json").json();
    assert_eq!(described["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    let paths = described["paths"].as_object().unwrap().clone();
    let is_read = |path: &&String| *path != "/api/v1/events" && paths[*path]["get"].is_object();
    for path in paths.keys().filter(is_read) {
        let answer = server.get(&path.replace("{id}", &kept[0].id.to_string()));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let content = &paths[path]["get"]["responses"]["200"]["content"];
        let announced: BTreeSet<&str> =
            content.as_object().unwrap().keys().map(|name| name.split(';').next().unwrap()).collect();
        let actual = answer.header("content-type").unwrap().split(';').next().unwrap();
        assert!(announced.contains(actual), "{path}: {actual} is not among {announced:?}");
    }
    server.stop();
}

#[test]
fn refusals_and_answers_carry_the_security_headers() {
    let server = Server::start(&[]);
    for (method, target, headers, status) in [
        ("GET", "/", &[][..], 200),
        ("GET", "/api/v1/calls", &[], 200),
        ("GET", "/nothing/here", &[], 404),
        ("GET", "/api/v1/../../etc/passwd", &[], 404),
        ("GET", "/page/..%2f..%2fCargo.toml", &[], 404),
        ("GET", "/page/../../../../etc/passwd", &[], 404),
        ("GET", "/api/v1/recordings/..%2f..%2fetc%2fpasswd", &[], 400),
        ("GET", "/api/v1/recordings/%00", &[], 400),
        ("GET", "/api/v1/recordings/%ff", &[], 400),
        ("GET", "/api/v1/recordings/%ff/audio", &[], 400),
        ("POST", "/api/v1/recordings", &[], 405),
        ("PATCH", "/api/v1/recordings", &[], 405),
        ("PATCH", "/api/v1/recordings", &["sec-fetch-site: cross-site", "sec-fetch-mode: cors"], 403),
        ("PATCH", "/api/v1/recordings/1/annotations", &["sec-fetch-site: same-site", "sec-fetch-mode: no-cors"], 403),
        ("DELETE", "/api/v1/recordings/1", &[], 405),
        ("OPTIONS", "/api/v1/calls", &[], 405),
        ("BREW", "/", &[], 405),
        ("GET", "/api/v1/calls", &["content-length: 2", "", "{}"], 400),
        ("GET", "/api/v1/calls", &["host: evil.example"], 421),
        ("GET", "http://evil.example/api/v1/calls", &["host: localhost"], 421),
        ("GET", "/api/v1/calls", &["host: localhost", "host: localhost"], 400),
        ("GET", "/api/v1/calls", &["sec-fetch-site: cross-site", "sec-fetch-mode: cors"], 403),
        ("GET", "/", &["sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: document"], 200),
        ("GET", "/api/v1/calls", &["host: [::1]:8080"], 200),
    ] {
        let answer = server.request(method, target, headers);
        assert_eq!(answer.status, status, "{method} {target} {headers:?}: {}", answer.text());
        if status >= 400 {
            answer.problem();
        }
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{method} {target}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe") && !policy.contains('*'));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert!(answer.header("cache-control").is_some(), "{target}");
        assert!(answer.header("access-control-allow-origin").is_none());
    }
}

#[test]
fn garbage_does_no_harm() {
    let server = Server::start(&[]);
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()[3]
            })
            .collect()
    };
    let long = "a".repeat(60_000);
    for (bytes, status) in [
        (b"\r\n\r\n\r\n\r\nGARBAGE\r\n\r\n".to_vec(), Some("400")),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), Some("400")),
        (b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), Some("400")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), Some("400")),
        (format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").into_bytes(), Some("431")),
        (format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(500)).into_bytes(), Some("431")),
        (format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes(), None),
        (
            b"GET / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\nconnection: close\r\n\r\n".to_vec(),
            Some("400"),
        ),
        (
            b"GET / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n"
                .to_vec(),
            Some("400"),
        ),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), Some("400")),
        ([random(3000), b"\r\n\r\n".to_vec()].concat(), Some("400")),
    ] {
        let answer = String::from_utf8_lossy(&server.send(&bytes)).into_owned();
        let first = answer.lines().next().unwrap_or("").to_owned();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        match status {
            Some(status) => assert!(first.contains(status), "{shown:?}: {first:?}"),
            None => assert!(!first.contains("200"), "{shown:?}: {first:?}"),
        }
    }
    assert_eq!(server.get("/healthz").text(), "ok\n");
}

#[test]
fn several_requests_share_a_connection() {
    let server = Server::start(&[]);
    let answer = server.send(
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    );
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
}

#[test]
fn readiness_and_status_tell_what_is_wrong() {
    let server = Server::start(&recordings(2));
    let ready = serde_json::json!({ "ready": true, "reasons": [], "warnings": [], "volumes": [] });
    assert_eq!(server.get("/readyz").json(), ready);
    server.told.volumes.lock().unwrap().push(support::volume(1, "/mnt/a", VolumeState::NoNew, 4096));
    server.told.warnings.lock().unwrap().push("volume 1 takes no new recordings".into());
    let ready = server.get("/readyz").json();
    assert_eq!((&ready["volumes"][0]["state"], &ready["volumes"][0]["free_bytes"]), (&"no_new".into(), &4096.into()));
    assert_eq!(ready["warnings"][0], "volume 1 takes no new recordings");
    assert_eq!(server.get("/api/v1/status").json()["volumes"], ready["volumes"]);
    let status = server.get("/api/v1/status").json();
    assert_eq!(status["node"], "test");
    assert_eq!(status["ports"][0]["mode"], "af_xdp native");
    assert_eq!(status["store"]["catalog"]["recordings"], 2, "{status}");
    server.told.reasons.lock().unwrap().push("eth1 is down: plug it in".into());
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "not-ready"));
    assert_eq!(answer.json()["detail"], "eth1 is down: plug it in");
    assert_eq!(server.get("/healthz").status, 200);
}

/// Reads events off an open stream.
struct Events(BufReader<std::net::TcpStream>);

impl Events {
    fn open(server: &Server) -> Self {
        let mut socket = server.connect();
        socket.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut events = Self(BufReader::new(socket));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(events.0.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        events.next_line_with("retry:").expect("a greeting");
        events
    }

    /// The rest of the next line that begins with `prefix`; `None` at the end of the stream.
    fn next_line_with(&mut self, prefix: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix(prefix) {
                return Some(rest.trim().to_owned());
            }
        }
    }

    fn next_event(&mut self) -> Option<(String, Value)> {
        let name = self.next_line_with("event:")?;
        let data = self.next_line_with("data:")?;
        Some((name, serde_json::from_str(&data).unwrap()))
    }
}

#[test]
fn events_arrive_in_order_and_end_with_the_server() {
    let mut server = Server::start(&[]);
    let mut first = Events::open(&server);
    let mut second = Events::open(&server);
    let call = Arc::new(active(1));
    let done = Arc::new(recording(1));
    server.events.publish(Event::CallStarted(Arc::clone(&call)));
    server.events.publish(Event::CallUpdated(Arc::clone(&call)));
    server.events.publish(Event::CallEnded(Arc::clone(&call)));
    server.events.publish(Event::RecordingCompleted(Arc::clone(&done)));
    for events in [&mut first, &mut second] {
        for (name, document) in
            [("call.started", &call), ("call.updated", &call), ("call.ended", &call), ("recording.completed", &done)]
        {
            assert_eq!(events.next_event().unwrap(), (name.to_owned(), serde_json::to_value(document).unwrap()));
        }
    }
    assert!(server.get("/metrics").text().contains("sidetone_api_event_subscribers 2"));
    server.events.publish(Event::VolumeChanged(VolumeChange {
        volume: 1,
        directory: "/mnt/a".into(),
        state: VolumeState::Failed,
        previous_state: VolumeState::Low,
    }));
    server
        .events
        .publish(Event::StoreAlert(StoreAlert { kind: StoreAlertKind::CatalogFailing, text: "no room".into() }));
    for events in [&mut first, &mut second] {
        let volume = json!({ "volume": 1, "directory": "/mnt/a", "state": "failed", "previous_state": "low" });
        assert_eq!(events.next_event().unwrap(), ("volume.changed".to_owned(), volume));
        let alert = json!({ "kind": "catalog_failing", "text": "no room" });
        assert_eq!(events.next_event().unwrap(), ("store.alert".to_owned(), alert));
    }
    let started = Instant::now();
    server.stop();
    assert!(first.next_event().is_none() && second.next_event().is_none());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_client_that_reads_events_too_slowly_is_told_what_it_missed() {
    let server = Server::start(&[]);
    let mut events = Events::open(&server);
    let call = Arc::new(active(1));
    // Far more than socket buffers and the bus hold together.
    for _ in 0..40 {
        support::publish_updates(&server.events, &call, 1000);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut received, mut missed) = (0, 0);
    while received + missed < 40_000 {
        match events.next_event().unwrap() {
            (name, document) if name == "lagged" => missed += document["missed"].as_u64().unwrap(),
            (name, _) => {
                assert_eq!(name, "call.updated");
                received += 1;
            }
        }
    }
    assert_eq!(received + missed, 40_000, "every event is received or told as missed");
    assert!(missed > 0);
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains(&format!("sidetone_api_events_lagged_total {missed}")), "{metrics}");
}

#[test]
fn a_client_that_leaves_frees_its_place_among_the_subscribers() {
    let server = Server::start(&[]);
    let held: Vec<Events> = (0..64).map(|_| Events::open(&server)).collect();
    let refused = server.get("/api/v1/events");
    assert_eq!((refused.status, refused.problem().as_str()), (503, "busy"));
    drop(held);
    let ends = Instant::now() + Duration::from_secs(10);
    while !server.get("/metrics").text().contains("sidetone_api_event_subscribers 0") {
        assert!(Instant::now() < ends, "{}", server.get("/metrics").text());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(Events::open(&server));
}

#[test]
fn metrics_are_in_the_text_format_and_labels_come_from_routes() {
    let server = Server::start(&recordings(1));
    server.get("/api/v1/calls");
    for number in 0..30 {
        server.get(&format!("/no/such/{number}"));
        server.get(&format!("/api/v1/recordings/{number}"));
    }
    let answer = server.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    let text = answer.text();
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name.starts_with("sidetone_") && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            typed.insert(name.to_owned());
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
            let name = series.split('{').next().unwrap();
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            assert!(typed.contains(name) || typed.contains(base), "{line} has no type");
        }
    }
    assert!(text.contains(r#"sidetone_api_requests_total{route="/api/v1/calls",status="2xx"} 1"#), "{text}");
    assert!(text.contains(r#"sidetone_api_requests_total{route="/api/v1/recordings/{id}",status="4xx"} 30"#), "{text}");
    assert!(text.contains(r#"sidetone_api_requests_total{route="none",status="4xx"} 30"#), "{text}");
    assert!(!text.contains("/no/such"));
}

#[test]
fn a_download_does_not_hold_the_file_in_memory_and_survives_slow_readers() {
    // 10 minutes of two-channel WAV: 19 MB, far more than all buffers on the way.
    let long = with_duration(recording(1), 600.0);
    let server = Server::start(std::slice::from_ref(&long));
    let target = format!("/api/v1/recordings/{}/audio?format=wav", long.id);
    let mut slow = server.connect();
    slow.write_all(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = resident_bytes();
    let others: Vec<_> = (0..8)
        .map(|_| {
            let mut socket = server.connect();
            socket.write_all(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
            socket
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1500));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 8 * 4_000_000, "8 downloads of 19 MB took {grown} bytes");
    // The server answers others meanwhile, and the slow one gets all of it.
    assert_eq!(server.get("/healthz").status, 200);
    drop(others);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut slow, &mut bytes).unwrap();
    let answer = Answer::parse(&bytes, "GET");
    assert_eq!(answer.status, 200);
    // All samples of both channels, but for the encoder's delay.
    assert!((19_190_000..19_210_000).contains(&answer.body.len()), "{}", answer.body.len());
}

/// Memory of this process that is in use now.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn what_writes_files_is_not_answered_on_the_port() {
    let server = Server::start(&[]);
    let answer = server.request("POST", "/control/backup", &["content-length: 2", "", "{}"]);
    assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"));
}

#[test]
fn an_address_that_cannot_be_used_is_refused_with_the_remedy() {
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bind = |listen: SocketAddr| {
        let directory = tempfile::tempdir().unwrap();
        let options = sidetone_store::StoreOptions::new(sidetone_model::NodeName("test".into()));
        let store = sidetone_store::Store::open(directory.path(), &options).unwrap().handle;
        let told = Arc::new(support::Told::default());
        runtime
            .block_on(Api::bind(ApiConfig { listen }, store, told, EventBus::new(), prometheus::Registry::new()))
            .map(|api| api.local_address())
    };
    for open in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "[2001:db8::1]:80"] {
        let error = bind(open.parse().unwrap()).unwrap_err();
        assert!(matches!(error, ApiError::NotLoopback { .. }), "{open}");
        let text = error.to_string();
        assert!(text.contains(open) && text.contains("ssh -L") && text.contains("proxy"), "{text}");
    }
    let taken = bind(server.address).unwrap_err();
    assert!(matches!(taken, ApiError::AddressInUse { .. }));
    let text = taken.to_string();
    assert!(text.contains(&server.address.to_string()) && text.contains("--listen"), "{text}");
    assert!(bind("[::1]:0".parse().unwrap()).is_ok());
    assert!(bind("127.9.9.9:0".parse().unwrap()).is_ok());
}
