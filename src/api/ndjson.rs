//! `POST /analyze/ndjson`: one JSON object a line in, one a line out, streamed both ways.
//!
//! Lines are read only as replies leave: the server writes a reply when the client takes it, and
//! reads the next line when there is room among those in flight. A client that sends faster than it
//! reads, or than the models answer, is held back by its own connection. A client that does not
//! read at all is cut off by the system (`TCP_USER_TIMEOUT`).

pub(super) mod line;
mod streams;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::CONTENT_ENCODING;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access_log::AnswerRecord;
use super::error::{ApiError, ErrorKind};
use super::error_docs::NativeErrors;
use super::native::AnalyzeReply;
use super::task::AbortOnDrop;
use super::{ApiState, methods, request};
use crate::analysis::Settings;
use crate::classifier::{ClassifyError, Flow, Query, TextInput};
use crate::model::{LongText, TruncationSide};
use crate::residency::Wanted;
use line::LineContent;
use streams::OpenStream;

/// Longest line, without its end.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Lines of one stream that are read but not yet answered, at most.
const LINES_IN_FLIGHT: usize = 64;

/// Their bytes.
const BYTES_IN_FLIGHT: usize = 4 * MAX_LINE_BYTES;

/// How long a client may send nothing while nothing is being answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before a line is tried again that found the queue full.
const QUEUE_RETRY: Duration = Duration::from_millis(50);

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::post("/analyze/ndjson", analyze_lines));
}

/// Reads the emotions of a stream of lines; each line may hold more fields, which come back as
/// `input`. A line that cannot be read gets an object with `line` and `error`.
#[utoipa::path(
    post, path = "/analyze/ndjson", tag = "native",
    request_body(content = String, content_type = "application/x-ndjson", description = "One object a line",
        example = json!("{\"text\": \"I am so happy that you came!\", \"id\": 1}\n")),
    responses(
        (status = 200, description = "One object a line, in order", body = String, content_type = "application/x-ndjson"),
        NativeErrors
    )
)]
pub(super) fn analyze_lines(
    http: HttpRequest,
    state: web::Data<ApiState>,
    payload: web::Payload,
) -> std::future::Ready<Result<HttpResponse, ApiError>> {
    // All lines share one turn: a stream is no more than one request.
    let flow = request::flow(&http, &state);
    let Some(open) = OpenStream::of(flow.client()) else {
        let what = "too many streams are open; try again when one has ended";
        let error = ApiError::new(ErrorKind::Overloaded, what).retry_after(Duration::from_secs(1));
        return std::future::ready(Err(error));
    };
    if let Some(coding) = http.headers().get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let what = format!("the content encoding is {coding:?}; send a stream of lines as it is");
        return std::future::ready(Err(ApiError::new(ErrorKind::UnsupportedMediaType, what)));
    }
    let activity = Rc::new(Activity { in_flight: Cell::new(0), last: Cell::new(Instant::now()) });
    let record = AnswerRecord::of(&http);
    let (guarded, counted) = (state.clone(), state.guard.counted_client(&http));
    let bytes_left = Arc::new(Semaphore::new(BYTES_IN_FLIGHT));
    let lines = Lines::new(payload, Rc::clone(&activity));
    let replies = stream::unfold(lines, |mut lines| async move { Some((lines.next().await?, lines)) })
        .then(move |line| {
            let (bytes_left, guarded) = (Arc::clone(&bytes_left), guarded.clone());
            async move {
                guarded.guard.wait_for_a_text(counted).await;
                // Never closed, and never asked for more than there is.
                let taken = bytes_left.acquire_many_owned(line.bytes()).await.ok();
                (line, taken)
            }
        })
        .map(move |(line, taken)| {
            let (in_flight, number) = (InFlight::new(&activity), line.number);
            // A task of its own goes on while the client does not read, so that nobody else who
            // waits for the same text has to wait for this client.
            let task = AbortOnDrop(actix_web::rt::spawn(reply_to(line, taken, state.clone(), record.clone(), flow)));
            async move {
                let reply = task.await;
                drop(in_flight);
                // A panic, which is logged where it happens, loses no line.
                reply.unwrap_or_else(|_panic| (error_line(number, &ClassifyError::Internal.to_string()), None))
            }
        })
        .buffered(LINES_IN_FLIGHT)
        .map(move |(reply, _taken)| {
            let _held_while_streaming = &open;
            Ok::<_, std::convert::Infallible>(Bytes::from(reply))
        });
    std::future::ready(Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(replies)))
}

