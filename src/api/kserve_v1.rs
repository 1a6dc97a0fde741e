//! The first KServe contract: `POST /v1/models/{model}:predict`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Body, Received};
use super::error::ApiError;
use super::error_docs::{OpenInferenceErrors, OpenInferenceGuardErrors, OpenInferenceModelErrors};
use super::json::Text;
use super::scores::{ScoreByLabel, ranked};
use super::{ApiState, known_model, methods, request, schema};
use crate::model::Role;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::get("/v1/models", models))
        .service(methods::post("/v1/models/{model}:predict", predict))
        .service(methods::get("/v1/models/{model}", readiness));
}

/// A request; fields that are not known here are passed by.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KserveV1Request, example = json!({"instances": ["I am so happy that you came!"]}))]
pub(super) struct PredictRequest {
    #[schema(schema_with = schema::texts)]
    instances: Vec<Text>,
}

/// What the model says of one text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Prediction {
    #[schema(value_type = String)]
    label: Arc<str>,
    score: f32,
    #[schema(schema_with = schema::score_by_label)]
    scores: ScoreByLabel<f32>,
}

/// One prediction an instance.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveV1Reply)]
pub(super) struct PredictReply {
    predictions: Vec<Prediction>,
}

/// Predicts the emotion of each instance.
#[utoipa::path(
    post, path = "/v1/models/{model}:predict", tag = "kserve v1",
    params(("model" = String, Path, description = "The model")), request_body = PredictRequest,
    responses((status = 200, description = "One prediction an instance", body = PredictReply), OpenInferenceErrors)
)]
pub(super) async fn predict(
    http: HttpRequest,
    state: web::Data<ApiState>,
    model: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let wanted = request::named_model(&model, &state)?;
    let (texts, mut held) = body.read(read).await?;
    let answers = request::classify(&http, &state, wanted, texts, &mut held).await?;
    let predictions = answers.iter().filter_map(|answer| {
        let scores = ranked(answer, answer.activation);
        let top = scores.first()?;
        Some(Prediction {
            label: Arc::clone(&top.label),
            score: top.score,
            scores: ScoreByLabel(scores.into_iter().map(|scored| (scored.label, scored.score)).collect()),
        })
    });
    Ok(HttpResponse::Ok().json(PredictReply { predictions: predictions.collect() }))
}

/// The texts of a request.
pub(super) fn read(received: Received<'_>) -> Result<Vec<Arc<str>>, ApiError> {
    let asked: PredictRequest = received.json_of_any_type()?;
    request::texts(asked.instances, "instances", received.max_texts)
}

/// Names of all models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveV1Models)]
pub(super) struct ModelList {
    models: [String; 2],
}

/// The models by name.
#[utoipa::path(
    get, path = "/v1/models", tag = "kserve v1",
    responses((status = 200, description = "Names", body = ModelList), OpenInferenceGuardErrors)
)]
pub(super) fn models(state: web::Data<ApiState>) -> std::future::Ready<HttpResponse> {
    let residency = state.classifier.residency();
    let models = Role::ALL.map(|role| residency.name_of(role).to_owned());
    std::future::ready(HttpResponse::Ok().json(ModelList { models }))
}

/// Whether a model is loaded, or would be loaded by a request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveV1Readiness)]
pub(super) struct ModelReadiness {
    name: String,
    ready: bool,
}

/// Whether a model can answer.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "kserve v1",
    params(("model" = String, Path, description = "The model")),
    responses(
        (status = 200, description = "It can", body = ModelReadiness),
        OpenInferenceModelErrors,
        (status = 503, description = "It cannot", body = ModelReadiness)
    )
)]
pub(super) fn readiness(
    state: web::Data<ApiState>,
    model: web::Path<String>,
) -> std::future::Ready<Result<HttpResponse, ApiError>> {
    let name = model.into_inner();
    std::future::ready(request::named_model(&name, &state).map(|wanted| {
        let ready = known_model::may_answer(wanted, &state);
        let mut reply = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
        reply.json(ModelReadiness { name, ready })
    }))
}
