//! Connections that hold what they can: in small limits nobody is killed, and others are answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::group::{Group, MB};
use crate::support::Server;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn anonymous_bytes(server: &Server) -> u64 {
    server.get("/health").json["memory"]["anonymous_bytes"].as_u64().unwrap()
}

/// A connection that takes as much of this as the server does, without waiting for it.
fn hold(server: &Server, bytes: &[u8]) -> Option<TcpStream> {
    let address = ([127, 0, 0, 1], server.port()).into();
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    connection.set_nonblocking(true).unwrap();
    let _full = connection.write(bytes);
    Some(connection)
}

#[test]
fn unfinished_heads_kill_nobody_and_hold_nobody_up() {
    allow_many_files();
    for (limit_mb, connections) in [(256, 2000), (512, 3000)] {
        let Some(group) = Group::of_memory(limit_mb) else { return };
        let server = group.start(&[("API_KEY", "secret"), ("OPEN_PATHS", "health,metrics"), ("ACCESS_LOG", "false")]);
        let ask = |text: &str| {
            let request = server.client().post(server.url("/analyze")).header("x-api-key", "secret");
            request.json(&json!({"text": text})).send().unwrap().status().as_u16()
        };
        assert_eq!(ask("warm"), 200, "{}", server.log());
        let before = anonymous_bytes(&server);
        for (name, head_bytes) in [("120 KB", 120_000), ("7 KB", 7_000)] {
            let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: {}", "a".repeat(head_bytes));
            let (mut held, mut longest) = (Vec::new(), Duration::ZERO);
            for number in 0..connections {
                held.extend(hold(&server, head.as_bytes()));
                if number % 100 == 99 {
                    let started = Instant::now();
                    assert_eq!(
                        ask(&format!("honest request {number} beside heads of {name}")),
                        200,
                        "{}",
                        server.log()
                    );
                    longest = longest.max(started.elapsed());
                }
            }
            let grown = anonymous_bytes(&server).saturating_sub(before);
            println!(
                "{limit_mb} MB: {} unfinished heads of {name}: {} KB more, an honest request took at most {longest:?}",
                held.len(),
                grown >> 10
            );
            assert!(longest < Duration::from_secs(20), "{longest:?}");
            assert!(grown < limit_mb * MB / 6, "{} MB for unfinished heads", grown / MB);
        }
        assert_eq!(group.kills(), 0, "{}", server.log());
    }
}

/// Reads until the reply to the last request has begun to come, and all of it that is there.
fn take_reply(connection: &mut TcpStream) {
    let mut bytes = [0; 64 << 10];
    loop {
        assert!(connection.read(&mut bytes).unwrap() > 0, "closed");
        connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if connection.peek(&mut bytes).is_err() {
            return;
        }
    }
}

#[test]
fn an_idle_connection_holds_as_little_whatever_it_did_before() {
    allow_many_files();
    let Some(group) = Group::of_memory(256) else { return };
    let server = group.start(&[("USE_LIGHT_MODEL", "true"), ("ACCESS_LOG", "false"), ("CACHE_MB", "0")]);
    assert_eq!(server.post("/analyze", &json!({"text": "warm"})).status, 200);
    let body = json!({"text": "word ".repeat(60_000)}).to_string();
    let cases = [
        ("nothing", String::new()),
        ("a small request", LIVEZ.to_owned()),
        ("a head of 6 KB", LIVEZ.replacen("\r\n", &format!("\r\nX-A: {}\r\n", "a".repeat(6000)), 1)),
        ("a reply of 90 KB", LIVEZ.replace("/livez", "/openapi.json")),
        (
            "a body of 300 KB",
            format!(
                "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
        ),
    ];
    for (name, request) in cases {
        let before = anonymous_bytes(&server);
        let held: Vec<_> = (0..300)
            .map(|_| {
                let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
                connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                connection.write_all(request.as_bytes()).unwrap();
                if !request.is_empty() {
                    take_reply(&mut connection);
                }
                connection
            })
            .collect();
        let each = anonymous_bytes(&server).saturating_sub(before) / held.len() as u64;
        println!("{name}: {} KB for each of {} idle connections", each >> 10, held.len());
        // The first case also fills what the allocator had free.
        assert!(each < 48 << 10, "{each} bytes for each idle connection after {name}");
        drop(held);
        server.wait_for("the connections' end", |_| {
            server
                .get("/metrics")
                .text
                .lines()
                .any(|line| matches!(line, "emotion_connections 1" | "emotion_connections 2"))
        });
    }
    assert_eq!(group.kills(), 0, "{}", server.log());
}
