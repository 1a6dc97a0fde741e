//! What the cache of answers tells of itself, whatever protocol asks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::shared::{answered, new_text, server};
use crate::support::Reply;

/// Requests of every protocol that answers texts, with their paths in the API's description.
fn requests(text: &str) -> [(&'static str, &'static str, Value); 10] {
    let inputs = json!({"inputs": text});
    let tensor = json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]});
    [
        ("/analyze", "/analyze", json!({"text": text})),
        ("/predict", "/predict", inputs.clone()),
        ("/", "/", inputs.clone()),
        ("/", "/", json!({"inputs": text, "parameters": {}})),
        ("/models/auto", "/models/{id}", inputs),
        ("/v1/models/auto:predict", "/v1/models/{model}:predict", json!({"instances": [text]})),
        ("/v2/models/auto/infer", "/v2/models/{model}/infer", tensor.clone()),
        ("/v2/models/auto/versions/1/infer", "/v2/models/{model}/versions/{version}/infer", tensor),
        ("/analysis/emotion-v2", "/analysis/emotion-v2", json!({"text": text})),
        // The light model answers here, whose answers are its own.
        ("/analysis/emotion", "/analysis/emotion", json!({"text": text})),
    ]
}

fn cache(reply: &Reply) -> Option<&str> {
    answered(reply);
    reply.header("x-cache")
}

#[test]
fn every_protocol_says_that_an_answer_comes_from_the_cache() {
    for (index, (path, ..)) in requests("").iter().enumerate() {
        let (_, _, body) = &requests(&new_text(&format!("I am glad to ask {path}")))[index];
        let server = server();
        let (first, second) = (server.post(path, body), server.post(path, body));
        assert_eq!((cache(&first), cache(&second)), (None, Some("hit")), "{path}");
        assert_eq!(first.json, second.json, "{path}");
    }
}

#[test]
fn the_cache_knows_a_text_whatever_protocol_asked_for_it_first() {
    let text = new_text("I wonder who asks me first");
    let server = server();
    let said: Vec<_> =
        requests(&text).iter().map(|(path, _, body)| cache(&server.post(path, body)).map(str::to_owned)).collect();
    let ran: Vec<_> = (0..said.len()).filter(|index| said[*index].is_none()).collect();
    assert_eq!(ran, [0, 9], "each model runs once: {said:?}");
}

#[test]
fn an_answer_is_from_the_cache_only_when_all_of_its_texts_are() {
    let server = server();
    let (known, new) = (new_text("this is known"), new_text("this is new"));
    assert_eq!(cache(&server.post("/predict", &json!({"inputs": known}))), None);
    let batch = json!({"inputs": [[known], [new]]});
    assert_eq!(cache(&server.post("/predict", &batch)), None);
    assert_eq!(cache(&server.post("/predict", &batch)), Some("hit"));
}

#[test]
fn nothing_else_says_that_it_comes_from_the_cache() {
    let server = server();
    let text = new_text("a stream begins before its texts are read");
    let body = json!({"text": text});
    assert_eq!(cache(&server.post("/analyze", &body)), None);
    assert_eq!(cache(&server.post("/analyze/ndjson", &body)), None, "headers come before the texts");
    let refused = server.post("/analyze", &json!({"text": text, "top_k": -1}));
    assert_eq!((refused.status, refused.header("x-cache")), (422, None), "{}", refused.text);
    assert_eq!(cache(&server.get("/health")), None);
}

#[test]
fn two_spellings_that_the_model_reads_alike_share_an_entry() {
    let server = server();
    let text = new_text("what a lovely day by the sea");
    let ask = |text: &str| server.post("/analyze", &json!({"text": text, "model": "light"}));
    let (first, other) = (ask(&text), ask(&format!("  {} ", text.to_uppercase())));
    assert_eq!((cache(&first), cache(&other)), (None, Some("hit")));
    assert_eq!(first.json["all_scores"], other.json["all_scores"]);
    assert_eq!(cache(&ask(&format!("{text}!"))), None, "another text");
}

#[test]
fn the_description_of_the_api_tells_of_the_header_where_it_may_come() {
    let description = answered(&server().get("/openapi.json"));
    let described: BTreeSet<_> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, methods)| {
            let mut operations = methods.as_object().unwrap().values();
            operations.any(|operation| operation["responses"]["200"]["headers"].get("x-cache").is_some())
        })
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(described, requests("").map(|(_, path, _)| path).into_iter().collect());
}
