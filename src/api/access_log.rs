//! What is written down of each request: its id, one log line, its metrics. Never its text.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::ErrorInternalServerError;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpRequest, web};
use log::kv::Value;

use super::pages::PAGE_HEADERS;
use super::{ApiState, routed_path};
use crate::classifier::Answer;
use crate::metrics::Answered;
use crate::residency::FallbackReason;

/// The log lines' target, for `RUST_LOG`.
const TARGET: &str = "access";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Longest id that is taken over from a client.
const MAX_ID_BYTES: usize = 128;

/// Status of a request whose client left before the reply; no client ever sees it.
const CLIENT_GONE: u16 = 499;

/// Route of requests that no contract has: a path is the client's own choice and is kept out.
const NO_ROUTE: &str = "unmatched";

/// What the handlers tell about a request. Each request has one among its extensions.
#[derive(Debug, Default)]
struct Notes {
    texts: Cell<usize>,
    cached_texts: Cell<usize>,
    tokens: Cell<usize>,
    answered: Cell<Answered>,
    model: RefCell<Option<Arc<str>>>,
    fallback: Cell<Option<FallbackReason>>,
}

/// Notes which model answered, with how many tokens and whether from the cache, for the log line, the
/// metrics and the headers of this request. To be called by every contract with what the classifier
/// gave it, once or for each part.
pub(super) fn record_answers(http: &HttpRequest, answers: &[Answer]) {
    AnswerRecord::of(http).add(answers);
}

/// The same for replies that are written after their handler has returned.
#[derive(Debug, Clone, Default)]
pub(super) struct AnswerRecord(Rc<Notes>);

impl AnswerRecord {
    /// The record of this request.
    pub(super) fn of(http: &HttpRequest) -> Self {
        Self(http.extensions().get::<Rc<Notes>>().cloned().unwrap_or_default())
    }

    /// Notes more answers.
    pub(super) fn add(&self, answers: &[Answer]) {
        let notes = &self.0;
        notes.texts.set(notes.texts.get() + answers.len());
        for answer in answers {
            notes.cached_texts.set(notes.cached_texts.get() + usize::from(answer.cached));
            notes.tokens.set(notes.tokens.get() + answer.tokens);
            notes.answered.set(notes.answered.get().and(answer.model.role));
            notes.fallback.set(answer.fallback.or(notes.fallback.get()));
        }
        if let Some(answer) = answers.last() {
            notes.model.replace(Some(Arc::clone(&answer.model.name)));
        }
    }
}

/// A request under way. Counted and logged when dropped, which is when its reply has been handed
/// over whole, or when its client has gone.
struct Observation {
    state: web::Data<ApiState>,
    started: Instant,
    id: HeaderValue,
    method: &'static str,
    route: String,
    status: Cell<u16>,
    notes: Rc<Notes>,
}

impl Observation {
    fn begin(request: &ServiceRequest, state: web::Data<ApiState>) -> Self {
        let notes = Rc::new(Notes::default());
        request.extensions_mut().insert(Rc::clone(&notes));
        state.metrics.request_begins();
        Self {
            started: Instant::now(),
            id: sent_id(request.headers()).unwrap_or_else(new_id),
            method: method_name(request.method()),
            route: request.resource_map().match_pattern(routed_path(request)).unwrap_or_else(|| NO_ROUTE.to_owned()),
            status: Cell::new(CLIENT_GONE),
            notes,
            state,
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let (elapsed, answered) = (self.started.elapsed(), self.notes.answered.get());
        if self.state.settings.access_log && log::log_enabled!(target: TARGET, log::Level::Info) {
            self.log(elapsed);
        }
        let route = std::mem::take(&mut self.route);
        self.state.metrics.request_ends(route, self.method, self.status.get(), answered, elapsed);
    }
}

impl Notes {
    /// Whether there are texts, and no model ran for any of them. A stream's texts come after its
    /// headers.
    fn is_from_cache(&self) -> bool {
        self.texts.get() > 0 && self.cached_texts == self.texts
    }
}

impl Observation {
    fn log(&self, elapsed: Duration) {
        let (status, notes) = (self.status.get(), &self.notes);
        let latency_ms = (elapsed.as_secs_f64() * 1e5).round() / 100.0;
        let id = self.id.to_str().unwrap_or_default();
        let model = notes.model.borrow();
        let mut fields: Vec<(&str, Value<'_>)> = Vec::with_capacity(10);
        fields.extend([
            ("request_id", id.into()),
            ("method", self.method.into()),
            ("route", self.route.as_str().into()),
            ("status", status.into()),
            ("latency_ms", latency_ms.into()),
        ]);
        if let Some(model) = &*model {
            fields.extend([
                ("model", Value::from(&**model)),
                ("role", notes.answered.get().as_str().into()),
                ("texts", notes.texts.get().into()),
                ("tokens", notes.tokens.get().into()),
            ]);
        }
        if let Some(fallback) = notes.fallback.get() {
            fields.push(("fallback", fallback.as_str().into()));
        }
        log::logger().log(
            &log::Record::builder()
                .level(log::Level::Info)
                .target(TARGET)
                .args(format_args!("{} {} {status}", self.method, self.route))
                .key_values(&fields.as_slice())
                .build(),
        );
    }
}

/// An id that is safe to write into a log line and a header.
fn sent_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    let id = headers.get(REQUEST_ID)?;
    let is_sane = !id.is_empty() && id.len() <= MAX_ID_BYTES && id.as_bytes().iter().all(is_plain);
    is_sane.then(|| id.clone())
}

/// Different in every process and for every request.
fn new_id() -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    HeaderValue::try_from(format!("{:016x}-{count:x}", *PROCESS)).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// A method is the client's own choice: only those that exist are told apart.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

/// Gives each request an id, tells whether its answers come from the cache, and writes it down when
/// its reply is done. While the server drains, replies ask their clients to come back on a new connection, which may be one to another server.
///
/// # Errors
/// Those of the handlers behind it.
pub(crate) async fn observe<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<ObservedBody<B>>, Error> {
    let Some(state) = request.app_data::<web::Data<ApiState>>().cloned() else {
        return Err(ErrorInternalServerError("the server has no state"));
    };
    let observation = Observation::begin(&request, state);
    let mut reply = match next.call(request).await {
        Ok(reply) => reply,
        Err(error) => {
            observation.status.set(error.as_response_error().status_code().as_u16());
            return Err(error);
        }
    };
    observation.status.set(reply.status().as_u16());
    let is_page = reply.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let headers = reply.headers_mut();
    headers.insert(REQUEST_ID, observation.id.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if observation.notes.is_from_cache() {
        headers.insert(CACHE, HeaderValue::from_static("hit"));
    }
    if is_page {
        for (name, value) in PAGE_HEADERS {
            let name = HeaderName::from_static(name);
            if !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
    }
    if observation.state.draining.load(Ordering::Relaxed) {
        reply.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(reply.map_body(|_, body| ObservedBody { body: Box::pin(body), _observation: observation }))
}

/// A reply's body; the observation ends with it.
pub(crate) struct ObservedBody<B> {
    body: Pin<Box<B>>,
    _observation: Observation,
}

impl<B: MessageBody> MessageBody for ObservedBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        self.body.as_mut().poll_next(context)
    }
}
