//! The contract of the Hugging Face Inference API for text classification: `POST /models/{id}`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::Body;
use super::error::ApiError;
use super::error_docs::NativeErrors;
use super::json::Object;
use super::scores::{LabelScore, ranked};
use super::{ApiState, methods, request, schema};
use crate::model::Activation;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::post("/models/{id:.+}", classify_handler));
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "inputs must be a text or a list of texts")]
enum Inputs {
    Text(String),
    Texts(Vec<String>),
}

/// What a client may choose.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = HuggingFaceParameters)]
pub(super) struct Parameters {
    /// How many labels, highest first; all when left out.
    #[serde(default, deserialize_with = "request::whole_number")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    top_k: Option<usize>,
    /// How logits become scores; the way the model was trained when left out.
    function_to_apply: Option<Activation>,
}

/// A request; fields that are not known here are passed by.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = HuggingFaceRequest, example = json!({"inputs": "I am so happy that you came!", "parameters": {"top_k": 3}}))]
pub(super) struct ClassifyRequest {
    #[schema(schema_with = schema::text_or_texts)]
    inputs: Inputs,
    #[schema(value_type = Option<Parameters>)]
    parameters: Option<Object<Parameters>>,
}

/// Scores of the labels, one list a text.
#[utoipa::path(
    post, path = "/models/{id}", tag = "hugging face", params(("id" = String, Path, description = "The model")),
    request_body = ClassifyRequest,
    responses((status = 200, description = "One list of labels a text", body = Vec<Vec<LabelScore>>), NativeErrors)
)]
pub(super) async fn classify_handler(
    http: HttpRequest,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    classify(&http, &state, &id, &body).await
}

/// Answers a request of this contract, whatever path it came by. The reply is one list of labels a
/// text, nested even for a single text.
pub(super) async fn classify(
    http: &HttpRequest,
    state: &ApiState,
    model: &str,
    body: &Body,
) -> Result<HttpResponse, ApiError> {
    let wanted = request::named_model(model, state)?;
    let asked: ClassifyRequest = body.json_of_any_type()?;
    let parameters = asked.parameters.map(|Object(parameters)| parameters).unwrap_or_default();
    let most = parameters.top_k.map_or(Ok(usize::MAX), |top_k| request::label_count(top_k, 1, "parameters.top_k"))?;
    let texts = match asked.inputs {
        Inputs::Text(text) => vec![request::text(text, "inputs")?],
        Inputs::Texts(texts) => request::texts(texts, "inputs", state)?,
    };
    let answers = request::classify(http, state, wanted, texts).await?;
    let lists: Vec<_> = answers
        .iter()
        .map(|answer| {
            let mut labels = ranked(answer, parameters.function_to_apply.unwrap_or(answer.activation));
            labels.truncate(most);
            labels
        })
        .collect();
    Ok(HttpResponse::Ok().json(lists))
}
