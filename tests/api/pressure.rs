//! Many at once: refusals, deadlines, hang-ups, fair shares, and the cache.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Reply, Server};

/// More words than any model reads at once.
fn long_text(number: usize) -> String {
    format!("{number} {}", "the rain kept us in and we told each other old stories ".repeat(60))
}

fn short_text(number: usize) -> String {
    format!("I was glad to meet visitor number {number} at the door today")
}

/// A server whose model has answered once, so that no request has to wait for a load.
fn warm_server(role: &str, variables: &[(&str, &str)]) -> Server {
    let server = Server::start(variables);
    let reply = server.post("/analyze", &json!({"text": "warm", "model": role}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    server
}

fn counted(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").text;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '{']));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{name} is not in the metrics:\n{metrics}"))
}

fn queued_texts(health: &Value, role: &str) -> u64 {
    health["roles"][role]["queued_texts"].as_u64().unwrap_or(0)
}

/// Sends all bodies at the same moment, each on a connection of its own.
fn post_together(server: &Server, bodies: &[Value]) -> Vec<Reply> {
    let barrier = Barrier::new(bodies.len());
    thread::scope(|scope| {
        let sent: Vec<_> = bodies
            .iter()
            .map(|body| {
                scope.spawn(|| {
                    barrier.wait();
                    server.post("/analyze", body)
                })
            })
            .collect();
        sent.into_iter().map(|reply| reply.join().unwrap()).collect()
    })
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let server = warm_server("heavy", &[("MAX_QUEUE", "1"), ("INFERENCE_THREADS", "1")]);
    let bodies: Vec<_> = (0..12).map(|number| json!({"text": long_text(number), "model": "heavy"})).collect();
    let replies = post_together(&server, &bodies);
    let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert!(!served.is_empty(), "nothing was served");
    assert!(!refused.is_empty(), "twelve long texts fitted into a queue of one");
    for reply in refused {
        assert_eq!(reply.status, 429, "{}", reply.text);
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "Retry-After is {seconds} s");
        assert!(reply.json["error"].is_string() && reply.json["error_type"].is_string(), "{}", reply.text);
    }
    assert_eq!(server.post("/analyze", &json!({"text": short_text(1)})).status, 200, "there is room again");
}

#[test]
fn an_answer_that_comes_too_late_is_a_504_at_the_deadline() {
    let server = warm_server("heavy", &[("INFERENCE_THREADS", "1")]);
    let texts: Vec<_> = (0..12).map(long_text).collect();
    thread::scope(|scope| {
        let whole = scope.spawn(|| server.post("/analyze", &json!({"texts": texts, "model": "heavy"})));
        server.wait_for("a queue", |health| queued_texts(health, "heavy") > 2);
        let started = Instant::now();
        let request = server.client().post(server.url("/analyze")).header("x-request-timeout-ms", "30");
        let late = Reply::of(request.json(&json!({"text": long_text(99), "model": "heavy"})));
        let took = started.elapsed();
        assert_eq!(late.status, 504, "{}", late.text);
        assert!(took < Duration::from_secs(10) && !whole.is_finished(), "it came after {took:?}");
        assert_eq!(whole.join().unwrap().status, 200);
    });
}

#[test]
fn the_longest_time_for_an_answer_holds_without_a_header_too() {
    let server = warm_server("light", &[("REQUEST_TIMEOUT_MS", "1500"), ("INFERENCE_THREADS", "1")]);
    let texts: Vec<_> = (0..500).map(long_text).collect();
    let reply = server.post("/analyze", &json!({"texts": texts, "model": "light"}));
    assert_eq!(reply.status, 504, "{}", reply.text);
}

#[test]
fn a_hundred_hang_ups_cost_no_run() {
    // One run of eight long texts holds the only worker while a hundred clients come and go.
    let server = warm_server("heavy", &[("INFERENCE_THREADS", "1"), ("MAX_BATCH_TOKENS", "4096")]);
    let before = counted(&server, "emotion_batch_texts_total");
    let texts: Vec<_> = (0..8).map(long_text).collect();
    thread::scope(|scope| {
        let running = scope.spawn(|| server.post("/analyze", &json!({"texts": texts, "model": "heavy"})));
        thread::sleep(Duration::from_millis(300));
        let clients: Vec<_> = (0..100)
            .map(|number| {
                let body = json!({"text": short_text(number), "model": "heavy"}).to_string();
                let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
                let head = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
                write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
                stream
            })
            .collect();
        server.wait_for("a hundred waiting texts", |health| queued_texts(health, "heavy") == 100);
        drop(clients);
        assert_eq!(running.join().unwrap().status, 200);
    });
    server.wait_for("an empty queue", |health| queued_texts(health, "heavy") == 0);
    assert_eq!(counted(&server, "emotion_batch_texts_total") - before, 8, "texts of clients that had gone were run");
    assert_eq!(server.post("/analyze", &json!({"text": short_text(0), "model": "heavy"})).status, 200);
}

