//! Request bodies: bounded one by one, by client, and all bodies and texts in flight together.
//!
//! Small bodies have room of their own, which larger ones cannot take. Once a body has been read,
//! only its texts take room, until they are answered.

pub(crate) mod reply;
mod room;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web;
use actix_web::{FromRequest, HttpRequest};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::Deserialize;

use super::ApiState;
use super::error::{ApiError, ErrorKind};
use super::guard::client_of;
use super::guard::rate::Client;
use super::json;
use super::task::AbortOnDrop;
use crate::host::threads::spawn_blocking;
use room::{NoRoom, Room, Taken};

/// Bodies of the largest size that may be in flight together, beside small ones.
const LARGEST_BODIES_IN_FLIGHT: usize = 8;

/// A small body: it has room of its own, and is read where it is. Reading a larger one would keep
/// others of the same HTTP thread waiting.
const SMALL_BYTES: usize = 64 << 10;

/// Small bodies of the largest size that may be in flight together.
const SMALL_BODIES_IN_FLIGHT: usize = 64;

/// Bytes of all replies over 16 KB that are not sent yet.
const REPLIES_BYTES: usize = 16 << 20;

/// What a client is told to wait when the bodies in flight fill their budget.
const BUDGET_RETRY: Duration = Duration::from_secs(1);

/// Bytes that are decompressed before their sum is looked at.
const UNPACK_STEP_BYTES: usize = 16 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy)]
enum ContentCoding {
    Identity,
    Gzip,
    Deflate,
}

impl ContentCoding {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Self::Identity) };
        let name = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        match name.as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            _ => Err(ApiError::new(
                ErrorKind::UnsupportedMediaType,
                format!("the content encoding is {name:?}; send the body as it is, or with gzip or deflate"),
            )),
        }
    }
}

/// Bounds of bodies, shared by all connections.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    max_bytes: usize,
    max_texts: usize,
    patience: Duration,
    small: Arc<Room>,
    large: Arc<Room>,
    /// Of replies that are not small, until they are sent.
    replies: Arc<Room>,
}

impl BodyLimits {
    /// At most `max_bytes` a body, and eight such bodies together beside 4 MB of small ones; each
    /// within `patience`. Lists are read as far as a request of `max_texts` texts needs.
    #[must_use]
    pub fn new(max_bytes: usize, max_texts: usize, patience: Duration) -> Self {
        let small = Room::new(SMALL_BYTES * SMALL_BODIES_IN_FLIGHT);
        let large = Room::new(max_bytes.saturating_mul(LARGEST_BODIES_IN_FLIGHT));
        let replies = Room::new(REPLIES_BYTES);
        Self { max_bytes, max_texts, patience, small, large, replies }
    }
}

/// A request's body, decompressed and within bounds.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    content_type: Option<String>,
    limits: BodyLimits,
    held: Held,
}

/// What a body, and later its texts, take of the room for all; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    client: Client,
    taken: Taken,
    is_small: bool,
}

impl Held {
    /// Only so many bytes of texts are left of the body.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.taken.shrink(bytes);
    }
}

/// What a contract reads: a body's bytes, and what bounds their reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub bytes: &'a [u8],
    /// Most texts of a request.
    pub max_texts: usize,
    content_type: Option<&'a str>,
}

impl<'a> Received<'a> {
    /// A body without a content type.
    #[cfg(any(test, fuzzing))]
    pub(super) fn bare(bytes: &'a [u8], max_texts: usize) -> Self {
        Self { bytes, max_texts, content_type: None }
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// 415 for another content type, and as [`json::read`].
    pub(super) fn json<T: Deserialize<'a>>(&self) -> Result<T, ApiError> {
        if let Some(content_type) = self.content_type {
            let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if kind != "application/json" && !kind.ends_with("+json") {
                return Err(ApiError::new(
                    ErrorKind::UnsupportedMediaType,
                    format!("the content type is {kind:?}; send JSON with Content-Type: application/json"),
                ));
            }
        }
        self.json_of_any_type()
    }

    /// Reads the body as JSON whatever its content type says.
    ///
    /// # Errors
    /// As [`json::read`].
    pub(super) fn json_of_any_type<T: Deserialize<'a>>(&self) -> Result<T, ApiError> {
        json::read(self.bytes, self.max_texts)
    }
}