#[derive(Serialize)]
struct LineError<'a> {
    line: usize,
    error: &'a str,
}

/// The reply to one line, with its line end, and with the bytes of the stream that it takes until
/// the client takes it.
async fn reply_to(
    line: Line,
    taken: Option<OwnedSemaphorePermit>,
    state: web::Data<ApiState>,
    record: AnswerRecord,
    flow: Flow,
) -> (Vec<u8>, Option<OwnedSemaphorePermit>) {
    let number = line.number;
    let reply = match line.content.and_then(|content| LineContent::read(&content)) {
        Ok(content) => analyze_line(content, &state, &record, flow).await,
        Err(what) => Err(what),
    };
    let written = reply.map_or_else(|what| error_line(number, &what), with_line_end);
    (written, taken)
}

fn error_line(line: usize, error: &str) -> Vec<u8> {
    with_line_end(serde_json::to_vec(&LineError { line, error }).unwrap_or_default())
}

fn with_line_end(mut written: Vec<u8>) -> Vec<u8> {
    written.push(b'\n');
    written
}

async fn analyze_line(
    LineContent { text, input }: LineContent,
    state: &ApiState,
    record: &AnswerRecord,
    flow: Flow,
) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + state.settings.request_timeout;
    let answers = loop {
        let query = Query {
            texts: vec![TextInput::Single(Arc::clone(&text))],
            wanted: Wanted::Auto,
            long_text: LongText::Truncate,
            truncation_side: TruncationSide::Right,
            deadline,
            flow,
        };
        match state.classifier.classify(query).await {
            // The client is held back instead: lines behind this one are not read meanwhile.
            Err(ClassifyError::QueueFull { .. }) if Instant::now() + QUEUE_RETRY < deadline => {
                tokio::time::sleep(QUEUE_RETRY).await;
            }
            answers => break answers.map_err(|error| error.to_string())?,
        }
    };
    record.add(&answers);
    let answer = answers.into_iter().next().ok_or_else(|| ClassifyError::Internal.to_string())?;
    let mut written = serde_json::to_vec(&AnalyzeReply::new(&text, answer, &Settings::default()))
        .map_err(|error| error.to_string())?;
    if !input.is_empty() && written.pop().is_some() {
        written.extend([b",\"input\":{", input.as_bytes(), b"}}"].concat());
    }
    Ok(written)
}

/// When something last moved on a stream.
struct Activity {
    in_flight: Cell<usize>,
    last: Cell<Instant>,
}

impl Activity {
    /// When the client is taken to be gone, if nothing moves until then.
    fn patience_ends(&self) -> Instant {
        // Who waits for a reply owes us nothing.
        if self.in_flight.get() > 0 { Instant::now() + PATIENCE } else { self.last.get() + PATIENCE }
    }
}

/// A line that is being answered.
struct InFlight(Rc<Activity>);

impl InFlight {
    fn new(activity: &Rc<Activity>) -> Self {
        activity.in_flight.set(activity.in_flight.get() + 1);
        Self(Rc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.last.set(Instant::now());
    }
}

/// A line that is not blank, or what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// Counted from 1, blank lines included.
    number: usize,
    content: Result<Vec<u8>, String>,
}

impl Line {
    fn bytes(&self) -> u32 {
        self.content.as_ref().map_or(0, |content| content.len().min(MAX_LINE_BYTES) as u32)
    }
}

/// Cuts a stream of bytes into lines, holding no more than one chunk and one line.
struct Lines<S> {
    stream: S,
    activity: Rc<Activity>,
    chunk: Bytes,
    partial: Vec<u8>,
    is_too_long: bool,
    number: usize,
    has_ended: bool,
}

