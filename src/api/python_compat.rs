//! The two paths of the Python service that this one replaces.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Body, Received};
use super::error::{ApiError, ErrorKind};
use super::error_docs::DetailErrors;
use super::json::Text;
use super::scores::ScoreByLabel;
use super::{ApiState, methods, request, schema};
use crate::analysis::{Analysis, Complexity, EmotionalState, MixedType, ScoredLabel, Settings, Valence};
use crate::analysis::{analyze, rounded_score};
use crate::residency::Wanted;

/// Shorter texts were refused by the Python service too.
const LEAST_CHARACTERS: usize = 5;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(methods::post("/analysis/emotion-v2", emotion_v2))
        .service(methods::post("/analysis/emotion", emotion));
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    detail: &'a str,
}

/// An error in the shape of the Python service's framework.
pub(super) fn error_reply(error: &ApiError) -> HttpResponse {
    error.reply_with(ErrorBody { detail: &error.message })
}

/// A request; fields that are not known here are passed by.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"text": "I am so happy that you came!"}))]
pub(super) struct EmotionRequest {
    #[schema(schema_with = schema::text_of_five)]
    text: Text,
}

/// The whole analysis in one flat object.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmotionV2Reply {
    #[serde(flatten)]
    scores: EmotionReply,
    significant_emotions: Vec<ScoredLabel>,
    is_mixed: bool,
    mixed_type: MixedType,
    has_conflict: bool,
    has_confusion: bool,
    complexity: Complexity,
    valence: Valence,
    emotional_state: EmotionalState,
    #[schema(value_type = String)]
    model: Arc<str>,
}

/// The scores alone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmotionReply {
    #[schema(value_type = String)]
    emotion: Arc<str>,
    confidence: f64,
    #[schema(schema_with = schema::score_by_label)]
    all_scores: ScoreByLabel<f64>,
}

impl EmotionReply {
    fn new(analysis: &Analysis) -> Self {
        let rounded = |scored: &ScoredLabel| (Arc::clone(&scored.label), rounded_score(scored.score));
        Self {
            emotion: Arc::clone(&analysis.emotion),
            confidence: rounded_score(analysis.confidence),
            all_scores: ScoreByLabel(analysis.all_scores.iter().map(rounded).collect()),
        }
    }
}

/// The whole analysis of one text.
#[utoipa::path(
    post, path = "/analysis/emotion-v2", tag = "python service", request_body = EmotionRequest,
    responses((status = 200, description = "The analysis", body = EmotionV2Reply), DetailErrors)
)]
pub(super) async fn emotion_v2(
    http: HttpRequest,
    state: web::Data<ApiState>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (analysis, model) = analysis(&http, &state, body, Wanted::Auto).await?;
    Ok(HttpResponse::Ok().json(EmotionV2Reply {
        scores: EmotionReply::new(&analysis),
        significant_emotions: analysis.significant_emotions,
        is_mixed: analysis.is_mixed,
        mixed_type: analysis.mixed_type,
        has_conflict: analysis.has_conflict,
        has_confusion: analysis.has_confusion,
        complexity: analysis.complexity,
        valence: analysis.valence,
        emotional_state: analysis.emotional_state,
        model,
    }))
}

/// The light model's scores of one text.
#[utoipa::path(
    post, path = "/analysis/emotion", tag = "python service", request_body = EmotionRequest,
    responses((status = 200, description = "The scores", body = EmotionReply), DetailErrors)
)]
pub(super) async fn emotion(
    http: HttpRequest,
    state: web::Data<ApiState>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (analysis, _) = analysis(&http, &state, body, Wanted::Light).await?;
    Ok(HttpResponse::Ok().json(EmotionReply::new(&analysis)))
}

/// The text of a request.
pub(super) fn read(received: Received<'_>) -> Result<Arc<str>, ApiError> {
    let EmotionRequest { text: Text(text) } = received.json_of_any_type()?;
    let characters = request::visible_part(&text).chars().count();
    if characters < LEAST_CHARACTERS {
        let what = format!("text has {characters} characters; it needs at least {LEAST_CHARACTERS} to be read");
        return Err(ApiError::new(ErrorKind::BadRequest, what));
    }
    Ok(text)
}

async fn analysis(
    http: &HttpRequest,
    state: &ApiState,
    body: Body,
    wanted: Wanted,
) -> Result<(Analysis, Arc<str>), ApiError> {
    let (text, mut held) = body.read(read).await?;
    let mut answers = request::classify(http, state, wanted, [Arc::clone(&text)], &mut held).await?;
    let answer = answers.pop().ok_or_else(|| ApiError::new(ErrorKind::Internal, "there is no answer"))?;
    Ok((analyze(&text, &answer.labels, &answer.scores(), &Settings::default()), answer.model.name))
}