impl Body {
    /// Reads the body with `read`; the body is gone afterwards. A large one is read off the threads
    /// that serve HTTP, and not at all when its client leaves before its turn.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) async fn read<T, F>(self, read: F) -> Result<(T, Held), ApiError>
    where
        T: Send + 'static,
        F: FnOnce(Received<'_>) -> Result<T, ApiError> + Send + 'static,
    {
        let Self { bytes, content_type, limits, held } = self;
        let is_small = bytes.len() <= SMALL_BYTES;
        let read = move || {
            let received =
                Received { bytes: &bytes, max_texts: limits.max_texts, content_type: content_type.as_deref() };
            Ok((read(received)?, held))
        };
        if is_small { read() } else { off_http(read).await }
    }
}

/// Does what takes long on another thread, unless nobody waits for it any more when its turn comes.
async fn off_http<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |what| ApiError::new(ErrorKind::Internal, format!("the body was not read: {what}"));
    let task = AbortOnDrop(spawn_blocking(work).map_err(|_refused| failed("the system gives no thread for it"))?);
    // The error quotes the message of the panic, which may quote a text.
    task.await.map_err(|_panic| failed("reading it ended with a panic"))?
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limits = request.app_data::<BodyLimits>().cloned();
        let client = request.app_data::<web::Data<ApiState>>().map(|state| client_of(request, state));
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let declared = header(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
        let content_type = header(CONTENT_TYPE);
        let coding = ContentCoding::of(request.headers());
        let mut stream = payload.take();
        Box::pin(async move {
            let (Some(limits), Some(client)) = (limits, client) else {
                return Err(ApiError::new(ErrorKind::Internal, "bodies have no limits set"));
            };
            let coding = coding?;
            if declared.is_some_and(|bytes| bytes > limits.max_bytes) {
                return Err(too_large(limits.max_bytes));
            }
            let patience = limits.patience;
            let read = async {
                let held = Held { client, taken: limits.small.enter(client), is_small: true };
                let mut body = Self { bytes: Vec::new(), content_type, limits, held };
                loop {
                    let lost = body.held.taken.lost();
                    let chunk = tokio::select! {
                        chunk = stream.next() => chunk,
                        () = lost.notified() => return Err(stalled()),
                    };
                    let Some(chunk) = chunk else { break };
                    let chunk = chunk.map_err(|error| {
                        ApiError::new(ErrorKind::BadRequest, format!("the body did not arrive whole: {error}"))
                    })?;
                    body.extend(&chunk)?;
                }
                body.held.taken.settle().map_err(no_room)?;
                match coding {
                    ContentCoding::Identity => Ok(body),
                    ContentCoding::Gzip | ContentCoding::Deflate => off_http(move || body.unpacked(coding)).await,
                }
            };
            tokio::time::timeout(patience, read).await.unwrap_or_else(|_| {
                let what = format!("the body did not arrive within {} s", patience.as_secs());
                Err(ApiError::new(ErrorKind::RequestTimeout, what))
            })
        })
    }
}

impl Body {
    /// Adds bytes while they are within bounds.
    fn extend(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let len = self.bytes.len() + bytes.len();
        if len > self.limits.max_bytes {
            return Err(too_large(self.limits.max_bytes));
        }
        let held = &mut self.held;
        if !held.is_small || len > SMALL_BYTES || held.taken.grow(bytes.len()).is_err() {
            if held.is_small {
                let mut large = self.limits.large.enter(held.client);
                large.grow(self.bytes.len()).map_err(no_room)?;
                (held.taken, held.is_small) = (large, false);
            }
            held.taken.grow(bytes.len()).map_err(no_room)?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The body decompressed. It is done in small steps, because a kilobyte may hold a megabyte: a
    /// step too far is all that a hostile body costs.
    fn unpacked(self, coding: ContentCoding) -> Result<Self, ApiError> {
        let mut reader: Box<dyn Read + '_> = match coding {
            ContentCoding::Identity => Box::new(&self.bytes[..]),
            ContentCoding::Gzip => Box::new(MultiGzDecoder::new(&self.bytes[..])),
            ContentCoding::Deflate => Box::new(ZlibDecoder::new(&self.bytes[..])),
        };
        let client = self.held.client;
        let mut taken = self.limits.small.enter(client);
        taken.settle().map_err(no_room)?;
        let held = Held { client, taken, is_small: true };
        let (content_type, limits) = (self.content_type.clone(), self.limits.clone());
        let mut body = Self { bytes: Vec::new(), content_type, limits, held };
        let mut step = vec![0; UNPACK_STEP_BYTES];
        loop {
            match reader.read(&mut step) {
                Ok(0) => {
                    body.held.taken.settle().map_err(no_room)?;
                    return Ok(body);
                }
                Ok(read) => body.extend(&step[..read])?,
                Err(error) => {
                    let what = format!("the body cannot be decompressed as its Content-Encoding says: {error}");
                    return Err(ApiError::new(ErrorKind::BadRequest, what));
                }
            }
        }
    }
}

fn no_room(why: NoRoom) -> ApiError {
    let what = match why {
        NoRoom::Full => "too many bodies are in flight; try again shortly",
        NoRoom::OfClient => "too many bodies of this client are in flight; wait for their replies",
        NoRoom::Lost => return stalled(),
    };
    ApiError::new(ErrorKind::Overloaded, what).retry_after(BUDGET_RETRY)
}

fn stalled() -> ApiError {
    let what = "the body stalled while others needed its room; send it again without pauses";
    ApiError::new(ErrorKind::RequestTimeout, what)
}

fn too_large(max_bytes: usize) -> ApiError {
    let what = format!("the body is over {max_bytes} bytes; send fewer or shorter texts, or raise MAX_BODY_BYTES");
    ApiError::new(ErrorKind::TooLarge, what)
}
