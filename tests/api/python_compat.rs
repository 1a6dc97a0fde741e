//! The paths of the Python service that this one replaces.

use serde_json::json;

use crate::support::Server;

#[test]
fn the_second_version_gives_one_flat_object() {
    let server = Server::start(&[]);
    let text = "I love this, but I am so angry that it broke!";
    let reply = server.post("/analysis/emotion-v2", &json!({"text": text, "user_id": 7}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    let mut fields: Vec<&str> = reply.json.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "all_scores",
            "complexity",
            "confidence",
            "emotion",
            "emotional_state",
            "has_conflict",
            "has_confusion",
            "is_mixed",
            "mixed_type",
            "model",
            "significant_emotions",
            "valence"
        ]
    );
    assert_eq!(reply.json["model"], "goemotions");
    let native = server.post("/analyze", &json!({"text": text})).json;
    for field in fields.iter().filter(|field| **field != "model") {
        assert_eq!(reply.json[field], native[field], "{field}");
    }
}

#[test]
fn the_first_version_gives_the_light_models_scores() {
    let server = Server::start(&[]);
    let reply = server.post("/analysis/emotion", &json!({"text": "I am so happy that you came!"}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json.as_object().unwrap().len(), 3, "{}", reply.text);
    assert_eq!(reply.json["emotion"], "joy");
    assert_eq!(reply.json["all_scores"].as_object().unwrap().len(), 7);
    assert_eq!(reply.json["all_scores"]["joy"], reply.json["confidence"]);
}

#[test]
fn a_bad_request_gets_a_detail() {
    let server = Server::start(&[]);
    for path in ["/analysis/emotion-v2", "/analysis/emotion"] {
        for (what, body, status, message) in [
            ("four characters", json!({"text": "  sad!  "}), 400, "text has 4 characters"),
            ("four characters of two bytes", json!({"text": "éééé"}), 400, "text has 4 characters"),
            ("nothing", json!({"text": ""}), 400, "at least 5"),
            ("no text", json!({}), 422, "missing field `text`"),
            ("a number", json!({"text": 12345}), 422, "expected a string"),
        ] {
            let reply = server.post(path, &body);
            assert_eq!(reply.status, status, "{path}, {what}: {}", reply.text);
            assert_eq!(reply.json.as_object().unwrap().len(), 1, "{path}, {what}: {}", reply.text);
            assert!(reply.json["detail"].as_str().unwrap().contains(message), "{path}, {what}: {}", reply.text);
        }
        let get = server.get(path);
        assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
        assert!(get.json["detail"].is_string(), "{}", get.text);
    }
    assert!(server.get("/analysis/none").json["detail"].is_string());
}
