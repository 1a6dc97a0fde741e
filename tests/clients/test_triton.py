"""Triton's HTTP client: raw tensors by default, JSON, classes, metadata, loading and unloading."""

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

HAPPY = "I am so happy that you came!"
ANGRY = "I hate you, you make me so angry!"
# Of the server in conftest.py.
ADMIN = {"X-API-Key": "secret"}


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


def tensor(texts, shape=None, **options):
    array = np.array([text.encode() for text in texts], dtype=object).reshape(shape or [len(texts)])
    tensor = triton.InferInput("text", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, **options)
    return tensor


def decoded(array):
    return [element.decode() if isinstance(element, bytes) else element for element in array.flatten()]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_raw_tensors_both_ways(client, shape, compression):
    reply = client.infer(
        "heavy",
        [tensor([HAPPY, ANGRY], shape)],
        request_id="17",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert reply.as_numpy("scores").shape == (2, 28)
    assert reply.as_numpy("scores").dtype == np.float32
    assert decoded(reply.as_numpy("labels")) == ["joy", "anger"]
    assert reply.get_response()["id"] == "17"


def test_json_and_raw_tensors_give_the_same(client):
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in ("scores", "labels")]
    json = client.infer("heavy", [tensor([HAPPY, ANGRY], binary_data=False)], outputs=outputs)
    raw = client.infer("heavy", [tensor([HAPPY, ANGRY])])
    assert "data" in json.get_output("scores")
    assert "data" not in raw.get_output("scores")
    np.testing.assert_array_equal(json.as_numpy("scores"), raw.as_numpy("scores"))
    assert decoded(json.as_numpy("labels")) == decoded(raw.as_numpy("labels"))


def test_only_the_outputs_asked_for_are_sent(client):
    reply = client.infer("heavy", [tensor([HAPPY])], outputs=[triton.InferRequestedOutput("labels")])
    assert [output["name"] for output in reply.get_response()["outputs"]] == ["labels"]
    assert reply.as_numpy("scores") is None


@pytest.mark.parametrize("binary", [True, False])
def test_classes_come_as_score_index_and_label(client, binary):
    outputs = [triton.InferRequestedOutput("scores", binary_data=binary, class_count=3)]
    classes = client.infer("heavy", [tensor([HAPPY, ANGRY])], outputs=outputs).as_numpy("scores")
    assert classes.shape == (2, 3)
    rows = [[part.split(":") for part in row] for row in (decoded(classes[0]), decoded(classes[1]))]
    assert [row[0][2] for row in rows] == ["joy", "anger"]
    names = client.get_model_metadata("heavy")["label_names"]
    for row in rows:
        assert [float(score) for score, _, _ in row] == sorted((float(score) for score, _, _ in row), reverse=True)
        assert all(names[int(index)] == label for _, index, label in row)


def test_texts_in_any_script_arrive_whole(client):
    texts = ["Ça me rend très heureux 🎉", "x" * 20_000, "a\nb\t\"c\""]
    assert client.infer("light", [tensor(texts)]).as_numpy("scores").shape == (3, 7)


def test_many_requests_at_once(server):
    with triton.InferenceServerClient(server.address, concurrency=8) as client:
        handles = [client.async_infer("heavy", [tensor([f"Text number {i} makes me happy."])]) for i in range(64)]
        assert all(handle.get_result().as_numpy("scores").shape == (1, 28) for handle in handles)


def test_server_and_models_describe_themselves(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("heavy")
    assert client.is_model_ready("goemotions", model_version="1")
    assert not client.is_model_ready("none")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    model = client.get_model_metadata("heavy", model_version="1")
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert model["outputs"][0]["shape"] == [-1, 28]


def test_models_are_unloaded_and_loaded(client):
    def states():
        return {model["name"]: model["state"] for model in client.get_model_repository_index()}

    client.load_model("light", headers=ADMIN)
    assert states()["ekman"] == "READY"
    client.unload_model("ekman", headers=ADMIN)
    assert states()["ekman"] == "UNAVAILABLE"
    assert not client.is_model_ready("light")
    with pytest.raises(InferenceServerException, match="503.*unloaded by hand"):
        client.infer("light", [tensor([HAPPY])])
    client.load_model("ekman", headers=ADMIN)
    assert client.infer("light", [tensor([HAPPY])]).as_numpy("scores").shape == (1, 7)


def wrong_shape():
    wrong = tensor([HAPPY])
    wrong.set_shape([3])
    return wrong


def wrong_type():
    numbers = triton.InferInput("text", [1], "FP32")
    numbers.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    return numbers


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("none", lambda: [tensor([HAPPY])], "404.*no model"),
        ("heavy", lambda: [wrong_shape()], "400.*holds 1 texts"),
        ("heavy", lambda: [tensor([HAPPY, ANGRY], [1, 2])], r"400.*\[n\] or \[n, 1\]"),
        ("heavy", lambda: [wrong_type()], "400.*must be BYTES"),
        ("heavy", lambda: [tensor([""])], "400.*is empty"),
        ("heavy", lambda: [tensor([HAPPY]), tensor([HAPPY])], "400.*there must be one"),
    ],
)
def test_what_is_wrong_is_told(client, model, inputs, message):
    with pytest.raises(InferenceServerException, match=message):
        client.infer(model, inputs())


def test_an_unknown_version_or_output_is_refused(client):
    with pytest.raises(InferenceServerException, match="404.*no version"):
        client.infer("heavy", [tensor([HAPPY])], model_version="2")
    with pytest.raises(InferenceServerException, match="400.*no output"):
        client.infer("heavy", [tensor([HAPPY])], outputs=[triton.InferRequestedOutput("logits")])
    with pytest.raises(InferenceServerException, match="404"):
        client.get_model_metadata("none")
    with pytest.raises(InferenceServerException, match="404"):
        client.load_model("none", headers=ADMIN)
