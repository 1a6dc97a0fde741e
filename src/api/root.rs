//! `/`: for `GET` a page or a sign of life; for `POST`, the two contracts whose clients post to the bare address.

use std::future::{Ready, ready};

use actix_web::http::header::{HeaderValue, VARY};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Body, Received};
use super::error::ApiError;
use super::error_docs::{TeiErrors, TeiGuardErrors};
use super::{ApiState, hugging_face, methods, playground, tei};
use crate::residency::Wanted;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::get_and_post("/", alive, predict));
}

/// A sign of life.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Alive {
    status: &'static str,
}

/// A sign of life; for a browser, the playground.
#[utoipa::path(
    get, path = "/", tag = "operations",
    responses(
        (status = 200, description = "The server is alive", content(
            (Alive = "application/json"),
            (String = "text/html; charset=utf-8")
        )),
        TeiGuardErrors
    )
)]
pub(super) fn alive(http: HttpRequest) -> Ready<HttpResponse> {
    let mut reply = if playground::is_wanted(&http) {
        playground::page(&http)
    } else {
        HttpResponse::Ok().json(Alive { status: "alive" })
    };
    reply.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    ready(reply)
}

/// What tells the contracts apart: Hugging Face's clients always send `parameters`.
#[derive(Deserialize)]
struct Marker {
    #[serde(default, deserialize_with = "present")]
    parameters: bool,
}

/// A request of either contract.
pub(super) enum Asked {
    HuggingFace(hugging_face::Asked),
    Tei(tei::Asked),
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
    match body.read(read).await? {
        (Asked::HuggingFace(asked), held) => hugging_face::classify(&http, &state, Wanted::Auto, asked, held).await,
        (Asked::Tei(asked), held) => tei::predict(&http, &state, asked, held).await,
    }
}

/// What a request of either contract asks.
pub(super) fn read(received: Received<'_>) -> Result<Asked, ApiError> {
    let marker: Marker = received.json_of_any_type()?;
    if marker.parameters {
        hugging_face::read(received).map(Asked::HuggingFace)
    } else {
        tei::read(received).map(Asked::Tei)
    }
}
