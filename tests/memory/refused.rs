//! Threads and memory that the system refuses: a clear error, and all is well once it gives them again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde_json::json;

use crate::group::{Group, MB};
use crate::support::{self, ADMIN_KEY, Server};

/// As many as any test here needs.
const PLENTY: u64 = 1000;

/// What the last load of the heavy model failed with.
fn error_of_heavy(server: &Server) -> String {
    server.get("/models").json["models"][0]["error"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_server_that_may_not_have_the_threads_that_it_needs_says_so_at_start() {
    let Some(group) = Group::of_threads(3) else { return };
    let mut command = group.wrap(&support::command(&[]));
    let ended = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("the system gives no more threads; raise pids.max"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn a_load_that_is_refused_a_thread_says_so_and_is_tried_again() {
    let Some(group) = Group::of_threads(PLENTY) else { return };
    let server = group.start(&[ADMIN_KEY]);
    let ask = || server.post("/analyze", &json!({"text": "I am so happy"}));
    // None for the loading thread itself; then that one, but none beside it.
    for more in [0, 1] {
        group.limit_threads(group.threads() + more);
        let reply = server.administer("/admin/models/heavy/load");
        assert_eq!(reply.status, 503, "{}", reply.text);
        assert!(error_of_heavy(&server).contains("the system gives no more threads"), "{}", error_of_heavy(&server));
        assert_eq!(ask().status, 503);
    }
    group.limit_threads(PLENTY);
    // What failed is left alone for some seconds.
    server.wait_for("the load", |health| health["roles"]["heavy"]["state"] == "ready" || ask().status == 0);
    assert_eq!(ask().json["model"]["role"], "heavy");
    assert!(!server.log().contains("damaged"), "{}", server.log());
}

#[test]
fn a_text_that_is_refused_a_thread_is_answered_with_an_error_and_the_next_ones_are_well() {
    let Some(group) = Group::of_threads(PLENTY) else { return };
    let server = group.start(&[("PRELOAD_MODELS", "light"), ("USE_LIGHT_MODEL", "true")]);
    server.wait_for("the light model", |health| health["roles"]["light"]["state"] == "ready");
    // Two texts are tokenized on a thread of their own, and none has been started yet.
    let ask = || server.post("/analyze", &json!({"texts": ["I am so happy", "I am so sad"]}));
    group.limit_threads(group.threads());
    let refused = ask();
    assert_eq!(refused.status, 500, "{}", refused.text);
    assert_eq!(refused.json["error_type"], "internal", "{}", refused.text);
    assert_eq!(server.post("/analyze", &json!({"text": "I am so happy"})).status, 200);
    assert!(server.log().contains("the system gives no more threads"), "{}", server.log());
    group.limit_threads(PLENTY);
    assert_eq!(ask().status, 200);
}

fn changed_at(folder: &Path) -> SystemTime {
    let files = fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_dir());
    files.map(|folder| folder.metadata().unwrap().modified().unwrap()).max().expect("weights are prepared")
}

#[test]
fn a_load_that_is_refused_memory_does_not_call_its_weights_damaged() {
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = cache.path().display().to_string();
    let variables = [("MODEL_CACHE_DIR", folder.as_str())];
    assert!(support::command(&variables).arg("prepare").status().unwrap().success());
    let prepared_at = changed_at(cache.path());
    let server = Server::start(&variables);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    // Enough for the server itself, but not for the mapped weights of the heavy model.
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &server.pid().to_string(), &format!("--as={}", size + 90 * MB)]);
    assert!(prlimit.status().expect("prlimit runs").success());
    let reply = server.post("/analyze", &json!({"text": "I am so happy"}));
    assert_eq!(reply.json["fallback"]["reason"], "load_failed", "{}\n{}", reply.text, server.log());
    assert!(error_of_heavy(&server).contains("the system gives no more room"), "{}", error_of_heavy(&server));
    assert_eq!(changed_at(cache.path()), prepared_at, "prepared again:\n{}", server.log());
}
