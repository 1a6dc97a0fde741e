//! What all contracts check in the same way: texts, deadlines, the name of a model.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use regex::Regex;

use super::ApiState;
use super::access_log::record_answers;
use super::body::Held;
use super::error::{ApiError, ErrorKind};
use super::guard::client_of;
use super::json::Text;
use crate::classifier::{Answer, ClientId, Flow, Query, TextInput};
use crate::model::{LongText, Role, TruncationSide};
use crate::residency::{Residency, Wanted};

/// Largest number that a request may give for how many labels it wants.
pub(crate) const MAX_COUNT: u32 = 1_000_000;

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// When the answer to this request is of no use any more: `REQUEST_TIMEOUT_MS`, or what the request
/// asks for if that is sooner.
pub(super) fn deadline(request: &HttpRequest, state: &ApiState) -> Result<Instant, ApiError> {
    let longest = state.settings.request_timeout;
    let timeout = match request.headers().get(TIMEOUT_HEADER) {
        None => longest,
        Some(value) => match value.to_str().ok().and_then(|value| value.trim().parse::<u64>().ok()) {
            Some(ms) if ms > 0 => Duration::from_millis(ms).min(longest),
            _ => {
                let what = format!("{TIMEOUT_HEADER} must be a whole number of milliseconds over 0");
                return Err(ApiError::new(ErrorKind::Unprocessable, what));
            }
        },
    };
    Ok(Instant::now() + timeout)
}

/// A text that has something in it.
pub(super) fn text(Text(text): Text, place: &str) -> Result<Arc<str>, ApiError> {
    if is_blank(&text) {
        let what = format!("{place} is empty or has nothing visible in it; send a text to read");
        return Err(ApiError::new(ErrorKind::Empty, what));
    }
    Ok(text)
}

/// Whether nobody could see anything of the text: white space, control and zero-width characters.
pub(crate) fn is_blank(text: &str) -> bool {
    // By far most texts have a letter of ASCII in front.
    if text.bytes().next().is_some_and(|byte| byte.is_ascii_graphic()) {
        return false;
    }
    !VISIBLE.is_match(text)
}

/// The text without what is invisible at its ends.
pub(super) fn visible_part(text: &str) -> &str {
    text.trim_matches(|character: char| is_blank(character.encode_utf8(&mut [0; 4])))
}

#[allow(clippy::expect_used, reason = "the pattern is a constant, so any test of this file shows that it compiles")]
static VISIBLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[^\s\p{Cc}\p{Cf}\p{Z}\p{Default_Ignorable_Code_Point}]").expect("the pattern is a regex")
});

/// Reads a field that may be left out but not be null.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads a whole number; `3.0` is one in JSON.
pub(super) fn whole_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = <Option<f64> as serde::Deserialize>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if number < 0.0 || number.fract() != 0.0 {
        let what = format!("invalid value: {number}, expected a whole number from 0");
        return Err(serde::de::Error::custom(what));
    }
    // Saturates, and what is that large is refused by its range.
    Ok(Some(number as usize))
}

/// Refuses more labels than a request may ask for.
pub(super) fn label_count(count: usize, least: u32, place: &str) -> Result<usize, ApiError> {
    if (least as usize..=MAX_COUNT as usize).contains(&count) {
        return Ok(count);
    }
    let what = format!("{place} is {count}, but it must be from {least} to {MAX_COUNT}");
    Err(ApiError::new(ErrorKind::Unprocessable, what))
}

/// Refuses more texts than one request may hold.
pub(super) fn count(texts: usize, most: usize) -> Result<(), ApiError> {
    if texts > most {
        let what = format!("{texts} texts are more than the {most} that one request may hold; send them in parts");
        return Err(ApiError::new(ErrorKind::TooLarge, what));
    }
    Ok(())
}

/// The turn that the texts of a request take, once they are counted against what its client may send.
pub(super) fn turn(http: &HttpRequest, state: &ApiState, texts: usize) -> Result<Flow, ApiError> {
    state.guard.count_texts(http, texts)?;
    Ok(flow(http, state))
}