impl<S, E> Lines<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    fn new(stream: S, activity: Rc<Activity>) -> Self {
        let (chunk, partial) = (Bytes::new(), Vec::new());
        Self { stream, activity, chunk, partial, is_too_long: false, number: 0, has_ended: false }
    }

    /// The next line that is not blank; after the last one, `None`.
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
                let piece = self.chunk.split_to(end + 1);
                self.append(&piece[..end]);
                if let Some(line) = self.finish() {
                    return Some(line);
                }
                continue;
            }
            let piece = std::mem::take(&mut self.chunk);
            self.append(&piece);
            if self.has_ended {
                return self.finish();
            }
            match self.next_chunk().await {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => self.has_ended = true,
                Err(what) => {
                    self.has_ended = true;
                    self.partial.clear();
                    self.is_too_long = false;
                    return Some(Line { number: self.number + 1, content: Err(what) });
                }
            }
        }
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match tokio::time::timeout_at(self.activity.patience_ends().into(), self.stream.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(chunk))) => {
                    self.activity.last.set(Instant::now());
                    return Ok(Some(chunk));
                }
                Ok(Some(Err(error))) => return Err(format!("the body did not arrive whole: {error}")),
                Err(_elapsed) if self.activity.patience_ends() > Instant::now() => {}
                Err(_elapsed) => {
                    return Err(format!("nothing arrived for {} s; the stream ends here", PATIENCE.as_secs()));
                }
            }
        }
    }

    fn append(&mut self, piece: &[u8]) {
        self.is_too_long |= self.partial.len() + piece.len() > MAX_LINE_BYTES;
        if self.is_too_long {
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn finish(&mut self) -> Option<Line> {
        self.number += 1;
        let content = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.is_too_long) {
            let what = format!("the line is over {MAX_LINE_BYTES} bytes; send a shorter text");
            return Some(Line { number: self.number, content: Err(what) });
        }
        let is_blank = content.iter().all(u8::is_ascii_whitespace);
        (!is_blank).then_some(Line { number: self.number, content: Ok(content) })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn lines(chunks: Vec<Vec<u8>>) -> Vec<Line> {
        let chunks = chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
        let activity = Rc::new(Activity { in_flight: Cell::new(0), last: Cell::new(Instant::now()) });
        let mut lines = Lines::new(stream::iter(chunks), activity);
        actix_web::rt::System::new().block_on(async move {
            let mut all = Vec::new();
            while let Some(line) = lines.next().await {
                all.push(line);
            }
            all
        })
    }

    fn line(number: usize, content: &str) -> Line {
        Line { number, content: Ok(content.into()) }
    }

    #[test]
    fn blank_lines_are_counted_but_not_answered() {
        let table: [(&str, Vec<Line>); 5] = [
            ("", vec![]),
            ("\n\n", vec![]),
            ("a", vec![line(1, "a")]),
            ("a\nb\n", vec![line(1, "a"), line(2, "b")]),
            ("\na\r\n \t\r\nb", vec![line(2, "a\r"), line(4, "b")]),
        ];
        for (body, expected) in table {
            assert_eq!(lines(vec![body.into()]), expected, "{body:?}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_refused_and_the_next_one_is_read() {
        let fits = "x".repeat(MAX_LINE_BYTES);
        let chunks =
            vec![fits.clone().into(), b"x".to_vec(), b"\nnext\n".to_vec(), fits.clone().into(), b"\n".to_vec()];
        let found = lines(chunks);
        assert_eq!(found.len(), 3);
        assert!(found[0].content.as_ref().unwrap_err().contains("over 65536 bytes"), "{:?}", found[0].content);
        assert_eq!(found[1], line(2, "next"));
        assert_eq!(found[2], line(3, &fits));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_body_is_cut(body in "[ab\n ]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..6)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| body.as_bytes()[cut[0]..cut[1]].to_vec()).collect();
            prop_assert_eq!(lines(chunks), lines(vec![body.into_bytes()]));
        }
    }
}
