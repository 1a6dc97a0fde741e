//! A line that is a JSON object: its fields as they were written, in their order.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an object. Values are kept as they were written, so that a number keeps every digit.
#[derive(Debug)]
pub(super) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    /// # Errors
    /// Why the line is no JSON object.
    pub(super) fn parse(line: &'a str) -> Result<Self, String> {
        serde_json::from_str(line).map_err(|error| format!("is not a JSON object: {error}"))
    }

    /// The names of the fields, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The value of a field; of several with this name, the last.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(of, _)| of == name).map(|(_, value)| *value)
    }

    /// The string in a field.
    ///
    /// # Errors
    /// What is there instead.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        let Some(value) = self.get(name) else {
            return Err(format!("has no field {name:?}; it has {}", quoted(self.names())));
        };
        let kind = match value.get().as_bytes().first() {
            Some(b'"') => {
                return serde_json::from_str(value.get()).map_err(|error| format!("has a broken {name:?}: {error}"));
            }
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        };
        Err(format!("has {kind} as {name:?}; it must be a string"))
    }

    /// A field's value for a table: strings without quotes, anything else as it was written.
    pub(super) fn cell(&self, name: &str) -> Result<String, String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(value) if value.get().starts_with('"') => self.text(name),
            Some(value) => Ok(value.get().to_owned()),
        }
    }
}

/// Names for a message.
pub(super) fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Fields).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_to_the_last_digit() {
        let line = r#"{"id": 123456789012345678901, "x": 1.10, "s": "a\n\"b\"", "l": [1, 2], "n": null, "s": "last"}"#;
        let object = Object::parse(line).unwrap();
        assert_eq!(object.names().collect::<Vec<_>>(), ["id", "x", "s", "l", "n", "s"]);
        for (name, cell) in
            [("id", "123456789012345678901"), ("x", "1.10"), ("s", "last"), ("l", "[1, 2]"), ("n", "null"), ("no", "")]
        {
            assert_eq!(object.cell(name).unwrap(), cell);
        }
    }

    #[test]
    fn what_is_not_a_text_is_named() {
        for (line, why) in [
            ("[1]", "expected an object"),
            ("{\"text\": 1", "EOF"),
            ("{\"text\": \"a\"} x", "trailing"),
            ("{\"text\": 1.5}", "has a number as \"text\""),
            ("{\"text\": null}", "has null as"),
            ("{\"text\": [\"a\"]}", "has a list as"),
            ("{\"text\": {}}", "has an object as"),
            ("{\"text\": true}", "has a boolean as"),
            ("{\"text\": \"\\ud800\"}", "has a broken \"text\""),
            ("{\"body\": \"a\", \"id\": 1}", "has no field \"text\"; it has \"body\", \"id\""),
            ("{}", "it has none"),
        ] {
            let error = Object::parse(line).and_then(|object| object.text("text")).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert_eq!(Object::parse("{\"text\": \"\\u00e9\"}").unwrap().text("text").unwrap(), "é");
    }
}