/// The turn of a request's or a stream's texts: part of its client's share.
pub(super) fn flow(http: &HttpRequest, state: &ApiState) -> Flow {
    Flow::of(ClientId::of(&client_of(http, state)))
}

/// The role that `model` names: `auto`, `heavy`, `light`, or a model's name.
pub(super) fn wanted(model: &str, strict: bool, state: &ApiState) -> Option<Wanted> {
    wanted_of(model, strict, state.classifier.residency())
}

/// The same, for whoever has no HTTP.
pub(crate) fn wanted_of(model: &str, strict: bool, residency: &Residency) -> Option<Wanted> {
    let role = match model {
        "auto" => return Some(if strict { Wanted::Heavy { strict } } else { Wanted::Auto }),
        "heavy" => Role::Heavy,
        "light" => Role::Light,
        name => residency.role_of(name)?,
    };
    Some(match role {
        Role::Heavy => Wanted::Heavy { strict },
        Role::Light => Wanted::Light,
    })
}

/// The names that `wanted` knows, for messages.
pub(super) fn known_models(state: &ApiState) -> String {
    known_models_of(state.classifier.residency())
}

/// The same, for whoever has no HTTP.
pub(crate) fn known_models_of(residency: &Residency) -> String {
    format!("auto, heavy, light, {} or {}", residency.name_of(Role::Heavy), residency.name_of(Role::Light))
}

/// The model that a path names. Who names the heavy model gets no other.
pub(super) fn named_model(name: &str, state: &ApiState) -> Result<Wanted, ApiError> {
    let is_choice = name == "auto";
    wanted(name, !is_choice, state).ok_or_else(|| unknown_model(name, state))
}

/// The role that a path names; `auto` is none.
pub(super) fn named_role(name: &str, state: &ApiState) -> Result<Role, ApiError> {
    match wanted(name, false, state) {
        Some(Wanted::Heavy { .. }) => Ok(Role::Heavy),
        Some(Wanted::Light) => Ok(Role::Light),
        Some(Wanted::Auto) | None => Err(unknown_model(name, state)),
    }
}

fn unknown_model(name: &str, state: &ApiState) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("there is no model {name:?}; models are {}", known_models(state)))
}

/// One answer a text, in order; texts that are too long are cut at their end. `held` is what their
/// body took.
pub(super) async fn classify(
    http: &HttpRequest,
    state: &ApiState,
    wanted: Wanted,
    texts: impl IntoIterator<Item = Arc<str>>,
    held: &mut Held,
) -> Result<Vec<Answer>, ApiError> {
    let texts: Vec<TextInput> = texts.into_iter().map(TextInput::Single).collect();
    let query = Query {
        flow: turn(http, state, texts.len())?,
        texts,
        wanted,
        long_text: LongText::Truncate,
        truncation_side: TruncationSide::Right,
        deadline: deadline(http, state)?,
    };
    held.shrink(query.bytes());
    let answers = state.classifier.classify(query).await?;
    record_answers(http, &answers);
    Ok(answers)
}

/// Texts that all have something in them, no more than one request may hold.
pub(super) fn texts(texts: Vec<Text>, place: &str, most: usize) -> Result<Vec<Arc<str>>, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::new(ErrorKind::Empty, format!("{place} is empty; send at least one text")));
    }
    count(texts.len(), most)?;
    texts.into_iter().enumerate().map(|(index, given)| text(given, &format!("{place}[{index}]"))).collect()
}

#[cfg(test)]
mod tests {
    use super::is_blank;

    #[test]
    fn a_text_without_anything_visible_is_blank() {
        for text in
            ["", " \t\r\n", "\u{a0}\u{3000}", "\u{200b}\u{200d}\u{feff}", "\0\u{1}", "\u{2060} \u{ad}", "\u{fe0f}"]
        {
            assert!(is_blank(text), "{text:?}");
        }
        for text in ["a", " a", "\u{200b}!", "😂", "\u{202e}אני", "é", "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}", "\0x"]
        {
            assert!(!is_blank(text), "{text:?}");
        }
    }
}
