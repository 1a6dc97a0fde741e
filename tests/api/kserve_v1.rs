//! KServe, version 1.

use serde_json::json;

use crate::support::{ADMIN_KEY, Server};

const HAPPY: &str = "I am so happy that you came!";

#[test]
fn each_instance_gets_a_prediction_in_order() {
    let server = Server::start(&[]);
    let reply = server.post(
        "/v1/models/heavy:predict",
        &json!({"instances": [HAPPY, "I hate you, you make me so angry!"], "signature_name": "any"}),
    );
    assert_eq!(reply.status, 200, "{}", reply.text);
    let predictions = reply.json["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 2);
    assert_eq!(predictions[0]["label"], "joy");
    assert_eq!(predictions[1]["label"], "anger");
    for prediction in predictions {
        let scores = prediction["scores"].as_object().unwrap();
        assert_eq!(scores.len(), 28);
        assert_eq!(scores.values().next(), Some(&prediction["score"]), "the top label comes first");
        assert_eq!(scores[prediction["label"].as_str().unwrap()], prediction["score"]);
    }
    for name in ["auto", "light", "goemotions", "ekman"] {
        let reply = server.post(&format!("/v1/models/{name}:predict"), &json!({"instances": [HAPPY]}));
        assert_eq!(reply.json["predictions"][0]["label"], "joy", "{name}: {}", reply.text);
    }
}

#[test]
fn models_are_listed_with_their_readiness() {
    let server = Server::start(&[ADMIN_KEY]);
    assert_eq!(server.get("/v1/models").json, json!({"models": ["goemotions", "ekman"]}));
    for name in ["heavy", "light", "auto", "goemotions", "ekman"] {
        let reply = server.get(&format!("/v1/models/{name}"));
        assert_eq!((reply.status, reply.json), (200, json!({"name": name, "ready": true})), "nothing bars its load");
    }
    assert_eq!(server.administer("/admin/models/heavy/unload").status, 200);
    for (name, status) in [("heavy", 503), ("goemotions", 503), ("light", 200), ("auto", 200)] {
        assert_eq!(server.get(&format!("/v1/models/{name}")).status, status, "{name}");
    }
}

#[test]
fn a_bad_request_is_told_what_would_be_right() {
    let server = Server::start(&[("MAX_TEXTS", "2")]);
    for (what, path, body, status, message) in [
        ("an unknown model", "/v1/models/none:predict", json!({"instances": ["a"]}), 404, "no model \"none\""),
        ("no instances", "/v1/models/heavy:predict", json!({"instances": []}), 400, "instances is empty"),
        ("no field", "/v1/models/heavy:predict", json!({"inputs": []}), 400, "missing field `instances`"),
        ("an object", "/v1/models/heavy:predict", json!({"instances": [{}]}), 400, "expected a string"),
        ("an empty text", "/v1/models/heavy:predict", json!({"instances": ["a", " "]}), 400, "instances[1] is empty"),
        ("too many", "/v1/models/heavy:predict", json!({"instances": ["a", "b", "c"]}), 413, "3 texts"),
        ("another verb", "/v1/models/heavy:explain", json!({"instances": ["a"]}), 405, "takes GET"),
        ("a path of none", "/v1/none", json!({}), 404, "there is no /v1/none"),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.status, status, "{what}: {}", reply.text);
        assert_eq!(reply.json.as_object().unwrap().len(), 1, "{what}: {}", reply.text);
        assert!(reply.json["error"].as_str().unwrap().contains(message), "{what}: {}", reply.text);
    }
    assert_eq!(server.get("/v1/models/none").status, 404);
}
