//! The contract of the Hugging Face Inference API for text classification: `POST /models/{id}`.

use std::fmt;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use utoipa::ToSchema;

use super::body::{Body, Held, Received};
use super::error::ApiError;
use super::error_docs::NativeErrors;
use super::json::{Object, Text};
use super::scores::{LabelScore, ranked};
use super::{ApiState, methods, request, schema};
use crate::model::Activation;
use crate::residency::Wanted;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::post("/models/{id:.+}", classify_handler));
}

/// One text or several.
#[derive(Debug)]
enum Inputs {
    Text(Text),
    Texts(Vec<Text>),
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inputs must be a text or a list of texts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs::Text(Text(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Inputs, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Inputs::Texts)
    }
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
    let wanted = request::named_model(&id, &state)?;
    let (asked, held) = body.read(read).await?;
    classify(&http, &state, wanted, asked, held).await
}

/// What a request of this contract asks.
#[derive(Debug)]
pub(super) struct Asked {
    texts: Vec<Arc<str>>,
    most: usize,
    function_to_apply: Option<Activation>,
}

/// Reads a request of this contract.
pub(super) fn read(received: Received<'_>) -> Result<Asked, ApiError> {
    let asked: ClassifyRequest = received.json_of_any_type()?;
    let parameters = asked.parameters.map(|Object(parameters)| parameters).unwrap_or_default();
    let most = parameters.top_k.map_or(Ok(usize::MAX), |top_k| request::label_count(top_k, 1, "parameters.top_k"))?;
    let texts = match asked.inputs {
        Inputs::Text(text) => vec![request::text(text, "inputs")?],
        Inputs::Texts(texts) => request::texts(texts, "inputs", received.max_texts)?,
    };
    Ok(Asked { texts, most, function_to_apply: parameters.function_to_apply })
}

/// Answers a request of this contract, whatever path it came by. The reply is one list of labels a
/// text, nested even for a single text.
pub(super) async fn classify(
    http: &HttpRequest,
    state: &ApiState,
    wanted: Wanted,
    asked: Asked,
    mut held: Held,
) -> Result<HttpResponse, ApiError> {
    let answers = request::classify(http, state, wanted, asked.texts, &mut held).await?;
    let lists: Vec<_> = answers
        .iter()
        .map(|answer| {
            let mut labels = ranked(answer, asked.function_to_apply.unwrap_or(answer.activation));
            labels.truncate(asked.most);
            labels
        })
        .collect();
    Ok(HttpResponse::Ok().json(lists))
}
