//! `POST /v2/models/{model}/infer`, in JSON or with raw tensors.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::json::{BinarySize, Elements, InferReply, InferRequest, InputTensor, OutputTensor};
use super::{INPUT, LABELS, MODEL_VERSION, SCORES, binary, check_version};
use crate::api::body::{Body, Received};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::error_docs::OpenInferenceErrors;
use crate::api::json::{Name, Object, Text};
use crate::api::{ApiState, json, methods, request};
use crate::classifier::Answer;
use crate::residency::Wanted;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::post("/v2/models/{model}/infer", infer))
        .service(methods::post("/v2/models/{model}/versions/{version}/infer", infer_version));
}

/// Scores and top labels of the texts of a tensor. Raw tensors may follow the JSON, see the protocol's binary extension.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "open inference",
    params(("model" = String, Path, description = "The model")), request_body = InferRequest,
    responses((status = 200, description = "The outputs asked for", body = InferReply), OpenInferenceErrors)
)]
pub(in crate::api) async fn infer(
    http: HttpRequest,
    state: web::Data<ApiState>,
    model: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    answer(&http, &state, &model, body).await
}

/// Infers with the version that the path names.
#[utoipa::path(
    post, path = "/v2/models/{model}/versions/{version}/infer", tag = "open inference",
    params(("model" = String, Path, description = "The model"), ("version" = String, Path, description = "Its version")), request_body = InferRequest,
    responses((status = 200, description = "The outputs asked for", body = InferReply), OpenInferenceErrors)
)]
pub(in crate::api) async fn infer_version(
    http: HttpRequest,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (model, version) = path.into_inner();
    request::named_model(&model, &state)?;
    check_version(&model, &version)?;
    answer(&http, &state, &model, body).await
}

/// An output that is to be written.
#[derive(Debug, Clone, Copy)]
struct Output {
    content: Content,
    is_binary: bool,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Scores,
    Labels,
    /// The highest scores, at most this many, with their labels.
    Classification(usize),
}

/// What a request asks.
pub(in crate::api) struct Asked {
    id: Option<Arc<str>>,
    outputs: Vec<Output>,
    texts: Vec<Arc<str>>,
}

pub(in crate::api) fn read(received: Received<'_>, header: Option<&str>) -> Result<Asked, ApiError> {
    let (head, raw) = binary::split(received.bytes, header)?;
    let mut asked: InferRequest = json::read(head, received.max_texts)?;
    let outputs = outputs(&asked)?;
    let texts = texts(std::mem::take(&mut asked.inputs), raw, received.max_texts)?;
    let texts = request::texts(texts, INPUT, received.max_texts)?;
    Ok(Asked { id: asked.id.map(|Name(id)| id), outputs, texts })
}

async fn answer(http: &HttpRequest, state: &ApiState, model: &str, body: Body) -> Result<HttpResponse, ApiError> {
    let wanted = request::named_model(model, state)?;
    let header = match http.headers().get(binary::HEADER_LENGTH) {
        Some(value) => {
            let value = value.to_str().map_err(|_| bad("Inference-Header-Content-Length is not a number"))?;
            Some(value.to_owned())
        }
        None => None,
    };
    let (asked, mut held) = body.read(move |received| read(received, header.as_deref())).await?;
    let texts = || asked.texts.iter().map(Arc::clone);
    let mut answers = request::classify(http, state, wanted, texts(), &mut held).await?;
    // A tensor has rows of one length, so all texts have to be answered by the same model. They are
    // not only when the heavy model was unloaded in between.
    if answers.windows(2).any(|pair| pair[0].model != pair[1].model) {
        answers = request::classify(http, state, Wanted::Light, texts(), &mut held).await?;
    }
    reply(asked.id, &asked.outputs, &answers)
}

/// The texts of the only input.
fn texts(inputs: Vec<Object<InputTensor>>, mut raw: &[u8], most: usize) -> Result<Vec<Text>, ApiError> {
    let count = inputs.len();
    let Ok([Object(input)]) = <[Object<InputTensor>; 1]>::try_from(inputs) else {
        return Err(bad(format!("there are {count} inputs; there must be one, named {INPUT:?}")));
    };
    if *input.name.0 != *INPUT {
        return Err(bad(format!("there is no input {:?}; the only one is {INPUT:?}", input.name.0)));
    }
    if *input.datatype.0 != *"BYTES" {
        return Err(bad(format!("the datatype of the input {INPUT:?} is {:?}; it must be BYTES", input.datatype.0)));
    }
    let size = input.parameters.and_then(|parameters| parameters.0.binary_data_size);
    let texts = match (input.data, size) {
        (Some(data), None) => data.0,
        (None, Some(size)) => binary::texts(binary::take(&mut raw, size, INPUT)?, INPUT, most)?,
        (Some(_), Some(_)) => {
            return Err(bad(format!("the input {INPUT:?} has both data and binary_data_size; send one of them")));
        }
        (None, None) => return Err(bad(format!("the input {INPUT:?} has neither data nor binary_data_size"))),
    };
    if !raw.is_empty() {
        return Err(bad(format!("{} bytes behind the JSON part belong to no input", raw.len())));
    }
    let elements = match input.shape.as_slice() {
        [n] | [n, 1] => *n,
        _ => {
            return Err(bad(format!(
                "the shape of the input {INPUT:?} is {:?}; it must be [n] or [n, 1]",
                input.shape
            )));
        }
    };
    if usize::try_from(elements) != Ok(texts.len()) {
        return Err(bad(format!(
            "the shape of the input {INPUT:?} is {:?}, but it holds {} texts",
            input.shape,
            texts.len()
        )));
    }
    Ok(texts)
}

