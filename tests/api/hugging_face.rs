//! The Hugging Face Inference API: `/models/{id}`, and `/` for bodies with `parameters`.

use serde_json::{Value, json};

use crate::support::Server;

const HAPPY: &str = "I am so happy that you came!";

#[test]
fn a_text_gets_a_nested_list_by_model_and_by_bare_address() {
    let server = Server::start(&[]);
    let one = server.post("/models/goemotions", &json!({"inputs": HAPPY}));
    assert_eq!(one.status, 200, "{}", one.text);
    assert_eq!(one.json.as_array().unwrap().len(), 1);
    assert_eq!(one.json[0].as_array().unwrap().len(), 28);
    assert_eq!(one.json[0][0]["label"], "joy");
    for parameters in [json!({}), json!(null), json!({"top_k": null, "function_to_apply": null, "other": 1})] {
        let bare = server.post("/", &json!({"inputs": HAPPY, "parameters": parameters}));
        assert_eq!(bare.json, one.json, "{parameters}");
    }
    let two = server.post("/models/heavy", &json!({"inputs": [HAPPY, "It is a sad day."], "options": {}}));
    assert_eq!(two.json.as_array().unwrap().len(), 2, "{}", two.text);
    assert_eq!(two.json[0], one.json[0]);
    let light = server.post("/models/light", &json!({"inputs": HAPPY}));
    assert_eq!(light.json[0].as_array().unwrap().len(), 7, "{}", light.text);
}

#[test]
fn parameters_choose_the_function_and_how_many_labels() {
    let server = Server::start(&[]);
    let ask = |parameters: Value| {
        let reply = server.post("/models/auto", &json!({"inputs": HAPPY, "parameters": parameters}));
        assert_eq!(reply.status, 200, "{}", reply.text);
        let scores = reply.json[0].as_array().unwrap().iter().map(|entry| entry["score"].as_f64().unwrap());
        scores.collect::<Vec<f64>>()
    };
    let plain = ask(json!({}));
    assert_eq!(ask(json!({"function_to_apply": "sigmoid"})), plain, "the model was trained with a sigmoid");
    assert_eq!(ask(json!({"top_k": 3})), plain[..3]);
    assert_eq!(ask(json!({"top_k": 99})), plain);
    let softmax: f64 = ask(json!({"function_to_apply": "softmax"})).iter().sum();
    assert!((softmax - 1.0).abs() < 1e-4, "{softmax}");
    let logits = ask(json!({"function_to_apply": "none"}));
    for (logit, score) in logits.iter().zip(&plain) {
        assert!((1.0 / (1.0 + (-logit).exp()) - score).abs() < 1e-5, "{logit} {score}");
    }
}

#[test]
fn a_bad_request_is_told_what_would_be_right() {
    let server = Server::start(&[("MAX_TEXTS", "2")]);
    for (what, path, body, status, message) in [
        ("an unknown model", "/models/no/such", json!({"inputs": "a"}), 404, "no model \"no/such\""),
        ("an empty text", "/models/heavy", json!({"inputs": ""}), 400, "inputs is empty"),
        ("no text", "/models/heavy", json!({"inputs": []}), 400, "inputs is empty"),
        ("an object", "/models/heavy", json!({"inputs": {}}), 422, "inputs must be a text or a list of texts"),
        ("no inputs", "/models/heavy", json!({"parameters": {}}), 422, "missing field `inputs`"),
        ("no labels", "/models/heavy", json!({"inputs": "a", "parameters": {"top_k": 0}}), 422, "from 1 to 1000000"),
        ("a negative", "/models/heavy", json!({"inputs": "a", "parameters": {"top_k": -1}}), 422, "-1"),
        (
            "an unknown function",
            "/models/heavy",
            json!({"inputs": "a", "parameters": {"function_to_apply": "relu"}}),
            422,
            "expected one of `sigmoid`, `softmax`, `none`",
        ),
        ("too many texts", "/models/heavy", json!({"inputs": ["a", "b", "c"]}), 413, "3 texts"),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.status, status, "{what}: {}", reply.text);
        assert!(reply.json["error"].as_str().unwrap().contains(message), "{what}: {}", reply.text);
    }
}

#[test]
fn who_names_the_heavy_model_gets_no_other() {
    let server = Server::start(&[("USE_LIGHT_MODEL", "true")]);
    let named = server.post("/models/goemotions", &json!({"inputs": HAPPY}));
    assert_eq!(named.status, 503, "{}", named.text);
    assert!(named.header("retry-after").is_some());
    assert!(named.json["error"].as_str().unwrap().contains("USE_LIGHT_MODEL"), "{}", named.text);
    assert_eq!(server.post("/models/auto", &json!({"inputs": HAPPY})).json[0].as_array().unwrap().len(), 7);
}
