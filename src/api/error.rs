//! One error type for the whole wire; each contract gives it its own shape.

use std::fmt;
use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Serialize;

use crate::classifier::ClassifyError;

/// What kind of thing is wrong; decides the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not JSON, or JSON that cannot be used.
    BadRequest,
    /// There is nothing to read.
    Empty,
    /// No key, or a wrong one.
    Unauthorized,
    /// A path that a setting has to turn on.
    Forbidden,
    /// No such path or model.
    NotFound,
    /// The path knows other methods.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body or the batch is over its limit.
    TooLarge,
    /// The body is not in a format that is read here.
    UnsupportedMediaType,
    /// A field has a value that it cannot have.
    Unprocessable,
    /// Too much waits already.
    Overloaded,
    /// A run failed.
    Internal,
    /// No model may run now.
    Unavailable,
    /// The deadline passed.
    DeadlinePassed,
}

impl ErrorKind {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::Empty => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlinePassed => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The kind's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest | Self::Empty => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Unprocessable => "unprocessable",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DeadlinePassed => "deadline_passed",
        }
    }
}

/// What is wrong with a request, or with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What kind of thing is wrong.
    pub kind: ErrorKind,
    /// What is wrong and what would be right.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The methods that the path takes, where it was asked with another.
    pub allow: Option<&'static str>,
}

/// Bytes of a message's start and of its end that are kept: it may quote what was sent between them.
const KEPT_MESSAGE_BYTES: usize = 300;

impl ApiError {
    /// An error without a time to try again. The middle of a long message is left out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > 2 * KEPT_MESSAGE_BYTES {
            let start = message.floor_char_boundary(KEPT_MESSAGE_BYTES);
            let end = message.ceil_char_boundary(message.len() - KEPT_MESSAGE_BYTES);
            message.replace_range(start..end, " … ");
        }
        Self { kind, message, retry_after: None, allow: None }
    }

    /// The answer to a method that the path does not take.
    #[must_use]
    pub fn method_not_allowed(path: &str, allow: &'static str) -> Self {
        let error = Self::new(ErrorKind::MethodNotAllowed, format!("{path} takes {allow}"));
        Self { allow: Some(allow), ..error }
    }

    /// The same with a time to try again.
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// A reply with this error's status and headers, and a body in a contract's own shape.
    #[must_use]
    pub fn reply_with(&self, body: impl Serialize) -> HttpResponse {
        self.reply_with_status(self.kind.status(), body)
    }

    /// The same with the status that a contract gives this kind of error.
    #[must_use]
    pub fn reply_with_status(&self, status: StatusCode, body: impl Serialize) -> HttpResponse {
        let mut reply = HttpResponse::build(status);
        if let Some(retry_after) = self.retry_after {
            reply.insert_header((RETRY_AFTER, retry_after.as_secs_f64().ceil().max(1.0).to_string()));
        }
        if let Some(allow) = self.allow {
            reply.insert_header((ALLOW, allow));
        }
        if self.kind == ErrorKind::Unauthorized {
            reply.insert_header(("www-authenticate", "Bearer"));
        }
        reply.json(body)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The native shape: `{"error": "…", "error_type": "…"}`.
#[derive(Serialize)]
struct NativeBody<'a> {
    error: &'a str,
    error_type: &'a str,
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.kind.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.reply_with(NativeBody { error: &self.message, error_type: self.kind.as_str() })
    }
}

impl From<ClassifyError> for ApiError {
    fn from(error: ClassifyError) -> Self {
        let message = error.to_string();
        match error {
            ClassifyError::Text { index, what } => Self::new(ErrorKind::Unprocessable, format!("text {index}: {what}")),
            ClassifyError::QueueFull { retry_after } => {
                Self::new(ErrorKind::Overloaded, message).retry_after(retry_after)
            }
            ClassifyError::Unavailable(unavailable) => {
                Self::new(ErrorKind::Unavailable, message).retry_after(unavailable.retry_after)
            }
            ClassifyError::DeadlinePassed => {
                let what = "send fewer texts, or allow more time (X-Request-Timeout-Ms, REQUEST_TIMEOUT_MS)";
                Self::new(ErrorKind::DeadlinePassed, format!("{message}; {what}"))
            }
            ClassifyError::Internal => Self::new(ErrorKind::Internal, message),
        }
    }
}

/// Any path that no contract has.
pub(super) fn not_found(request: HttpRequest) -> Ready<Result<HttpResponse, ApiError>> {
    let what = format!("there is no {}; POST /analyze reads a text", request.path());
    ready(Err(ApiError::new(ErrorKind::NotFound, what)))
}
