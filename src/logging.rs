//! Log lines on standard error, as text for people or as JSON for machines; [`queue`] writes them.

mod queue;

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use anstream::{AutoStream, ColorChoice};

use clap::ValueEnum;
use env_logger::{Builder, DEFAULT_FILTER_ENV, DEFAULT_WRITE_STYLE_ENV, Env, Target, WriteStyle};
use log::LevelFilter;
use log::kv::{self, Key, Value, VisitSource};
use serde_json::{Map as JsonObject, Value as JsonValue, json};

use crate::panics;
pub(crate) use queue::flush;
use queue::{LINES, Pipe};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Target of the log lines that hold texts; silent unless the server was started with `LOG_TEXTS`,
/// whatever `RUST_LOG` says.
pub const TEXTS_TARGET: &str = "texts";

/// Starts logging for a server; `RUST_LOG` chooses what is logged, `info` without it. What a stranger sends that is no
/// HTTP is no error of the server's: actix would log it as one.
pub fn start(format: LogFormat, log_texts: bool) {
    start_with(format, "info,actix_server=warn,actix_http::h1::dispatcher=off", log_texts);
}

/// Starts logging for a command whose output is for people; warnings only unless `RUST_LOG` is set.
pub fn start_quiet(format: LogFormat) {
    start_with(format, "warn", false);
}

fn start_with(format: LogFormat, default_filter: &str, log_texts: bool) {
    let mut builder = Builder::from_env(Env::default());
    // A variable that is set but empty says nothing, as everywhere.
    let filter = std::env::var(DEFAULT_FILTER_ENV).ok().filter(|filter| !filter.trim().is_empty());
    builder.parse_filters(filter.as_deref().unwrap_or(default_filter));
    builder.filter_module(TEXTS_TARGET, if log_texts { LevelFilter::Info } else { LevelFilter::Off });
    if format == LogFormat::Json {
        builder.format(|line, record| {
            let time = line_time();
            let mut fields = Fields(JsonObject::from_iter([
                ("time".to_owned(), json!(time)),
                ("level".to_owned(), json!(record.level().as_str().to_ascii_lowercase())),
                ("target".to_owned(), json!(record.target())),
                ("message".to_owned(), json!(record.args().to_string())),
            ]));
            // Adding to a map does not fail.
            let _added = record.key_values().visit(&mut fields);
            writeln!(line, "{}", JsonValue::Object(fields.0))
        });
    } else {
        builder.format_timestamp_millis();
    }
    builder.target(Target::Pipe(Box::new(Pipe)));
    // Behind the pipe, the logger does not see what standard error is.
    let style = std::env::var(DEFAULT_WRITE_STYLE_ENV).unwrap_or_default();
    if style != "always" && style != "never" {
        builder.write_style(if has_colours() { WriteStyle::Always } else { WriteStyle::Never });
    }
    LINES.start();
    builder.init();
    panics::log_and_count(log_texts);
}

/// Whether standard error shows colours and its reader wants them.
pub(crate) fn has_colours() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Writes a line to standard error that is no log line, in order with those that are, and waits for no reader.
pub(crate) fn tell(line: impl fmt::Display) {
    LINES.start();
    LINES.put(format!("{line}\n").as_bytes());
}

/// Lines that were dropped since the start.
pub(crate) fn dropped_lines() -> u64 {
    LINES.dropped()
}

/// Takes over a record's own fields.
struct Fields(JsonObject<String, JsonValue>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = value
            .to_u64()
            .map(JsonValue::from)
            .or_else(|| value.to_f64().map(JsonValue::from))
            .unwrap_or_else(|| value.to_string().into());
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

/// Seconds since 1970 with milliseconds: every log system reads it.
fn line_time() -> f64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_secs_f64() * 1000.0).round() / 1000.0
}
