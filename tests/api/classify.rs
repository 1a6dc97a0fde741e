//! `classify` for whole files: formats, bad rows, options and exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::{Done, light, run, run_with_input};
use crate::shared::analyze;
use crate::support::command;

/// Files of one test.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with this content, for an argument.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.name(name)
    }

    pub fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// The program with `classify` and these arguments.
pub fn classify(arguments: &[&str]) -> Command {
    let mut command = light(&["classify"]);
    command.args(arguments);
    command
}

/// Header and rows.
fn table(text: &str, delimiter: u8) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let header = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let cells = |record: csv::StringRecord| record.iter().map(str::to_owned).collect();
    (header, reader.records().map(|record| cells(record.unwrap())).collect())
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const EMOTION_COLUMNS: &str = "emotion,confidence,basic_emotion,labels,significant_emotions,mixed_type,has_conflict,\
    has_confusion,complexity,valence,emotional_state,model,fallback,truncated";

#[test]
fn every_format_goes_into_every_format() {
    let files = Files::new();
    let texts = ["I am so happy!", "I am so sad,\ntruly \"sad\"."];
    let inputs = [
        files.write("in.csv", "\u{feff}id,text\r\n7,I am so happy!\r\n\r\n8,\"I am so sad,\ntruly \"\"sad\"\".\"\r\n"),
        files.write("in.TSV", "id\ttext\n7\tI am so happy!\n8\t\"I am so sad,\ntruly \"\"sad\"\".\"\n"),
        files.write(
            "in.ndjson",
            "\u{feff}{\"id\": 7, \"text\": \"I am so happy!\"}\r\n\n  { \"id\": 8 , \"text\": \"I am so sad,\\ntruly \\\"sad\\\".\" } \n",
        ),
    ];
    for input in &inputs {
        for (name, delimiter) in [("out.csv", b','), ("out.tsv", b'\t')] {
            let done = run(classify(&["--input", input, "--output", &files.name(name), "--overwrite"]));
            assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
            assert!(done.err.starts_with("2 rows read, 2 written to "), "{}", done.err);
            assert_eq!(done.err.lines().count(), 1, "{}", done.err);
            let (header, rows) = table(&files.read(name), delimiter);
            assert_eq!(header.join(","), format!("id,text,{EMOTION_COLUMNS}"), "{input}");
            let found: Vec<_> = rows.iter().map(|row| [&row[0], &row[1], &row[2], &row[4], &row[13]]).collect();
            let expected = [["7", texts[0], "joy", "joy", "ekman"], ["8", texts[1], "sadness", "sadness", "ekman"]];
            assert_eq!(found, expected, "{input}");
        }
        let done = run(classify(&["--input", input, "--output", &files.name("out.jsonl"), "--overwrite"]));
        assert_eq!(done.code, Some(0), "{}", done.err);
        let found = objects(&files.read("out.jsonl"));
        assert_eq!(found.len(), 2);
        for ((object, id), (text, emotion)) in found.iter().zip([7, 8]).zip(texts.into_iter().zip(["joy", "sadness"])) {
            let id = if input.ends_with(".ndjson") { json!(id) } else { json!(id.to_string()) };
            let fields = (&object["id"], &object["text"], &object["emotions"]["emotion"]);
            assert_eq!(fields, (&id, &json!(text), &json!(emotion)), "{input}");
        }
        let as_json = objects(&run(classify(&["--input", input, "--format", "json"])).out);
        assert_eq!((&as_json[1]["text"], &as_json[1]["emotion"]), (&json!(texts[1]), &json!("sadness")), "{input}");
        let as_text = run(classify(&["--input", input, "--output-format", "text"])).out;
        assert!(as_text.lines().nth(1).unwrap().ends_with("\tI am so sad, truly \"sad\"."), "{as_text}");
    }
    let lines = files.write("in.txt", "I am so happy!\n\nI am so sad.\n");
    let (header, rows) = table(&run(classify(&["--input", &lines, "--output-format", "csv"])).out, b',');
    assert_eq!((header[..2].join(","), rows.len(), rows[1][0].as_str()), ("text,emotion".into(), 2, "I am so sad."));
    let found = objects(&run(classify(&["--input", &lines, "--output-format", "jsonl"])).out);
    assert_eq!((&found[1]["text"], &found[1]["emotions"]["emotion"]), (&json!("I am so sad."), &json!("sadness")));
}

