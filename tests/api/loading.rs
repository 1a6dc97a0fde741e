//! When models are loaded: lazily, once, ahead of time, late, or not at all.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::folders::Folders;
use crate::shared::{answered, assert_error, log_with};
use crate::support::{Reply, Server, cache_folder, command};

const TEXT: &str = "I am so happy that you came!";

fn count(log: &str, what: &str) -> usize {
    log.matches(what).count()
}

#[test]
fn nothing_is_loaded_before_it_is_asked_for() {
    let server = Server::start(&[]);
    for path in ["/health", "/readyz", "/livez", "/models", "/metrics", "/"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(server.post("/analyze", &json!({"text": ""})).status, 400);
    let health = server.get("/health").json;
    assert_eq!(health["roles"]["heavy"]["state"], "absent", "{health}");
    assert_eq!(health["roles"]["light"]["state"], "absent", "{health}");
}

#[test]
fn twenty_first_requests_wait_for_one_load() {
    let server = Server::start(&[]);
    thread::scope(|scope| {
        for number in 0..20 {
            let server = &server;
            scope.spawn(move || {
                let reply = answered(&server.post("/analyze", &json!({"text": format!("I am happy, {number} times")})));
                assert_eq!(reply["model"]["role"], "heavy", "{reply}");
                assert!(reply["fallback"].is_null(), "{reply}");
            });
        }
    });
    let log = log_with(&server, "loading -> ready");
    assert_eq!(count(&log, "absent -> loading"), 1, "{log}");
    assert_eq!(count(&log, "heavy model goemotions loaded in"), 1, "{log}");
    assert_eq!(count(&log, "light model"), 0, "{log}");
}

/// Keeps the weights of the model in `folder` from being prepared until it is dropped, as another
/// server that is preparing them would.
fn hold_back(folders: &Folders, folder: &Path) -> File {
    let prepared = folders.prepare(folder);
    fs::remove_dir_all(&prepared).unwrap();
    let mut name = prepared.file_name().unwrap().to_os_string();
    name.push(".lock");
    let lock = File::create(prepared.with_file_name(name)).unwrap();
    lock.lock().unwrap();
    lock
}

#[test]
fn past_the_load_timeout_the_light_model_answers_while_the_load_goes_on() {
    let folders = Folders::new();
    folders.link("ekman");
    let slow = folders.copy("ekman", "slow");
    let lock = hold_back(&folders, &slow);
    let server = Server::start_command(folders.command(&[("HEAVY_MODEL", "slow"), ("MODEL_LOAD_TIMEOUT", "4")]));

    let started = Instant::now();
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert!(started.elapsed().as_secs_f64() >= 4.0);
    assert_eq!(reply["model"]["role"], "light", "{reply}");
    assert_eq!(reply["fallback"], json!({"from": "heavy", "reason": "load_timeout"}), "{reply}");
    assert_eq!(server.get("/health").json["roles"]["heavy"]["state"], "loading");
    // Not even for its own prepared weights did the light model wait until the heavy one's were written.
    log_with(&server, "no prepared weights for ekman: those of the heavy model are still being written");

    // Later requests do not wait as long again for the same load.
    let started = Instant::now();
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!(reply["fallback"]["reason"], "load_timeout", "{reply}");
    assert!(started.elapsed().as_secs_f64() < 3.0, "{:?}", started.elapsed());
    let strict = server.post("/analyze", &json!({"text": TEXT, "model": "heavy", "strict": true}));
    assert_error("strict", &strict, 503, "unavailable", "the heavy model slow is still loading");
    assert!(strict.header("retry-after").is_some());

    drop(lock);
    server.wait_for("the load", |health| health["roles"]["heavy"]["state"] == "ready");
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!((&reply["model"]["role"], &reply["fallback"]), (&json!("heavy"), &json!(null)), "{reply}");
    assert_eq!(count(&server.log(), "heavy model slow: absent -> loading"), 1);
}

#[test]
fn a_request_waits_for_a_load_no_longer_than_its_own_deadline() {
    let folders = Folders::new();
    let slow = folders.copy("ekman", "slow");
    let _lock = hold_back(&folders, &slow);
    let variables = [("LIGHT_MODEL", "slow"), ("USE_LIGHT_MODEL", "true")];
    let server = Server::start_command(folders.command(&variables));
    let request = server.client().post(server.url("/analyze")).header("X-Request-Timeout-Ms", "300");
    let reply = Reply::of(request.json(&json!({"text": TEXT})));
    assert_error("300 ms", &reply, 504, "deadline_passed", "before the request's deadline");
}

#[test]
fn with_use_light_model_the_heavy_one_is_never_loaded_nor_needed() {
    let folders = Folders::new();
    folders.link("ekman");
    let mut command = command(&[("USE_LIGHT_MODEL", "true")]);
    command.env("MODEL_DIR", folders.models());
    let server = Server::start_command(command);
    for model in ["auto", "heavy", "goemotions"] {
        let reply = answered(&server.post("/analyze", &json!({"text": TEXT, "model": model})));
        assert_eq!(reply["model"]["role"], "light", "{reply}");
        assert_eq!(reply["fallback"], json!({"from": "heavy", "reason": "use_light_model"}), "{reply}");
    }
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT, "model": "light"})));
    assert!(reply["fallback"].is_null(), "{reply}");
    let strict = server.post("/analyze", &json!({"text": TEXT, "model": "heavy", "strict": true}));
    assert_error("strict", &strict, 503, "unavailable", "is switched off by USE_LIGHT_MODEL");
    assert!(strict.header("retry-after").is_some());
    assert_eq!(server.get("/health").json["roles"]["heavy"]["state"], "absent");
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn preloaded_models_are_there_before_the_first_request() {
    for (preload, heavy, light) in
        [("light", "absent", "ready"), ("heavy", "ready", "absent"), ("both", "ready", "ready")]
    {
        let server = Server::start(&[("PRELOAD_MODELS", preload)]);
        server.wait_for("readiness", |_| server.get("/readyz").status == 200);
        let health = server.get("/health").json;
        assert_eq!(health["roles"]["heavy"]["state"], heavy, "{preload}: {health}");
        assert_eq!(health["roles"]["light"]["state"], light, "{preload}: {health}");
    }
}

