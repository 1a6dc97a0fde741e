//! How many threads the server has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::json;

use crate::shared::answered;
use crate::support::{PATIENCE, Reply, Server};

/// Requests at the same time.
const CLIENTS: usize = 200;

#[test]
fn many_requests_at_once_start_no_threads_but_one_tokenizer_for_each_http_worker() {
    let server = Server::start(&[("PRELOAD_MODELS", "both"), ("CACHE_MB", "0")]);
    server.wait_for("both models being ready", |health| {
        health["roles"]["heavy"]["state"] == "ready" && health["roles"]["light"]["state"] == "ready"
    });
    for model in ["heavy", "light"] {
        answered(&server.post("/analyze", &json!({"text": "a short text", "model": model})));
    }
    let before = server.threads().len();
    let http_workers = thread::available_parallelism().unwrap().get();
    let done = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let now = server.threads();
                if now.len() > most.len() {
                    most = now;
                }
                thread::sleep(Duration::from_millis(1));
            }
            most
        });
        let server = &server;
        let ask = move |number: usize| {
            let model = if number.is_multiple_of(10) { "heavy" } else { "light" };
            // Every other text is long enough to be tokenized on a thread of its own.
            let words = if number.is_multiple_of(2) { 4 } else { 300 };
            let text = format!("{number} {}", "so very glad ".repeat(words));
            let client = Client::builder().timeout(PATIENCE).build().unwrap();
            Reply::of(client.post(server.url("/analyze")).json(&json!({"text": text, "model": model})))
        };
        let replies: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || ask(number))).collect();
        for reply in replies {
            answered(&reply.join().unwrap());
        }
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert!(most.len() <= before + http_workers, "{before} threads became {}: {most:?}", most.len());
}
