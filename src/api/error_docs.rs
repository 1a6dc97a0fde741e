//! The errors of each contract for the API's description, made by the code that sends them.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::body::MessageBody;
use serde_json::Value;
use utoipa::IntoResponses;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};

use super::error::{ApiError, ErrorKind};
use super::error_shape::Shape;
use super::guard::ADMIN_IS_OFF;

/// What any path may answer.
const GUARDS: [(ErrorKind, &str); 2] = [
    (ErrorKind::Unauthorized, "no key was sent, or a wrong one"),
    (ErrorKind::Overloaded, "too many requests; try again in 1 s"),
];

/// What a path that reads texts may answer too.
const INFERENCE: [(ErrorKind, &str); 9] = [
    (ErrorKind::BadRequest, "the body is not JSON in UTF-8: EOF while parsing an object at line 1 column 1"),
    (ErrorKind::NotFound, "there is no model \"other\"; models are auto, heavy, light, goemotions or ekman"),
    (ErrorKind::RequestTimeout, "the body did not arrive within 30 s"),
    (ErrorKind::TooLarge, "the body is over 2097152 bytes; send fewer or shorter texts, or raise MAX_BODY_BYTES"),
    (
        ErrorKind::UnsupportedMediaType,
        "the content type is \"text/html\"; send JSON with Content-Type: application/json",
    ),
    (ErrorKind::Unprocessable, "missing field `text`"),
    (ErrorKind::Internal, "the model failed on this text; the server's log says why"),
    (ErrorKind::Unavailable, "the heavy model goemotions is still loading"),
    (ErrorKind::DeadlinePassed, "the answer was not ready before the request's deadline"),
];

/// What a path that takes a small body may answer too.
const BODY: [(ErrorKind, &str); 4] = [
    (ErrorKind::BadRequest, "the body cannot be decompressed as its Content-Encoding says"),
    (ErrorKind::RequestTimeout, "the body did not arrive within 30 s"),
    (ErrorKind::TooLarge, "the body is over 2097152 bytes"),
    (
        ErrorKind::UnsupportedMediaType,
        "the content encoding is \"br\"; send the body as it is, or with gzip or deflate",
    ),
];

/// What a path that loads or unloads a model may answer too.
const ADMIN: [(ErrorKind, &str); 8] = [
    BODY[0],
    BODY[1],
    BODY[2],
    BODY[3],
    (ErrorKind::Forbidden, ADMIN_IS_OFF),
    (ErrorKind::NotFound, "there is no model \"other\"; models are auto, heavy, light, goemotions or ekman"),
    (ErrorKind::Unprocessable, "x-request-timeout-ms must be a whole number of milliseconds over 0"),
    (ErrorKind::Unavailable, "the heavy model was not loaded: it does not fit into the memory that is left"),
];

/// What a path that describes a model may answer too.
const MODEL: [(ErrorKind, &str); 2] = [
    (ErrorKind::NotFound, "there is no model \"other\"; models are auto, heavy, light, goemotions or ekman"),
    (ErrorKind::Unavailable, "the heavy model's files cannot be used; the log says why"),
];

fn responses(shape: Shape, kinds: &[(ErrorKind, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let mut responses = BTreeMap::new();
    for (kind, message) in kinds.iter().chain(&GUARDS) {
        let mut error = ApiError::new(*kind, *message);
        if matches!(kind, ErrorKind::Overloaded | ErrorKind::Unavailable) {
            error = error.retry_after(Duration::from_secs(1));
        }
        let reply = shape.reply(&error);
        let status = reply.status();
        let bytes = reply.into_body().try_into_bytes().unwrap_or_default();
        let example: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let content = ContentBuilder::new().schema(Some(body_like(&example))).example(Some(example)).build();
        let response = ResponseBuilder::new()
            .description(status.canonical_reason().unwrap_or("Error"))
            .content("application/json", content)
            .build();
        responses.entry(status.as_str().to_owned()).or_insert(RefOr::T(response));
    }
    responses
}

/// Error bodies are flat objects of texts in every contract.
fn body_like(example: &Value) -> RefOr<Schema> {
    let fields = example.as_object().into_iter().flatten();
    fields
        .fold(ObjectBuilder::new().schema_type(Type::Object), |object, (name, _)| {
            object.property(name, ObjectBuilder::new().schema_type(Type::String)).required(name)
        })
        .into()
}

macro_rules! documented_errors {
    ($($(#[$doc:meta])* $name:ident: $shape:expr, $kinds:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                responses($shape, $kinds)
            }
        }
    )*};
}

documented_errors! {
    /// Of paths that read texts, native shape.
    NativeErrors: Shape::Native, &INFERENCE;
    /// Of paths that only the guards may refuse, native shape.
    GuardErrors: Shape::Native, &[];
    /// Of the administrative paths, native shape.
    AdminErrors: Shape::Native, &ADMIN;
    /// Of `/predict`.
    TeiErrors: Shape::TextEmbeddingsInference, &INFERENCE;
    /// Of `GET /`.
    TeiGuardErrors: Shape::TextEmbeddingsInference, &[];
    /// Of `/info`.
    TeiInfoErrors: Shape::TextEmbeddingsInference, &MODEL;
    /// Of the Python service's paths.
    DetailErrors: Shape::Detail, &INFERENCE;
    /// Of inference by KServe's contracts.
    OpenInferenceErrors: Shape::OpenInference, &INFERENCE;
    /// Of paths of KServe's contracts that describe a model.
    OpenInferenceModelErrors: Shape::OpenInference, &MODEL;
    /// Of paths of KServe's contracts that only the guards may refuse.
    OpenInferenceGuardErrors: Shape::OpenInference, &[];
    /// Of the list of models by KServe's contracts.
    OpenInferenceIndexErrors: Shape::OpenInference, &BODY;
    /// Of loading and unloading by KServe's contracts.
    OpenInferenceAdminErrors: Shape::OpenInference, &ADMIN;
}