#[test]
fn readiness_waits_for_what_is_preloaded_and_liveness_does_not() {
    let folders = Folders::new();
    folders.link("ekman");
    let slow = folders.copy("ekman", "slow");
    let lock = hold_back(&folders, &slow);
    let server = Server::start_command(folders.command(&[("HEAVY_MODEL", "slow"), ("PRELOAD_MODELS", "heavy")]));
    let (ready, live) = (server.get("/readyz"), server.get("/livez"));
    assert_eq!((ready.status, ready.json), (503, json!({"ready": false})));
    assert_eq!((live.status, live.json), (200, json!({"live": true})));
    let health = server.get("/health");
    assert_eq!((health.status, &health.json["status"]), (200, &json!("degraded")));
    let port = server.port().to_string();
    let asked = folders.command(&[("PORT", &port)]).arg("health").output().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&asked.stderr).contains("is not ready (503)"), "{asked:?}");
    drop(lock);
    server.wait_for("readiness", |health| health["status"] == "ok");
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/health").json["roles"]["heavy"]["state"], "ready");
}

#[test]
fn a_heavy_model_that_cannot_be_preloaded_is_replaced_by_the_light_one() {
    let folders = Folders::new();
    folders.link("ekman");
    fs::write(folders.copy_config("ekman", "broken").join("config.json"), "{").unwrap();
    let mut command = folders.command(&[("HEAVY_MODEL", "broken"), ("PRELOAD_MODELS", "heavy")]);
    command.env("MODEL_CACHE_DIR", cache_folder());
    let server = Server::start_command(command);
    server.wait_for("readiness", |_| server.get("/readyz").status == 200);
    assert_eq!(server.get("/health").json["roles"]["light"]["state"], "ready");
}

#[test]
fn int4_weights_give_the_same_emotions() {
    let server = Server::start(&[("MODEL_PRECISION", "int4"), ("USE_LIGHT_MODEL", "true")]);
    let reply = answered(&server.post("/analyze", &json!({"text": TEXT})));
    assert_eq!((&reply["model"]["precision"], &reply["emotion"]), (&json!("int4"), &json!("joy")), "{reply}");
}
