//! text-embeddings-inference: `/predict`, `/` and `/info`.

use serde_json::{Value, json};

use crate::support::Server;

const HAPPY: &str = "I am so happy that you came!";

fn top(list: &Value) -> &str {
    list[0]["label"].as_str().unwrap()
}

#[test]
fn every_form_of_inputs_gets_its_form_of_reply() {
    let server = Server::start(&[]);
    let one = server.post("/predict", &json!({"inputs": HAPPY}));
    assert_eq!(one.status, 200, "{}", one.text);
    let list = one.json.as_array().unwrap();
    assert_eq!(list.len(), 28);
    assert_eq!(top(&one.json), "joy", "{}", one.text);
    let scores: Vec<f64> = list.iter().map(|entry| entry["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");

    assert_eq!(server.post("/predict", &json!({"inputs": [HAPPY]})).json, one.json, "a list of one is one text");
    assert_eq!(server.post("/", &json!({"inputs": HAPPY})).json, one.json, "the bare address is /predict");

    let pair = server.post("/predict", &json!({"inputs": [HAPPY, "It is a sad day."]}));
    assert_eq!(pair.json.as_array().unwrap().len(), 28, "{}", pair.text);
    assert_ne!(pair.json, one.json, "the second text of a pair is read too");

    let batch = server.post("/predict", &json!({"inputs": [[HAPPY], [HAPPY, "It is a sad day."]]}));
    assert_eq!(batch.json, json!([one.json, pair.json]), "a batch holds what its items give alone");
}

#[test]
fn scores_are_raw_on_request_and_a_long_text_is_cut_on_the_side_asked_for() {
    let server = Server::start(&[]);
    let raw = server.post("/predict", &json!({"inputs": HAPPY, "raw_scores": true}));
    let scores: Vec<f64> = raw.json.as_array().unwrap().iter().map(|entry| entry["score"].as_f64().unwrap()).collect();
    assert!(scores.iter().any(|score| *score < 0.0), "logits of absent emotions are under 0: {scores:?}");

    let long = format!("{HAPPY} {} I hate you, you make me so angry!", "the ".repeat(2000));
    for (direction, expected) in [("Right", "joy"), ("Left", "anger"), ("left", "anger")] {
        let reply = server.post("/predict", &json!({"inputs": long, "truncation_direction": direction}));
        assert_eq!(reply.status, 200, "{}", reply.text);
        let first: Vec<&str> =
            reply.json.as_array().unwrap().iter().take(3).map(|entry| entry["label"].as_str().unwrap()).collect();
        assert!(first.contains(&expected), "{direction}: {first:?}");
    }
    let refused = server.post("/predict", &json!({"inputs": long, "truncate": false}));
    assert_eq!((refused.status, &refused.json["error_type"]), (422, &json!("Validation")), "{}", refused.text);
}

#[test]
fn a_bad_request_is_told_what_would_be_right() {
    let server = Server::start(&[("MAX_TEXTS", "3"), ("MAX_BODY_BYTES", "4096")]);
    let big = "x".repeat(5000);
    for (what, body, status, error_type, message) in [
        ("an empty text", json!({"inputs": ""}), 400, "Empty", "inputs is empty"),
        ("a blank text", json!({"inputs": " \n"}), 400, "Empty", "inputs is empty"),
        ("no text", json!({"inputs": []}), 400, "Empty", "inputs is empty"),
        ("an empty item", json!({"inputs": [["a"], []]}), 400, "Empty", "inputs[1] is empty"),
        ("an empty text in a pair", json!({"inputs": ["a", ""]}), 400, "Empty", "inputs[1] is empty"),
        ("three texts", json!({"inputs": ["a", "b", "c"]}), 422, "Validation", "send a batch as a list of lists"),
        ("a triple in a batch", json!({"inputs": [["a", "b", "c"]]}), 422, "Validation", "inputs[0] holds 3 texts"),
        ("a number", json!({"inputs": 1}), 422, "Validation", "inputs must be a text"),
        ("no inputs", json!({"input": "a"}), 422, "Validation", "missing field `inputs`"),
        ("a side that is none", json!({"inputs": "a", "truncation_direction": "Up"}), 422, "Validation", "Up"),
        ("too large a batch", json!({"inputs": [["a"], ["b"], ["c"], ["d"]]}), 413, "Validation", "4 texts"),
        ("too large a body", json!({"inputs": big}), 413, "Validation", "4096 bytes"),
    ] {
        for path in ["/predict", "/"] {
            let reply = server.post(path, &body);
            assert_eq!(reply.status, status, "{what}: {}", reply.text);
            assert_eq!(reply.json["error_type"], error_type, "{what}: {}", reply.text);
            assert!(reply.json["error"].as_str().unwrap().contains(message), "{what}: {}", reply.text);
        }
    }
    let not_json = server.client().post(server.url("/predict")).body("{").send().unwrap();
    assert_eq!(not_json.status(), 400);
    let get = server.get("/predict");
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")), "{}", get.text);
    assert_eq!(get.json["error_type"], "Validation");
}

#[test]
fn headers_tell_what_the_request_took() {
    let server = Server::start(&[]);
    let reply = server.post("/predict", &json!({"inputs": [["I am sad."], ["é", "b"]]}));
    let number = |name: &str| reply.header(name).unwrap_or_else(|| panic!("no {name}")).parse::<u64>().unwrap();
    assert_eq!(reply.header("x-compute-type"), Some("cpu"));
    assert_eq!(number("x-compute-characters"), 11);
    assert!(number("x-compute-tokens") >= 9, "{:?}", reply.headers);
    for name in ["x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"] {
        assert!(number(name) < 60_000, "{name}: {:?}", reply.headers);
    }
}

#[test]
fn info_describes_the_model_before_it_is_loaded() {
    let server = Server::start(&[("MAX_TEXTS", "7"), ("MAX_QUEUE", "99"), ("MAX_BATCH_TOKENS", "333")]);
    let info = server.get("/info").json;
    assert_eq!(info["model_id"], "goemotions", "{info:#}");
    assert_eq!(info["model_dtype"], "int8");
    assert_eq!(info["model_sha"].as_str().unwrap().len(), 64);
    assert_eq!(info["max_concurrent_requests"], 99);
    assert_eq!(info["max_client_batch_size"], 7);
    assert_eq!(info["max_batch_tokens"], 333);
    assert_eq!(info["auto_truncate"], true);
    let classes = &info["model_type"]["classifier"];
    assert_eq!(classes["id2label"].as_object().unwrap().len(), 28);
    assert_eq!(classes["label2id"][classes["id2label"]["17"].as_str().unwrap()], 17);
    assert_eq!(server.get("/models").json["models"][0]["state"], "absent");
}
