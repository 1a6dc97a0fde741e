//! How many workers the server has where it may not use all cores.

use std::thread::available_parallelism;

use serde_json::json;

use crate::group::Group;
use crate::support::Server;

const BOTH: [(&str, &str); 1] = [("PRELOAD_MODELS", "both")];

/// Workers of both models, and threads that serve HTTP.
fn workers(server: &Server) -> [usize; 3] {
    server.wait_for("both models being ready", |health| {
        health["roles"]["heavy"]["state"] == "ready" && health["roles"]["light"]["state"] == "ready"
    });
    let models = server.get("/models").json["models"].clone();
    let [heavy, light] = [0, 1].map(|role| models[role]["workers"].as_u64().unwrap() as usize);
    [heavy, light, server.threads().iter().filter(|name| name.starts_with("actix-rt|system")).count()]
}

#[test]
fn in_a_quota_of_one_core_there_is_one_worker_for_each_model_and_one_for_http() {
    let cores = available_parallelism().unwrap().get();
    let Some(group) = Group::of_one_core() else { return };
    // A model answers with its first four workers while the others join it, and not all cores serve HTTP.
    let without_quota = workers(&Server::start(&BOTH));
    assert!(without_quota.iter().all(|count| (cores.min(4)..=cores).contains(count)), "{without_quota:?}");
    let server = group.start(&BOTH);
    assert_eq!(workers(&server), [1; 3]);
    let reply = server.post("/analyze", &json!({"texts": vec!["I am so happy"; 8]}));
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[test]
fn a_quota_of_a_group_around_the_servers_own_counts_too() {
    let Some(group) = Group::of_one_core() else { return };
    let own = group.within("own", None);
    assert_eq!(workers(&own.start(&BOTH)), [1; 3]);
}
