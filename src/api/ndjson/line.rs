//! What stands in one line: a text, and fields that come back as they are.

use std::fmt;
use std::sync::Arc;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::json::Text;
use crate::api::request;

/// A line that was read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct LineContent {
    pub text: Arc<str>,
    /// The other fields as they were written, without the braces around them: parsed, a line could
    /// take thirty times its bytes. A field that stands there twice comes back twice.
    pub input: String,
}

impl LineContent {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::api) fn read(line: &[u8]) -> Result<Self, String> {
        let no_object = |error| format!("the line is not a JSON object: {error}");
        let mut json = serde_json::Deserializer::from_slice(line);
        let fields = json.deserialize_map(FieldsVisitor).and_then(|fields| json.end().map(|()| fields));
        let Fields { text, input } = fields.map_err(no_object)?;
        let text = match text.as_slice() {
            [] => return Err("the line has no text; send {\"text\": \"…\"}".to_owned()),
            [text] if text.get().starts_with('"') => serde_json::from_str::<Text>(text.get()).map_err(no_object)?,
            [_] => return Err("text must be a string".to_owned()),
            [_, ..] => return Err("the line has text twice; send it once".to_owned()),
        };
        Ok(Self { text: request::text(text, "text").map_err(|error| error.message)?, input })
    }
}

struct Fields<'de> {
    /// No more than two are kept.
    text: Vec<&'de RawValue>,
    input: String,
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields { text: Vec::new(), input: String::new() };
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if is_text(name.get()) {
                if fields.text.len() < 2 {
                    fields.text.push(value);
                }
                continue;
            }
            if !fields.input.is_empty() {
                fields.input.push(',');
            }
            [name.get(), ":", value.get()].into_iter().for_each(|part| fields.input.push_str(part));
        }
        fields.input.shrink_to_fit();
        Ok(fields)
    }
}

/// Whether a name in quotes is that of the text, in whatever way it is escaped.
fn is_text(name: &str) -> bool {
    name == "\"text\"" || name.contains('\\') && serde_json::from_str::<Text>(name).is_ok_and(|name| &*name.0 == "text")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn read(line: &str) -> Result<(String, String), String> {
        LineContent::read(line.as_bytes()).map(|content| (content.text.to_string(), content.input))
    }

    #[test]
    fn other_fields_come_back_as_they_were_written() {
        for (line, input) in [
            (r#"{"text":"a"}"#, ""),
            (r#"{ "id" : 7.0, "text" : "a", "tags":[ "\u00e9", {} ] }"#, r#""id":7.0,"tags":[ "\u00e9", {} ]"#),
            (r#"{"b":1,"\u0074ext":"a","a":2,"b":1e999}"#, r#""b":1,"a":2,"b":1e999"#),
        ] {
            assert_eq!(read(line), Ok(("a".to_owned(), input.to_owned())), "{line}");
        }
        let deep = format!(r#"{{"text":"a","x":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
        assert!(read(&deep).is_ok_and(|(_, input)| input.len() == 60_004));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_told_what_would_be_right() {
        for (line, what) in [
            ("{", "not a JSON object"),
            ("[1]", "not a JSON object: invalid type: sequence, expected an object"),
            (r#"{"text":"a"} {}"#, "trailing characters"),
            (r#"{"text":"\ud83d"}"#, "not a JSON object"),
            (r#"{"text":"a","text":"b"}"#, "text twice"),
            (r#"{"text":["a"]}"#, "text must be a string"),
            (r#"{"id":1}"#, "has no text"),
            (r#"{"text":" "}"#, "text is empty"),
        ] {
            assert!(read(line).is_err_and(|error| error.contains(what)), "{line}: {:?}", read(line));
        }
        assert!(LineContent::read(b"{\"text\":\"\xff\"}").is_err_and(|error| error.contains("not a JSON object")));
    }

    proptest! {
        #[test]
        fn what_comes_back_is_the_same_json(fields in prop::collection::btree_map("[a-z\"\\\\]{0,4}", ".{0,9}", 0..5), text in "[a-z]{1,5}") {
            let mut map: Map<String, Value> = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
            map.remove("text");
            let before = Value::Object(map.clone());
            map.insert("text".to_owned(), text.as_str().into());
            let (read_text, input) = read(&Value::Object(map).to_string()).unwrap();
            prop_assert_eq!(read_text, text);
            prop_assert_eq!(serde_json::from_str::<Value>(&format!("{{{input}}}")).unwrap(), before);
        }

        #[test]
        fn no_line_is_too_odd_to_be_answered_in_words(line in "[\\[\\]{}:,\"text01 \\\\]{0,40}") {
            if let Ok((_, input)) = read(&line) {
                let object = format!("{{{input}}}");
                prop_assert!(object.len() < line.len());
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&object).is_ok(), "{}", object);
            }
        }
    }
}
