//! `GET /metrics`: what operators see follows what happens.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{ADMIN_KEY, PATIENCE, Reply, Server};

/// The sample's value; `name` with its labels as they are written.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn scrape(server: &Server) -> String {
    let reply = server.get("/metrics");
    assert_eq!(reply.status, 200);
    reply.text
}

fn wait_for_value(server: &Server, name: &str, expected: f64) {
    let started = Instant::now();
    loop {
        let text = scrape(server);
        if value(&text, name) == Some(expected) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{name} is not {expected}:\n{text}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn requests_texts_and_loads_are_counted() {
    let server = Server::start(&[ADMIN_KEY, ("USE_LIGHT_MODEL", "true")]);
    let before = scrape(&server);
    assert_eq!(value(&before, "emotion_model_state{role=\"light\",state=\"absent\"}"), Some(1.0), "{before}");
    assert_eq!(value(&before, "emotion_cache_bytes"), Some(0.0), "{before}");
    assert_eq!(server.post("/analyze", &json!({"texts": ["one glad text", "one sad text"]})).status, 200);
    assert_eq!(server.post("/analyze", &json!({"texts": ["one glad text", "one sad text"]})).status, 200);
    assert_eq!(server.post("/analyze", &json!({"text": ""})).status, 400);
    let text = scrape(&server);
    for (name, expected) in [
        ("emotion_requests_total{route=\"/analyze\",method=\"POST\",status=\"200\",role=\"light\"}", 2.0),
        ("emotion_requests_total{route=\"/analyze\",method=\"POST\",status=\"400\",role=\"none\"}", 1.0),
        ("emotion_request_seconds_count{route=\"/analyze\"}", 3.0),
        ("emotion_requests_in_flight", 1.0),
        ("emotion_batch_texts_total{role=\"light\"}", 2.0),
        ("emotion_batch_size_texts_sum{role=\"light\"}", 2.0),
        ("emotion_queue_seconds_count{role=\"light\"}", 2.0),
        ("emotion_tokenization_seconds_count{role=\"light\"}", 2.0),
        ("emotion_cache_hits_total", 2.0),
        ("emotion_cache_misses_total", 2.0),
        ("emotion_fallbacks_total{role=\"heavy\",reason=\"use_light_model\"}", 4.0),
        ("emotion_model_state{role=\"light\",state=\"ready\"}", 1.0),
        ("emotion_model_state{role=\"light\",state=\"absent\"}", 0.0),
        ("emotion_model_state{role=\"heavy\",state=\"absent\"}", 1.0),
        ("emotion_queue_texts{role=\"light\"}", 0.0),
        ("emotion_ready", 1.0),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name} in\n{text}");
    }
    assert!(value(&text, "emotion_inference_seconds_sum{role=\"light\"}") > Some(0.0), "{text}");
    assert!(value(&text, "emotion_batch_tokens_total{role=\"light\"}") >= Some(8.0), "{text}");
    assert!(value(&text, "emotion_memory_resident_bytes") > Some(1e7), "{text}");
    let cache_bytes = server.get("/health").json["cache"]["bytes"].as_f64();
    assert!(cache_bytes > Some(0.0) && value(&text, "emotion_cache_bytes") == cache_bytes, "{text}");
    assert!(text.contains("emotion_model_loads_total{role=\"light\",reason="), "{text}");
    assert!(text.contains("emotion_build_info{version=\""), "{text}");
    assert!(!text.contains("emotion_memory_resident_limit_bytes"), "no limit is set:\n{text}");

    assert_eq!(server.administer("/admin/models/light/unload").status, 200);
    let text = scrape(&server);
    assert_eq!(value(&text, "emotion_model_unloads_total{role=\"light\",reason=\"admin\"}"), Some(1.0), "{text}");
    assert!(value(&text, "emotion_model_unloaded_bytes_total{role=\"light\"}") > Some(0.0), "{text}");
    assert_eq!(value(&text, "emotion_model_state{role=\"light\",state=\"barred\"}"), Some(1.0), "{text}");
}

#[test]
fn a_limit_that_is_set_is_shown() {
    let text = scrape(&Server::start(&[("MODEL_MEMORY_LIMIT", "300")]));
    assert_eq!(value(&text, "emotion_memory_resident_limit_bytes"), Some(300.0 * 1024.0 * 1024.0), "{text}");
    assert!(value(&text, "emotion_memory_used_ratio") > Some(0.0), "{text}");
}

#[test]
fn the_choice_of_a_client_makes_no_new_series() {
    let server = Server::start(&[]);
    for index in 0..20 {
        let method = reqwest::Method::from_bytes(format!("ODD{index}").as_bytes()).unwrap();
        let path = server.url(&format!("/nothing/{index}"));
        assert_eq!(Reply::of(server.client().request(method, path)).status, 404);
    }
    let text = scrape(&server);
    let name = "emotion_requests_total{route=\"unmatched\",method=\"OTHER\",status=\"404\",role=\"none\"}";
    assert_eq!(value(&text, name), Some(20.0), "{text}");
    assert!(!text.contains("nothing") && !text.contains("ODD"), "{text}");
}

#[test]
fn a_client_that_leaves_is_counted_and_no_longer_in_flight() {
    let server = Server::start(&[]);
    let mut leaving = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    write!(leaving, "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{").unwrap();
    wait_for_value(&server, "emotion_requests_in_flight", 2.0);
    drop(leaving);
    wait_for_value(&server, "emotion_requests_in_flight", 1.0);
}

#[test]
fn the_format_is_the_one_that_was_asked_for() {
    let server = Server::start(&[]);
    let with = |accept: &str| Reply::of(server.client().get(server.url("/metrics")).header("accept", accept));
    let old = with("text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
    assert_eq!(old.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(old.text.contains("# TYPE emotion_cache_hits_total counter\n") && !old.text.contains("# EOF"));
    let new = with("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
    assert_eq!(new.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(new.text.contains("# TYPE emotion_cache_hits counter\n") && new.text.ends_with("# EOF\n"));
}
