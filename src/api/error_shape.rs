//! Gives an error the shape of the contract whose path it happened on, wherever it came from: a
//! handler, a body that could not be read, a guard, or a path that does not exist.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, ResponseError};

use super::error::ApiError;
use super::{open_inference, python_compat, routed_path, tei};

/// How a contract writes its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{"error": "…", "error_type": "…"}`
    Native,
    /// The same two fields with other words and statuses.
    TextEmbeddingsInference,
    /// `{"error": "…"}`
    OpenInference,
    /// `{"detail": "…"}`
    Detail,
}

impl Shape {
    fn of(path: &str) -> Self {
        match path.split('/').nth(1).unwrap_or_default() {
            "" if path != "/" => Self::Native,
            "" | "predict" | "info" => Self::TextEmbeddingsInference,
            "v1" | "v2" => Self::OpenInference,
            "analysis" => Self::Detail,
            _ => Self::Native,
        }
    }

    pub(super) fn reply(self, error: &ApiError) -> HttpResponse {
        match self {
            Self::Native => error.error_response(),
            Self::TextEmbeddingsInference => tei::error_reply(error),
            Self::OpenInference => open_inference::error_reply(error),
            Self::Detail => python_compat::error_reply(error),
        }
    }
}

/// A middleware around everything else.
///
/// # Errors
/// Those of the inner services, in the contract's shape.
pub async fn of_contract<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let shape = Shape::of(routed_path(&request));
    let response = next.call(request).await.map_err(|error| match error.as_error::<ApiError>() {
        Some(api_error) => {
            let reply = shape.reply(api_error);
            InternalError::from_response(error, reply).into()
        }
        None => error,
    })?;
    let Some(error) = response.response().error().and_then(|error| error.as_error::<ApiError>()) else {
        return Ok(response.map_into_left_body());
    };
    let mut reply = shape.reply(error);
    for (name, value) in response.headers() {
        if !reply.headers().contains_key(name) {
            reply.headers_mut().append(name.clone(), value.clone());
        }
    }
    Ok(response.into_response(reply).map_into_right_body())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_the_shape_of_its_contract() {
        for (path, shape) in [
            ("/analyze", Shape::Native),
            ("/analyze/ndjson", Shape::Native),
            ("/", Shape::TextEmbeddingsInference),
            ("/predict", Shape::TextEmbeddingsInference),
            ("/info", Shape::TextEmbeddingsInference),
            ("/models/heavy", Shape::Native),
            ("/v2", Shape::OpenInference),
            ("/v2/models/heavy/infer", Shape::OpenInference),
            ("/v1/models/heavy:predict", Shape::OpenInference),
            ("/analysis/emotion-v2", Shape::Detail),
            ("/v2something", Shape::Native),
            ("//analyze", Shape::Native),
        ] {
            assert_eq!(Shape::of(path), shape, "{path}");
        }
    }
}
