//! `POST /analyze`: every field of requests and replies.

use serde_json::{Value, json};

use crate::shared::{analyze, answered, assert_error, new_text, server};
use crate::support::Reply;

const HAPPY: &str = "I am so happy that you came!";
const MIXED: &str = "I love this, but I am scared.";

/// Keys of an object in their order.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Whether a figure has at most this many decimals.
fn is_rounded(value: &Value, decimals: i32) -> bool {
    let scaled = number(value) * 10_f64.powi(decimals);
    (scaled - scaled.round()).abs() < 1e-6
}

fn send_with_timeout(timeout_ms: &str, body: &Value) -> Reply {
    let server = server();
    Reply::of(server.client().post(server.url("/analyze")).header("X-Request-Timeout-Ms", timeout_ms).json(body))
}

#[test]
fn a_happy_text_is_joy_from_the_heavy_model() {
    let reply = analyze(&json!({"text": HAPPY}));
    assert_eq!(reply["basic_emotion"], "joy", "{reply}");
    assert_eq!(reply["emotional_state"], "positive", "{reply}");
    assert_eq!(reply["model"]["role"], "heavy");
    assert!(reply["fallback"].is_null());
}

#[test]
fn the_reply_has_the_documented_fields_and_no_others() {
    let reply = analyze(&json!({"text": HAPPY}));
    assert_eq!(
        keys(&reply),
        [
            "emotion",
            "confidence",
            "basic_emotion",
            "all_scores",
            "significant_emotions",
            "is_mixed",
            "mixed_type",
            "has_conflict",
            "has_confusion",
            "complexity",
            "valence",
            "emotional_state",
            "labels",
            "model",
            "fallback",
            "truncated",
            "tokens"
        ]
    );
    assert_eq!(keys(&reply["model"]), ["name", "role", "precision", "revision"]);
    assert_eq!(reply["model"]["name"], "goemotions");
    assert_eq!(reply["model"]["precision"], "int8");
    let revision = reply["model"]["revision"].as_str().unwrap();
    assert!(revision.len() == 12 && revision.bytes().all(|digit| digit.is_ascii_hexdigit()), "{revision}");
    assert_eq!(keys(&reply["valence"]), ["positive", "negative", "neutral", "overall"]);
    let shares = ["positive", "negative", "neutral"].map(|share| &reply["valence"][share]);
    assert!(shares.iter().all(|share| is_rounded(share, 3)), "{reply}");
    assert!((shares.iter().map(|share| number(share)).sum::<f64>() - 1.0).abs() < 0.002, "{reply}");
    assert!(["is_mixed", "has_conflict", "has_confusion", "truncated"].iter().all(|flag| reply[*flag].is_boolean()));
    assert!(
        ["simple", "moderate", "complex", "very_complex"].iter().any(|word| reply["complexity"] == *word),
        "{reply}"
    );
    // "i am so happy that you came !" and the two special tokens.
    assert_eq!((reply["truncated"].as_bool(), reply["tokens"].as_u64()), (Some(false), Some(10)));
}

#[test]
fn all_scores_are_there_highest_first_with_four_decimals() {
    for (model, labels) in [("heavy", 28), ("light", 7)] {
        let reply = analyze(&json!({"text": MIXED, "model": model}));
        let scores: Vec<_> = reply["all_scores"].as_object().unwrap().iter().collect();
        assert_eq!(scores.len(), labels, "{reply}");
        assert!(scores.windows(2).all(|pair| number(pair[0].1) >= number(pair[1].1)), "{reply}");
        assert!(
            scores.iter().all(|(_, score)| is_rounded(score, 4) && (0.0..=1.0).contains(&number(score))),
            "{reply}"
        );
        assert_eq!((scores[0].0.as_str(), scores[0].1), (reply["emotion"].as_str().unwrap(), &reply["confidence"]));
    }
}

#[test]
fn scores_of_the_heavy_model_stand_each_for_itself_and_those_of_the_light_model_share_one() {
    let sum = |model: &str| {
        let reply = analyze(&json!({"text": MIXED, "model": model}));
        reply["all_scores"].as_object().unwrap().values().map(number).sum::<f64>()
    };
    assert!((sum("light") - 1.0).abs() < 0.001);
    assert!((sum("heavy") - 1.0).abs() > 0.001);
}