#[test]
fn a_json_object_comes_back_as_it_was_written() {
    let line = r#"{"id": 123456789012345678901, "x": 1.10, "text": "I am so happy!", "emotions": "old"}"#;
    let done = run_with_input(classify(&["--input-format", "jsonl"]), line.as_bytes());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let start = format!("{},\"emotion_emotions\":{{", line.strip_suffix('}').unwrap());
    assert!(done.out.starts_with(&start), "{}", done.out);
    let mut of_server = analyze(&json!({"text": "I am so happy!", "model": "light"}));
    let found: Value = serde_json::from_str(&done.out).unwrap();
    of_server["fallback"] = found["emotion_emotions"]["fallback"].clone();
    assert_eq!(found["emotion_emotions"], of_server);
}

#[test]
fn standard_input_and_output_are_streams_of_any_format() {
    for arguments in [&["--input-format", "tsv"][..], &["--input", "-", "--input-format", "tsv"]] {
        let input = "emotion\tbody\nold\tI am so happy!\n";
        let mut command = classify(arguments);
        command.args(["--text-column", "body"]);
        let done = run_with_input(command, input.as_bytes());
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
        let (header, rows) = table(&done.out, b'\t');
        // A name that is taken gets a prefix.
        assert_eq!(header[..3], ["emotion", "body", "emotion_emotion"]);
        assert_eq!(rows[0][..3], ["old", "I am so happy!", "joy"]);
    }
    // Rows are answered as they come, also where a line ends with CR LF.
    let mut child = classify(&["--input-format", "csv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    input.write_all(b"text\r\n").unwrap();
    for (text, emotion) in [("I am so happy!", "joy"), ("I am so sad.", "sadness")] {
        write!(input, "{text}\r\n").unwrap();
        let found = output.find(|line| line.as_ref().unwrap().starts_with(text)).unwrap().unwrap();
        assert!(found.starts_with(&format!("{text},{emotion},")), "{found}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_input_without_rows_makes_an_output_without_rows() {
    let files = Files::new();
    for (name, content, out, expected) in [
        ("in.csv", "id,text\n", "a.csv", format!("id,text,{EMOTION_COLUMNS}\n")),
        ("in.jsonl", "\n", "b.csv", format!("{EMOTION_COLUMNS}\n")),
        ("in.jsonl", "", "c.jsonl", String::new()),
        ("in.txt", "\n", "d.txt", String::new()),
    ] {
        let input = files.write(name, content);
        let done = run(classify(&["--input", &input, "--output", &files.name(out)]));
        assert_eq!((done.code, files.read(out)), (Some(0), expected), "{}", done.err);
        assert!(!files.path(&format!("{out}.progress")).exists());
    }
}

#[test]
fn a_reader_that_leaves_ends_a_table_quietly() {
    let mut command = classify(&["--input-format", "csv"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _closed = child.stdin.take().unwrap().write_all(b"text\nI am so happy!\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

/// Bad rows of each format, with the lines they are on.
fn bad_input(files: &Files, name: &str) -> (String, Vec<(u64, &'static str)>) {
    let long = "x".repeat(2000);
    match name {
        "bad.csv" => {
            let mut content = b"id,text\n1,I am so happy!\n2,\n3,caf\xe9\n4,a,b\n5\n".to_vec();
            content.extend(format!("6,\"{long}\n{long}\"\n7,\" \u{200b}\"\n8,I am so sad.\n9,\"open\n\n").bytes());
            let why = [
                (3, "has no text"),
                (4, "is not UTF-8"),
                (5, "has 3 fields, but the header has 2"),
                (6, "has no text"),
                (7, "is over 1024 bytes"),
                (9, "has no text"),
                (11, "opens a quote that is never closed"),
            ];
            (files.write(name, content), why.to_vec())
        }
        _ => {
            let mut content = b"{\"text\": \"I am so happy!\"}\nI am so happy!\n\n{\"text\": 1}\n".to_vec();
            content.extend(b"{\"body\": \"a\"}\n{\"text\": \"\"}\n{\"text\": \"caf\xe9\"}\n[\"text\"]\n");
            content.extend(format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"I am so sad.\", \"id\": 1}}\n").bytes());
            let why = [
                (2, "is not a JSON object"),
                (4, "has a number as \"text\""),
                (5, "has no field \"text\"; it has \"body\""),
                (6, "has no text"),
                (7, "is not UTF-8"),
                (8, "is not a JSON object"),
                (9, "is over 1024 bytes"),
            ];
            (files.write(name, content), why.to_vec())
        }
    }
}

fn assert_two_good_rows(done: &Done, files: &Files, why: &[(u64, &str)]) {
    assert_eq!(done.code, Some(2), "{}", done.err);
    let bad = why.len();
    assert!(done.err.contains(&format!("{} rows read, 2 written to ", bad + 2)), "{}", done.err);
    assert!(done.err.contains(&format!("{bad} of {} rows were bad", bad + 2)), "{}", done.err);
    let found: Vec<_> =
        objects(&files.read("out.jsonl")).iter().map(|row| row["emotions"]["emotion"].clone()).collect();
    assert_eq!(found, ["joy", "sadness"]);
}

#[test]
fn bad_rows_are_told_by_line_and_kept_apart() {
    for name in ["bad.csv", "bad.jsonl"] {
        let files = Files::new();
        let (input, why) = bad_input(&files, name);
        let (output, rejects) = (files.name("out.jsonl"), files.name("rejects.jsonl"));
        let usual = ["--input", &input, "--output", &output, "--max-row-bytes", "1024"];
        let done = run(classify(&usual));
        assert_two_good_rows(&done, &files, &why);
        for (line, reason) in &why {
            assert!(done.err.contains(&format!("line {line} {reason}")), "{name}: {}", done.err);
        }

        let mut command = classify(&usual);
        command.args(["--rejects", &rejects, "--overwrite"]);
        let done = run(command);
        assert_two_good_rows(&done, &files, &why);
        assert_eq!(done.err.lines().count(), 2, "{}", done.err);
        let kept = objects(&files.read("rejects.jsonl"));
        assert_eq!(kept.len(), why.len(), "{kept:?}");
        for (kept, (line, reason)) in kept.iter().zip(&why) {
            assert_eq!(kept["line"], json!(line), "{kept}");
            assert!(kept["reason"].as_str().unwrap().starts_with(reason), "{kept}");
            assert!(!kept["row"].as_str().unwrap().is_empty(), "{kept}");
        }
    }
}

#[test]
fn a_row_that_does_not_fit_the_columns_of_the_first_is_bad() {
    let input =
        "{\"text\": \"I am so happy!\", \"id\": 1.50}\n{\"text\": \"I am so sad.\"}\n{\"text\": \"Oh\", \"new\": 1}\n";
    let done = run_with_input(classify(&["--input-format", "jsonl", "--output-format", "csv"]), input.as_bytes());
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("line 3 has the field \"new\", which the first row does not have"), "{}", done.err);
    let (header, rows) = table(&done.out, b',');
    assert_eq!((header[1].as_str(), rows.len()), ("id", 2));
    assert_eq!((rows[0][1].as_str(), rows[1][1].as_str()), ("1.50", ""));
}

#[test]
fn a_run_fails_after_more_bad_rows_than_it_may_have() {
    let files = Files::new();
    let (input, _) = bad_input(&files, "bad.csv");
    let output = files.name("out.jsonl");
    let usual = ["--input", &input, "--output", &output, "--max-row-bytes", "1024"];
    let mut command = classify(&usual);
    command.args(["--max-bad", "2"]);
    let done = run(command);
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(
        done.err.contains("error: line 5 has 3 fields") && done.err.contains("more than 2 bad rows"),
        "{}",
        done.err
    );
    assert!(done.err.contains("--resume"), "{}", done.err);
    // It goes on once more of them are allowed, and tells of each bad row once.
    let mut command = classify(&usual);
    command.args(["--max-bad", "7", "--resume"]);
    let done = run(command);
    assert_eq!(done.code, Some(2), "{}", done.err);
    assert!(done.err.contains("9 rows read, 2 written"), "{}", done.err);
    assert_eq!(files.read("out.jsonl").lines().count(), 2);
}

#[test]
fn quotes_are_text_where_that_is_asked_for() {
    let input = "text\tid\n\"I am so happy!\t1\nI am 5\" sad, so sad\t2\n";
    let done = run_with_input(classify(&["--input-format", "tsv", "--no-quotes"]), input.as_bytes());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let rows: Vec<_> = done.out.lines().skip(1).collect();
    assert!(rows[0].starts_with("\"I am so happy!\t1\tjoy\t"), "{rows:?}");
    assert!(rows[1].starts_with("I am 5\" sad, so sad\t2\tsadness\t"), "{rows:?}");
    let open = "text\tid\n\"I am so happy!\t1\nI am so sad\t2\n";
    let done = run_with_input(classify(&["--input-format", "tsv"]), open.as_bytes());
    assert!(done.code == Some(2) && done.err.contains("--no-quotes"), "{}", done.err);
}

#[test]
fn options_are_those_of_the_server() {
    let files = Files::new();
    let text = "I love this, but I am scared.";
    let input = files.write("in.csv", format!("text\n\"{text}\"\n"));
    let mut command = command(&[]);
    command.args(["classify", "--input", &input, "--output-format", "jsonl"]);
    command.args(["--model", "ekman", "--threshold", "0.05", "--top-k", "2"]);
    let found = objects(&run(command).out).remove(0)["emotions"].clone();
    assert_eq!(found, analyze(&json!({"text": text, "model": "light", "threshold": 0.05, "top_k": 2})));

    // Texts that are refused are bad rows, wherever they are among others.
    let long = "word ".repeat(600);
    let input = files.write("long.csv", format!("text\nI am so happy!\n{long}\nI am so sad.\n{long}\n"));
    let done = run(classify(&["--input", &input, "--long-text", "refuse"]));
    assert_eq!((done.code, table(&done.out, b',').1.len()), (Some(2), 2), "{}", done.err);
    assert!(done.err.contains("line 3 has a text that is not read: ") && done.err.contains("line 5"), "{}", done.err);
    let done = run(classify(&["--input", &input]));
    let truncated: Vec<_> = table(&done.out, b',').1.into_iter().map(|row| row[14].clone()).collect();
    assert_eq!(truncated, ["false", "true", "false", "true"]);

    // The queue need not hold a whole group.
    let mut small_queue = light(&["classify", "--input", &input, "--long-text", "windows"]);
    small_queue.env("MAX_QUEUE", "16");
    let rows: String = (0..100).map(|number| format!("I am happy about {number}\n")).collect();
    files.write("long.csv", format!("text\n{rows}{long}\n"));
    let done = run(small_queue);
    assert_eq!((done.code, table(&done.out, b',').1.len()), (Some(0), 101), "{}", done.err);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let files = Files::new();
    let content = "id,Text\n1,I am so happy!\n";
    let input = files.write("in.csv", content);
    let objects = files.write("in.jsonl", "\n{\"id\": 1, \"body\": \"I am so happy!\"}\n");
    let twice = files.write("twice.csv", "text,id,id\na,b,c\n");
    let utf_16 = files.write("utf16.csv", b"\xff\xfet\0e\0x\0t\0");
    let empty = files.write("empty.csv", "");
    let full = files.write("full.csv", "old");
    let link = files.name("link.csv");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    let out = files.name("out.csv");
    for (arguments, says) in [
        (&["--input", &input, "--output", &out][..], "has no column \"text\"; it has \"id\", \"Text\""),
        (&["--input", &objects, "--output", &out], "has no column \"text\"; it has \"id\", \"body\""),
        (&["--input", &empty, "--output", &out], "it has none"),
        (&["--input", &twice, "--output-format", "jsonl"], "has \"id\" twice"),
        (&["--input", &utf_16, "--output", &out], "it is UTF-16; convert it"),
        (&["--input", "/nowhere/texts.csv", "--output", &out], "--input: cannot read /nowhere/texts.csv"),
        (&["--input", &input, "--text-column", "Text", "--output", &full], "full.csv exists; --overwrite begins again"),
        (&["--input", &input, "--text-column", "Text", "--rejects", &full], "full.csv exists"),
        (&["--input", &input, "--text-column", "Text", "--output", &link, "--overwrite"], "are the same file"),
        (&["--input", &input, "--text-column", "Text", "--output", &out, "--rejects", &out], "are the same file"),
        (&["--input", &input, "--text-column", "Text", "--output", "/dev/null"], "is not a regular file"),
        (
            &["--input", &input, "--text-column", "Text", "--output", "/nowhere/out.csv"],
            "cannot write /nowhere/out.csv",
        ),
        (&["--text-column", "text"], "plain lines have no columns"),
        (&["--resume"], "--output"),
        (&["--output", &out, "--resume", "--overwrite"], "cannot be used with"),
        (&["--input", &input, "a text"], "cannot be used with"),
        (&["--model", "gpt", "a text"], "it may be auto, heavy, light, goemotions or ekman"),
        (&["--threshold", "1.5", "a text"], "from 0 to 1"),
        (&["--top-k", "1000001", "a text"], "0..=1000000"),
        (&["--long-text", "cut", "a text"], "truncate, windows, refuse"),
        (&["--max-row-bytes", "10", "a text"], "1024..=67108864"),
    ] {
        let done = run(classify(arguments));
        assert_eq!((done.code, done.out.as_str()), (Some(64), ""), "{arguments:?}: {}", done.err);
        assert!(done.err.contains(says), "{arguments:?}: {}", done.err);
        assert!(fs::metadata(&out).map_or(true, |file| file.len() == 0), "{arguments:?}");
        assert!(!Path::new(&format!("{out}.progress")).exists(), "{arguments:?}");
    }
    assert_eq!((files.read("full.csv").as_str(), files.read("in.csv").as_str()), ("old", content));
}

#[test]
fn help_tells_the_exit_codes() {
    let done = run(light(&["classify", "--help"]));
    for line in ["2    finished, but some rows were bad", "130  stopped by Ctrl-C, 143 by SIGTERM"] {
        assert!(done.out.contains(line), "{}", done.out);
    }
}

#[test]
fn a_terminal_shows_a_bar_and_nothing_else_does() {
    let files = Files::new();
    let rows: String = (0..200).map(|number| format!("I am happy about {number}\n")).collect();
    let input = files.write("in.csv", format!("text\n{rows}"));
    let program = classify(&["--input", &input, "--output", &files.name("out.csv")]);
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    let line = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    // `script` runs it in a terminal of its own.
    let mut command = light(&[]);
    let environment: Vec<_> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    command = Command::new("script");
    command.env_clear().envs(environment).env("TERM", "xterm").args(["-qec", &line, "/dev/null"]);
    let done = run(command);
    assert_eq!(done.code, Some(0), "{}", done.out);
    assert!(done.out.contains(" rows/s  ") && done.out.contains(" left"), "{:?}", done.out);
    assert!(done.out.contains("200 rows read, 200 written"), "{:?}", done.out);
}

/// Peak resident memory in bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn memory_does_not_grow_with_the_input() {
    // A column that is carried along makes 40 MB of rows; few texts let the cache answer most of them.
    const CARRIED_BYTES: usize = 5000;
    const ROWS: usize = 8000;
    const GROWTH_BYTES: u64 = 12 << 20;
    let mut child = classify(&["--input-format", "csv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let (pid, carried, mut lines) = (child.id(), "x".repeat(CARRIED_BYTES), output.lines());
    input.write_all(b"text,carried\n").unwrap();
    let mut peak_after = |rows: usize| {
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..rows {
                    input.write_all(format!("I am happy about {},{carried}\n", number % 50).as_bytes()).unwrap();
                }
            });
            let answered = lines.by_ref().filter(|line| line.as_ref().unwrap().contains(",joy,")).take(rows).count();
            assert_eq!(answered, rows);
            peak_bytes(pid)
        })
    };
    let few = peak_after(500);
    let many = peak_after(ROWS);
    // The kernel counts approximately: the peak may even seem to have fallen.
    assert!(many < few + GROWTH_BYTES, "{few} bytes after 500 rows, {many} after {ROWS} more");
    drop(input);
    assert!(child.wait().unwrap().success());
}
