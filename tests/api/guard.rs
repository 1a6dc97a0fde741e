//! Who may ask, how often and from where; and clients that keep a connection busy without asking.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Reply, Server, command};

const LIGHT: (&str, &str) = ("USE_LIGHT_MODEL", "true");

fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Reply {
    with_headers(server.client().get(server.url(path)), headers)
}

fn post(server: &Server, path: &str, headers: &[(&str, &str)]) -> Reply {
    with_headers(server.client().post(server.url(path)).json(&json!({"text": "I am glad"})), headers)
}

fn with_headers(request: reqwest::blocking::RequestBuilder, headers: &[(&str, &str)]) -> Reply {
    Reply::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
}

#[test]
fn a_key_opens_the_server_in_either_header() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "of-file\n").unwrap();
    let server = Server::start(&[LIGHT, ("API_KEY", "one, two"), ("API_KEY_FILE", file.path().to_str().unwrap())]);
    for (name, value, expected) in [
        ("authorization", "Bearer one", 200),
        ("authorization", "bearer two", 200),
        ("x-api-key", "two", 200),
        ("x-api-key", "of-file", 200),
        ("authorization", "Bearer ", 401),
        ("authorization", "Bearer one, two", 401),
        ("authorization", "Basic one", 401),
        ("x-api-key", "on", 401),
        ("x-other", "one", 401),
    ] {
        let reply = post(&server, "/analyze", &[(name, value)]);
        assert_eq!(reply.status, expected, "{name}: {value}: {}", reply.text);
        assert_eq!(reply.header("www-authenticate"), (expected == 401).then_some("Bearer"));
    }
}

#[test]
fn a_refusal_has_the_shape_of_its_path() {
    let server = Server::start(&[("API_KEY", "one")]);
    let keys = |reply: &Value| reply.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for (path, shape) in [
        ("/analyze", vec!["error", "error_type"]),
        ("/predict", vec!["error", "error_type"]),
        ("/analysis/emotion-v2", vec!["detail"]),
        ("/v2", vec!["error"]),
        ("/v2/models/auto/infer", vec!["error"]),
        ("/v2nd", vec!["error", "error_type"]),
    ] {
        let reply = post(&server, path, &[]);
        assert_eq!((reply.status, keys(&reply.json)), (401, shape.iter().map(ToString::to_string).collect()), "{path}");
    }
    let unknown = get(&server, "/v2/nothing", &[("x-api-key", "one")]);
    assert_eq!((unknown.status, keys(&unknown.json)), (404, vec!["error".to_owned()]));
}

#[test]
fn probes_are_always_open_and_other_paths_by_choice() {
    let paths = ["/livez", "/readyz", "/", "/health", "/metrics", "/models"];
    for (open, expected) in [
        (None, [200, 200, 200, 401, 401, 401]),
        (Some("none"), [200, 200, 401, 401, 401, 401]),
        (Some("health,metrics"), [200, 200, 401, 200, 200, 401]),
    ] {
        let mut variables = vec![("API_KEY", "one")];
        variables.extend(open.map(|open| ("OPEN_PATHS", open)));
        let server = Server::start(&variables);
        assert_eq!(paths.map(|path| get(&server, path, &[]).status), expected, "OPEN_PATHS={open:?}");
        assert_eq!(post(&server, "/", &[]).status, 401, "a page is open to be read only");
    }
}

#[test]
fn administrative_paths_need_the_key_for_them() {
    let server = Server::start(&[("API_KEY", "one"), ("ADMIN_KEY", "two")]);
    let path = "/admin/models/light/load";
    for (key, expected) in [("one", 401), ("three", 401), ("two", 200)] {
        assert_eq!(post(&server, path, &[("x-api-key", key)]).status, expected, "{key}");
    }
    assert_eq!(get(&server, "/health", &[("x-api-key", "two")]).status, 200);
    assert_eq!(post(&server, "/adm%69n/models/light/unload", &[("x-api-key", "one")]).status, 401);
    assert_eq!(get(&server, "/health", &[("x-api-key", "one")]).json["roles"]["light"]["state"], "ready");
}

