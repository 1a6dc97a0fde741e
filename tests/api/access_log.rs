//! What is written down of each request, and what never is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::RequestBuilder;
use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, PATIENCE, Reply, Server};

/// A word that no log line has by itself.
const MARKER: &str = "zyxmarkerxyz";

/// The access log's JSON line with this request id.
fn line_of(server: &Server, id: &str) -> Value {
    let started = Instant::now();
    loop {
        let log = server.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mine: Vec<Value> =
            lines.filter(|line| line["target"] == "access" && line["request_id"] == json!(id)).collect();
        if let Some(line) = mine.first() {
            assert_eq!(mine.len(), 1, "one line a request: {mine:?}");
            return line.clone();
        }
        assert!(started.elapsed() < PATIENCE, "no line of {id}:\n{log}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn sent_with_id(request: RequestBuilder, id: &str) -> Reply {
    Reply::of(request.header("x-request-id", id))
}

#[test]
fn a_json_line_has_what_there_is_to_know_of_a_request() {
    let server = Server::start(&[ADMIN_KEY, ("LOG_FORMAT", "json"), ("USE_LIGHT_MODEL", "true")]);
    let client = server.client();
    let reply = sent_with_id(client.post(server.url("/analyze")).json(&json!({"texts": ["I am glad", "oh"]})), "a-1");
    assert_eq!((reply.status, reply.header("x-request-id")), (200, Some("a-1")));
    let tokens: u64 = reply.json["results"].as_array().unwrap().iter().map(|one| one["tokens"].as_u64().unwrap()).sum();
    let line = line_of(&server, "a-1");
    for (field, expected) in [
        ("level", json!("info")),
        ("message", json!("POST /analyze 200")),
        ("method", json!("POST")),
        ("route", json!("/analyze")),
        ("status", json!(200)),
        ("model", reply.json["results"][0]["model"]["name"].clone()),
        ("role", json!("light")),
        ("texts", json!(2)),
        ("tokens", json!(tokens)),
        ("fallback", json!("use_light_model")),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    assert!(line["latency_ms"].as_f64().unwrap() > 0.0, "{line}");
    sent_with_id(client.get(server.url(&format!("/nothing/{MARKER}?q={MARKER}"))), "a-2");
    let line = line_of(&server, "a-2");
    assert_eq!((&line["route"], &line["status"]), (&json!("unmatched"), &json!(404)));
    assert!(line.get("model").is_none() && line.get("fallback").is_none(), "{line}");
    let unload = |path| client.post(server.url(path)).header("x-api-key", ADMIN_KEY.1);
    sent_with_id(unload("/admin/models/light/unload"), "a-3");
    // Written down as what it does, however its path is spelled.
    sent_with_id(unload("/%61dmin/models/light/unloa%64"), "a-4");
    for id in ["a-3", "a-4"] {
        let line = line_of(&server, id);
        assert_eq!((&line["route"], &line["status"]), (&json!("/admin/models/{role}/unload"), &json!(200)), "{line}");
    }
}

#[test]
fn every_contract_tells_which_model_answered() {
    let server = Server::start(&[("LOG_FORMAT", "json"), ("USE_LIGHT_MODEL", "true")]);
    let one = "I am so very glad";
    let infer = json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [one]}]});
    let instances = json!({"instances": [one]});
    for (path, body) in [
        ("/predict", json!({"inputs": one})),
        ("/", json!({"inputs": one})),
        ("/models/auto", json!({"inputs": one})),
        ("/v1/models/auto:predict", instances),
        ("/v2/models/auto/infer", infer),
        ("/analysis/emotion-v2", json!({"text": one})),
        ("/analysis/emotion", json!({"text": one})),
        ("/analyze/ndjson", json!({"text": one})),
    ] {
        let reply = sent_with_id(server.client().post(server.url(path)).json(&body), path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        let line = line_of(&server, path);
        assert_eq!((&line["role"], &line["texts"]), (&json!("light"), &json!(1)), "{line}");
        assert!(line["tokens"].as_u64() > Some(4), "{line}");
        assert_ne!(line["route"], "unmatched", "{line}");
    }
}

