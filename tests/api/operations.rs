//! Health, readiness, models, their loading and unloading by hand, and the end of the server.

use std::thread;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::shared::{answered, assert_error, log_with, server};
use crate::support::{ADMIN_KEY, Reply, Server};

const TEXT: &str = "I am so happy that you came!";

#[test]
fn health_tells_version_uptime_roles_and_memory() {
    let health = answered(&server().get("/health"));
    assert_eq!(health["status"], "ok", "{health}");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].as_f64().unwrap() >= 0.0, "{health}");
    for (role, name) in [("heavy", "goemotions"), ("light", "ekman")] {
        let status = &health["roles"][role];
        assert_eq!((&status["role"], &status["name"]), (&json!(role), &json!(name)), "{health}");
        assert!(["absent", "loading", "ready"].iter().any(|state| status["state"] == *state), "{health}");
        assert_eq!(status["precision"], "int8", "{health}");
        assert!(status["reason"].is_string() && status["for_seconds"].is_number(), "{health}");
    }
    let memory = &health["memory"];
    for figure in ["resident_bytes", "anonymous_bytes", "unreclaimable_bytes"] {
        assert!(memory[figure].as_u64().unwrap() > 1 << 20, "{figure}: {health}");
    }
    assert_eq!(memory["level"], "normal", "{health}");
    assert!(health["queued_texts"].is_u64(), "{health}");
}

#[test]
fn health_counts_what_the_cache_answered() {
    let server = Server::start(&[("USE_LIGHT_MODEL", "true")]);
    let cache = || server.get("/health").json["cache"].clone();
    assert_eq!(cache(), json!({"hits": 0, "misses": 0, "bytes": 0}));
    for _ in 0..3 {
        answered(&server.post("/analyze", &json!({"text": TEXT})));
    }
    let counted = cache();
    assert_eq!((&counted["hits"], &counted["misses"]), (&json!(2), &json!(1)), "{counted}");
    assert!(counted["bytes"].as_u64() > Some(0), "{counted}");
}

#[test]
fn probes_may_ask_with_head() {
    let server = server();
    for path in ["/livez", "/readyz", "/health", "/models"] {
        let reply = Reply::of(server.client().request(Method::HEAD, server.url(path)));
        assert_eq!((reply.status, reply.text.as_str()), (200, ""), "{path}");
    }
}

#[test]
fn the_paths_of_operations_say_what_they_should() {
    let server = server();
    assert_eq!(answered(&server.get("/livez")), json!({"live": true}));
    assert_eq!(answered(&server.get("/readyz")), json!({"ready": true}));
    assert_eq!(answered(&server.get("/")), json!({"status": "alive"}));
    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.lines().any(|line| line.starts_with("emotion_")), "{}", metrics.text);
}

#[test]
fn models_lists_both_roles_the_heavy_one_first() {
    let server = server();
    answered(&server.post("/analyze", &json!({"text": TEXT, "model": "light"})));
    let models = answered(&server.get("/models"));
    assert_eq!((&models["models"][0]["role"], &models["models"][1]["role"]), (&json!("heavy"), &json!("light")));
    let light = &models["models"][1];
    assert_eq!((&light["state"], &light["weights"]), (&json!("ready"), &json!("prepared")), "{light}");
    assert!(light["workers"].as_u64().unwrap() >= 1 && light["error"].is_null(), "{light}");
    let answer = answered(&server.post("/analyze", &json!({"text": TEXT, "model": "light"})));
    assert_eq!(light["revision"], answer["model"]["revision"]);
}

#[test]
fn a_model_can_be_loaded_and_unloaded_by_hand() {
    let server = Server::start(&[ADMIN_KEY]);
    let loaded = answered(&server.administer("/admin/models/light/load"));
    assert_eq!((&loaded["role"], &loaded["state"]), (&json!("light"), &json!("ready")), "{loaded}");
    // Doing it twice is no error.
    assert_eq!(answered(&server.administer("/admin/models/light/load"))["state"], "ready");

    let unloaded = answered(&server.administer("/admin/models/light/unload"));
    assert_eq!(unloaded["state"], "barred", "{unloaded}");
    let refused = server.post("/analyze", &json!({"text": TEXT, "model": "light"}));
    assert_error("light", &refused, 503, "unavailable", "the light model ekman was unloaded by hand");

    // A model that was never loaded can be barred too.
    assert_eq!(answered(&server.administer("/admin/models/heavy/unload"))["state"], "barred");
    let health = server.get("/health");
    assert_eq!((health.status, &health.json["status"]), (200, &json!("degraded")), "{}", health.text);
    assert_eq!(server.get("/readyz").status, 503);
    assert_eq!(server.get("/livez").status, 200);

    answered(&server.administer("/admin/models/light/load"));
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!(reply["fallback"], json!({"from": "heavy", "reason": "barred"}), "{reply}");
    let strict = server.post("/analyze", &json!({"text": TEXT, "model": "heavy", "strict": true}));
    assert_error("strict", &strict, 503, "unavailable", "the heavy model goemotions was unloaded by hand");

    answered(&server.administer("/admin/models/heavy/load"));
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!((&reply["model"]["role"], &reply["fallback"]), (&json!("heavy"), &json!(null)), "{reply}");
    assert_error(
        "a role",
        &server.administer("/admin/models/middle/load"),
        404,
        "not_found",
        "roles are heavy and light",
    );
}