#[test]
fn without_an_admin_key_nobody_loads_or_unloads_a_model_and_is_told_which_setting_turns_it_on() {
    let server = Server::start(&[("API_KEY", "one")]);
    let own_page = format!("http://127.0.0.1:{}", server.port());
    for headers in [
        vec![],
        vec![("host", "localhost")],
        vec![("origin", own_page.as_str())],
        vec![("x-forwarded-for", "127.0.0.1")],
    ] {
        let headers = [vec![("x-api-key", "one")], headers].concat();
        let native = post(&server, "/%61dmin/models/light/load", &headers);
        assert_eq!((native.status, &native.json["error_type"]), (403, &json!("forbidden")), "{headers:?}");
        let kserve = post(&server, "/v2/repository/models/light/load", &headers);
        assert_eq!((kserve.status, kserve.json.as_object().unwrap().len()), (403, 1), "{headers:?}");
        for reply in [native, kserve] {
            assert!(reply.json["error"].as_str().unwrap().contains("set ADMIN_KEY"), "{}", reply.text);
        }
    }
    let health = get(&server, "/health", &[("x-api-key", "one")]).json;
    assert_eq!(health["roles"]["light"]["state"], "absent");
}

#[test]
fn cors_lets_in_the_pages_that_were_named() {
    let server = Server::start(&[LIGHT, ("API_KEY", "one"), ("CORS_ORIGINS", "https://app.example")]);
    let ask = |origin| {
        let request = server.client().request(reqwest::Method::OPTIONS, server.url("/analyze"));
        with_headers(
            request,
            &[
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "content-type,x-api-key"),
            ],
        )
    };
    let allowed = ask("https://app.example");
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("https://app.example")));
    assert_eq!(ask("https://other.example").header("access-control-allow-origin"), None);
    for (headers, status, origin) in [
        (vec![("origin", "https://app.example"), ("x-api-key", "one")], 200, Some("https://app.example")),
        (vec![("origin", "https://app.example")], 401, Some("https://app.example")),
        (vec![("origin", "https://other.example"), ("x-api-key", "one")], 200, None),
    ] {
        let reply = post(&server, "/analyze", &headers);
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (status, origin), "{headers:?}");
    }
    let open = Server::start(&[("CORS_ORIGINS", "*")]);
    assert_eq!(get(&open, "/health", &[("origin", "null")]).header("access-control-allow-origin"), Some("*"));
    let closed = Server::start(&[]);
    assert_eq!(get(&closed, "/health", &[("origin", "https://a.example")]).header("access-control-allow-origin"), None);
}

