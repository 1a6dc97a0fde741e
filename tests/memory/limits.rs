//! Both models in 512 MB, the heavy one alone in 192 and 160 MB, and a limit that is too small for it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundles;
use crate::group::{Group, MB, drop_from_page_cache};
use crate::load::{Load, Seen, long_text, text};
use crate::support::{self, Server};

/// Requests of one measured load.
const REQUESTS: u64 = 160;

/// Anonymous and proportional resident bytes, from the kernel: what the server tells is a reading old.
pub fn held(server: &Server) -> (u64, u64) {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap();
    let bytes = |figure: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    (bytes("Anonymous:"), bytes("Pss:"))
}

fn bytes(health: &Value, figure: &str) -> u64 {
    health["memory"][figure].as_u64().unwrap_or_else(|| panic!("no {figure}: {health:#}"))
}

/// What holds after every load: nobody was killed, nobody was refused, and memory is in bounds.
pub fn assert_well(group: &Group, server: &Server, seen: &Seen) {
    assert_eq!(group.kills(), 0, "{}", server.log());
    assert!(seen.failures.is_empty(), "{:?}\n{}", seen.failures, server.log());
    let health = server.get("/health").json;
    // An eviction begins at 78 % of the limit, and one more text of the light model may go up to 90 %.
    assert!(bytes(&health, "unreclaimable_bytes") <= bytes(&health, "container_limit_bytes") / 10 * 9, "{health:#}");
    assert_eq!(health["memory"]["container_kills"], 0, "{health:#}");
}

/// Prepares the models outside the limit, as an image build does, and takes their files out of memory.
fn prepare_and_cool(models: &Path, heavy: &str) {
    let status = support::command(&[("MODEL_DIR", &models.display().to_string()), ("HEAVY_MODEL", heavy)])
        .arg("prepare")
        .status()
        .expect("prepare runs");
    assert!(status.success());
    drop_from_page_cache(models);
    drop_from_page_cache(&support::cache_folder());
    drop_from_page_cache(&bundles::library());
}

fn measured(server: &Server, name: &str) -> Seen {
    let before = server.get("/health").json;
    let seen = Load::start(server, 8, REQUESTS, text).finish();
    let health = server.get("/health").json;
    println!(
        "{name}: p50 {:.0} ms, {:?}, {:.1} major faults a text, resident {} MB, unreclaimable {} MB",
        seen.p50().as_secs_f64() * 1e3,
        seen.answers,
        (bytes(&health, "major_faults") - bytes(&before, "major_faults")) as f64 / REQUESTS as f64,
        bytes(&health, "resident_bytes") / MB,
        bytes(&health, "unreclaimable_bytes") / MB,
    );
    seen
}

fn heavy_serves_from_cold_caches(models: &Path, heavy: &str, limits_mb: &[u64]) {
    let folder = models.display().to_string();
    let library = bundles::library().display().to_string();
    let variables = [("MODEL_DIR", folder.as_str()), ("HEAVY_MODEL", heavy), ("ONNXRUNTIME_LIBRARY", &library)];
    let mut unlimited = Duration::ZERO;
    for limit_mb in std::iter::once(&4096).chain(limits_mb) {
        let Some(group) = Group::of_memory(*limit_mb) else { return };
        prepare_and_cool(models, heavy);
        let server = group.start(&variables);
        let seen = measured(&server, &format!("{heavy} in {limit_mb} MB"));
        assert_well(&group, &server, &seen);
        assert_eq!(seen.by("heavy"), REQUESTS, "{:?}\n{}", seen.answers, server.log());
        assert_eq!(server.get("/models").json["models"][0]["weights"], "prepared", "{}", server.log());
        if *limit_mb == 4096 {
            unlimited = seen.p50();
        } else {
            println!("    {:.2} times the p50 without a limit", seen.p50().as_secs_f64() / unlimited.as_secs_f64());
        }
    }
}

#[test]
fn the_heavy_model_serves_from_cold_caches_in_192_and_160_mb() {
    heavy_serves_from_cold_caches(&support::models_folder(), "goemotions", &[192, 160]);
}

