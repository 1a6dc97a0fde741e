//! Nobody gets in without a key: lists and files of keys as people write them, and what clients send.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use crate::support::{PATIENCE, Server, command};

/// The exit code and message of a start that must fail.
fn refused(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(variables).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The status of a request that is sent as it stands here.
fn status(server: &Server, line: &str, headers: &str) -> u16 {
    let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut reply = String::new();
    connection.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap_or_else(|| panic!("{line}: {reply}")).parse().unwrap()
}

#[test]
fn a_setting_of_keys_without_a_key_stops_the_start_rather_than_open_the_server() {
    for setting in ["API_KEY", "ADMIN_KEY"] {
        for (list, right) in [
            (",", "one,two"),
            (" ", "one,two"),
            (", ,", "one,two"),
            ("\n", "one,two"),
            ("\"\"", "one,two"),
            ("one,schl\u{fc}ssel", "ASCII"),
            ("secret  # of mine", "lines of their own"),
        ] {
            let (code, message) = refused(&[(setting, list)]);
            assert_eq!(code, Some(64), "{setting}={list:?}: {message}");
            assert!(message.starts_with(&format!("error: {setting}: ")), "{setting}={list:?}: {message}");
            assert!(message.contains(right) && !message.contains("secret"), "{setting}={list:?}: {message}");
        }
    }
}

#[test]
fn a_file_of_keys_that_cannot_be_used_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let large = vec![b'x'; (1 << 20) + 1];
    for setting in ["API_KEY_FILE", "ADMIN_KEY_FILE"] {
        for (content, right) in [
            (&b""[..], "one key a line"),
            (b"\n\r\n \n", "one key a line"),
            (b"# a comment\n", "one key a line"),
            (b"\xef\xbb\xbf# a comment\r\n", "one key a line"),
            (b"\xff\xfeo\0n\0e\0", "UTF-8"),
            (b"one\nt\0wo\n", "key 2"),
            (&large, "1048576 bytes"),
        ] {
            fs::write(&file, content).unwrap();
            let (code, message) = refused(&[(setting, &path(&file))]);
            assert_eq!(code, Some(64), "{setting}: {message}");
            assert!(message.contains(setting) && message.contains(right), "{right}: {message}");
        }
        for missing in [path(folder.path()), path(&folder.path().join("none")), " ".to_owned(), "# none".to_owned()] {
            let (code, message) = refused(&[(setting, &missing)]);
            assert_eq!(code, Some(64), "{setting}={missing}: {message}");
            assert!(message.contains(setting) && message.contains("cannot be read"), "{missing}: {message}");
        }
    }
}

#[test]
fn files_of_keys_are_understood_as_editors_write_them() {
    let folder = tempfile::tempdir().unwrap();
    let [keys, admin] = ["keys", "admin"].map(|name| folder.path().join(name).display().to_string());
    fs::write(&keys, b"\xef\xbb\xbf# of the web shop\r\none\r\n\r\n  two , three\n#four\nfi#ve").unwrap();
    fs::write(&admin, b"\xef\xbb\xbfadmin\r\n").unwrap();
    let quoted = format!("\"{keys}\"  # mounted");
    let server = Server::start(&[("API_KEY", "'six'"), ("API_KEY_FILE", &quoted), ("ADMIN_KEY_FILE", &admin)]);
    for key in ["one", "two", "three", "fi#ve", "six"] {
        assert_eq!(status(&server, "GET /models", &format!("X-API-Key: {key}\r\n")), 200, "{key}");
        let load = "POST /admin/models/light/unload";
        assert_eq!(status(&server, load, &format!("X-API-Key: {key}\r\n")), 401, "{key}");
    }
    assert_eq!(status(&server, "POST /admin/models/light/unload", "X-API-Key: admin\r\n"), 200);
    for key in ["#four", "four", "# of the web shop", "'six'", "", "ONE", "one,two", "\u{feff}one"] {
        assert_eq!(status(&server, "GET /models", &format!("X-API-Key: {key}\r\n")), 401, "{key}");
    }
}

#[test]
fn a_key_counts_as_a_bearer_token_or_else_in_its_own_header() {
    let server = Server::start(&[("API_KEY", "one,two")]);
    for (headers, expected) in [
        ("", 401),
        ("Authorization: Bearer one\r\n", 200),
        ("Authorization: bearer  one \r\n", 200),
        ("Authorization: one\r\n", 401),
        ("Authorization: Bearer\r\n", 401),
        ("Authorization: Bearer\tone\r\n", 401),
        ("Authorization: Basic b25lOg==\r\n", 401),
        ("Authorization: Basic b25lOg==\r\nX-API-Key: one\r\n", 200),
        // A Bearer token is the key that is looked at, also where it is wrong.
        ("Authorization: Bearer wrong\r\nX-API-Key: one\r\n", 401),
        ("Authorization: Bearer one\r\nX-API-Key: wrong\r\n", 200),
        ("X-API-Key: wrong\r\nX-API-Key: one\r\n", 401),
        ("X-API-Key: one\u{80}\r\n", 401),
    ] {
        assert_eq!(status(&server, "GET /models", headers), expected, "{headers:?}");
    }
    assert_eq!(status(&server, "GET /models?api_key=one", ""), 401, "keys in addresses end up in logs");
}

#[test]
fn no_spelling_of_a_path_passes_the_guard() {
    let server = Server::start(&[("API_KEY", "one"), ("ADMIN_KEY", "two")]);
    for path in [
        "/models",
        "/%6dodels",
        "//models",
        "/./models",
        "/models/",
        "/models?/livez",
        "/livez/../models",
        "/livez/%2e%2e/models",
        "/livez%2f..%2fmodels",
        "/livez;/models",
        "/livez/",
        "/livez%00",
        "/docs/../models",
        "/docs/%2e%2e/models",
        "/docs/..%2fmodels",
        "/docs%2f..%2fmodels",
        "/playground/..%2f..%2fmodels",
        "/LIVEZ",
        "http://localhost/models",
    ] {
        let status = status(&server, &format!("GET {path}"), "");
        // An open folder without such a file says so.
        assert!(
            status == 401 || status == 404 && path.contains("/docs/") | path.contains("/playground/"),
            "{path}: {status}"
        );
    }
    for (path, expected) in [("/livez", 200), ("/%6civez", 200), ("/doc%73", 200), ("/he%61lth", 401)] {
        assert_eq!(status(&server, &format!("GET {path}"), ""), expected, "{path}");
    }
    for path in [
        "/admin/models/light/load",
        "/%61dmin/models/light/load",
        "/admin/models/light/loa%64",
        "/v2/%72epository/models/light/load",
    ] {
        for (headers, expected) in [("", 401), ("X-API-Key: one\r\n", 401)] {
            assert_eq!(status(&server, &format!("POST {path}"), headers), expected, "{path} {headers}");
        }
    }
}
