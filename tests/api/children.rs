//! However the server ends, the process that prepares weights ends with it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Server, signal};

/// A child that nobody has asked about yet counts as gone.
fn is_gone(child: &str) -> bool {
    fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Ends a server with these signals while its child prepares weights.
fn assert_child_ends_with(signals: &[&str]) {
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = cache.path().display().to_string();
    let mut server = Server::start(&[
        ("PRELOAD_MODELS", "heavy"),
        ("MODEL_CACHE_DIR", &folder),
        ("DRAIN_SECONDS", if signals.len() > 1 { "29" } else { "0" }),
    ]);
    let child = server.child();
    // It asks to end with the server, and then to be the first that the kernel ends when memory runs out.
    let started = Instant::now();
    while fs::read_to_string(format!("/proc/{child}/oom_score_adj")).unwrap() != "1000\n" {
        assert!(started.elapsed() < PATIENCE);
    }
    // It cannot come to its end by itself.
    signal("STOP", &child);
    assert!(!is_gone(&child));
    for name in signals {
        server.signal(name);
        thread::sleep(Duration::from_millis(100));
    }
    server.wait();
    let started = Instant::now();
    while !is_gone(&child) {
        let is_in_time = started.elapsed() < Duration::from_secs(5);
        if !is_in_time {
            signal("KILL", &child);
        }
        assert!(is_in_time, "{signals:?} left the child behind");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_kill_of_the_server_ends_its_child() {
    assert_child_ends_with(&["KILL"]);
}

#[test]
fn a_stop_of_the_server_ends_its_child() {
    assert_child_ends_with(&["TERM"]);
}

#[test]
fn a_second_signal_ends_the_child_too() {
    assert_child_ends_with(&["TERM", "INT"]);
}
