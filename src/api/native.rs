//! Our own contract: `POST /analyze`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::access_log::record_answers;
use super::body::{Body, Received};
use super::error::{ApiError, ErrorKind};
use super::error_docs::NativeErrors;
use super::json::{Name, Text};
use super::{methods, request, schema};
use crate::analysis::{Analysis, Settings, analyze};
use crate::classifier::{Answer, ClassifyError, ModelInfo, Query, TextInput};
use crate::model::{LongText, Role, TruncationSide};

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(methods::post("/analyze", analyze_texts));
}

/// `{"text": "…"}` or `{"texts": ["…", …]}`, with options.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"text": "I love this, but I am so angry that it broke!"}))]
pub(super) struct AnalyzeRequest {
    /// One text; the reply is its analysis.
    #[serde(default, deserialize_with = "request::present")]
    #[schema(required = false, schema_with = schema::text)]
    text: Option<Text>,
    /// Several texts; the reply is a list of their analyses.
    #[serde(default, deserialize_with = "request::present")]
    #[schema(required = false, schema_with = schema::texts)]
    texts: Option<Vec<Text>>,
    /// Which model: `auto` takes the heavy one if it may run, else the light one.
    #[serde(default = "auto")]
    #[schema(value_type = String)]
    model: Name,
    /// With the heavy model: answer 503 rather than fall back.
    #[serde(default)]
    strict: bool,
    /// Least score of a significant emotion.
    #[schema(minimum = 0, maximum = 1)]
    threshold: Option<f64>,
    /// How many significant emotions to list at most.
    #[serde(default, deserialize_with = "request::whole_number")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    top_k: Option<usize>,
    /// What to do with a text over the model's length.
    #[serde(default)]
    long_text: LongText,
}

fn auto() -> Name {
    Name("auto".into())
}

/// The model that answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelReply {
    #[schema(value_type = String)]
    name: Arc<str>,
    role: Role,
    precision: &'static str,
    /// First digits of the bundle's hash.
    #[schema(value_type = String)]
    revision: Arc<str>,
}

impl From<ModelInfo> for ModelReply {
    fn from(model: ModelInfo) -> Self {
        Self { name: model.name, role: model.role, precision: model.precision, revision: model.revision }
    }
}

/// Why the light model answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FallbackReply {
    from: Role,
    reason: &'static str,
}

/// The reply for one text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnalyzeReply {
    #[serde(flatten)]
    analysis: Analysis,
    /// Labels whose score passes that label's own tuned threshold.
    #[schema(value_type = Vec<String>)]
    labels: Vec<Arc<str>>,
    model: ModelReply,
    fallback: Option<FallbackReply>,
    truncated: bool,
    tokens: usize,
}

/// The reply for several texts, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ManyReplies {
    results: Vec<AnalyzeReply>,
    count: usize,
}

/// The reply to a request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum AnalyzeReplies {
    /// For `text`.
    One(Box<AnalyzeReply>),
    /// For `texts`.
    Many(ManyReplies),
}

impl AnalyzeReply {
    /// What was found out about the text.
    pub(crate) fn analysis(&self) -> &Analysis {
        &self.analysis
    }

    /// What the answer for `text` means to a person.
    pub(crate) fn new(text: &str, answer: Answer, settings: &Settings) -> Self {
        let scores = answer.scores();
        let analysis = analyze(text, &answer.labels, &scores, settings);
        let labels = if answer.thresholds.is_empty() {
            vec![Arc::clone(&analysis.emotion)]
        } else {
            let passes = |(label, (score, threshold)): (&Arc<str>, (&f32, &f32))| {
                (score >= threshold).then(|| Arc::clone(label))
            };
            answer.labels.iter().zip(scores.iter().zip(answer.thresholds.iter())).filter_map(passes).collect()
        };
        Self {
            analysis,
            labels,
            fallback: answer.fallback.map(|reason| FallbackReply { from: Role::Heavy, reason: reason.as_str() }),
            model: answer.model.into(),
            truncated: answer.truncated,
            tokens: answer.tokens,
        }
    }
}

