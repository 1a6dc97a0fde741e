//! Request bodies: bounded one by one, and all bodies in flight together.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::{self, BytesMut};
use actix_web::{FromRequest, HttpRequest};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ErrorKind};
use super::json;

/// Bodies of the largest size that may be in flight together.
const LARGEST_BODIES_IN_FLIGHT: usize = 8;

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
    patience: Duration,
    in_flight: Arc<Semaphore>,
}

impl BodyLimits {
    /// At most `max_bytes` a body, and eight such bodies together; each within `patience`.
    #[must_use]
    pub fn new(max_bytes: usize, patience: Duration) -> Self {
        Self { max_bytes, patience, in_flight: Arc::new(Semaphore::new(max_bytes * LARGEST_BODIES_IN_FLIGHT)) }
    }
}

/// A request's body, decompressed and within bounds. Its bytes count until it is dropped.
#[derive(Debug)]
pub struct Body {
    bytes: BytesMut,
    content_type: Option<String>,
    budget: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// 415 for another content type, 400 for what is not JSON or is empty, 422 for JSON with a
    /// field that cannot be right.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        if let Some(content_type) = &self.content_type {
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
    /// As [`Body::json`], without 415.
    pub fn json_of_any_type<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        json::read(&self.bytes)
    }
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limits = request.app_data::<BodyLimits>().cloned();
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let declared = header(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
        let content_type = header(CONTENT_TYPE);
        let coding = ContentCoding::of(request.headers());
        let mut stream = payload.take();
        Box::pin(async move {
            let Some(limits) = limits else {
                return Err(ApiError::new(ErrorKind::Internal, "bodies have no limits set"));
            };
            let coding = coding?;
            if declared.is_some_and(|bytes| bytes > limits.max_bytes) {
                return Err(too_large(limits.max_bytes));
            }
            let patience = limits.patience;
            let read = async {
                let mut body = Self { bytes: BytesMut::new(), content_type, budget: None };
                while let Some(chunk) = stream.next().await {
                    let chunk = chunk.map_err(|error| {
                        ApiError::new(ErrorKind::BadRequest, format!("the body did not arrive whole: {error}"))
                    })?;
                    body.extend(&chunk, &limits)?;
                }
                match coding {
                    ContentCoding::Identity => Ok(body),
                    ContentCoding::Gzip | ContentCoding::Deflate => body.unpacked(coding, limits).await,
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
    fn extend(&mut self, bytes: &[u8], limits: &BodyLimits) -> Result<(), ApiError> {
        if self.bytes.len() + bytes.len() > limits.max_bytes {
            return Err(too_large(limits.max_bytes));
        }
        self.count(limits, bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The body decompressed, off the threads that serve HTTP. It is done in small steps, because a
    /// kilobyte may hold a megabyte: a step too far is all that a hostile body costs.
    async fn unpacked(self, coding: ContentCoding, limits: BodyLimits) -> Result<Self, ApiError> {
        let unpack = move || {
            let packed = &self.bytes[..];
            let mut reader: Box<dyn Read + '_> = match coding {
                ContentCoding::Identity => Box::new(packed),
                ContentCoding::Gzip => Box::new(MultiGzDecoder::new(packed)),
                ContentCoding::Deflate => Box::new(ZlibDecoder::new(packed)),
            };
            let mut body = Self { bytes: BytesMut::new(), content_type: self.content_type.clone(), budget: None };
            let mut step = vec![0; UNPACK_STEP_BYTES];
            loop {
                match reader.read(&mut step) {
                    Ok(0) => return Ok(body),
                    Ok(read) => body.extend(&step[..read], &limits)?,
                    Err(error) => {
                        let what = format!("the body cannot be decompressed as its Content-Encoding says: {error}");
                        return Err(ApiError::new(ErrorKind::BadRequest, what));
                    }
                }
            }
        };
        web::block(unpack).await.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?
    }

    fn count(&mut self, limits: &BodyLimits, bytes: usize) -> Result<(), ApiError> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&limits.in_flight).try_acquire_many_owned(permits) else {
            let what = "too many large bodies are in flight; try again shortly";
            return Err(ApiError::new(ErrorKind::Overloaded, what).retry_after(BUDGET_RETRY));
        };
        match &mut self.budget {
            Some(budget) => budget.merge(permit),
            None => self.budget = Some(permit),
        }
        Ok(())
    }
}

fn too_large(max_bytes: usize) -> ApiError {
    let what = format!("the body is over {max_bytes} bytes; send fewer or shorter texts, or raise MAX_BODY_BYTES");
    ApiError::new(ErrorKind::TooLarge, what)
}