#[test]
fn a_model_of_roberta_bases_shape_serves_from_cold_caches_in_192_mb() {
    let Some(models) = bundles::with_random_roberta() else { return };
    heavy_serves_from_cold_caches(&models, bundles::RANDOM_ROBERTA, &[192]);
}

fn both_models_serve_long_texts_in_512_mb(models: &Path, heavy: &str) {
    let Some(group) = Group::of_memory(512) else { return };
    let folder = models.display().to_string();
    let server = group.start(&[("MODEL_DIR", &folder), ("HEAVY_MODEL", heavy), ("PRELOAD_MODELS", "both")]);
    server.wait_for("both models being ready", |health| {
        health["roles"]["heavy"]["state"] == "ready" && health["roles"]["light"]["state"] == "ready"
    });
    let load = Load::start(&server, 8, 60, long_text);
    for number in 0..20 {
        let reply = server.post("/analyze", &json!({"text": long_text(1000 + number), "model": "light"}));
        assert_eq!((reply.status, reply.json["model"]["role"].as_str()), (200, Some("light")), "{}", reply.text);
    }
    let seen = load.finish();
    assert_well(&group, &server, &seen);
    assert_eq!(seen.by("heavy"), 60, "{:?}\n{}", seen.answers, server.log());
    let seen = measured(&server, &format!("{heavy} in 512 MB beside the light model, after long texts"));
    assert_well(&group, &server, &seen);
    assert_eq!(seen.by("heavy"), REQUESTS, "{:?}\n{}", seen.answers, server.log());
}

#[test]
fn both_models_serve_long_texts_under_load_in_512_mb() {
    both_models_serve_long_texts_in_512_mb(&support::models_folder(), "goemotions");
}

#[test]
fn a_model_of_roberta_bases_shape_serves_long_texts_beside_the_light_one_in_512_mb() {
    let Some(models) = bundles::with_random_roberta() else { return };
    both_models_serve_long_texts_in_512_mb(&models, bundles::RANDOM_ROBERTA);
}

#[test]
fn below_what_the_heavy_model_needs_the_light_one_answers_without_a_try() {
    for (limit_mb, name) in [(112, "goemotions"), (96, "goemotions")] {
        let Some(group) = Group::of_memory(limit_mb) else { return };
        prepare_and_cool(&support::models_folder(), name);
        let library = bundles::library().display().to_string();
        let server = group.start(&[("ONNXRUNTIME_LIBRARY", &library)]);
        let seen = measured(&server, &format!("limit of {limit_mb} MB"));
        assert_well(&group, &server, &seen);
        assert_eq!(seen.by("light (does_not_fit)"), REQUESTS, "{:?}\n{}", seen.answers, server.log());
        let strict = server.post("/analyze", &json!({"text": "I am so happy", "model": "heavy", "strict": true}));
        assert_eq!(strict.status, 503, "{}", strict.text);
        assert!(strict.header("retry-after").is_some());
    }
}

/// Texts of about 100 tokens, whose memory a session keeps while it is busy.
fn middling_text(number: u64) -> String {
    format!("{number} {}", "so it went on and on until the end ".repeat(11))
}

#[test]
fn memory_of_a_burst_is_given_back_once_nobody_asks() {
    let Some(group) = Group::of_memory(4096) else { return };
    let server = group.start(&[("CACHE_MB", "0")]);
    assert_eq!(server.post("/analyze", &json!({"text": "I am so happy"})).status, 200);
    let before = held(&server).0;
    let load = Load::start(&server, 8, 40, middling_text);
    let mut most = 0;
    load.wait_for("the end of the burst", |seen| {
        most = most.max(held(&server).0);
        seen.answered() + seen.failures.len() as u64 >= 40
    });
    assert_well(&group, &server, &load.finish());
    server.wait_for("memory being given back", |_| held(&server).0 <= before + 2 * MB);
    println!(
        "anonymous: {} MB before a burst, {} MB in it, {} MB after it",
        before / MB,
        most / MB,
        held(&server).0 / MB
    );
}
