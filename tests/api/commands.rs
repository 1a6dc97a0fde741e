//! The commands beside `serve`: what they print, and what they end with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use emotion_server::config::ServeArgs;
use serde_json::{Value, json};

use crate::folders::{Folders, damage};
use crate::shared::{analyze, log_with, server};
use crate::support::{Server, command};

/// What a command ended with and wrote.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn run_with_input(mut command: Command, input: &[u8]) -> Done {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads nothing may be gone already.
    let _closed = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Commands of these tests use the light model, which loads fast.
pub fn light(arguments: &[&str]) -> Command {
    let mut command = command(&[("USE_LIGHT_MODEL", "true")]);
    command.args(arguments);
    command
}

pub fn run(command: Command) -> Done {
    run_with_input(command, b"")
}

/// Emotion, score and text of each line.
fn lines(out: &str) -> Vec<(String, f64, String)> {
    let parts = |line: &str| {
        let mut parts = line.split('\t').map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap().parse().unwrap(), parts.next().unwrap())
    };
    out.lines().map(parts).collect()
}

#[test]
fn classify_reads_its_arguments() {
    let done = run(light(&["classify", "I am so happy!", "I am so sad.\tTruly,\nso sad."]));
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{}", done.err);
    let lines = lines(&done.out);
    assert_eq!(lines.len(), 2, "{}", done.out);
    assert_eq!((lines[0].0.as_str(), lines[0].2.as_str()), ("joy", "I am so happy!"));
    assert_eq!((lines[1].0.as_str(), lines[1].2.as_str()), ("sadness", "I am so sad. Truly, so sad."));
    assert!(lines.iter().all(|(_, score, _)| (0.3..=1.0).contains(score)), "{}", done.out);
}

#[test]
fn classify_uses_the_heavy_model_unless_told_otherwise() {
    let mut command = command(&[]);
    command.args(["classify", "--format", "json", "Thank you so much for your help!"]);
    let done = run(command);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let reply: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&reply["emotion"], &reply["model"]["role"]), (&"gratitude".into(), &"heavy".into()), "{reply}");
}

#[test]
fn classify_reads_lines_of_standard_input_and_passes_over_blank_ones() {
    let input = "\u{feff}I am so happy!\r\n\n   \nI am so sad.\n\u{200b}\nI am terrified!";
    let done = run_with_input(light(&["classify"]), input.as_bytes());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let found: Vec<_> = lines(&done.out).into_iter().map(|(emotion, _, text)| (emotion, text)).collect();
    let expected = [("joy", "I am so happy!"), ("sadness", "I am so sad."), ("fear", "I am terrified!")];
    assert_eq!(found, expected.map(|(emotion, text)| (emotion.to_owned(), text.to_owned())));
}

#[test]
fn classify_without_any_text_prints_nothing() {
    let done = run(light(&["classify"]));
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (Some(0), "", ""));
}

#[test]
fn classify_reads_a_file_of_more_lines_than_it_takes_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    let texts: Vec<_> = (0..150).map(|number| format!("I am so happy about number {number}!")).collect();
    fs::write(&file, texts.join("\n")).unwrap();
    let done = run(light(&["classify", "--input", file.to_str().unwrap(), "--format", "json"]));
    assert_eq!(done.code, Some(0), "{}", done.err);
    let replies: Vec<Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.len(), 150);
    for (text, reply) in texts.iter().zip(&replies) {
        assert_eq!((reply["text"].as_str(), reply["emotion"].as_str()), (Some(text.as_str()), Some("joy")), "{reply}");
        assert_eq!(reply["fallback"]["reason"], "use_light_model");
    }
}

#[test]
fn classify_as_json_gives_what_the_server_gives() {
    let text = "I love this, but I am scared.";
    let done = run(light(&["classify", "--format", "json", text]));
    let mut of_command: Value = serde_json::from_str(&done.out).unwrap();
    of_command.as_object_mut().unwrap().shift_remove("text");
    let mut of_server = analyze(&json!({"text": text, "model": "light"}));
    of_server["fallback"] = of_command["fallback"].clone();
    assert_eq!(of_command, of_server);
}

