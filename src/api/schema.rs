//! Schemas of values that a derive cannot describe: texts, and lists that may be nested.

use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};

/// A character that somebody can see, as a class of a regular expression; the same characters as
/// those that make a text not blank.
const VISIBLE: &str = "[^\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u034f\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u0890-\\u0891\\u08e2\
\\u115f-\\u1160\\u1680\\u17b4-\\u17b5\\u180b-\\u180f\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\u3164\\ufe00-\\ufe0f\\ufeff\
\\uffa0\\ufff0-\\ufffb\u{110bd}\u{110cd}\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]";

fn matching(pattern: String, description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .description(Some(description))
        .examples([json!("I am so happy that you came!")])
        .into()
}

/// A text that has something in it.
pub(super) fn text() -> RefOr<Schema> {
    matching(VISIBLE.to_owned(), "A text with something visible in it")
}

/// A text that the Python service took too.
pub(super) fn text_of_five() -> RefOr<Schema> {
    let pattern = format!("{VISIBLE}[\\s\\S]{{3,}}{VISIBLE}");
    matching(pattern, "A text of at least five characters, invisible ones at its ends not counted")
}

/// Texts, at least one.
pub(super) fn texts() -> RefOr<Schema> {
    ArrayBuilder::new().items(text()).min_items(Some(1)).description(Some("At most MAX_TEXTS texts")).into()
}

/// One text or several.
pub(super) fn text_or_texts() -> RefOr<Schema> {
    Schema::OneOf(OneOfBuilder::new().item(text()).item(texts()).build()).into()
}

/// One text, a pair of texts, or a batch of both.
pub(super) fn text_pair_or_batch() -> RefOr<Schema> {
    let sequence = || {
        let array = ArrayBuilder::new().items(text()).min_items(Some(1)).max_items(Some(2));
        array.description(Some("One text, or a pair that is read together")).build()
    };
    let batch = ArrayBuilder::new()
        .items(RefOr::T(Schema::Array(sequence())))
        .min_items(Some(1))
        .description(Some("A batch"))
        .build();
    Schema::OneOf(OneOfBuilder::new().item(text()).item(sequence()).item(batch).build()).into()
}

/// Texts row by row, in a list or in a list of lists with one text each.
pub(super) fn flat_or_nested_texts() -> RefOr<Schema> {
    let row = ArrayBuilder::new().items(text()).min_items(Some(1)).build();
    let rows = ArrayBuilder::new().items(RefOr::T(Schema::Array(row))).min_items(Some(1)).build();
    let schema = OneOfBuilder::new().item(texts()).item(rows).description(Some("As many texts as the shape says"));
    Schema::OneOf(schema.build()).into()
}

/// An object from label to score.
pub(super) fn score_by_label() -> RefOr<Schema> {
    let score: RefOr<Schema> = ObjectBuilder::new().schema_type(Type::Number).into();
    ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(score)).into()
}

/// Labels by id and ids by label.
pub(super) fn any_object() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::Object).into()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn the_pattern_takes_the_characters_that_make_a_text_not_blank() {
        let pattern = Regex::new(VISIBLE).unwrap();
        for character in '\0'..=char::MAX {
            let text = character.to_string();
            assert_eq!(pattern.is_match(&text), !crate::api::request::is_blank(&text), "{text:?}");
        }
    }
}