#[test]
fn requests_under_way_are_answered_when_their_model_is_unloaded() {
    let server = Server::start(&[ADMIN_KEY, ("CACHE_MB", "0")]);
    let texts: Vec<_> = (0..64).map(|number| format!("I am glad about number {number}. ").repeat(20)).collect();
    let reply = thread::scope(|scope| {
        let reply = scope.spawn(|| server.post("/analyze", &json!({"texts": texts})));
        server.wait_for("work", |health| health["roles"]["heavy"]["queued_texts"].as_u64() > Some(0));
        answered(&server.administer("/admin/models/heavy/unload"));
        reply.join().unwrap()
    });
    let results = answered(&reply)["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 64);
    let of_light: Vec<&Value> = results.iter().filter(|result| result["model"]["role"] == "light").collect();
    assert!(!of_light.is_empty(), "the queue was empty when the model went");
    assert!(of_light.iter().all(|result| result["fallback"]["reason"] == "barred"), "{}", of_light[0]);
}

#[test]
fn while_a_model_is_unloaded_by_hand_every_connection_is_served() {
    // One run of the heavy model that takes seconds, for which its unload waits.
    let server = Server::start(&[
        ADMIN_KEY,
        ("MAX_BATCH_TOKENS", "8192"),
        ("INFERENCE_THREADS", "1"),
        ("PRELOAD_MODELS", "both"),
    ]);
    let long = |name: &str| format!("{name}: {}", "the rain kept us in and we told old stories. ".repeat(60));
    server.wait_for("both models being ready", |health| {
        health["roles"]["heavy"]["state"] == "ready" && health["roles"]["light"]["state"] == "ready"
    });
    // Connections go round the HTTP workers: some of these are those of the worker that unloads.
    let clients = 2 * thread::available_parallelism().unwrap().get();
    let texts: Vec<_> = (0..32).map(|number| long(&number.to_string())).collect();
    thread::scope(|scope| {
        let heavy = scope.spawn(|| server.post("/analyze", &json!({"texts": texts, "model": "heavy"})));
        server.wait_for("a run of some of them", |health| {
            health["roles"]["heavy"]["queued_texts"].as_u64().is_some_and(|waiting| (1..32).contains(&waiting))
        });
        let unload = scope.spawn(|| server.administer("/admin/models/heavy/unload"));
        server.wait_for("the unload", |health| health["roles"]["heavy"]["state"] == "draining");
        // Texts of this length are tokenized off the HTTP worker's own thread.
        let light = (0..clients).map(|number| {
            let body = json!({"text": long(&format!("client {number}")), "model": "light"});
            let server = &server;
            scope.spawn(move || Reply::of(reqwest::blocking::Client::new().post(server.url("/analyze")).json(&body)))
        });
        for reply in light.collect::<Vec<_>>() {
            answered(&reply.join().unwrap());
        }
        let health = server.get("/health").json;
        assert_eq!(health["roles"]["heavy"]["state"], "draining", "somebody waited for the unload: {health:#}");
        assert_eq!(answered(&unload.join().unwrap())["state"], "barred");
        answered(&heavy.join().unwrap());
    });
}

#[test]
fn an_idle_server_that_is_told_to_stop_ends_soon_with_0() {
    let mut server = Server::start(&[]);
    let started = Instant::now();
    server.terminate();
    assert_eq!(server.wait(), Some(0), "{}", server.log());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn log_lines_are_json_objects_when_asked_for() {
    let mut server = Server::start(&[("LOG_FORMAT", "json"), ("USE_LIGHT_MODEL", "true")]);
    answered(&server.post("/analyze", &json!({"text": TEXT})));
    server.terminate();
    server.wait();
    let log = log_with(&server, "\"message\":\"stopped\"");
    assert!(log.lines().count() >= 4, "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["time"].is_number() && line["message"].is_string() && line["target"].is_string(), "{line}");
        assert!(["info", "warn"].iter().any(|level| line["level"] == *level), "{line}");
    }
}
