//! The model repository extension: which models there are, and loading and unloading them.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::MODEL_VERSION;
use crate::api::body::{Body, Received};
use crate::api::error::ApiError;
use crate::api::error_docs::{OpenInferenceAdminErrors, OpenInferenceIndexErrors};
use crate::api::operations::{load_by_hand, unload_by_hand};
use crate::api::{ApiState, methods, request};
use crate::residency::RoleStatus;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::post("/v2/repository/index", index))
        .service(methods::post("/v2/repository/models/{model}/load", load))
        .service(methods::post("/v2/repository/models/{model}/unload", unload));
}

/// Which models are listed; the body may be empty or null too.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(in crate::api) struct IndexRequest {
    /// Only those that are loaded.
    #[serde(default)]
    ready: bool,
}

/// A model of the repository.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct IndexEntry {
    name: String,
    version: &'static str,
    state: &'static str,
    reason: String,
}

impl From<RoleStatus> for IndexEntry {
    fn from(status: RoleStatus) -> Self {
        let state = match status.state {
            "ready" => "READY",
            "loading" => "LOADING",
            "draining" => "UNLOADING",
            _ => "UNAVAILABLE",
        };
        let reason = status.error.unwrap_or_else(|| status.reason.to_owned());
        Self { name: status.name, version: MODEL_VERSION, state, reason }
    }
}

/// The models and their states.
#[utoipa::path(
    post, path = "/v2/repository/index", tag = "open inference", request_body = Option<IndexRequest>,
    responses((status = 200, description = "The models", body = Vec<IndexEntry>), OpenInferenceIndexErrors)
)]
pub(in crate::api) async fn index(state: web::Data<ApiState>, body: Body) -> Result<HttpResponse, ApiError> {
    let (IndexRequest { ready: only_ready }, _held) = body.read(read).await?;
    let roles = state.classifier.residency().status().into_iter();
    let entries = roles.map(IndexEntry::from).filter(|entry| !only_ready || entry.state == "READY");
    Ok(HttpResponse::Ok().json(entries.collect::<Vec<_>>()))
}

/// Which models are asked for.
pub(in crate::api) fn read(received: Received<'_>) -> Result<IndexRequest, ApiError> {
    match received.bytes.trim_ascii() {
        b"" | b"null" => Ok(IndexRequest::default()),
        _ => received.json_of_any_type(),
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Loaded {
    name: String,
    load: bool,
}

/// Loads a model, whatever bars it; needs the administrator's key.
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/load", tag = "open inference",
    params(("model" = String, Path, description = "The model")),
    responses((status = 200, description = "It is done", body = Loaded), OpenInferenceAdminErrors)
)]
pub(in crate::api) async fn load(
    http: HttpRequest,
    state: web::Data<ApiState>,
    model: web::Path<String>,
    _parameters: Body,
) -> Result<HttpResponse, ApiError> {
    let name = model.into_inner();
    load_by_hand(&http, &state, || request::named_role(&name, &state)).await?;
    Ok(HttpResponse::Ok().json(Loaded { name, load: true }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Unloaded {
    name: String,
    unload: bool,
}

/// Unloads a model and keeps it away until it is loaded; needs the administrator's key.
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/unload", tag = "open inference",
    params(("model" = String, Path, description = "The model")),
    responses((status = 200, description = "It is done", body = Unloaded), OpenInferenceAdminErrors)
)]
pub(in crate::api) async fn unload(
    http: HttpRequest,
    state: web::Data<ApiState>,
    model: web::Path<String>,
    _parameters: Body,
) -> Result<HttpResponse, ApiError> {
    let name = model.into_inner();
    unload_by_hand(&http, &state, || request::named_role(&name, &state)).await?;
    Ok(HttpResponse::Ok().json(Unloaded { name, unload: true }))
}
