"""The Hugging Face client, on the bare address and on a model's path."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

HAPPY = "I am so happy that you came!"


@pytest.fixture(params=["", "/models/goemotions", "/models/auto"])
def client(server, request):
    return InferenceClient(model=server.url + request.param, token="hf_any")


def test_all_labels_come_highest_first(client):
    labels = client.text_classification(HAPPY)
    assert len(labels) == 28
    assert labels[0].label == "joy"
    scores = [label.score for label in labels]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("top_k", [1, 3, 99])
def test_top_k_cuts_the_list(client, top_k):
    assert client.text_classification(HAPPY, top_k=top_k) == client.text_classification(HAPPY)[:top_k]


def test_the_function_is_chosen(client):
    sigmoid = client.text_classification(HAPPY, function_to_apply="sigmoid")
    assert sigmoid == client.text_classification(HAPPY)
    softmax = client.text_classification(HAPPY, function_to_apply="softmax")
    assert sum(label.score for label in softmax) == pytest.approx(1, abs=1e-4)
    assert any(label.score < 0 for label in client.text_classification(HAPPY, function_to_apply="none"))
    both = client.text_classification(HAPPY, function_to_apply="softmax", top_k=2)
    assert both == softmax[:2]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "inputs is empty"),
        (HAPPY, {"top_k": 0}, "from 1 to 1000000"),
        (HAPPY, {"function_to_apply": "relu"}, "softmax"),
    ],
)
def test_what_is_wrong_is_told(client, text, options, message):
    with pytest.raises(HfHubHTTPError) as raised:
        client.text_classification(text, **options)
    assert message in raised.value.response.text


def test_an_unknown_model_is_not_found(server):
    with pytest.raises(HfHubHTTPError, match="404"):
        InferenceClient(model=f"{server.url}/models/some/other").text_classification(HAPPY)
