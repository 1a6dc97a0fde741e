//! Which limit on memory counts: of several groups, of a machine, after a change, and without file descriptors.

use std::process::Command;

use serde_json::Value;

use crate::ballast::Ballast;
use crate::group::{Group, MB};
use crate::support::Server;

/// The watchdog reads often, so that changes are seen soon.
const CHECK_INTERVAL: (&str, &str) = ("MEMORY_CHECK_INTERVAL_MS", "50");

fn megabytes(health: &Value, figure: &str) -> u64 {
    health["memory"][figure].as_u64().unwrap_or_else(|| panic!("no {figure}: {health:#}")) / MB
}

/// Waits until the nearest limit is this one.
fn wait_for_limit(server: &Server, limit_mb: u64, from: &str) -> Value {
    server.wait_for(&format!("a limit of {limit_mb} MB from {from}"), |health| {
        megabytes(health, "container_limit_bytes") == limit_mb && health["memory"]["limit_from"] == from
    })
}

fn machine_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    total.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn each_group_around_the_server_is_held_against_its_own_memory() {
    let Some(pod) = Group::of_memory(256) else { return };
    let (own, beside) = (pod.within("own", Some(128)), pod.within("beside", None));
    let server = own.start(&[CHECK_INTERVAL]);
    let alone = wait_for_limit(&server, 128, "cgroup");
    assert_eq!(alone["memory"]["level"], "normal", "{alone:#}");
    let mut neighbour = Ballast::start(&beside);
    neighbour.hold(195);
    server.wait_for("the level of eviction", |health| health["memory"]["level"] == "evict");
    let crowded = wait_for_limit(&server, 256, "cgroup");
    assert!(megabytes(&crowded, "unreclaimable_bytes") >= 195, "{crowded:#}");
    neighbour.hold(0);
    server.wait_for("the normal level", |health| health["memory"]["level"] == "normal");
    wait_for_limit(&server, 128, "cgroup");
}

#[test]
fn a_limit_that_changes_and_a_move_to_another_group_are_followed() {
    let Some(group) = Group::of_memory(512) else { return };
    let (first, second) = (group.within("first", None), group.within("second", Some(160)));
    let server = first.start(&[CHECK_INTERVAL]);
    wait_for_limit(&server, 512, "cgroup");
    first.limit(Some(300));
    wait_for_limit(&server, 300, "cgroup");
    first.limit(None);
    wait_for_limit(&server, 512, "cgroup");
    second.take(server.pid());
    wait_for_limit(&server, 160, "cgroup");
}

#[test]
fn without_a_limit_below_the_machines_memory_that_is_the_limit() {
    let Some(group) = Group::of_memory(machine_mb() * 2) else { return };
    let server = group.start(&[CHECK_INTERVAL]);
    let health = wait_for_limit(&server, machine_mb(), "machine");
    assert_eq!(health["memory"]["level"], "normal", "{health:#}");
    // What the server itself may take: not what others hold of the machine.
    assert!(megabytes(&health, "unreclaimable_bytes") < 64, "{health:#}");
    assert!(megabytes(&health, "unreclaimable_limit_bytes") > 64, "{health:#}");
    let metrics = server.get("/metrics").text;
    assert!(metrics.contains("emotion_memory_limit_info{from=\"machine\"} 1"), "{metrics}");
}

#[test]
fn a_server_that_can_open_no_more_files_still_sees_memory_grow() {
    let Some(group) = Group::of_memory(256) else { return };
    let server = group.start(&[CHECK_INTERVAL]);
    let mut neighbour = Ballast::start(&group);
    let before = wait_for_limit(&server, 256, "cgroup");
    // Fewer than it has open now; the connection that asks is one of those.
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &server.pid().to_string(), "--nofile=4:4"]);
    assert!(prlimit.status().expect("prlimit runs").success());
    neighbour.hold(210);
    let grown_mb = 200 + megabytes(&before, "unreclaimable_bytes");
    let health = server.wait_for("the growth", |health| megabytes(health, "unreclaimable_bytes") >= grown_mb);
    assert_eq!(health["memory"]["level"], "evict", "{health:#}");
    assert_eq!(megabytes(&health, "container_limit_bytes"), 256, "{health:#}");
    assert_eq!(health["memory"]["stale"], false, "{health:#}");
    assert!(health["memory"]["age_seconds"].as_f64().unwrap() < 10.0, "{health:#}");
    neighbour.hold(0);
    server.wait_for("the normal level", |health| health["memory"]["level"] == "normal");
}
