//! What the server and its models are, and whether they can answer.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{INPUT, LABELS, MODEL_VERSION, SCORES, check_version};
use crate::api::error::ApiError;
use crate::api::error_docs::{OpenInferenceGuardErrors, OpenInferenceModelErrors};
use crate::api::{ApiState, known_model, methods, request};
use crate::model::Role;
use crate::residency::Wanted;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::get("/v2", server))
        .service(methods::get("/v2/health/live", live))
        .service(methods::get("/v2/health/ready", readiness))
        .service(methods::get("/v2/models", models))
        .service(methods::get("/v2/models/{model}", model))
        .service(methods::get("/v2/models/{model}/ready", model_readiness))
        .service(methods::get("/v2/models/{model}/versions/{version}", model_version))
        .service(methods::get("/v2/models/{model}/versions/{version}/ready", model_version_readiness));
}

/// What this server is and which extensions it speaks.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 3],
}

/// The server and the extensions that it speaks
#[utoipa::path(
    get, path = "/v2", tag = "open inference", responses(
        (status = 200, description = "The server and the extensions that it speaks", body = ServerMetadata), OpenInferenceGuardErrors
    )
)]
pub(in crate::api) fn server() -> Ready<HttpResponse> {
    ready(HttpResponse::Ok().json(ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "classification", "model_repository"],
    }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct Live {
    live: bool,
}

/// The server is alive
#[utoipa::path(
    get, path = "/v2/health/live", tag = "open inference", responses(
        (status = 200, description = "The server is alive", body = Live), OpenInferenceGuardErrors
    )
)]
pub(in crate::api) fn live() -> Ready<HttpResponse> {
    ready(HttpResponse::Ok().json(Live { live: true }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ServerReadiness {
    ready: bool,
}

/// Requests can be answered
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "open inference", responses(
        (status = 200, description = "Requests can be answered", body = ServerReadiness), OpenInferenceGuardErrors,
        (status = 503, description = "It is not", body = ServerReadiness)
    )
)]
pub(in crate::api) fn readiness(state: web::Data<ApiState>) -> Ready<HttpResponse> {
    let is_ready = state.is_ready();
    ready(by_readiness(is_ready, ServerReadiness { ready: is_ready }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ModelList {
    models: [String; 2],
}

/// The models by name
#[utoipa::path(
    get, path = "/v2/models", tag = "open inference", responses(
        (status = 200, description = "The models by name", body = ModelList), OpenInferenceGuardErrors
    )
)]
pub(in crate::api) fn models(state: web::Data<ApiState>) -> Ready<HttpResponse> {
    let residency = state.classifier.residency();
    let models = Role::ALL.map(|role| residency.name_of(role).to_owned());
    ready(HttpResponse::Ok().json(ModelList { models }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

/// A model as clients need to know it before they ask.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ModelMetadata {
    name: String,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: [TensorMetadata; 1],
    outputs: [TensorMetadata; 2],
    /// Names of the scores, in their order; of `auto`, those of the model that would answer now.
    #[schema(value_type = Vec<String>)]
    label_names: Vec<Arc<str>>,
}

/// Inputs, outputs and labels of a model
#[utoipa::path(
    get, path = "/v2/models/{model}", tag = "open inference", params(("model" = String, Path, description = "The model")),
    responses(
        (status = 200, description = "Inputs, outputs and labels of a model", body = ModelMetadata), OpenInferenceModelErrors
    )
)]
pub(in crate::api) async fn model(
    state: web::Data<ApiState>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    metadata(&state, name.into_inner()).await
}

/// Inputs, outputs and labels of a version
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{version}", tag = "open inference", params(("model" = String, Path, description = "The model"), ("version" = String, Path, description = "Its version")),
    responses(
        (status = 200, description = "Inputs, outputs and labels of a version", body = ModelMetadata), OpenInferenceModelErrors
    )
)]
pub(in crate::api) async fn model_version(
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (name, version) = path.into_inner();
    request::named_model(&name, &state)?;
    check_version(&name, &version)?;
    metadata(&state, name).await
}

async fn metadata(state: &ApiState, name: String) -> Result<HttpResponse, ApiError> {
    let wanted = request::named_model(&name, state)?;
    let bundle = known_model::bundle(known_model::role(wanted, state), state).await?;
    // Which model answers for `auto`, and so how many scores there are, may change between requests.
    let labels = if wanted == Wanted::Auto { -1 } else { bundle.labels.len() as i64 };
    Ok(HttpResponse::Ok().json(ModelMetadata {
        name,
        versions: [MODEL_VERSION],
        platform: "onnxruntime_onnx",
        inputs: [TensorMetadata { name: INPUT, datatype: "BYTES", shape: vec![-1] }],
        outputs: [
            TensorMetadata { name: SCORES, datatype: "FP32", shape: vec![-1, labels] },
            TensorMetadata { name: LABELS, datatype: "BYTES", shape: vec![-1] },
        ],
        label_names: bundle.labels.to_vec(),
    }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ModelReadiness {
    name: String,
    ready: bool,
}

/// The model is loaded, or would be by a request
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", tag = "open inference", params(("model" = String, Path, description = "The model")),
    responses(
        (status = 200, description = "The model is loaded, or would be by a request", body = ModelReadiness), OpenInferenceModelErrors,
        (status = 503, description = "It is not", body = ModelReadiness)
    )
)]
pub(in crate::api) fn model_readiness(
    state: web::Data<ApiState>,
    name: web::Path<String>,
) -> Ready<Result<HttpResponse, ApiError>> {
    ready(readiness_of(&state, name.into_inner()))
}

/// The version is loaded, or would be by a request
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{version}/ready", tag = "open inference", params(("model" = String, Path, description = "The model"), ("version" = String, Path, description = "Its version")),
    responses(
        (status = 200, description = "The version is loaded, or would be by a request", body = ModelReadiness), OpenInferenceModelErrors,
        (status = 503, description = "It is not", body = ModelReadiness)
    )
)]
pub(in crate::api) fn model_version_readiness(
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
) -> Ready<Result<HttpResponse, ApiError>> {
    let (name, version) = path.into_inner();
    ready(
        request::named_model(&name, &state)
            .and_then(|_| check_version(&name, &version))
            .and_then(|()| readiness_of(&state, name)),
    )
}

fn readiness_of(state: &ApiState, name: String) -> Result<HttpResponse, ApiError> {
    let wanted = request::named_model(&name, state)?;
    let is_ready = known_model::may_answer(wanted, state);
    Ok(by_readiness(is_ready, ModelReadiness { name, ready: is_ready }))
}

fn by_readiness(is_ready: bool, body: impl Serialize) -> HttpResponse {
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}