#[test]
fn a_short_text_does_not_wait_for_a_request_of_hundreds() {
    let server = warm_server("light", &[("INFERENCE_THREADS", "1"), ("CACHE_MB", "0")]);
    let texts: Vec<_> = (0..500).map(|number| format!("{} {}", short_text(number), "and so on ".repeat(20))).collect();
    let (whole, mut latencies) = thread::scope(|scope| {
        let large = scope.spawn(|| {
            let started = Instant::now();
            let reply = server.post("/analyze", &json!({"texts": texts, "model": "light"}));
            assert_eq!(reply.status, 200, "{}", reply.text);
            started.elapsed()
        });
        server.wait_for("a queue", |health| queued_texts(health, "light") > 0);
        let mut latencies = Vec::new();
        while !large.is_finished() {
            let started = Instant::now();
            let reply = server.post("/analyze", &json!({"text": short_text(latencies.len()), "model": "light"}));
            assert_eq!(reply.status, 200, "{}", reply.text);
            latencies.push(started.elapsed());
        }
        (large.join().unwrap(), latencies)
    });
    latencies.sort_unstable();
    let median = latencies[latencies.len() / 2];
    println!("{} short texts beside 500 others: median {median:?}, the 500 took {whole:?}", latencies.len());
    assert!(latencies.len() >= 8, "only {} short texts were answered in {whole:?}", latencies.len());
    assert!(median * 8 < whole, "a short text took {median:?}, all 500 others {whole:?}");
}

#[test]
fn requests_larger_than_the_queue_are_answered_and_leave_room_for_others() {
    let server = warm_server("light", &[("INFERENCE_THREADS", "1"), ("MAX_QUEUE", "64"), ("CACHE_MB", "0")]);
    let texts: Vec<_> = (0..300).map(short_text).collect();
    thread::scope(|scope| {
        let large: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| server.post("/analyze", &json!({"texts": texts, "model": "light"}))))
            .collect();
        server.wait_for("a queue", |health| queued_texts(health, "light") > 30);
        let mut answered = 0;
        while large.iter().any(|request| !request.is_finished()) {
            let reply = server.post("/analyze", &json!({"text": short_text(answered), "model": "light"}));
            assert_eq!(reply.status, 200, "{}", reply.text);
            answered += 1;
        }
        assert!(answered >= 8, "only {answered} short texts were answered beside the large requests");
        for reply in large.into_iter().map(|request| request.join().unwrap()) {
            assert_eq!((reply.status, reply.json["count"].as_u64()), (200, Some(300)), "{}", reply.text);
        }
    });
}

#[test]
fn a_text_that_a_large_request_asks_too_does_not_wait_for_its_turn_there() {
    let server = warm_server("light", &[("INFERENCE_THREADS", "1")]);
    let mut texts: Vec<_> =
        (0..400).map(|number| format!("{} {}", short_text(number), "and so on ".repeat(20))).collect();
    // Of another length than the rest, so that it does not ride along with one whose turn is earlier.
    texts[399].push_str(&"and on ".repeat(100));
    thread::scope(|scope| {
        let large = scope.spawn(|| server.post("/analyze", &json!({"texts": texts, "model": "light"})));
        server.wait_for("a queue", |health| queued_texts(health, "light") > 300);
        let last = server.post("/analyze", &json!({"text": texts[399], "model": "light"}));
        assert_eq!(last.status, 200, "{}", last.text);
        let left = queued_texts(&server.get("/health").json, "light");
        assert!(left > 100, "only {left} texts of the large request were waiting when it was answered");
        assert_eq!(large.join().unwrap().status, 200);
    });
}

#[test]
fn fifty_identical_texts_at_once_are_run_once() {
    let server = warm_server("light", &[]);
    let before = counted(&server, "emotion_batch_texts_total");
    let same = vec![json!({"text": "we all ask the very same thing", "model": "light"}); 50];
    let replies = post_together(&server, &same);
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.json == replies[0].json));
    assert_eq!(counted(&server, "emotion_batch_texts_total") - before, 1);
    let many = server.post("/analyze", &json!({"texts": vec!["and one request asks it often"; 50], "model": "light"}));
    assert_eq!((many.status, many.json["count"].as_u64()), (200, Some(50)), "{}", many.text);
    assert_eq!(counted(&server, "emotion_batch_texts_total") - before, 2);
}

#[test]
fn a_text_seen_before_comes_from_the_cache_and_says_so() {
    let server = warm_server("light", &[]);
    let body = json!({"text": "what a day that was", "model": "light"});
    let first = server.post("/analyze", &body);
    let second = server.post("/analyze", &body);
    assert_eq!((first.header("x-cache"), second.header("x-cache")), (None, Some("hit")));
    assert_eq!(first.json, second.json);
    let heavy = server.post("/analyze", &json!({"text": "what a day that was", "model": "heavy"}));
    assert_eq!(heavy.header("x-cache"), None, "another model's answer is not in the cache");
    let half = server.post("/analyze", &json!({"texts": ["what a day that was", "and a new one"], "model": "light"}));
    assert_eq!(half.header("x-cache"), None, "a reply is from the cache only when all of it is");
}

#[test]
fn without_a_cache_every_text_is_run() {
    let server = warm_server("light", &[("CACHE_MB", "0")]);
    let before = counted(&server, "emotion_batch_texts_total");
    for _ in 0..3 {
        let reply = server.post("/analyze", &json!({"text": "the same again", "model": "light"}));
        assert_eq!((reply.status, reply.header("x-cache")), (200, None));
    }
    assert_eq!(counted(&server, "emotion_batch_texts_total") - before, 3);
}
