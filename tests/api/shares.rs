//! What each client may have: texts a second, and a share of the workers and of the queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Reply, Server};

const LIGHT: (&str, &str) = ("USE_LIGHT_MODEL", "true");

/// Equal texts are run once, so many of them are quick.
const TEXT: &str = "I am so happy that you came!";

fn post_as(server: &Server, key: &str, path: &str, body: &Value) -> Reply {
    Reply::of(server.client().post(server.url(path)).header("x-api-key", key).json(body))
}

/// A request of a contract with this many texts.
type Request = (&'static str, fn(&[&str]) -> Value);

const CONTRACTS: [Request; 5] = [
    ("/analyze", |texts| json!({"texts": texts})),
    ("/predict", |texts| json!({"inputs": texts.iter().map(|text| [text]).collect::<Vec<_>>()})),
    ("/models/light", |texts| json!({"inputs": texts, "parameters": {}})),
    ("/v1/models/light:predict", |texts| json!({"instances": texts})),
    (
        "/v2/models/light/infer",
        |texts| json!({"inputs": [{"name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts}]}),
    ),
];

#[test]
fn texts_are_counted_by_client_on_every_contract() {
    let keys: Vec<String> = (0..CONTRACTS.len()).map(|number| format!("key-{number}")).collect();
    let listed = [keys.join(","), "other".to_owned()].join(",");
    let server = Server::start(&[
        LIGHT,
        ("API_KEY", &listed),
        ("ADMIN_KEY", "admin"),
        ("RATE_LIMIT_TEXTS", "1"),
        ("RATE_LIMIT_TEXTS_BURST", "100"),
    ]);
    for ((path, body), key) in CONTRACTS.iter().zip(&keys) {
        let too_many = post_as(&server, key, path, &body(&[TEXT; 101]));
        assert_eq!(too_many.status, 413, "{path}: {}", too_many.text);
        assert!(too_many.text.contains("100 texts at once"), "{path}: {}", too_many.text);
        assert_eq!(post_as(&server, key, path, &body(&[TEXT; 60])).status, 200, "{path}");
        let refused = post_as(&server, key, path, &body(&[TEXT; 60]));
        assert_eq!(refused.status, 429, "{path}: {}", refused.text);
        assert!(refused.text.contains("1 texts per second per client"), "{path}: {}", refused.text);
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=20).contains(&seconds), "{path}: Retry-After is {seconds} s");
        assert_eq!(post_as(&server, key, path, &body(&[TEXT; 10])).status, 200, "{path}: what is left may be sent");
        assert_eq!(post_as(&server, "admin", path, &body(&[TEXT; 101])).status, 200, "{path}: not counted");
    }
    let (path, body) = CONTRACTS[0];
    assert_eq!(post_as(&server, "other", path, &body(&[TEXT; 100])).status, 200);
    let single = |_| post_as(&server, "other", "/analysis/emotion", &json!({"text": TEXT})).status;
    assert!((0..5).map(single).any(|status| status == 429), "the older service's path counts its text too");
}

#[test]
fn a_stream_of_lines_is_held_back_to_the_rate_of_texts() {
    let server = Server::start(&[LIGHT, ("RATE_LIMIT_TEXTS", "4"), ("RATE_LIMIT_TEXTS_BURST", "2")]);
    assert_eq!(server.post("/v1/models/light:predict", &json!({"instances": [TEXT]})).status, 200, "it is loaded");
    let lines = format!("{}\n", json!({"text": TEXT})).repeat(9);
    let started = Instant::now();
    let reply = Reply::of(server.client().post(server.url("/analyze/ndjson")).body(lines));
    let elapsed = started.elapsed();
    assert_eq!(reply.text.matches("\"emotion\":\"joy\"").count(), 9, "{}", reply.text);
    assert!(elapsed >= Duration::from_millis(1700), "9 texts at 4 a second, 2 of them at once, took {elapsed:?}");
}

/// A text of more tokens than the models read, unlike any other.
fn long_text(number: usize) -> String {
    format!("{number} {}", "the rain kept us in and we told each other old stories ".repeat(60))
}

#[test]
fn a_client_with_two_hundred_connections_costs_another_one_no_refusal() {
    let server = Server::start(&[LIGHT, ("API_KEY", "flood,other"), ("OPEN_PATHS", "health"), ("CACHE_MB", "0")]);
    assert_eq!(post_as(&server, "other", "/analyze", &json!({"text": TEXT})).status, 200, "it is loaded");
    let stop = AtomicBool::new(false);
    let flood = |connection: usize| {
        let mut statuses = Vec::new();
        while !stop.load(Ordering::Relaxed) && statuses.len() < 200 {
            let body = json!({"text": long_text(1000 * statuses.len() + connection), "long_text": "truncate"});
            let request = server.client().post(server.url("/analyze")).header("x-api-key", "flood");
            let status = Reply::of(request.header("x-request-timeout-ms", "3000").json(&body)).status;
            statuses.push(status);
            if status == 429 {
                thread::sleep(Duration::from_millis(100));
            }
        }
        statuses
    };
    let statuses = thread::scope(|scope| {
        let (flood, stop) = (&flood, &stop);
        let connections: Vec<_> = (0..200).map(|connection| scope.spawn(move || flood(connection))).collect();
        // Ends the flood also when an assertion below fails.
        let end = scope.spawn(move || {
            let started = Instant::now();
            while !stop.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(40) {
                thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let other = || {
            server.wait_for("a full queue", |health| {
                health["roles"]["light"]["queued_tokens"].as_u64().unwrap_or(0) > 60_000
            });
            let mut slowest = Duration::ZERO;
            for number in 0..20 {
                let started = Instant::now();
                let reply =
                    post_as(&server, "other", "/analyze", &json!({"text": format!("I am glad, {number} times")}));
                assert_eq!(reply.status, 200, "{}", reply.text);
                slowest = slowest.max(started.elapsed());
            }
            let texts: Vec<_> = (0..40).map(|number| format!("I was glad {number} times")).collect();
            let many = post_as(&server, "other", "/analyze", &json!({"texts": texts}));
            assert_eq!((many.status, many.json["count"].as_u64()), (200, Some(40)), "{}", many.text);
            let lines = (0..40).map(|number| format!("{}\n", json!({"text": format!("I was sad {number} times")})));
            let stream = server.client().post(server.url("/analyze/ndjson")).header("x-api-key", "other");
            let stream = Reply::of(stream.body(lines.collect::<String>()));
            assert_eq!(stream.text.matches("\"emotion\":").count(), 40, "{}", stream.text);
            slowest
        };
        let slowest = other();
        stop.store(true, Ordering::Relaxed);
        end.join().unwrap();
        println!("the slowest short text beside the flood took {slowest:?}");
        connections.into_iter().flat_map(|connection| connection.join().unwrap()).collect::<Vec<u16>>()
    });
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    statuses.into_iter().for_each(|status| *counts.entry(status).or_default() += 1);
    println!("replies to the flood: {counts:?}");
    assert!(counts.contains_key(&429), "the queue was never full: {counts:?}");
    assert!(counts.contains_key(&200), "the flood has a share too: {counts:?}");
}
