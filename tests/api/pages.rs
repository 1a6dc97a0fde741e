//! The pages for people, as a browser asks for them.

use reqwest::Method;
use serde_json::json;

use crate::shared::{assert_error, server};
use crate::support::{Reply, Server};

/// What browsers send when somebody opens an address.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
    let request = server.client().request(method, server.url(path));
    Reply::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
}

fn open(server: &Server, path: &str) -> Reply {
    ask(server, Method::GET, path, &[("accept", BROWSER)])
}

/// Paths that a page names in `attribute`, as a browser that shows it at the root reads them.
fn named_in(page: &str, attribute: &str) -> Vec<String> {
    let of_quotes = |rest: &str| format!("/{}", rest.split('"').next().unwrap_or_default().trim_start_matches("./"));
    page.split(&format!("{attribute}=\"")).skip(1).map(of_quotes).filter(|path| !path.starts_with("/#")).collect()
}

#[test]
fn the_root_is_a_page_for_who_names_one_and_a_sign_of_life_for_all_others() {
    let server = server();
    for (accept, is_page) in [
        (Some(BROWSER), true),
        (Some("text/html"), true),
        (Some("application/json;q=0.1, text/html;q=0.9"), true),
        (Some("*/*"), false),
        (Some("application/json"), false),
        (Some("text/html;q=0"), false),
        (Some("nonsense"), false),
        (None, false),
    ] {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        for method in [Method::GET, Method::HEAD] {
            let reply = ask(server, method.clone(), "/", &headers);
            let kind = if is_page { "text/html; charset=utf-8" } else { "application/json" };
            assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{method} {accept:?}");
            assert_eq!(reply.header("vary"), Some("accept"), "{method} {accept:?}");
            assert_eq!(reply.text.is_empty(), method == Method::HEAD, "{method} {accept:?}");
            if method == Method::GET && !is_page {
                assert_eq!(reply.text, r#"{"status":"alive"}"#, "{accept:?}");
            }
        }
    }
}

#[test]
fn pages_and_their_files_are_bound_to_this_server() {
    let server = server();
    for path in ["/", "/docs"] {
        let page = open(server, path);
        assert_eq!(page.status, 200, "{path}");
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(page.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"), "{path}");
        for never in ["<style", " style=", " onclick=", "http://", "https://", "//cdn"] {
            assert!(!page.text.contains(never), "{path} has {never}");
        }
        assert_eq!(
            page.text.matches("<script").count(),
            page.text.matches("<script src=").count() + page.text.matches("<script type=\"module\" src=").count(),
            "{path} has a script of its own"
        );
    }
}

#[test]
fn every_file_that_a_page_names_is_there_with_its_type() {
    let server = server();
    for page in ["/", "/docs"] {
        let text = open(server, page).text;
        let files: Vec<_> = [named_in(&text, "href"), named_in(&text, "src")].concat();
        assert!(files.len() >= 6, "{page}: {files:?}");
        for path in files {
            let reply = open(server, &path);
            assert_eq!(reply.status, 200, "{page} names {path}");
            let kind = match path.rsplit_once('.').map(|(_, kind)| kind) {
                Some("css") => "text/css; charset=utf-8",
                Some("js") => "text/javascript; charset=utf-8",
                Some("svg") => "image/svg+xml",
                Some("json") => "application/json",
                _ => "text/html; charset=utf-8",
            };
            assert_eq!(reply.header("content-type"), Some(kind), "{path}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        }
    }
}

#[test]
fn every_module_that_a_script_imports_is_there() {
    let server = server();
    let mut waiting = vec!["main.js".to_owned()];
    let mut seen = Vec::new();
    while let Some(name) = waiting.pop() {
        let script = open(server, &format!("/playground/{name}"));
        assert_eq!(script.status, 200, "{name}");
        let imports = script.text.split("from \"./").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        waiting.extend(imports.filter(|import| !seen.contains(import)));
        seen.push(name);
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

#[test]
fn a_browser_that_has_a_file_is_told_so() {
    let server = server();
    for path in ["/", "/docs", "/playground/main.js", "/docs/docs.css"] {
        let first = open(server, path);
        assert_eq!(first.header("cache-control"), Some("no-cache"), "{path}");
        let tag = first.header("etag").unwrap();
        for (known, status) in [(tag, 304), ("*", 304), ("\"other\"", 200), (&format!("\"other\", W/{tag}"), 304)] {
            let again = ask(server, Method::GET, path, &[("accept", BROWSER), ("if-none-match", known)]);
            assert_eq!((again.status, again.header("etag")), (status, Some(tag)), "{path}: {known}");
            assert_eq!(again.text.is_empty(), status == 304, "{path}: {known}");
        }
    }
    // A program's sign of life has no tag, whatever is sent.
    let alive = ask(server, Method::GET, "/", &[("if-none-match", "*")]);
    assert_eq!((alive.status, &alive.json), (200, &json!({"status": "alive"})));
}

#[test]
fn a_file_that_no_page_has_is_not_found() {
    let server = server();
    for path in ["/playground/none.js", "/playground/index.html", "/docs/none.css", "/playground/"] {
        assert_error(path, &open(server, path), 404, "not_found", "there is no");
    }
    let posted = ask(server, Method::POST, "/playground/main.js", &[]);
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_rate_limit_counts_a_page_but_not_its_files() {
    let server = Server::start(&[("RATE_LIMIT_RPS", "1"), ("RATE_LIMIT_BURST", "1")]);
    let files =
        [named_in(&open(&server, "/").text, "src"), named_in(&open(crate::shared::server(), "/docs").text, "src")];
    assert!(files.concat().len() >= 4, "{files:?}");
    for path in files.concat() {
        assert_eq!(open(&server, &path).status, 200, "{path}");
    }
    assert!((0..3).any(|_| open(&server, "/").status == 429), "the page itself was not counted");
}

#[test]
fn pages_need_a_key_only_where_they_are_not_open() {
    let paths = ["/", "/docs", "/openapi.json", "/playground/main.js", "/docs/docs.js"];
    for (open_paths, expected) in [(None, 200), (Some("none"), 401), (Some("health"), 401), (Some("pages"), 200)] {
        let mut variables = vec![("API_KEY", "one")];
        variables.extend(open_paths.map(|open| ("OPEN_PATHS", open)));
        let server = Server::start(&variables);
        for path in paths {
            let asked = open(&server, path);
            assert_eq!(asked.status, expected, "OPEN_PATHS={open_paths:?} {path}");
            let headers = [("accept", BROWSER), ("x-api-key", "one")];
            assert_eq!(ask(&server, Method::GET, path, &headers).status, 200, "{path} with its key");
        }
        // What stands beside the pages stays shut.
        for path in ["/playground/..%2fmodels", "/docs/..%2fmodels", "/models"] {
            assert_ne!(ask(&server, Method::GET, path, &[]).status, 200, "{path}");
        }
    }
}
