//! Memory that runs short while the server works: eviction, return, and nothing lost in between.

use std::time::Duration;

use serde_json::{Value, json};

use crate::ballast::Ballast;
use crate::bundles;
use crate::group::{Group, MB};
use crate::limits::{assert_well, held};
use crate::load::{Load, text};
use crate::support::{self, Server};

const LIMIT_MB: u64 = 512;

/// The watchdog reads often, so that the ballast grows little between two readings.
const CHECK_INTERVAL: (&str, &str) = ("MEMORY_CHECK_INTERVAL_MS", "50");

/// Holds more and more until the heavy model goes.
fn squeeze(server: &Server, ballast: &mut Ballast) -> Value {
    for megabytes in (250..LIMIT_MB).step_by(5) {
        ballast.hold(megabytes);
        std::thread::sleep(Duration::from_millis(60));
        let health = server.get("/health").json;
        if ["draining", "barred"].iter().any(|state| health["roles"]["heavy"]["state"] == *state) {
            break;
        }
    }
    server.wait_for("an eviction", |health| health["roles"]["heavy"]["state"] == "barred")
}

fn ready(health: &Value, role: &str) -> bool {
    health["roles"][role]["state"] == "ready"
}

#[test]
fn under_pressure_the_heavy_model_goes_and_comes_back_and_no_client_notices() {
    let Some(group) = Group::of_memory(LIMIT_MB) else { return };
    let server = group.start(&[("HEAVY_RETRY_SECONDS", "1"), ("HEAVY_RETRY_MAX_SECONDS", "1"), CHECK_INTERVAL]);
    let mut ballast = Ballast::start(&group);
    let load = Load::start(&server, 6, u64::MAX, text);
    load.wait_for("an answer of the heavy model", |seen| seen.by("heavy") > 5);
    let evicted = squeeze(&server, &mut ballast);
    assert_eq!(evicted["roles"]["heavy"]["reason"], "memory_limit", "{evicted:#}");
    load.wait_for("a fallback", |seen| seen.by("light (memory_limit)") > 5);
    let strict = server.post("/analyze", &json!({"text": "I am so happy", "model": "heavy", "strict": true}));
    assert_eq!(strict.status, 503, "{}", strict.text);
    assert!(strict.header("retry-after").is_some());
    ballast.hold(0);
    server.wait_for("the return of the heavy model", |health| ready(health, "heavy"));
    let before = load.seen().by("heavy");
    load.wait_for("an answer of the heavy model after its return", |seen| seen.by("heavy") > before + 5);
    let seen = load.stop();
    assert_well(&group, &server, &seen);
    println!("pressure and back: {:?}", seen.answers);
    assert_eq!(seen.answered(), seen.by("heavy") + seen.by("light (memory_limit)"), "{:?}", seen.answers);
}

fn twenty_evictions_leave_memory_where_it_was(variables: &[(&str, &str)]) {
    let Some(group) = Group::of_memory(LIMIT_MB) else { return };
    // A copy of the library that no other process maps: the proportional size would change with those.
    let library = bundles::library().display().to_string();
    let mut all = vec![("HEAVY_RETRY_SECONDS", "1"), ("HEAVY_RETRY_MAX_SECONDS", "1"), ("PRELOAD_MODELS", "both")];
    all.extend([CHECK_INTERVAL, ("ONNXRUNTIME_LIBRARY", &library)]);
    all.extend(variables);
    let server = group.start(&all);
    let mut ballast = Ballast::start(&group);
    let mut rounds: Vec<(u64, u64)> = Vec::new();
    for round in 0..20 {
        // A request brings the heavy model back once it may come.
        server.wait_for("the heavy model being ready", |health| {
            if !ready(health, "heavy") {
                server.post("/analyze", &json!({"text": "are you there?"}));
            }
            ready(health, "heavy") && ready(health, "light")
        });
        let load = Load::start(&server, 4, 24, text);
        squeeze(&server, &mut ballast);
        let seen = load.finish();
        assert_well(&group, &server, &seen);
        ballast.hold(0);
        // The kernel may have taken clean pages of the light model's weights; a few texts bring them back,
        // so that every round is measured with the same pages mapped.
        for index in 0..8 {
            server.post("/analyze", &json!({"text": text(index), "model": "light"}));
        }
        // What is left a moment after the last text, when sessions have given back what their runs needed.
        std::thread::sleep(Duration::from_millis(1500));
        let (anonymous, resident) = held(&server);
        rounds.push((anonymous, resident));
        let first = rounds[0];
        assert!(anonymous <= first.0 + 10 * MB, "anonymous memory grew until round {round}: {rounds:?}");
        assert!(resident <= first.1 + 10 * MB, "resident memory grew until round {round}: {rounds:?}");
    }
    let mb = |bytes: u64| bytes / MB;
    println!(
        "anonymous and resident MB after each eviction: {:?}",
        rounds.iter().map(|(anonymous, resident)| (mb(*anonymous), mb(*resident))).collect::<Vec<_>>()
    );
    assert_eq!(group.kills(), 0);
}

#[test]
fn twenty_evictions_in_a_row_leave_memory_where_it_was() {
    twenty_evictions_leave_memory_where_it_was(&[]);
}

#[test]
fn twenty_evictions_of_a_model_of_roberta_bases_shape_leave_memory_where_it_was() {
    let Some(models) = bundles::with_random_roberta() else { return };
    let folder = models.display().to_string();
    twenty_evictions_leave_memory_where_it_was(&[("MODEL_DIR", &folder), ("HEAVY_MODEL", bundles::RANDOM_ROBERTA)]);
}

#[test]
fn over_the_bound_with_the_light_model_alone_work_is_refused_until_memory_falls() {
    let Some(group) = Group::of_memory(LIMIT_MB) else { return };
    let server = group.start(&[("USE_LIGHT_MODEL", "true")]);
    let mut ballast = Ballast::start(&group);
    let ask = || server.post("/analyze", &json!({"text": "I am so happy"}));
    assert_eq!(ask().status, 200);
    ballast.hold(430);
    server.wait_for("the level of eviction", |health| health["memory"]["level"] == "evict");
    let started = std::time::Instant::now();
    let refused = loop {
        let reply = ask();
        if reply.status != 200 {
            break reply;
        }
        assert!(started.elapsed() < support::PATIENCE, "work is still taken");
    };
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.header("retry-after").is_some());
    ballast.hold(0);
    server.wait_for("the normal level", |health| health["memory"]["level"] == "normal");
    assert_eq!(ask().status, 200);
    assert_eq!(group.kills(), 0);
}

#[test]
fn a_resident_bound_evicts_and_keeps_the_light_model() {
    let Some(group) = Group::of_memory(4096) else { return };
    let server = group.start(&[("MODEL_MEMORY_LIMIT", "110")]);
    let seen = Load::start(&server, 4, 60, text).finish();
    assert_well(&group, &server, &seen);
    assert_eq!(seen.by("light (does_not_fit)"), 60, "{:?}\n{}", seen.answers, server.log());
    // A run of a long text, which no other model could take over, may go above the bound for a moment.
    let is_within = |health: &Value| health["memory"]["resident_bytes"].as_u64().unwrap() <= 110 * MB;
    server.wait_for("resident memory within its bound", is_within);
}
