//! Stopping: nothing that was begun is lost, and the end comes in time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde_json::json;

use crate::support::{PATIENCE, Reply, Server};

fn wait_for_log(server: &Server, what: &str) {
    let started = Instant::now();
    while !server.log().contains(what) {
        assert!(started.elapsed() < PATIENCE, "{what:?} was not logged:\n{}", server.log());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn requests_in_flight_finish_before_the_end() {
    let mut server = Server::start(&[("USE_LIGHT_MODEL", "true")]);
    assert_eq!(server.post("/analyze", &json!({"text": "warm"})).status, 200);
    let url = server.url("/analyze");
    let requests: Vec<_> = (0..6)
        .map(|request| {
            let texts: Vec<_> =
                (0..64).map(|text| format!("{request} {text} {}", "and on it goes ".repeat(20))).collect();
            let url = url.clone();
            thread::spawn(move || {
                let client = Client::builder().timeout(PATIENCE).build().unwrap();
                Reply::of(client.post(url).json(&json!({"texts": texts})))
            })
        })
        .collect();
    server.wait_for("work in the queue of all requests", |health| health["queued_texts"].as_u64() > Some(64));
    server.terminate();
    wait_for_log(&server, "SIGTERM: stopping");
    for request in requests {
        let reply = request.join().unwrap();
        assert_eq!((reply.status, &reply.json["count"]), (200, &json!(64)), "{}", reply.text);
    }
    assert_eq!(server.wait(), Some(0));
    assert!(server.log().contains("stopped") && !server.log().contains("were cut"), "{}", server.log());
}

#[test]
fn not_one_request_is_lost_under_load() {
    let mut server = Server::start(&[("USE_LIGHT_MODEL", "true"), ("DRAIN_SECONDS", "2"), ("ACCESS_LOG", "false")]);
    assert_eq!(server.post("/analyze", &json!({"text": "warm"})).status, 200);
    let (ready, answered, answered_late) = (AtomicBool::new(true), AtomicUsize::new(0), AtomicUsize::new(0));
    let stopping = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..8 {
            let (server, ready, answered, answered_late, stopping) =
                (&server, &ready, &answered, &answered_late, &stopping);
            scope.spawn(move || {
                let http = Client::builder().timeout(PATIENCE).build().unwrap();
                for count in 0..100_000 {
                    // A balancer stops sending once the readiness probe has failed.
                    if !ready.load(Ordering::SeqCst) {
                        return;
                    }
                    let late = stopping.load(Ordering::SeqCst);
                    let text = json!({"text": format!("{client} {count} is a number that makes me glad")});
                    let reply = Reply::of(http.post(server.url("/analyze")).json(&text));
                    assert_eq!(reply.status, 200, "{}", reply.text);
                    answered.fetch_add(1, Ordering::SeqCst);
                    answered_late.fetch_add(usize::from(late), Ordering::SeqCst);
                }
            });
        }
        while answered.load(Ordering::SeqCst) < 100 {
            thread::sleep(Duration::from_millis(5));
        }
        server.terminate();
        wait_for_log(&server, "SIGTERM: stopping");
        stopping.store(true, Ordering::SeqCst);
        assert_eq!(server.get("/readyz").status, 503);
        assert_eq!(server.get("/livez").status, 200);
        assert_eq!(server.get("/health").json["status"], "draining");
        thread::sleep(Duration::from_millis(500));
        ready.store(false, Ordering::SeqCst);
    });
    assert_eq!(server.wait(), Some(0));
    assert!(answered_late.load(Ordering::SeqCst) > 8, "{answered_late:?} of {answered:?}");
    assert!(!server.log().contains("were cut"), "{}", server.log());
}

#[test]
fn while_draining_replies_send_their_clients_to_a_new_connection() {
    let mut server = Server::start(&[("DRAIN_SECONDS", "1")]);
    assert_eq!(server.get("/livez").header("connection"), None);
    let started = Instant::now();
    server.signal("INT");
    wait_for_log(&server, "SIGINT: stopping");
    assert_eq!(server.get("/livez").header("connection"), Some("close"));
    assert_eq!(server.wait(), Some(0));
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn idle_connections_do_not_hold_the_end_up() {
    let mut server = Server::start(&[]);
    assert_eq!(server.get("/livez").status, 200);
    let _silent = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let started = Instant::now();
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn a_request_that_never_ends_is_cut_at_the_timeout() {
    let mut server = Server::start(&[("SHUTDOWN_TIMEOUT", "2")]);
    let mut slow = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    write!(slow, "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{").unwrap();
    // The request has begun when another one on a later connection has been answered.
    assert_eq!(server.get("/livez").status, 200);
    thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    let elapsed = started.elapsed();
    assert!(elapsed > Duration::from_secs(1) && elapsed < Duration::from_millis(2500), "{elapsed:?}");
    assert!(server.log().contains("1 requests were cut"), "{}", server.log());
    let mut rest = Vec::new();
    // Reset or closed: no reply either way.
    let _reset = slow.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second, code) in [("TERM", "INT", 130), ("INT", "TERM", 143)] {
        let mut server = Server::start(&[("DRAIN_SECONDS", "29"), ("SHUTDOWN_TIMEOUT", "30")]);
        server.signal(first);
        wait_for_log(&server, "stopping");
        let started = Instant::now();
        server.signal(second);
        assert_eq!(server.wait(), Some(code));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[test]
fn the_same_signal_twice_within_a_second_is_one() {
    for name in ["TERM", "INT"] {
        let mut server = Server::start(&[("DRAIN_SECONDS", "2")]);
        server.signal(name);
        wait_for_log(&server, "stopping");
        let started = Instant::now();
        server.signal(name);
        assert_eq!(server.wait(), Some(0), "{}", server.log());
        assert!(started.elapsed() > Duration::from_secs(1), "it drained: {:?}", started.elapsed());
    }
}

#[test]
fn the_same_signal_after_a_second_ends_at_once() {
    let mut server = Server::start(&[("DRAIN_SECONDS", "29"), ("SHUTDOWN_TIMEOUT", "30")]);
    server.terminate();
    wait_for_log(&server, "stopping");
    server.terminate();
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(server.get("/livez").status, 200);
    let started = Instant::now();
    server.terminate();
    assert_eq!(server.wait(), Some(143));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
