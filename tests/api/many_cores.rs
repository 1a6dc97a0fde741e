//! A machine of 256 cores, and the line that says at start what was found.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{self, PATIENCE, Server};

/// Tells every program that it may run on 256 cores.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
int sched_getaffinity(pid_t process, size_t bytes, cpu_set_t *cores) {
    (void)process;
    CPU_ZERO_S(bytes, cores);
    for (int core = 0; core < 256; core++) CPU_SET_S(core, bytes, cores);
    return 0;
}
"#;

fn shim(folder: &Path) -> String {
    let (source, library) = (folder.join("cores.c"), folder.join("cores.so"));
    fs::write(&source, SHIM).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(compiled.expect("a C compiler is there, as the build needs one").success());
    library.display().to_string()
}

#[test]
fn on_256_cores_it_starts_and_answers_with_the_first_sessions_while_a_bounded_number_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let library = shim(folder.path());
    let server = Server::start(&[("LD_PRELOAD", &library), ("LOG_FORMAT", "json")]);
    let found = found(&server.log());
    assert_eq!([&found["cores"], &found["http_workers"], &found["inference_threads"]], [256, 8, 32], "{found}");
    let http_workers = server.threads().iter().filter(|name| name.starts_with("actix-rt|system")).count();
    assert_eq!(http_workers, 8);
    let reply = server.post("/analyze", &json!({"text": "I am so happy"}));
    assert_eq!(reply.json["model"]["role"], "heavy", "{}", reply.text);
    let workers = || server.get("/models").json["models"][0]["workers"].as_u64().unwrap();
    assert!(workers() >= 4, "{}", workers());
    let started = Instant::now();
    while workers() < 32 {
        assert!(started.elapsed() < PATIENCE, "only {} workers:\n{}", workers(), server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The other model finds its place beside 32 workers.
    let light = server.post("/analyze", &json!({"text": "I am so happy", "model": "light"}));
    assert_eq!(light.json["model"]["role"], "light", "{}", light.text);
}

/// The fields of the line that says what was found.
fn found(log: &str) -> Value {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.into_iter().find(|line| line["message"] == "found on this host").unwrap_or_else(|| panic!("no line:\n{log}"))
}

#[test]
fn one_line_at_start_says_what_the_server_found() {
    let variables = [("LOG_FORMAT", "json"), ("API_KEY", "a-key-of-some-length"), ("MODEL_MEMORY_LIMIT", "300")];
    let server = Server::start(&[variables.as_slice(), &[("USE_LIGHT_MODEL", "true")]].concat());
    let found = found(&server.log());
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "address": format!("127.0.0.1:{}", server.port()),
        "model_memory_limit_mb": "300",
        "heavy_model": "goemotions",
        "heavy_there": "yes",
        "light_model": "ekman",
        "light_there": "yes",
        "api_key_set": "yes",
        "admin_key_set": "no",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&found[field], value, "{field}: {found}");
    }
    let memory_limit_mb = found["memory_limit_mb"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(memory_limit_mb > 100, "{found}");
    assert!(["cgroup", "memory.high", "machine"].contains(&found["memory_limit_from"].as_str().unwrap()), "{found}");
    assert!(found["cores"].as_u64().unwrap() >= 1, "{found}");
    assert!(!server.log().contains("a-key-of-some-length"));
    // For people the same is one line of text.
    let server = support::Server::start(&[]);
    assert!(server.log().contains("found on this host version="), "{}", server.log());
}
