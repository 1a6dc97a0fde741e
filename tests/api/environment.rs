//! Values of environment variables as files of them hold them, read by the real program.

use std::process::Command;

use serde_json::json;

use crate::support::{Reply, Server, command};

/// What the program reads from a variable: its help shows the value.
fn seen(variable: &str, value: &str) -> String {
    let mut serve = command(&[(variable, value)]);
    serve.args(["serve", "--help"]);
    let help = stdout(serve).split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = help.split_once(&format!("[env: {variable}=")).expect("help lists the variable").1;
    shown.split_once(']').unwrap().0.to_owned()
}

fn stdout(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_setting_is_read_without_quotes_and_comments() {
    let mut serve = command(&[]);
    serve.args(["serve", "--help"]);
    let help = stdout(serve);
    let variables = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    let mut count = 0;
    for variable in variables.filter(|variable| !["API_KEY", "ADMIN_KEY"].contains(variable)) {
        // A path, a number, an address or a word: what it is does not matter before it is used.
        assert_eq!(seen(variable, " \"1\"\t# one"), "1", "{variable}");
        count += 1;
    }
    assert!(count >= 25, "{count}");
    assert_eq!(seen("MODEL_DIR", "'/data/a #1'"), "/data/a #1");
}

#[test]
fn a_server_understands_the_files_that_people_come_with() {
    let server = Server::start(&[
        ("MODEL_MEMORY_LIMIT", "400  # MB"),
        ("USE_LIGHT_MODEL", "\"true\""),
        ("MAX_TEXTS", "'2'"),
        ("RATE_LIMIT_RPS", "   # none"),
        ("RUST_LOG", "\"info\"  # or debug"),
        ("LOG_FORMAT", "text\r"),
        ("API_KEY", "\"a#1\""),
    ]);
    let health = Reply::of(server.client().get(server.url("/health")).bearer_auth("a#1"));
    assert_eq!((health.status, &health.json["memory"]["limit_bytes"]), (200, &json!(400 << 20)), "{}", health.text);
    let analyze = |count| {
        let request = server.client().post(server.url("/analyze")).bearer_auth("a#1");
        Reply::of(request.json(&json!({"texts": vec!["I am glad"; count]})))
    };
    let reply = analyze(2);
    assert_eq!(reply.json["results"][0]["fallback"]["reason"], "use_light_model", "{}", reply.text);
    assert_eq!(analyze(3).status, 413, "MAX_TEXTS");
    assert!(server.log().contains("INFO "), "{}", server.log());
}

#[test]
fn what_is_no_quote_and_no_comment_is_refused_as_before() {
    for (variable, value) in
        [("MODEL_MEMORY_LIMIT", "400#MB"), ("USE_LIGHT_MODEL", "\"true"), ("MAX_TEXTS", "\"2\" \"3\"")]
    {
        let output = command(&[(variable, value)]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.contains(value) && message.contains(variable), "{message}");
    }
}