#[test]
fn too_many_requests_of_one_client_are_told_when_to_come_back() {
    let server = Server::start(&[("RATE_LIMIT_RPS", "1"), ("RATE_LIMIT_BURST", "3")]);
    let all: Vec<Reply> = (0..5).map(|_| get(&server, "/health", &[])).collect();
    let count = |status| all.iter().filter(|reply| reply.status == status).count();
    assert!(count(200) >= 3 && count(429) >= 1, "{all:?}");
    let refused = all.iter().find(|reply| reply.status == 429).unwrap();
    assert_eq!((refused.header("retry-after"), &refused.json["error_type"]), (Some("1"), &json!("overloaded")));
    assert_eq!(get(&server, "/livez", &[]).status, 200);
    // Nobody is believed about where it comes from.
    assert_eq!(get(&server, "/health", &[("x-forwarded-for", "192.0.2.1")]).status, 429);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(get(&server, "/health", &[]).status, 200);
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_rate_and_so_has_each_key() {
    let server = Server::start(&[
        ("RATE_LIMIT_RPS", "1"),
        ("RATE_LIMIT_BURST", "1"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("API_KEY", "one,two"),
        ("OPEN_PATHS", "health"),
    ]);
    let from = |address| get(&server, "/health", &[("x-forwarded-for", address)]).status;
    assert_eq!([from("192.0.2.1"), from("192.0.2.1"), from("192.0.2.2")], [200, 429, 200]);
    assert_eq!(from("192.0.2.9, 192.0.2.2"), 429);
    let with = |key| get(&server, "/health", &[("x-api-key", key), ("x-forwarded-for", "192.0.2.1")]).status;
    assert_eq!([with("one"), with("one"), with("two")], [200, 429, 200]);
    assert_eq!(with("wrong"), 429);
}

#[test]
fn a_setting_that_cannot_be_used_stops_the_start() {
    for (name, value, expected) in [
        ("TRUSTED_PROXIES", "10.0.0.0/40", "10.0.0.0/40"),
        ("CORS_ORIGINS", "app.example", "is not an origin"),
        ("OPEN_PATHS", "everything", "health, metrics, pages"),
        ("RATE_LIMIT_RPS", "0", "1..=1000000"),
        ("RATE_LIMIT_BURST", "5", "RATE_LIMIT_RPS"),
        ("RATE_LIMIT_TEXTS", "0", "1..=1000000"),
        ("RATE_LIMIT_TEXTS_BURST", "5", "RATE_LIMIT_TEXTS"),
        ("API_KEY_FILE", "/nowhere", "API_KEY_FILE"),
        ("DRAIN_SECONDS", "30", "SHUTDOWN_TIMEOUT"),
    ] {
        let output = command(&[(name, value)]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{name}={value}: {message}");
        assert!(message.contains(expected), "{name}={value}: {message}");
    }
}

fn connect(server: &Server) -> TcpStream {
    let connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    connection
}

/// Sends `rest` a byte every 100 ms until the server has had enough; what it replied, and when.
fn drip(mut connection: TcpStream, head: &str, rest: &str) -> (String, Duration) {
    let started = Instant::now();
    connection.write_all(head.as_bytes()).unwrap();
    let mut reader = connection.try_clone().unwrap();
    let reply = thread::spawn(move || {
        let mut reply = Vec::new();
        // A reset ends the reply as an orderly close does.
        let _reset = reader.read_to_end(&mut reply);
        (String::from_utf8_lossy(&reply).into_owned(), started.elapsed())
    });
    for byte in rest.bytes() {
        if reply.is_finished() || connection.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    reply.join().unwrap()
}

#[test]
fn a_head_or_body_that_drips_in_is_cut_off_and_holds_nobody_up() {
    let server = Server::start(&[("HEADER_TIMEOUT_SECONDS", "1"), ("BODY_TIMEOUT_SECONDS", "1")]);
    let endless = "x".repeat(150);
    let body_head = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
    let cases = [("GET /livez HTTP/1.1\r\nX-Slow: ", 30), (body_head, 30)];
    thread::scope(|scope| {
        let drips: Vec<_> = cases
            .iter()
            .flat_map(|(head, count)| (0..*count).map(move |_| *head))
            .map(|head| (head, scope.spawn(|| drip(connect(&server), head, &endless))))
            .collect();
        thread::sleep(Duration::from_millis(300));
        for _ in 0..10 {
            let started = Instant::now();
            assert_eq!(server.get("/livez").status, 200);
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        }
        for (head, drip) in drips {
            let (reply, elapsed) = drip.join().unwrap();
            assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408 "), "{head}: {reply}");
            assert!(elapsed < Duration::from_secs(6), "{head}: {elapsed:?}");
            assert_eq!(reply.contains("\"error_type\":\"request_timeout\""), head == body_head, "{reply}");
        }
    });
}

#[test]
fn connections_over_the_limit_wait_until_one_is_closed() {
    let server = Server::start(&[("MAX_CONNECTIONS", "1"), ("HEADER_TIMEOUT_SECONDS", "60")]);
    // One for each worker, and no more workers than cores.
    let workers = thread::available_parallelism().unwrap().get();
    let held: Vec<_> = (0..workers).map(|_| connect(&server)).collect();
    thread::sleep(Duration::from_millis(300));
    let mut waiting = connect(&server);
    waiting.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(waiting.read(&mut [0; 1]).is_err(), "answered beside {workers} open connections");
    drop(held);
    waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reply = String::new();
    waiting.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
}

#[test]
fn replies_forbid_guessing_their_type() {
    let server = Server::start(&[]);
    assert_eq!(get(&server, "/health", &[]).header("x-content-type-options"), Some("nosniff"));
}