#[test]
fn the_model_is_chosen_by_role_or_by_name() {
    for (model, role, name) in [
        ("auto", "heavy", "goemotions"),
        ("heavy", "heavy", "goemotions"),
        ("goemotions", "heavy", "goemotions"),
        ("light", "light", "ekman"),
        ("ekman", "light", "ekman"),
    ] {
        for strict in [false, true] {
            // A strict request for anything must not fall back; nothing stands in the way here.
            let reply = analyze(&json!({"text": HAPPY, "model": model, "strict": strict}));
            if strict && model == "auto" {
                assert_eq!(reply["model"]["role"], "heavy", "{reply}");
            }
            assert_eq!((&reply["model"]["role"], &reply["model"]["name"]), (&json!(role), &json!(name)), "{model}");
            assert!(reply["fallback"].is_null(), "{reply}");
        }
    }
}

#[test]
fn the_light_model_names_one_basic_emotion() {
    let reply = analyze(&json!({"text": HAPPY, "model": "light"}));
    assert_eq!(reply["emotion"], "joy", "{reply}");
    assert_eq!(reply["emotion"], reply["basic_emotion"]);
    assert_eq!(reply["labels"], json!([reply["emotion"]]));
    let basic = ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"];
    let mut labels = keys(&reply["all_scores"]);
    labels.sort_unstable();
    assert_eq!(labels, basic);
}

#[test]
fn clear_texts_have_the_same_basic_emotion_from_both_models() {
    for (text, basic_emotion) in [
        ("I am so happy, this is the best day of my life!", "joy"),
        ("I am so sad, I cannot stop crying.", "sadness"),
        ("I am scared and terrified of the dark.", "fear"),
        ("This makes me so angry, I hate it!", "anger"),
    ] {
        for model in ["heavy", "light"] {
            let reply = analyze(&json!({"text": text, "model": model}));
            assert_eq!(reply["basic_emotion"], basic_emotion, "{model}: {reply}");
        }
    }
}

