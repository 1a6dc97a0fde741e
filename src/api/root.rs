//! `/`: a sign of life for `GET`; for `POST`, the two contracts whose clients post to the bare address.

use std::future::{Ready, ready};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::error::ApiError;
use super::error_docs::{TeiErrors, TeiGuardErrors};
use super::{ApiState, hugging_face, methods, tei};

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::get_and_post("/", alive, predict));
}

/// A sign of life.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Alive {
    status: &'static str,
}

/// A sign of life.
#[utoipa::path(
    get, path = "/", tag = "operations",
    responses((status = 200, description = "The server is alive", body = Alive), TeiGuardErrors)
)]
pub(super) fn alive() -> Ready<HttpResponse> {
    ready(HttpResponse::Ok().json(Alive { status: "alive" }))
}

/// What tells the contracts apart: Hugging Face's clients always send `parameters`.
#[derive(Deserialize)]
struct Marker {
    #[serde(default, deserialize_with = "present")]
    parameters: bool,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// The bare address: a body with `parameters` is answered as by `/models/auto`, another as by
/// `/predict`.
#[utoipa::path(
    post, path = "/", tag = "tei", request_body = tei::PredictRequest,
    responses((status = 200, description = "As of the contract of the body", body = tei::PredictReply), TeiErrors)
)]
pub(super) async fn predict(
    http: HttpRequest,
    state: web::Data<ApiState>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let marker: Marker = body.json_of_any_type()?;
    if marker.parameters {
        hugging_face::classify(&http, &state, "auto", &body).await
    } else {
        tei::predict(&http, &state, &body).await
    }
}