#[test]
fn an_id_that_could_feign_a_line_is_replaced() {
    let server = Server::start(&[]);
    let get = |id: &str| {
        let reply = sent_with_id(server.client().get(server.url("/livez")), id);
        reply.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(get("0af7651916cd43dd/8448.eb:21_1c-80319c=@+"), "0af7651916cd43dd/8448.eb:21_1c-80319c=@+");
    for odd in ["two words", "", "a\"b", &"x".repeat(129)] {
        assert_ne!(get(odd), odd);
    }
    assert_ne!(get(""), get(""), "made ids differ");
}

#[test]
fn a_text_line_has_the_same_fields_and_the_log_can_be_switched_off() {
    let server = Server::start(&[]);
    sent_with_id(server.client().get(server.url("/livez")), "b-1");
    let started = Instant::now();
    while !server.log().contains("request_id=b-1") {
        assert!(started.elapsed() < PATIENCE, "{}", server.log());
        thread::sleep(Duration::from_millis(5));
    }
    let log = server.log();
    let line = log.lines().find(|line| line.contains("request_id=b-1")).unwrap();
    assert!(line.contains("access] GET /livez 200 ") && line.contains("latency_ms="), "{line}");

    let mut silent = Server::start(&[("ACCESS_LOG", "false")]);
    assert_eq!(sent_with_id(silent.client().get(silent.url("/livez")), "b-2").header("x-request-id"), Some("b-2"));
    silent.terminate();
    silent.wait();
    assert!(!silent.log().contains("livez"), "{}", silent.log());
}

#[test]
fn a_client_that_leaves_is_written_down_as_such() {
    let server = Server::start(&[("LOG_FORMAT", "json")]);
    let mut leaving = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    write!(leaving, "POST /analyze HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: c-1\r\nContent-Length: 9\r\n\r\n{{")
        .unwrap();
    thread::sleep(Duration::from_millis(200));
    drop(leaving);
    let status = line_of(&server, "c-1")["status"].as_u64().unwrap();
    assert!([400, 499].contains(&status), "{status}");
}

/// Sends the marker in every way in which a request can go wrong, and in ways that go well.
fn send_marker_everywhere(server: &Server) {
    let analyze = || server.client().post(server.url("/analyze"));
    let json_type = ("content-type", "application/json");
    let long = format!("{MARKER} and on ").repeat(600);
    let wide = format!("{MARKER} ").repeat(400);
    let requests: Vec<(u16, RequestBuilder)> = vec![
        (200, analyze().json(&json!({"text": MARKER}))),
        (200, analyze().json(&json!({"texts": [MARKER, long], "long_text": "windows", "model": "light"}))),
        (400, analyze().header(json_type.0, json_type.1).body(format!("{{\"text\": {MARKER}"))),
        (400, analyze().header(json_type.0, json_type.1).body([MARKER.as_bytes(), b"\xff"].concat())),
        (422, analyze().json(&json!({"text": {MARKER: 1}}))),
        (422, analyze().json(&json!({"text": "x", MARKER: MARKER}))),
        (422, analyze().json(&json!({"text": "x", "model": MARKER}))),
        (422, analyze().json(&json!({"text": "x", "long_text": MARKER}))),
        (422, analyze().json(&json!({"text": long, "long_text": "refuse"}))),
        (413, analyze().json(&json!({"text": MARKER.repeat(10_000)}))),
        (413, analyze().json(&json!({"texts": [MARKER, MARKER, MARKER, MARKER]}))),
        (415, analyze().header("content-type", format!("text/{MARKER}")).body(MARKER)),
        (400, analyze().header(json_type.0, json_type.1).header("content-encoding", "gzip").body(MARKER)),
        (504, analyze().json(&json!({"texts": [wide, MARKER]})).header("x-request-timeout-ms", "1")),
        (422, analyze().json(&json!({"text": MARKER})).header("x-request-timeout-ms", MARKER)),
        (404, server.client().get(server.url(&format!("/{MARKER}?{MARKER}={MARKER}")))),
        (
            404,
            server.client().post(server.url(&format!("/admin/models/{MARKER}/load"))).header("x-api-key", ADMIN_KEY.1),
        ),
        (405, server.client().put(server.url("/analyze")).body(MARKER)),
        (200, server.client().get(server.url("/livez")).header("x-request-id", format!("{MARKER}\u{e9}"))),
        (200, server.client().get(server.url("/livez")).header("authorization", format!("Bearer {MARKER}"))),
    ];
    for (index, (expected, request)) in requests.into_iter().enumerate() {
        let reply = Reply::of(request);
        assert_eq!(reply.status, expected, "request {index}: {}", reply.text);
    }
    // Half a body, then gone.
    let mut leaving = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    write!(leaving, "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{\"text\": \"{MARKER}")
        .unwrap();
    // Not HTTP at all.
    let mut odd = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    // In one piece: the server answers the first line that is no HTTP and closes.
    odd.write_all(format!("{MARKER} {MARKER}\r\n{MARKER}\r\n\r\n").as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(300));
}

#[test]
fn no_text_is_ever_logged_unless_asked_for() {
    for (level, format) in [("info", "text"), ("trace", "json")] {
        let mut server = Server::start(&[
            ADMIN_KEY,
            ("RUST_LOG", level),
            ("LOG_FORMAT", format),
            ("MAX_TEXTS", "3"),
            ("MAX_BODY_BYTES", "65536"),
            ("USE_LIGHT_MODEL", "true"),
        ]);
        send_marker_everywhere(&server);
        server.terminate();
        assert_eq!(server.wait(), Some(0));
        let log = server.log();
        assert!(log.contains("/analyze"), "{log}");
        let telling: Vec<&str> = log.lines().filter(|line| line.contains(MARKER)).collect();
        assert!(telling.is_empty(), "at {level}: {telling:#?}");
    }
}

#[test]
fn what_is_no_http_is_refused_and_logged_as_no_error() {
    let mut server = Server::start(&[]);
    let mut odd = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    odd.write_all(b"GET / HTTP/9.9\r\nHost: x\r\n\r\n").unwrap();
    let mut reply = String::new();
    odd.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn texts_are_logged_when_asked_for_and_cannot_feign_a_line() {
    let server = Server::start(&[("LOG_TEXTS", "true"), ("USE_LIGHT_MODEL", "true")]);
    server.post("/analyze", &json!({"text": format!("{MARKER}\nINFO feigned")}));
    let log = server.log();
    let line = log.lines().find(|line| line.contains(MARKER)).expect("the text is logged");
    assert!(line.contains(&format!("{MARKER}\\nINFO feigned")), "{line}");
}
