//! `/`, and what all paths have in common.

use serde_json::json;

use crate::support::Server;

#[test]
fn the_root_is_alive_and_names_its_methods() {
    let server = Server::start(&[]);
    let root = server.get("/");
    assert_eq!((root.status, root.json), (200, json!({"status": "alive"})));
    let put = crate::support::Reply::of(server.client().put(server.url("/")));
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, POST")), "{}", put.text);
    let missing = server.get("/nowhere");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json["error_type"], "not_found");
}