#[test]
fn a_text_with_two_feelings_is_mixed_and_in_conflict() {
    let reply = analyze(&json!({"text": MIXED}));
    assert_eq!(reply["is_mixed"], true, "{reply}");
    assert_eq!(reply["mixed_type"], "conflicted", "{reply}");
    assert_eq!(reply["has_conflict"], true, "{reply}");
    assert_eq!(reply["emotional_state"], "conflicted", "{reply}");
    let labels: Vec<_> = reply["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
    assert!(labels.contains(&"love") && labels.contains(&"fear"), "{reply}");
}

#[test]
fn significant_emotions_are_those_over_the_threshold_and_no_more_than_asked_for() {
    let listed = |threshold: f64, top_k: usize| {
        let reply = analyze(&json!({"text": MIXED, "threshold": threshold, "top_k": top_k}));
        for (significant, (label, score)) in
            reply["significant_emotions"].as_array().unwrap().iter().zip(reply["all_scores"].as_object().unwrap())
        {
            assert_eq!(*significant, json!({"label": label, "confidence": score}), "{reply}");
            assert!(number(score) >= threshold - 5e-5, "{reply}");
        }
        reply["significant_emotions"].as_array().unwrap().len()
    };
    assert_eq!(listed(0.0, 100), 28);
    assert_eq!(listed(0.0, 3), 3);
    assert_eq!(listed(0.0, 0), 0);
    assert_eq!(listed(1.0, 5), 0);
    assert_eq!(listed(0.3, 5), 2);
    let default = analyze(&json!({"text": MIXED}));
    let stated = analyze(&json!({"text": MIXED, "threshold": 0.1, "top_k": 5}));
    assert_eq!(default, stated);
}

#[test]
fn a_shorter_list_does_not_change_what_the_text_is() {
    let whole = analyze(&json!({"text": MIXED}));
    let mut short = analyze(&json!({"text": MIXED, "top_k": 1}));
    assert_eq!(short["significant_emotions"].as_array().unwrap().len(), 1);
    short["significant_emotions"] = whole["significant_emotions"].clone();
    assert_eq!(short, whole);
}

#[test]
fn many_texts_are_answered_in_order_and_each_as_if_alone() {
    let texts = [HAPPY, MIXED, "I am so sad, I cannot stop crying.", HAPPY, "ok"];
    let reply = analyze(&json!({"texts": texts}));
    assert_eq!(keys(&reply), ["results", "count"]);
    assert_eq!(reply["count"], 5);
    let results = reply["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    for (text, result) in texts.iter().zip(results) {
        assert_eq!(*result, analyze(&json!({"text": text})), "{text}");
    }
}

#[test]
fn a_list_of_one_text_is_answered_as_a_list() {
    let reply = analyze(&json!({"texts": [HAPPY]}));
    assert_eq!(reply["results"].as_array().unwrap().len(), 1);
}

#[test]
fn a_text_that_was_read_before_says_so() {
    let (first, second) = (new_text("I am glad"), new_text("I am sad"));
    let is_hit = |body: &Value| {
        let reply = server().post("/analyze", body);
        answered(&reply);
        reply.header("x-cache").map(str::to_owned)
    };
    assert_eq!(is_hit(&json!({"text": first})), None);
    assert_eq!(is_hit(&json!({"text": first})), Some("hit".to_owned()));
    // Some of several texts is not all of them.
    assert_eq!(is_hit(&json!({"texts": [first, second]})), None);
    assert_eq!(is_hit(&json!({"texts": [second, first]})), Some("hit".to_owned()));
    // The other model has not read it.
    assert_eq!(is_hit(&json!({"text": first, "model": "light"})), None);
    // What is asked about the scores is not part of what the model reads.
    assert_eq!(is_hit(&json!({"text": first, "threshold": 0.5, "top_k": 1})), Some("hit".to_owned()));
}

#[test]
fn a_long_text_is_cut_read_in_windows_or_refused() {
    let long = "I am happy to be here with you today. ".repeat(80);
    let cut = analyze(&json!({"text": long}));
    assert_eq!((&cut["truncated"], &cut["tokens"]), (&json!(true), &json!(512)));
    assert_eq!(cut, analyze(&json!({"text": long, "long_text": "truncate"})));
    let windows = analyze(&json!({"text": long, "long_text": "windows"}));
    assert_eq!(windows["truncated"], false);
    assert!(windows["tokens"].as_u64().unwrap() > 800, "{windows}");
    assert_eq!(windows["basic_emotion"], "joy", "{windows}");
    for (body, place) in [
        (json!({"text": long, "long_text": "refuse"}), "text: "),
        (json!({"texts": [HAPPY, long], "long_text": "refuse"}), "texts[1]: "),
    ] {
        let reply = server().post("/analyze", &body);
        let says = format!("{place}the text has more tokens than the 512");
        assert_error("a long text", &reply, 422, "unprocessable", &says);
    }
}

#[test]
fn a_text_that_fits_is_read_the_same_whatever_would_be_done_with_a_long_one() {
    let replies = ["truncate", "windows", "refuse"].map(|way| analyze(&json!({"text": MIXED, "long_text": way})));
    assert_eq!(replies[0], replies[1]);
    assert_eq!(replies[0], replies[2]);
}

#[test]
fn a_text_in_windows_has_scores_between_those_of_its_parts() {
    let (glad, sad) = ("I am happy and full of joy. ".repeat(110), "I am sad and full of grief. ".repeat(110));
    let joy = |text: &str, way: &str| number(&analyze(&json!({"text": text, "long_text": way}))["all_scores"]["joy"]);
    let both = joy(&format!("{glad}{sad}"), "windows");
    assert!(joy(&sad, "truncate") + 0.1 < both && both + 0.1 < joy(&glad, "truncate"), "{both}");
}

#[test]
fn a_deadline_that_cannot_be_kept_is_answered_with_504_and_costs_nobody_else() {
    let texts: Vec<_> = (0..64).map(|_| new_text(&"I wonder how long this takes. ".repeat(40))).collect();
    let reply = send_with_timeout("1", &json!({"texts": texts}));
    assert_error("a millisecond", &reply, 504, "deadline_passed", "allow more time (X-Request-Timeout-Ms");
    assert_eq!(send_with_timeout("30000", &json!({"text": HAPPY})).status, 200);
    assert_eq!(send_with_timeout("99999999999", &json!({"text": HAPPY})).status, 200);
}

#[test]
fn a_deadline_must_be_a_number_of_milliseconds() {
    for bad in ["0", "-1", "1.5", "soon", ""] {
        let reply = send_with_timeout(bad, &json!({"text": HAPPY}));
        assert_error(bad, &reply, 422, "unprocessable", "must be a whole number of milliseconds over 0");
    }
}
