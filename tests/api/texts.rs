//! Texts of every kind: odd characters, odd lengths, many at once.

use serde_json::json;

use crate::shared::{analyze, answered, new_text, server};
use crate::support::Reply;

#[test]
fn a_text_in_any_script_is_read() {
    for (what, text) in [
        ("emoji", "😂😂😂 ❤️"),
        ("a family that is one emoji of seven characters", "👨‍👩‍👧‍👦"),
        ("right to left", "אני שמח מאוד"),
        ("overriding the direction", "I am \u{202e}yppah\u{202c} today"),
        ("zero-width characters", "I\u{200b} am h\u{200d}appy\u{feff}"),
        ("NUL", "I am\0 happy"),
        ("control characters", "\u{1}\u{2}I am happy\u{7f}\u{1b}[31m"),
        ("combining marks", &format!("I am happy{}", "\u{301}".repeat(2000))),
        ("Chinese", "我很高兴"),
        ("mathematical letters", "𝕀 𝕒𝕞 𝕙𝕒𝕡𝕡𝕪"),
        ("a private character", "\u{e000}"),
        ("no character at all", "\u{10ffff}"),
        ("one letter", "a"),
        ("a full stop", "."),
        ("line breaks", "I am\r\nhappy\n\n"),
        ("special tokens of the models", "[CLS] <s> [SEP] </s> [PAD] <pad> [MASK] <mask> [UNK]"),
        ("markup", "<script>alert('happy')</script>"),
        ("JSON", r#"{"text": "I am happy"}"#),
    ] {
        for model in ["heavy", "light"] {
            let reply = analyze(&json!({"text": text, "model": model}));
            assert!(reply["tokens"].as_u64().unwrap() >= 2, "{what}: {reply}");
            let confidence = reply["confidence"].as_f64().unwrap();
            assert!(confidence > 0.0 && confidence <= 1.0, "{what}: {reply}");
        }
    }
}

#[test]
fn characters_that_nobody_sees_do_not_change_the_reading() {
    let plain = analyze(&json!({"text": "I am happy"}));
    assert_eq!(plain["emotion"], "joy", "{plain}");
    for text in ["I am\0 happy", "I\u{200b} am h\u{200d}appy\u{feff}", "  I   am happy\n"] {
        assert_eq!(analyze(&json!({"text": text}))["all_scores"], plain["all_scores"], "{text:?}");
    }
}

#[test]
fn a_text_of_a_hundred_thousand_characters_is_cut_to_what_the_model_reads() {
    for (what, text, tokens) in [("words", "I am happy. ".repeat(8400), 512), ("one word", "a".repeat(100_000), 3)] {
        let reply = analyze(&json!({"text": text}));
        assert_eq!((&reply["truncated"], &reply["tokens"]), (&json!(true), &json!(tokens)), "{what}: {reply}");
    }
}

#[test]
fn a_body_just_under_the_limit_is_read() {
    let texts: Vec<_> = (0..200).map(|number| format!("I am happy {number}. {}", "x ".repeat(5000))).collect();
    let body = json!({"texts": texts, "model": "light", "long_text": "refuse"});
    let bytes = serde_json::to_vec(&body).unwrap();
    assert!((2_000_000..2_097_152).contains(&bytes.len()), "{}", bytes.len());
    // It is read whole, and only then is a text found to be too long.
    let reply = server().post("/analyze", &body);
    assert_eq!(reply.status, 422, "{}", reply.text);
}

#[test]
fn equal_texts_of_a_request_get_equal_answers() {
    let reply = analyze(&json!({"texts": vec!["I am so tired of this."; 300]}));
    let results = reply["results"].as_array().unwrap();
    assert_eq!(results.len(), 300);
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn five_hundred_and_twelve_texts_come_back_in_their_order() {
    let feelings = ["happy", "sad", "angry", "scared", "surprised", "proud", "sorry", "curious"];
    let texts: Vec<_> =
        (0..512).map(|number| format!("I am {} about number {number}", feelings[number % feelings.len()])).collect();
    let reply = analyze(&json!({"texts": texts, "model": "light"}));
    let results = reply["results"].as_array().unwrap();
    assert_eq!((results.len(), &reply["count"]), (512, &json!(512)));
    for number in [0, 1, 2, 255, 256, 510, 511] {
        let alone = analyze(&json!({"text": texts[number], "model": "light"}));
        assert_eq!(results[number], alone, "text {number}");
    }
}

#[test]
fn fifty_clients_with_the_same_text_get_the_same_scores_from_one_run() {
    let server = server();
    let text = new_text("I wonder whether all of us see the same thing");
    let body = json!({"text": text});
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..50).map(|_| scope.spawn(|| server.post("/analyze", &body))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|reply| answered(reply) == replies[0].json));
    let runs = replies.iter().filter(|reply| reply.header("x-cache").is_none()).count();
    assert_eq!(runs, 1, "one client's run answers all");
}

#[test]
fn white_space_of_any_length_hides_no_later_word() {
    let near = analyze(&json!({"text": "I am sad. I am so happy!", "long_text": "refuse"}));
    for long_text in ["refuse", "windows", "truncate"] {
        let text = format!("I am sad.{}I am so happy!", " \n".repeat(450_000));
        let far = analyze(&json!({"text": text, "long_text": long_text}));
        assert_eq!((&far["tokens"], &far["all_scores"]), (&near["tokens"], &near["all_scores"]), "{long_text}");
        assert_eq!(far["truncated"], false, "{long_text}");
    }
}
