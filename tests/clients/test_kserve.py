"""KServe's own REST client, in both versions of its protocol."""

import asyncio

import httpx
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

HAPPY = "I am so happy that you came!"
ANGRY = "I hate you, you make me so angry!"
# Of the server in conftest.py.
ADMIN = {"X-API-Key": "secret"}


def ask(protocol, question):
    """Runs `question(client)` with a client of its own."""

    async def run():
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await question(client)

    return asyncio.run(run())


def test_version_1_predicts(server):
    data = {"instances": [HAPPY, ANGRY]}
    reply = ask("v1", lambda client: client.infer(server.url, data, model_name="heavy"))
    assert [prediction["label"] for prediction in reply["predictions"]] == ["joy", "anger"]
    assert len(reply["predictions"][0]["scores"]) == 28


def test_version_1_tells_what_is_alive_and_ready(server):
    assert ask("v1", lambda client: client.is_server_live(server.url)) is True
    for name in ("heavy", "light", "auto", "goemotions"):
        assert ask("v1", lambda client, name=name: client.is_model_ready(server.url, name)) is True
    with pytest.raises(httpx.HTTPStatusError, match="no model"):
        ask("v1", lambda client: client.is_model_ready(server.url, "none"))


def test_a_model_that_was_unloaded_is_not_ready(server):
    assert httpx.post(f"{server.url}/v2/repository/models/light/unload", headers=ADMIN, timeout=60).status_code == 200
    assert ask("v1", lambda client: client.is_model_ready(server.url, "light")) is False
    assert ask("v2", lambda client: client.is_model_ready(server.url, "light")) is False
    assert httpx.post(f"{server.url}/v2/repository/models/light/load", headers=ADMIN, timeout=60).status_code == 200
    assert ask("v1", lambda client: client.is_model_ready(server.url, "light")) is True


@pytest.mark.parametrize(
    ("data", "message"),
    [({"instances": []}, "instances is empty"), ({}, "missing field"), ({"instances": [1]}, "expected a string")],
)
def test_version_1_tells_what_is_wrong(server, data, message):
    with pytest.raises(httpx.HTTPStatusError, match=message):
        ask("v1", lambda client: client.infer(server.url, data, model_name="heavy"))


@pytest.mark.parametrize("binary", [True, False])
def test_version_2_infers(server, binary):
    tensor = InferInput("text", [2], "BYTES")
    if binary:
        import numpy as np

        tensor.set_data_from_numpy(np.array([HAPPY, ANGRY], dtype=object), binary_data=True)
    else:
        tensor.data = [HAPPY, ANGRY]
    request = InferRequest(
        model_name="heavy",
        infer_inputs=[tensor],
        request_id="17",
        parameters={"binary_data_output": True} if binary else None,
    )
    reply = ask("v2", lambda client: client.infer(server.url, request, model_name="heavy"))
    assert (reply.model_name, reply.id) == ("goemotions", "17")
    scores, labels = reply.outputs
    assert scores.as_numpy().shape == (2, 28)
    found = [label.decode() if isinstance(label, bytes) else label for label in labels.as_numpy()]
    assert found == ["joy", "anger"]


def test_version_2_tells_what_is_live_ready_and_wrong(server):
    assert ask("v2", lambda client: client.is_server_live(server.url)) is True
    assert ask("v2", lambda client: client.is_server_ready(server.url)) is True
    assert ask("v2", lambda client: client.is_model_ready(server.url, "heavy")) is True
    assert ask("v2", lambda client: client.is_model_ready(server.url, "none")) is False
    wrong = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}
    with pytest.raises(httpx.HTTPStatusError, match="holds 1 texts"):
        ask("v2", lambda client: client.infer(server.url, wrong, model_name="heavy"))
    with pytest.raises(httpx.HTTPStatusError, match="no model"):
        ask("v2", lambda client: client.infer(server.url, wrong, model_name="none"))
