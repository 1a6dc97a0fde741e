//! The Open Inference Protocol, version 2, as KServe and Triton speak it.

mod binary;
pub(super) mod infer;
mod json;
pub(super) mod metadata;
pub(super) mod repository;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::error::{ApiError, ErrorKind};

/// Name of the only input.
const INPUT: &str = "text";
/// Output with one score a label.
const SCORES: &str = "scores";
/// Output with the top label.
const LABELS: &str = "labels";
/// Bundles have no versions on the wire: each model is served in one.
const MODEL_VERSION: &str = "1";

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.configure(metadata::configure).configure(repository::configure).configure(infer::configure);
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// An error in the shape of this contract, which knows 400 for everything that is wrong with a tensor.
pub(super) fn error_reply(error: &ApiError) -> HttpResponse {
    let status = if error.kind == ErrorKind::Unprocessable { StatusCode::BAD_REQUEST } else { error.kind.status() };
    error.reply_with_status(status, ErrorBody { error: &error.message })
}

/// 404 for a version that is not there.
fn check_version(model: &str, version: &str) -> Result<(), ApiError> {
    if version == MODEL_VERSION {
        return Ok(());
    }
    let what = format!("the model {model:?} has no version {version:?}; its only version is {MODEL_VERSION}");
    Err(ApiError::new(ErrorKind::NotFound, what))
}
