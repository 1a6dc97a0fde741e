//! `classify --resume`: whatever ended a run, going on with it gives the same bytes as a run of one go.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::classify::{Files, classify};
use crate::commands::{Done, run};
use crate::support::PATIENCE;

/// What a run says it has done, and how much it has written.
struct State {
    rows: u64,
    safe_bytes: u64,
    written_bytes: u64,
}

fn state(files: &Files) -> Option<State> {
    let progress: Value = serde_json::from_slice(&fs::read(files.path("out.csv.progress")).ok()?).unwrap();
    Some(State {
        rows: progress["rows"]["read"].as_u64().unwrap(),
        safe_bytes: progress["output_bytes"].as_u64().unwrap(),
        written_bytes: fs::metadata(files.path("out.csv")).map_or(0, |file| file.len()),
    })
}

/// Waits until the run is in a state; the run must not end before.
fn wait_for(files: &Files, child: &mut Child, what: &str, condition: impl Fn(&State) -> bool) -> State {
    let started = Instant::now();
    loop {
        if let Some(state) = state(files).filter(&condition) {
            return state;
        }
        assert_eq!(child.try_wait().unwrap(), None, "the run ended before {what}");
        if started.elapsed() > PATIENCE {
            let _gone = child.kill();
            panic!("{what} did not happen");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Texts that are all different, and some that cannot be read.
fn rows(count: usize) -> String {
    let row = |number: usize| match number % 100 {
        17 => format!("{number},\n"),
        18 => format!("{number},\"two\nlines, {number}\"\n"),
        _ => format!("{number},I was not at all happy with number {number} of them but will try again\n"),
    };
    (0..count).map(row).collect()
}

fn usual(files: &Files, more: &[&str]) -> Command {
    let mut command = classify(&["--input", &files.name("in.csv"), "--output", &files.name("out.csv")]);
    command.args(["--rejects", &files.name("rejects.jsonl")]).args(more);
    command
}

/// What a run of one go writes.
fn expected(files: &Files) -> (String, String) {
    let arguments = ["--input", &files.name("in.csv"), "--output", &files.name("whole.csv")];
    let mut command = classify(&arguments);
    command.args(["--rejects", &files.name("whole.jsonl")]);
    let done = run(command);
    assert_eq!(done.code, Some(2), "{}", done.err);
    (files.read("whole.csv"), files.read("whole.jsonl"))
}

fn assert_same(files: &Files, done: &Done, expected: &(String, String)) {
    assert_eq!(done.code, Some(2), "{}", done.err);
    assert!(files.read("out.csv") == expected.0, "the output differs from that of a run of one go");
    assert_eq!(files.read("rejects.jsonl"), expected.1);
    assert!(!files.path("out.csv.progress").exists());
}

fn quiet(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let files = Files::new();
    files.write("in.csv", format!("id,text\n{}", rows(3000)));
    let expected = expected(&files);
    // Before anything is safe; then twice with rows in the output that are not safe yet.
    let mut child = quiet(usual(&files, &[]));
    wait_for(&files, &mut child, "a first row", |state| state.safe_bytes == 0 && state.written_bytes > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut safe_rows = 0;
    for _ in 0..2 {
        let mut child = quiet(usual(&files, &["--resume"]));
        let state = wait_for(&files, &mut child, "an unsafe row", |state| {
            state.rows > safe_rows && state.written_bytes > state.safe_bytes
        });
        child.kill().unwrap();
        child.wait().unwrap();
        safe_rows = state.rows;
    }
    // What a kill in the middle of a write leaves.
    fs::OpenOptions::new().append(true).open(files.path("out.csv")).unwrap().write_all(b"9,half a ro").unwrap();
    let done = run(usual(&files, &["--resume"]));
    assert!(done.err.contains("3000 rows read (") && done.err.contains(" of them before)"), "{}", done.err);
    assert_same(&files, &done, &expected);
}

#[test]
fn a_signal_stops_a_run_that_waits_and_says_how_to_go_on() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let files = Files::new();
        let (header, all) = ("id,text\n", rows(300));
        files.write("in.csv", format!("{header}{all}"));
        let expected = expected(&files);
        let from_pipe = |more: &[&str]| {
            let mut command = classify(&["--input-format", "csv", "--output", &files.name("out.csv")]);
            command.args(["--rejects", &files.name("rejects.jsonl")]).args(more);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        // The pipe stays open: what came in is made safe while the run waits for more.
        let mut child = from_pipe(&[]);
        let mut input = child.stdin.take().unwrap();
        let some: usize = all.match_indices('\n').nth(120).unwrap().0 + 1;
        input.write_all(header.as_bytes()).unwrap();
        input.write_all(&all.as_bytes()[..some]).unwrap();
        wait_for(&files, &mut child, "a checkpoint", |state| state.rows >= 119);
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        drop(input);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.contains(&format!("stopped by SIG{signal}; the same command with --resume")), "{err}");

        let mut child = from_pipe(&["--resume"]);
        child.stdin.take().unwrap().write_all(files.read("in.csv").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let done = Done { code: output.status.code(), out: String::new(), err };
        assert_same(&files, &done, &expected);
    }
}

/// An output of 300 rows that stopped somewhere within.
fn stopped_run(files: &Files) {
    files.write("in.csv", format!("id,text\n{}", rows(300)));
    let done = run(usual(files, &["--max-bad", "1"]));
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("--resume"), "{}", done.err);
}

#[test]
fn a_run_is_gone_on_with_only_as_it_was_begun() {
    let files = Files::new();
    stopped_run(&files);
    let refused = |more: &[&str], says: &str| {
        let before = (files.read("out.csv"), files.read("out.csv.progress"), files.read("rejects.jsonl"));
        let done = run(usual(&files, more));
        assert_eq!(done.code, Some(64), "{more:?}: {}", done.err);
        assert!(done.err.contains(says), "{more:?}: {}", done.err);
        assert!(before == (files.read("out.csv"), files.read("out.csv.progress"), files.read("rejects.jsonl")));
    };
    refused(&[], "--resume goes on with it, --overwrite begins again");
    refused(&["--resume", "--threshold", "0.2"], "threshold 0.1");
    refused(&["--resume", "--long-text", "windows"], "long_text \"truncate\", but now it is \"windows\"");
    refused(&["--resume", "--model", "heavy"], "model \"auto\", but now it is \"heavy\"");
    refused(&["--resume", "--text-column", "id"], "text_column");

    // A run that is still going on.
    let mut pipe = classify(&["--input-format", "csv", "--output", &files.name("out.csv"), "--overwrite"]);
    let mut child = pipe.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"text\nI am so happy!\n").unwrap();
    wait_for(&files, &mut child, "a checkpoint", |state| state.rows == 1 && state.safe_bytes > 0);
    refused(&["--overwrite"], "is being written by another run");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(run(usual(&files, &["--resume"])).err.contains("out.csv exists; --overwrite begins again"));
}

#[test]
fn a_run_is_gone_on_with_only_where_its_files_are_what_they_were() {
    let files = Files::new();
    files.write("in.csv", format!("id,text\n{}", rows(300)));
    let expected = expected(&files);
    let (header, all) = ("id,text\n", rows(300));
    let mut command = classify(&["--input-format", "csv", "--output", &files.name("out.csv")]);
    command.args(["--rejects", &files.name("rejects.jsonl")]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{header}{}", &all[..all.len() / 2]).as_bytes()).unwrap();
    wait_for(&files, &mut child, "a checkpoint", |state| state.rows > 100);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);

    let refused = |says: &str| {
        let done = run(usual(&files, &["--resume"]));
        assert_eq!(done.code, Some(64), "{}", done.err);
        assert!(done.err.contains(says), "{}", done.err);
    };
    for other in [format!("id,text\n{}", rows(300).replacen("1,I was", "1,I am", 1)), format!("id,text\n{}", rows(3))] {
        files.write("in.csv", other);
        refused("of the input are not those that were read before");
    }
    files.write("in.csv", format!("{header}{all}"));
    let (output, progress) = (files.read("out.csv"), files.read("out.csv.progress"));
    files.write("out.csv", &output[..output.len() / 4]);
    refused("were written; begin again with --overwrite");
    files.write("out.csv", &output);
    files.write("out.csv.progress", &progress[..progress.len() / 2]);
    refused("is not the progress of a run that can be resumed");
    files.write("out.csv.progress", &progress);
    let done = run(usual(&files, &["--resume"]));
    assert_same(&files, &done, &expected);

    // The same command begins a run where there is none, and --overwrite begins again.
    fs::remove_file(files.path("out.csv")).unwrap();
    fs::remove_file(files.path("rejects.jsonl")).unwrap();
    let done = run(usual(&files, &["--resume"]));
    assert_same(&files, &done, &expected);
    let done = run(usual(&files, &["--overwrite"]));
    assert_same(&files, &done, &expected);
}
