//! The contract of text-embeddings-inference: `POST /predict` and `GET /info`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::access_log::record_answers;
use super::body::{Body, Held, Received};
use super::error::{ApiError, ErrorKind};
use super::error_docs::{TeiErrors, TeiInfoErrors};
use super::json::Text;
use super::scores::{LabelScore, ranked};
use super::{ApiState, known_model, methods, request, schema};
use crate::classifier::{Answer, Query, TextInput};
use crate::config::http_workers;
use crate::model::{Activation, LongText, TruncationSide};
use crate::residency::Wanted;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::post("/predict", predict_handler)).service(methods::get("/info", info));
}

const EXPECTED: &str = "inputs must be a text, a list of one text or of a pair, or a batch as a list of such lists: \
                        [[\"first text\"], [\"second text\"]]";

/// What is to be read: `"text"`, `["text"]`, one pair `["first", "second"]`, or a batch of those lists.
#[derive(Debug)]
enum Inputs {
    Text(Text),
    Sequence(Vec<Text>),
    Batch(Vec<Vec<Text>>),
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
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs::Text(Text(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inputs, A::Error> {
        let (mut sequence, mut batch) = (Vec::new(), Vec::new());
        while let Some(item) = list.next_element::<Item>()? {
            match item {
                Item::Text(text) if batch.is_empty() => sequence.push(text),
                Item::Sequence(item) if sequence.is_empty() => batch.push(item),
                Item::Text(_) | Item::Sequence(_) => return Err(A::Error::custom(EXPECTED)),
            }
        }
        Ok(if batch.is_empty() { Inputs::Sequence(sequence) } else { Inputs::Batch(batch) })
    }
}

/// An element of a list of inputs.
enum Item {
    Text(Text),
    Sequence(Vec<Text>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(Text(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Item, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Item::Sequence)
    }
}

/// A request; fields that are not known here are passed by.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiPredictRequest, example = json!({"inputs": "I am so happy that you came!"}))]
pub(super) struct PredictRequest {
    #[schema(schema_with = schema::text_pair_or_batch)]
    inputs: Inputs,
    /// Give logits rather than scores.
    #[serde(default)]
    raw_scores: bool,
    /// Cut a text that is too long (the default) rather than refuse it.
    truncate: Option<bool>,
    /// Which end is cut.
    #[serde(default)]
    truncation_direction: TruncationSide,
}

/// The reply: a list of labels, or one such list for each of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = TeiPredictReply)]
pub(super) enum PredictReply {
    One(Vec<LabelScore>),
    Batch(Vec<Vec<LabelScore>>),
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_type: &'static str,
}

/// An error with the words and the statuses of this contract.
pub(super) fn error_reply(error: &ApiError) -> HttpResponse {
    let (status, error_type) = match error.kind {
        ErrorKind::Empty => (StatusCode::BAD_REQUEST, "Empty"),
        ErrorKind::Internal => (StatusCode::FAILED_DEPENDENCY, "Backend"),
        ErrorKind::Overloaded | ErrorKind::DeadlinePassed => (error.kind.status(), "Overloaded"),
        ErrorKind::Unavailable => (error.kind.status(), "Unhealthy"),
        ErrorKind::BadRequest
        | ErrorKind::Unauthorized
        | ErrorKind::Forbidden
        | ErrorKind::NotFound
        | ErrorKind::MethodNotAllowed
        | ErrorKind::RequestTimeout
        | ErrorKind::TooLarge
        | ErrorKind::UnsupportedMediaType
        | ErrorKind::Unprocessable => (error.kind.status(), "Validation"),
    };
    error.reply_with_status(status, ErrorBody { error: &error.message, error_type })
}

/// Scores of every label, highest first.
#[utoipa::path(
    post, path = "/predict", tag = "tei", request_body = PredictRequest,
    responses((status = 200, description = "A list of labels, or one such list for each of a batch", body = PredictReply), TeiErrors)
)]
pub(super) async fn predict_handler(
    http: HttpRequest,
    state: web::Data<ApiState>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (asked, held) = body.read(read).await?;
    predict(&http, &state, asked, held).await
}

/// What a request of this contract asks.
#[derive(Debug)]
pub(super) struct Asked {
    started: Instant,
    texts: Vec<TextInput>,
    is_batch: bool,
    raw_scores: bool,
    long_text: LongText,
    truncation_side: TruncationSide,
}

/// Reads a request of this contract.
pub(super) fn read(received: Received<'_>) -> Result<Asked, ApiError> {
    let started = Instant::now();
    let asked: PredictRequest = received.json_of_any_type()?;
    let (texts, is_batch) = match asked.inputs {
        Inputs::Text(text) => (vec![TextInput::Single(request::text(text, "inputs")?)], false),
        Inputs::Sequence(sequence) => (vec![text_or_pair(sequence, "inputs")?], false),
        Inputs::Batch(batch) => {
            request::count(batch.len(), received.max_texts)?;
            let items = batch.into_iter().enumerate();
            let texts = items.map(|(index, item)| text_or_pair(item, &format!("inputs[{index}]")));
            (texts.collect::<Result<Vec<_>, _>>()?, true)
        }
    };
    Ok(Asked {
        started,
        texts,
        is_batch,
        raw_scores: asked.raw_scores,
        long_text: if asked.truncate == Some(false) { LongText::Refuse } else { LongText::Truncate },
        truncation_side: asked.truncation_direction,
    })
}

/// Answers a request of this contract, whatever path it came by.
pub(super) async fn predict(
    http: &HttpRequest,
    state: &ApiState,
    asked: Asked,
    mut held: Held,
) -> Result<HttpResponse, ApiError> {
    let characters = asked.texts.iter().map(characters).sum();
    let query = Query {
        flow: request::turn(http, state, asked.texts.len())?,
        texts: asked.texts,
        wanted: Wanted::Auto,
        long_text: asked.long_text,
        truncation_side: asked.truncation_side,
        deadline: request::deadline(http, state)?,
    };
    held.shrink(query.bytes());
    let answers = state.classifier.classify(query).await?;
    record_answers(http, &answers);
    let mut reply = HttpResponse::Ok();
    compute_headers(&mut reply, &answers, characters, asked.started.elapsed());
    let mut lists = answers
        .iter()
        .map(|answer| ranked(answer, if asked.raw_scores { Activation::None } else { answer.activation }));
    let body = match lists.next() {
        Some(only) if !asked.is_batch => PredictReply::One(only),
        first => PredictReply::Batch(first.into_iter().chain(lists).collect()),
    };
    Ok(reply.json(body))
}

fn text_or_pair(sequence: Vec<Text>, place: &str) -> Result<TextInput, ApiError> {
    let mut texts =
        sequence.into_iter().enumerate().map(|(index, text)| request::text(text, &format!("{place}[{index}]")));
    match (texts.next(), texts.next(), texts.len()) {
        (None, ..) => Err(ApiError::new(ErrorKind::Empty, format!("{place} is empty; send a text to read"))),
        (Some(text), None, _) => Ok(TextInput::Single(text?)),
        (Some(first), Some(second), 0) => Ok(TextInput::Pair(first?, second?)),
        (Some(_), Some(_), more) => Err(ApiError::new(
            ErrorKind::Unprocessable,
            format!(
                "{place} holds {} texts, but a list of texts is one text or one pair; send a batch as a list of lists: \
                 [[\"first text\"], [\"second text\"], [\"third text\"]]",
                more + 2
            ),
        )),
    }
}

fn characters(text: &TextInput) -> usize {
    match text {
        TextInput::Single(text) => text.chars().count(),
        TextInput::Pair(first, second) => first.chars().count() + second.chars().count(),
    }
}

/// Counts are sums over the request; times are in milliseconds and, of a batch, the mean of its texts.
fn compute_headers(reply: &mut HttpResponseBuilder, answers: &[Answer], characters: usize, total: Duration) {
    let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
    let mean_ms = |time: fn(&Answer) -> Duration| {
        let sum: Duration = answers.iter().map(time).sum();
        sum.as_millis() / answers.len().max(1) as u128
    };
    reply
        .insert_header(("x-compute-type", "cpu"))
        .insert_header(("x-compute-time", total.as_millis().to_string()))
        .insert_header(("x-compute-characters", characters.to_string()))
        .insert_header(("x-compute-tokens", tokens.to_string()))
        .insert_header(("x-total-time", total.as_millis().to_string()))
        .insert_header(("x-tokenization-time", mean_ms(|answer| answer.timing.tokenization).to_string()))
        .insert_header(("x-queue-time", mean_ms(|answer| answer.timing.queue).to_string()))
        .insert_header(("x-inference-time", mean_ms(|answer| answer.timing.inference).to_string()));
}

/// Which classes the model knows, both ways.
#[derive(Debug, Serialize, ToSchema)]
struct Classifier {
    #[schema(schema_with = schema::any_object)]
    id2label: Map<String, Value>,
    #[schema(schema_with = schema::any_object)]
    label2id: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelType {
    classifier: Classifier,
}

/// The model that answers and the limits of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    model_id: String,
    model_sha: String,
    model_dtype: &'static str,
    model_type: ModelType,
    max_concurrent_requests: usize,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
}

/// The model that answers now, and the limits of the server.
#[utoipa::path(
    get, path = "/info", tag = "tei", responses((status = 200, description = "The model", body = Info), TeiInfoErrors)
)]
pub(super) async fn info(state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let bundle = known_model::bundle(known_model::role(Wanted::Auto, &state), &state).await?;
    let pool = &state.classifier.residency().settings().pool;
    let labels = || bundle.labels.iter().map(Arc::as_ref).enumerate();
    Ok(HttpResponse::Ok().json(Info {
        model_id: bundle.name.clone(),
        model_sha: bundle.hash.clone(),
        model_dtype: bundle.precision.as_str(),
        model_type: ModelType {
            classifier: Classifier {
                id2label: labels().map(|(id, label)| (id.to_string(), json!(label))).collect(),
                label2id: labels().map(|(id, label)| (label.to_owned(), json!(id))).collect(),
            },
        },
        max_concurrent_requests: pool.queue.max_texts,
        max_input_length: bundle.max_length,
        max_batch_tokens: pool.max_batch_tokens,
        max_batch_requests: None,
        max_client_batch_size: state.settings.max_texts,
        auto_truncate: true,
        tokenization_workers: http_workers(),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::json;

    /// How serde reads the three forms by itself, with all of the JSON in memory.
    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    enum Free {
        Text(String),
        Sequence(Vec<String>),
        Batch(Vec<Vec<String>>),
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            4 => ".{0,5}".prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::from),
            1 => Just(json!({"a": ["b"]})),
        ];
        leaf.prop_recursive(3, 40, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Value::from))
    }

    proptest! {
        #[test]
        fn inputs_are_read_as_serde_reads_them_or_refused_in_words(inputs in values()) {
            let body = json!({"inputs": inputs, "more": [[1]]}).to_string();
            let read = json::read::<PredictRequest>(body.as_bytes(), 512).map(|asked| asked.inputs);
            let strings = |texts: Vec<Text>| texts.iter().map(|Text(text)| text.to_string()).collect::<Vec<_>>();
            match (read, serde_json::from_value::<Free>(inputs)) {
                (Ok(Inputs::Text(Text(text))), Ok(Free::Text(free))) => prop_assert_eq!(&*text, free),
                (Ok(Inputs::Sequence(texts)), Ok(Free::Sequence(free))) => prop_assert_eq!(strings(texts), free),
                (Ok(Inputs::Batch(batch)), Ok(Free::Batch(free))) => {
                    prop_assert_eq!(batch.into_iter().map(strings).collect::<Vec<_>>(), free);
                }
                (Err(error), Err(_)) => {
                    prop_assert_eq!(error.kind, ErrorKind::Unprocessable);
                    prop_assert!(error.message.contains("inputs"), "{}", error.message);
                }
                (read, free) => {
                    return Err(TestCaseError::fail(format!("{read:?} where serde reads {free:?}")));
                }
            }
        }
    }
}