/// The outputs asked for; all of them when none is named.
fn outputs(asked: &InferRequest) -> Result<Vec<Output>, ApiError> {
    let all_binary = asked.parameters.as_ref().and_then(|parameters| parameters.0.binary_data_output).unwrap_or(false);
    let Some(requested) = asked.outputs.as_deref().filter(|outputs| !outputs.is_empty()) else {
        return Ok([Content::Scores, Content::Labels].map(|content| Output { content, is_binary: all_binary }).into());
    };
    let mut seen: Vec<&str> = Vec::with_capacity(requested.len());
    let mut outputs = Vec::with_capacity(requested.len());
    for Object(output) in requested {
        let name = &*output.name.0;
        if seen.contains(&name) {
            return Err(bad(format!("the output {name:?} is asked for twice")));
        }
        seen.push(name);
        let parameters = output.parameters.as_ref().map(|parameters| parameters.0).unwrap_or_default();
        let content = match (name, parameters.classification) {
            (SCORES, None | Some(0)) => Content::Scores,
            (SCORES, Some(most)) => Content::Classification(
                request::label_count(most, 0, "classification").map_err(|error| bad(error.message))?,
            ),
            (LABELS, None | Some(0)) => Content::Labels,
            (LABELS, Some(_)) => return Err(bad(format!("{LABELS:?} cannot be classified; ask it of {SCORES:?}"))),
            _ => return Err(bad(format!("there is no output {name:?}; outputs are {SCORES:?} and {LABELS:?}"))),
        };
        outputs.push(Output { content, is_binary: parameters.binary_data.unwrap_or(all_binary) });
    }
    Ok(outputs)
}

fn reply(id: Option<Arc<str>>, outputs: &[Output], answers: &[Answer]) -> Result<HttpResponse, ApiError> {
    let first = answers.first().ok_or_else(|| ApiError::new(ErrorKind::Internal, "there is no answer"))?;
    let mut raw = Vec::new();
    let tensors = outputs.iter().map(|output| {
        let (name, shape, elements) = tensor(output.content, answers, first.labels.len());
        let datatype = elements.datatype();
        if output.is_binary {
            let parameters = Some(BinarySize { binary_data_size: binary::append(&elements, &mut raw) });
            OutputTensor { name, shape, datatype, parameters, data: None }
        } else {
            OutputTensor { name, shape, datatype, parameters: None, data: Some(elements) }
        }
    });
    let reply = InferReply {
        model_name: first.model.name.to_string(),
        model_version: MODEL_VERSION,
        id,
        outputs: tensors.collect(),
    };
    if outputs.iter().all(|output| !output.is_binary) {
        return Ok(HttpResponse::Ok().json(reply));
    }
    let mut body = serde_json::to_vec(&reply).map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    let header = (binary::HEADER_LENGTH, body.len().to_string());
    body.append(&mut raw);
    Ok(HttpResponse::Ok().insert_header(header).content_type("application/octet-stream").body(body))
}

fn tensor(content: Content, answers: &[Answer], labels: usize) -> (&'static str, Vec<usize>, Elements) {
    let rows = answers.len();
    match content {
        Content::Scores => {
            (SCORES, vec![rows, labels], Elements::Fp32(answers.iter().flat_map(Answer::scores).collect()))
        }
        Content::Labels => {
            let top = answers.iter().flat_map(|answer| highest(answer, 1)).map(|(_, _, label)| label.to_string());
            (LABELS, vec![rows], Elements::Bytes(top.collect()))
        }
        Content::Classification(most) => {
            let most = most.min(labels);
            let classes = answers.iter().flat_map(|answer| highest(answer, most));
            let classes = classes.map(|(score, index, label)| format!("{score:.6}:{index}:{label}"));
            (SCORES, vec![rows, most], Elements::Bytes(classes.collect()))
        }
    }
}

/// The highest scores with the indexes and names of their labels.
fn highest(answer: &Answer, most: usize) -> impl Iterator<Item = (f32, usize, Arc<str>)> {
    let mut scores: Vec<_> = answer.scores().into_iter().enumerate().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    scores.truncate(most);
    let labels = Arc::clone(&answer.labels);
    scores.into_iter().map(move |(index, score)| (score, index, Arc::clone(&labels[index])))
}

fn bad(what: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::BadRequest, what)
}