/// Reads the emotions of one text, or of several.
#[utoipa::path(
    post, path = "/analyze", tag = "native", request_body = AnalyzeRequest,
    responses(
        (status = 200, description = "One analysis, or for texts a list of them", body = inline(AnalyzeReplies)),
        NativeErrors
    )
)]
pub(super) async fn analyze_texts(
    http: HttpRequest,
    state: web::Data<ApiState>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let deadline = request::deadline(&http, &state)?;
    let (asked, mut held) = body.read(read).await?;
    let Asked { is_one, texts, settings, .. } = asked;
    let wanted = request::wanted(&asked.model, asked.strict, &state).ok_or_else(|| {
        let what = format!("there is no model {:?}; model may be {}", asked.model, request::known_models(&state));
        ApiError::new(ErrorKind::Unprocessable, what)
    })?;
    let query = Query {
        texts: texts.iter().map(|text| TextInput::Single(Arc::clone(text))).collect(),
        wanted,
        long_text: asked.long_text,
        truncation_side: TruncationSide::Right,
        deadline,
        flow: request::turn(&http, &state, texts.len())?,
    };
    held.shrink(query.bytes());
    let answers = state.classifier.classify(query).await.map_err(|error| match error {
        ClassifyError::Text { index, what } => {
            let place = if is_one { "text".to_owned() } else { format!("texts[{index}]") };
            ApiError::new(ErrorKind::Unprocessable, format!("{place}: {what}"))
        }
        ClassifyError::QueueFull { .. }
        | ClassifyError::Unavailable(_)
        | ClassifyError::DeadlinePassed
        | ClassifyError::Internal => error.into(),
    })?;
    record_answers(&http, &answers);
    let mut reply = HttpResponse::Ok();
    let mut results: Vec<_> =
        texts.iter().zip(answers).map(|(text, answer)| AnalyzeReply::new(text, answer, &settings)).collect();
    Ok(match results.pop() {
        Some(only) if is_one => reply.json(AnalyzeReplies::One(Box::new(only))),
        last => {
            results.extend(last);
            reply.json(AnalyzeReplies::Many(ManyReplies { count: results.len(), results }))
        }
    })
}

/// What a request asks.
pub(super) struct Asked {
    is_one: bool,
    texts: Vec<Arc<str>>,
    model: Arc<str>,
    strict: bool,
    long_text: LongText,
    settings: Settings,
}

pub(super) fn read(received: Received<'_>) -> Result<Asked, ApiError> {
    let asked: AnalyzeRequest = received.json()?;
    let settings = analysis_settings(&asked)?;
    let is_one = asked.text.is_some();
    let texts = match (asked.text, asked.texts) {
        (Some(text), None) => vec![request::text(text, "text")?],
        (None, Some(texts)) => request::texts(texts, "texts", received.max_texts)?,
        (Some(_), Some(_)) => {
            return Err(ApiError::new(ErrorKind::Unprocessable, "text and texts are both there; send one of them"));
        }
        (None, None) => {
            let what = "there is nothing to read; send {\"text\": \"…\"} or {\"texts\": [\"…\"]}";
            return Err(ApiError::new(ErrorKind::Unprocessable, what));
        }
    };
    let Name(model) = asked.model;
    Ok(Asked { is_one, texts, model, strict: asked.strict, long_text: asked.long_text, settings })
}

fn analysis_settings(asked: &AnalyzeRequest) -> Result<Settings, ApiError> {
    let mut settings = Settings::default();
    if let Some(threshold) = asked.threshold {
        if !(0.0..=1.0).contains(&threshold) {
            let what = format!("threshold is {threshold}, but it must be from 0 to 1");
            return Err(ApiError::new(ErrorKind::Unprocessable, what));
        }
        settings.threshold = threshold as f32;
    }
    if let Some(top_k) = asked.top_k {
        settings.top_k = request::label_count(top_k, 0, "top_k")?;
    }
    Ok(settings)
}