#[test]
fn classify_answers_lines_as_they_come() {
    let mut child = light(&["classify"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for (text, emotion) in [("I am so happy!", "joy"), ("I am so sad.", "sadness")] {
        writeln!(input, "{text}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with(emotion), "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn classify_ends_quietly_when_nobody_reads_any_more() {
    let mut child =
        light(&["classify"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    let _closed = input.write_all(b"I am so happy!\n");
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn classify_names_the_line_that_is_not_utf_8_after_answering_those_before_it() {
    let done = run_with_input(light(&["classify"]), b"I am so happy!\n\ncaf\xe9\nI am so sad.\n");
    assert_eq!(done.code, Some(1));
    assert_eq!(lines(&done.out).len(), 1, "{}", done.out);
    assert!(done.err.contains("line 3 is not UTF-8"), "{}", done.err);
}

#[test]
fn classify_refuses_what_it_cannot_read() {
    for (arguments, says) in [
        (&["classify", "fine", " "][..], "text 2 is empty"),
        (&["classify", "--input", "/nowhere/texts"], "--input: cannot read /nowhere/texts"),
        (&["classify", "--input", "a", "text"], "cannot be used with"),
        (&["classify", "--format", "xml", "text"], "text, json"),
        (&["classify", "--loud", "text"], "--loud"),
    ] {
        let done = run(light(arguments));
        assert_eq!((done.code, done.out.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(done.err.contains(says), "{arguments:?}: {}", done.err);
    }
}

#[test]
fn models_lists_every_model_and_verifies_every_file() {
    let mut listing = command(&[]);
    listing.arg("models");
    let done = run(listing);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let found: Vec<_> = done.out.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(found, ["ekman int8", "ekman int4", "goemotions int8", "goemotions int4"]);
    assert!(done.out.contains("28 labels, at most 512 tokens, revision "), "{}", done.out);

    let folders = Folders::new();
    folders.link("ekman");
    let mut verifying = folders.command(&[]);
    verifying.args(["models", "--verify"]);
    let done = run(verifying);
    assert_eq!(done.code, Some(0), "{}", done.out);
    assert!(done.out.lines().all(|line| line.ends_with(", 4 files verified")), "{}", done.out);
}

#[test]
fn models_names_the_damaged_file_and_ends_with_1() {
    let folders = Folders::new();
    let folder = folders.copy("ekman", "damaged");
    damage(&folder.join("int8.bin"), 1);
    let models = |arguments: &[&str]| {
        let mut command = folders.command(&[]);
        command.arg("models").args(arguments);
        run(command)
    };
    // One byte that is wrong changes no length; this copy has no int4 weights at all.
    let sizes_only = models(&[]);
    assert!(sizes_only.out.contains("damaged int8: 7 labels"), "{}", sizes_only.out);
    assert!(sizes_only.out.contains("damaged int4: cannot read"), "{}", sizes_only.out);
    let verified = models(&["--verify"]);
    assert_eq!(verified.code, Some(1));
    let line = verified.out.lines().find(|line| line.starts_with("damaged int8: ")).unwrap();
    assert!(line.contains("int8.bin has SHA-256") && line.contains("it is damaged"), "{line}");
    assert!(verified.err.contains("2 models cannot be used"), "{}", verified.err);
}

#[test]
fn models_says_when_there_are_none() {
    let folders = Folders::new();
    let mut command = folders.command(&[]);
    command.arg("models");
    let done = run(command);
    assert_eq!(done.code, Some(64));
    assert!(done.err.contains("MODEL_DIR") && done.err.contains("holds no model"), "{}", done.err);
}

#[test]
fn prepare_writes_what_the_server_then_finds() {
    let folders = Folders::new();
    folders.link("ekman");
    let mut command = folders.command(&[("USE_LIGHT_MODEL", "true")]);
    command.arg("prepare");
    let done = run(command);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let graph = done.out.trim().strip_prefix("ekman int8: ").unwrap();
    assert!(Path::new(graph).is_file() && graph.starts_with(folders.cache().to_str().unwrap()), "{graph}");

    let server = Server::start_command(folders.command(&[("USE_LIGHT_MODEL", "true"), ("PRELOAD_MODELS", "light")]));
    let log = log_with(&server, "loading -> ready");
    assert!(log.contains("prepared int8") && !log.contains("written"), "{log}");
}

#[test]
fn prepare_refuses_damaged_weights_and_leaves_nothing() {
    let folders = Folders::new();
    let folder = folders.copy("ekman", "damaged");
    damage(&folder.join("embeddings.bin"), 1);
    let mut command = folders.command(&[]);
    command.args(["prepare", "--bundle"]).arg(&folder);
    let done = run(command);
    assert_eq!(done.code, Some(65), "{}", done.err);
    assert!(done.err.contains("embeddings.bin has SHA-256"), "{}", done.err);
    let left: Vec<_> = fs::read_dir(folders.cache()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_str().unwrap().ends_with(".lock")), "{left:?}");
}

#[test]
fn health_ends_with_0_for_a_server_that_is_ready() {
    let port = server().port().to_string();
    for arguments in [&["health", "--port", &port][..], &["health", "--host", "0.0.0.0", "--port", &port]] {
        let done = run(light(arguments));
        assert_eq!((done.code, done.out.as_str()), (Some(0), "{\"ready\":true}\n"), "{}", done.err);
    }
}

#[test]
fn health_ends_with_1_where_nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let done = run(light(&["health", "--port", &port.to_string()]));
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains(&format!("no answer from 127.0.0.1:{port}")), "{}", done.err);
}

#[test]
fn a_bad_setting_stops_the_start_with_64_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    for (variable, value, right) in [
        ("PORT", "http", "0 to 65535"),
        ("PORT", "70000", "0..=65535"),
        ("PORT", &taken, "cannot listen on 127.0.0.1:"),
        ("HOST", "no such host", "cannot listen on no such host"),
        ("HOST", "192.0.2.1", "cannot listen on 192.0.2.1"),
        ("MODEL_DIR", "/nowhere", "it must hold one folder a model"),
        ("HEAVY_MODEL", "gpt", "models there: ekman, goemotions"),
        ("LIGHT_MODEL", "gpt", "models there: ekman, goemotions"),
        ("MODEL_PRECISION", "int7", "int8, int4"),
        ("USE_LIGHT_MODEL", "perhaps", "true to let the light model"),
        ("MODEL_LOAD_TIMEOUT", "0", "1 to 3600"),
        ("MODEL_LOAD_TIMEOUT", "1m", "1 to 3600"),
        ("MODEL_MEMORY_LIMIT", "512MB", "32 to 1000000"),
        ("MODEL_IDLE_SECONDS", "-1", "0 is never"),
        ("HEAVY_RETRY_SECONDS", "0", "1 to 86400"),
        ("HEAVY_RETRY_MAX_SECONDS", "90000", "1 to 86400"),
        ("MEMORY_CHECK_INTERVAL_MS", "1", "10 to 60000"),
        ("INFERENCE_THREADS", "0", "1 to 256"),
        ("MAX_BATCH_TOKENS", "8", "16 to 65536"),
        ("MAX_QUEUE", "0", "1 to 1000000"),
        ("CACHE_MB", "1e3", "0 to 65536"),
        ("ONNXRUNTIME_LIBRARY", "/nowhere", "it must be the ONNX Runtime library"),
        ("ONNXRUNTIME_LIBRARY", "/etc/passwd", "cannot load the ONNX Runtime library /etc/passwd"),
        ("PRELOAD_MODELS", "all", "none, light, heavy, both"),
        ("REQUEST_TIMEOUT_MS", "0", "1 to 3600000"),
        ("MAX_BODY_BYTES", "2MB", "1024 to 1073741824"),
        ("MAX_TEXTS", "0", "1 to 100000"),
        ("KEEP_ALIVE_SECONDS", "0", "1 to 3600"),
        ("SHUTDOWN_TIMEOUT", "0", "1 to 3600"),
        ("LOG_FORMAT", "xml", "text, json"),
    ] {
        let mut command = command(&[(variable, value)]);
        command.arg("serve");
        let done = run(command);
        let what = format!("{variable}={value}: {}", done.err);
        assert_eq!(done.code, Some(64), "{what}");
        assert!(done.err.starts_with("error: "), "{what}");
        assert!(done.err.contains(variable) && done.err.contains(right), "{what}");
        assert!(!done.err.contains("panicked"), "{what}");
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let variables = [
        "HOST",
        "MODEL_DIR",
        "HEAVY_MODEL",
        "MODEL_LOAD_TIMEOUT",
        "USE_LIGHT_MODEL",
        "MODEL_MEMORY_LIMIT",
        "API_KEY",
        "API_KEY_FILE",
        "ADMIN_KEY",
        "ADMIN_KEY_FILE",
        "LOG_FORMAT",
        "RUST_LOG",
        "PRELOAD_MODELS",
        "ONNXRUNTIME_LIBRARY",
    ];
    let server = Server::start(&variables.map(|variable| (variable, "")));
    assert_eq!(server.get("/health").json["roles"]["heavy"]["name"], "goemotions");
    assert_eq!(server.post("/admin/models/heavy/unload", &Value::Null).status, 403, "ADMIN_KEY counts as unset");
    let mut health = command(&[("PORT", ""), ("HOST", "")]);
    health.args(["health", "--port", &server.port().to_string()]);
    // The light model may still be loaded.
    assert_eq!(run(health).code, Some(0));
}

#[test]
fn help_lists_every_setting_with_its_variable_and_default() {
    let settings = ServeArgs::augment_args(clap::Command::new("settings"));
    let mut serve = command(&[]);
    serve.args(["serve", "--help"]);
    let help = run(serve);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    let mut root = command(&[]);
    root.arg("--help");
    let root = run(root);
    for command in ["serve", "classify", "prepare", "models", "health"] {
        assert!(root.out.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {}", root.out);
    }
    // Help is wrapped to the terminal's width.
    let help = help.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut count = 0;
    for setting in settings.get_arguments() {
        let flag = setting.get_long().unwrap();
        let variable = setting.get_env().unwrap().to_str().unwrap();
        assert_eq!(variable, flag.to_uppercase().replace('-', "_"), "a flag and its variable are named alike");
        let start = help.find(&format!("--{flag} ")).unwrap_or_else(|| panic!("--{flag} is not listed"));
        let part = &help[start..help[start + 1..].find(" --").map_or(help.len(), |next| start + 1 + next)];
        assert!(part.contains(&format!("[env: {variable}")), "{part}");
        assert!(part.contains("[default: ") || part.contains("without"), "{flag} has no default: {part}");
        count += 1;
    }
    assert!(count >= 25, "{count}");
    assert!(help.contains("RUST_LOG"), "{help}");
}

/// Rows of the tables of settings: variable, default, and all that stands behind it.
fn rows(page: &str) -> BTreeMap<&str, (&str, &str)> {
    let row = |line| {
        let (variable, rest) = str::strip_prefix(line, "| `")?.split_once("` | ")?;
        let is_variable = variable.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        is_variable.then_some((variable, rest.split_once(" | ")?))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn the_page_of_settings_says_what_the_program_says() {
    let page = rows(include_str!("../../docs/settings.md"));
    let mut serve = command(&[]);
    serve.args(["serve", "--help"]);
    let help = run(serve).out;
    let told = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    // Read by the logger rather than as a setting.
    let told: BTreeSet<&str> = told.chain(["RUST_LOG"]).collect();
    assert_eq!(page.keys().copied().collect::<BTreeSet<_>>(), told, "docs/settings.md and --help list other settings");
    for setting in ServeArgs::augment_args(clap::Command::new("settings")).get_arguments() {
        let variable = setting.get_env().unwrap().to_str().unwrap();
        let (default, meaning) = page[variable];
        let help = setting.get_help().unwrap().to_string();
        let (help, told_default) = help.split_once(" [default: ").unwrap_or((&help, ""));
        assert!(meaning.starts_with(help), "{variable} means: {help}\nbut its row says: {meaning}");
        let of_clap = setting.get_default_values().first().and_then(|default| default.to_str()).unwrap_or_default();
        let expected = if of_clap.is_empty() { told_default.trim_end_matches(']') } else { of_clap };
        assert!(expected.is_empty() || default == expected, "{variable} has the default {expected}, not {default}");
        let values = setting.get_possible_values();
        let is_switch = values.iter().any(|value| value.get_name() == "true");
        for value in values.iter().filter(|_| !is_switch) {
            assert!(meaning.contains(value.get_name()), "{variable} may be {}: {meaning}", value.get_name());
        }
    }
    for (variable, (default, _)) in rows(include_str!("../../README.md")) {
        assert_eq!(page.get(variable).map(|row| row.0), Some(default), "{variable} in README.md");
    }
}

#[test]
fn version_is_that_of_the_package() {
    let mut version = command(&[]);
    version.arg("--version");
    assert_eq!(run(version).out, format!("emotion-server {}\n", env!("CARGO_PKG_VERSION")));
}
