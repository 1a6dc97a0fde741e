//! What strangers send to make the server grow or stand still, in real memory limits: it is not
//! killed, it tells that it is alive, and it answers those who mean well.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::group::{Group, MB};
use crate::load::text;
use crate::support::{PATIENCE, Reply, Server};

const LIMIT_BYTES: usize = 2_097_152;

/// Longest line of a stream.
const LINE_BYTES: usize = 65_536;

/// Time of one kind of attack.
const ATTACK: Duration = Duration::from_secs(4);

fn of_many(unit: &str, bytes: usize) -> String {
    vec![unit; bytes / (unit.len() + 1)].join(",")
}

/// Bodies that are far larger when they are parsed into a tree, by path.
fn bodies() -> Vec<(&'static str, String)> {
    let bytes = LIMIT_BYTES - 200;
    let deep = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    let inputs = |unit: &str| format!(r#"{{"inputs":[{}]}}"#, of_many(unit, bytes));
    let tensor = |data: &str| {
        format!(r#"{{"inputs":[{{"name":"text","datatype":"BYTES","shape":[1],"data":[{}]}}]}}"#, of_many(data, bytes))
    };
    vec![
        ("/predict", inputs(r#"["a"]"#)),
        ("/predict", inputs("[]")),
        ("/predict", inputs(&deep)),
        ("/models/auto", inputs(r#""a""#)),
        ("/", format!(r#"{{"inputs":[{}],"parameters":{{}}}}"#, of_many(&deep, bytes))),
        ("/analyze", format!(r#"{{"texts":[{}]}}"#, of_many(r#""a""#, bytes))),
        ("/analyze", format!(r#"{{"text":"{}","more":0}}"#, "\\u00e9".repeat(bytes / 6))),
        ("/analyze", format!(r#"{{"text":"a","threshold":"{}"}}"#, "\u{7f}".repeat(bytes))),
        ("/v1/models/auto:predict", format!(r#"{{"instances":[{}]}}"#, of_many(r#""a""#, bytes))),
        ("/v2/models/auto/infer", tensor(r#""a""#)),
        ("/v2/models/auto/infer", inputs(r#"{"name":"","shape":[],"datatype":""}"#)),
    ]
}

fn gzip(body: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn send_packed(server: &Server, path: &str, packed: &[u8]) -> u16 {
    let request = server.client().post(server.url(path)).header("content-encoding", "gzip");
    request.body(packed.to_vec()).send().map_or(0, |reply| reply.status().as_u16())
}

fn send_bodies(server: &Server, until: Instant) {
    let packed: Vec<_> = bodies().iter().map(|(path, body)| (*path, gzip(body))).collect();
    let sender = || {
        for (path, body) in packed.iter().cycle().take_while(|_| Instant::now() < until) {
            let status = send_packed(server, path, body);
            assert!([413, 422, 429].contains(&status), "{path}: {status}");
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(sender))));
}

/// Streams that send lines and read no replies.
fn send_lines(server: &Server, until: Instant) {
    let fields = |number: usize| match number % 3 {
        0 => format!(r#""x":[{}]"#, of_many(r#"{"":0}"#, LINE_BYTES - 100)),
        1 => format!(r#""x":[{}]"#, of_many("[[]]", LINE_BYTES - 100)),
        _ => (0..5500).map(|number| format!(r#""{number:x}":0"#)).collect::<Vec<_>>().join(","),
    };
    let stream = |number: usize| {
        let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        connection.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let head = "POST /analyze/ndjson HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.write_all(head.as_bytes()).unwrap();
        for line in 0.. {
            let line = format!("{{\"text\":\"{}\",{}}}\n", text(number as u64 * 1000 + line), fields(number));
            if connection.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).is_err() {
                break;
            }
        }
        thread::sleep(until.saturating_duration_since(Instant::now()));
    };
    thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || stream(number));
        }
    });
}

/// Bodies that never come to their end.
fn withhold(server: &Server, until: Instant) {
    let all: Vec<_> = (0..12)
        .map(|_| {
            let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            connection.set_write_timeout(Some(PATIENCE)).unwrap();
            let head = format!("POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LIMIT_BYTES}\r\n\r\n");
            connection.write_all(head.as_bytes()).unwrap();
            let _refused = connection.write_all(&vec![b' '; LIMIT_BYTES - 1]);
            connection
        })
        .collect();
    thread::sleep(until.saturating_duration_since(Instant::now()));
    drop(all);
}

/// Texts whose tokens lie far apart, and words without an end.
fn send_long_texts(server: &Server, until: Instant) {
    let sender = |number: u64| {
        for round in (0..).take_while(|_| Instant::now() < until) {
            let filler = [" ".repeat(900_000), "\u{200b}".repeat(300_000), "xyz".repeat(300_000)];
            let text = format!("{number} {round}{}happy", filler[(number % 3) as usize]);
            let reply = server.post("/analyze", &json!({"text": text, "long_text": "windows"}));
            assert!([200, 422, 429, 503].contains(&reply.status), "{}", reply.text);
        }
    };
    thread::scope(|scope| {
        for number in 0..6 {
            scope.spawn(move || sender(number));
        }
    });
}

/// Runs the attack, and meanwhile looks how others fare.
fn attack(server: &Server, name: &str, attack: fn(&Server, Instant)) {
    let is_over = AtomicBool::new(false);
    let slowest = Mutex::new([Duration::ZERO; 2]);
    let note = |index: usize, started: Instant| {
        let mut slowest = slowest.lock().unwrap();
        slowest[index] = slowest[index].max(started.elapsed());
    };
    thread::scope(|scope| {
        let alive = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(server.get("/livez").status, 200);
                note(0, started);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let honest = scope.spawn(|| {
            for number in (0..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                let started = Instant::now();
                let request = server.client().post(server.url("/analyze")).header("x-forwarded-for", "192.0.2.1");
                let reply = Reply::of(request.json(&json!({"text": text(number * 20)})));
                assert_eq!(reply.status, 200, "{name}: {}", reply.text);
                note(1, started);
            }
        });
        let attackers = scope.spawn(|| attack(server, Instant::now() + ATTACK));
        let attacked = attackers.join();
        is_over.store(true, Ordering::Relaxed);
        let ended = [alive.join(), honest.join(), attacked];
        assert!(ended.iter().all(Result::is_ok), "{name}\n{}", server.log());
    });
    let [alive, honest] = slowest.into_inner().unwrap();
    println!("    {name}: /livez took {} ms at most, an answer {} ms", alive.as_millis(), honest.as_millis());
    assert!(alive < Duration::from_secs(5), "{name}: /livez took {alive:?}");
}

fn survives(limit_mb: u64, variables: &[(&str, &str)]) {
    let Some(group) = Group::of_memory(limit_mb) else { return };
    println!("in {limit_mb} MB, {variables:?}:");
    let server = group.start(&[&[("CACHE_MB", "2"), ("TRUSTED_PROXIES", "127.0.0.1")], variables].concat());
    assert_eq!(server.post("/analyze", &json!({"text": "I am so happy!"})).status, 200);
    attack(&server, "bodies of many values", send_bodies);
    attack(&server, "streams of large lines", send_lines);
    attack(&server, "withheld bodies", withhold);
    attack(&server, "long texts", send_long_texts);
    assert_eq!(group.kills(), 0, "{}", server.log());
    assert_eq!(server.get("/health").json["memory"]["container_kills"], 0);
}

#[test]
fn strangers_cannot_end_the_light_model_in_96_mb() {
    survives(96, &[("USE_LIGHT_MODEL", "true")]);
}

#[test]
fn strangers_cannot_end_both_models_in_256_mb() {
    survives(256, &[]);
}

#[test]
fn reading_a_body_takes_at_most_three_times_its_bytes() {
    let server = Server::start(&[("USE_LIGHT_MODEL", "true")]);
    assert_eq!(server.post("/analyze", &json!({"text": "I am so happy!"})).status, 200);
    let packed: Vec<_> = bodies().iter().map(|(path, body)| (*path, gzip(body))).collect();
    let status = |key: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    // Starts the thread that reads them.
    send_packed(&server, "/predict", &gzip(&format!(r#"{{"inputs":[{}]}}"#, of_many("0", 100_000))));
    thread::sleep(Duration::from_secs(2));
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    let before = status("VmRSS:");
    for (path, body) in &packed {
        let status = send_packed(&server, path, body);
        assert!([413, 422].contains(&status), "{path}: {status}");
    }
    let grown = status("VmHWM:").saturating_sub(before);
    println!("{:.1} MB for bodies of {} MB", grown as f64 / MB as f64, LIMIT_BYTES >> 20);
    // The last two are for what the allocator keeps, pages of the program, and replies.
    assert!(grown <= 3 * LIMIT_BYTES as u64 + 2 * MB, "{grown} bytes");
}
