//! Loads and preparations that fail midway.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::group::Group;
use crate::limits::assert_well;
use crate::load::{Load, text};
use crate::support::{self, Server};

fn copy_bundle(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn weights(server: &Server) -> String {
    server.get("/models").json["models"][0]["weights"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_load_that_fails_midway_leaves_the_light_model_and_no_memory_behind() {
    let Some(group) = Group::of_memory(512) else { return };
    let models = tempfile::tempdir().unwrap();
    copy_bundle(&support::models_folder().join("ekman"), &models.path().join("ekman"));
    let heavy = models.path().join("goemotions");
    copy_bundle(&support::models_folder().join("goemotions"), &heavy);
    // The length stays, so the damage shows only after sessions were opened: by the probes.
    let mut damaged = fs::read(heavy.join("int8.bin")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + (16 << 20)].fill(77);
    fs::write(heavy.join("int8.bin"), damaged).unwrap();
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (folder, cache) = (models.path().display().to_string(), cache.path().display().to_string());
    let server = group.start(&[("MODEL_DIR", &folder), ("MODEL_CACHE_DIR", &cache)]);
    let mut anonymous = Vec::new();
    for _ in 0..3 {
        let seen = Load::start(&server, 4, 20, text).finish();
        assert_well(&group, &server, &seen);
        assert_eq!(seen.by("light (load_failed)"), 20, "{:?}\n{}", seen.answers, server.log());
        thread::sleep(Duration::from_secs(6));
        anonymous.push(server.get("/health").json["memory"]["anonymous_bytes"].as_u64().unwrap() >> 20);
    }
    println!("anonymous MB after each failed load: {anonymous:?}");
    assert!(anonymous[2] <= anonymous[0] + 10, "{anonymous:?}");
    let error = server.get("/models").json["models"][0]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("int8.bin has SHA-256"), "{error}");
}

#[test]
fn a_child_killed_while_preparing_costs_speed_but_no_answer() {
    let Some(group) = Group::of_memory(512) else { return };
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = cache.path().display().to_string();
    let server = group.start(&[("MODEL_CACHE_DIR", &folder)]);
    let load = Load::start(&server, 2, 10, text);
    support::signal("KILL", &server.child());
    let seen = load.finish();
    assert_well(&group, &server, &seen);
    assert_eq!(seen.by("heavy"), 10, "{:?}\n{}", seen.answers, server.log());
    assert_eq!(weights(&server), "plain", "{}", server.log());
    assert!(server.log().contains("signal: 9"), "{}", server.log());
    drop(server);
    // The next start prepares again and cleans up what the killed one left.
    let server = group.start(&[("MODEL_CACHE_DIR", &folder)]);
    assert_eq!(server.post("/analyze", &json!({"text": "I am so happy"})).json["model"]["role"], "heavy");
    assert_eq!(weights(&server), "prepared", "{}", server.log());
    let left: Vec<_> = fs::read_dir(cache.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".unfinished"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn two_servers_that_start_at_once_share_one_prepared_model() {
    let Some(group) = Group::of_memory(1024) else { return };
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = cache.path().display().to_string();
    let servers = [0, 1].map(|_| group.start(&[("MODEL_CACHE_DIR", &folder)]));
    let loads = servers.each_ref().map(|server| Load::start(server, 2, 10, text));
    for (server, load) in servers.iter().zip(loads) {
        let seen = load.finish();
        assert_well(&group, server, &seen);
        assert_eq!(seen.by("heavy"), 10, "{:?}\n{}", seen.answers, server.log());
        assert_eq!(weights(server), "prepared", "{}", server.log());
    }
    let made = fs::read_dir(cache.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(made, 1);
}

#[test]
fn prepared_weights_that_are_damaged_are_made_anew() {
    let Some(group) = Group::of_memory(1024) else { return };
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = cache.path().display().to_string();
    let answer = || {
        let server = group.start(&[("MODEL_CACHE_DIR", &folder)]);
        let reply = server.post("/analyze", &json!({"text": "I am so happy"}));
        assert_eq!(reply.json["model"]["role"], "heavy", "{}", reply.text);
        assert_eq!(weights(&server), "prepared", "{}", server.log());
        assert_eq!(group.kills(), 0);
        reply.json["all_scores"].clone()
    };
    let right = answer();
    let prepared = fs::read_dir(cache.path()).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap().path();
    let whole = fs::read(prepared.join("model.bin")).unwrap();
    let mut damaged = whole.clone();
    damaged[30 << 20..60 << 20].fill(77);
    for content in [&damaged[..], &whole[..whole.len() / 2]] {
        fs::write(prepared.join("model.bin"), content).unwrap();
        assert_eq!(answer(), right);
    }
}
