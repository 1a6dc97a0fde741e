"""Reads a fine-tuned Hugging Face checkpoint into one shape, whatever the architecture named its weights."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FAMILIES = ("bert", "mpnet", "roberta")


class CheckpointError(Exception):
    """What is wrong with a checkpoint, and what would be right."""


@dataclass
class Linear:
    """y = x weight^T + bias; weight is [out, in], as the checkpoint stores it."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass
class Norm:
    """Scale and shift of a layer normalization, each [hidden]."""

    gamma: np.ndarray
    beta: np.ndarray


@dataclass
class Layer:
    """One transformer layer with normalization after each residual sum."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Norm
    intermediate: Linear
    output: Linear
    output_norm: Norm


@dataclass
class Checkpoint:
    """The weights of a sequence classifier in float32, and the config they came with."""

    config: dict
    word_embeddings: np.ndarray
    position_embeddings: np.ndarray
    # [types, hidden] where texts may hold two segments (bert), else None.
    token_type_embeddings: np.ndarray | None
    embeddings_norm: Norm
    # [buckets, heads], mpnet only.
    relative_attention_bias: np.ndarray | None
    layers: list[Layer]
    head_dense: Linear
    head_out: Linear

    @property
    def family(self) -> str:
        """The architecture: bert, mpnet or roberta."""
        return self.config["model_type"]

    @property
    def pad_id(self) -> int:
        """Token id that fills short rows of a batch."""
        return self.config["pad_token_id"]

    @property
    def labels(self) -> list[str]:
        """Label names in the order of the logits."""
        id2label = {int(index): label for index, label in self.config["id2label"].items()}
        return [id2label[index] for index in range(len(id2label))]

    @property
    def positions(self) -> int:
        """How many tokens the position embeddings can number."""
        rows = len(self.position_embeddings)
        return rows if self.family == "bert" else rows - self.pad_id - 1


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file, floating-point ones as float32.

    Written out here because numpy has no bfloat16: its 16 bits are the upper half of a float32.
    """
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    try:
        (header_bytes,) = struct.unpack("<Q", raw[:8].tobytes())
        if header_bytes > len(raw) - 8:
            raise ValueError("the header is longer than the file")
        header = json.loads(raw[8 : 8 + header_bytes].tobytes())
        body = raw[8 + header_bytes :]
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if end > len(body):
                raise ValueError(f"{name} ends after the end of the file")
            tensors[name] = _decode(entry["dtype"], body[begin:end].tobytes()).reshape(entry["shape"])
        return tensors
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _decode(dtype: str, raw: bytes) -> np.ndarray:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
    if dtype not in plain:
        raise ValueError(f"tensor type {dtype} is not supported (F32, F16 and BF16 are)")
    array = np.frombuffer(raw, plain[dtype])
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def read_pytorch_bin(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a pytorch_model.bin as float32; the one reader here that needs torch."""
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} can only be read with torch: install torch, or convert the file to model.safetensors"
        ) from error
    # weights_only: a pickle from elsewhere must not run code.
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def read_config(path: Path) -> dict:
    """config.json, refused unless the graph writer can reproduce what it describes."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: a checkpoint has config.json beside its weights") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    family = config.get("model_type")
    if family not in FAMILIES:
        raise CheckpointError(f"{path}: model_type {family!r} is not supported, one of {', '.join(FAMILIES)} is")
    required = {
        "hidden_act": ("gelu", config.get("hidden_act", "gelu")),
        "position_embedding_type": ("absolute", config.get("position_embedding_type", "absolute")),
    }
    for key, (supported, found) in required.items():
        if found != supported:
            raise CheckpointError(f"{path}: {key} {found!r} is not supported, {supported!r} is")
    config.setdefault("pad_token_id", 0 if family == "bert" else 1)
    config.setdefault("layer_norm_eps", 1e-12 if family != "roberta" else 1e-5)
    if "id2label" not in config:
        raise CheckpointError(f"{path} has no id2label: only sequence classifiers with named labels can be exported")
    return config


def load(folder: Path) -> Checkpoint:
    """The checkpoint in `folder` (config.json and model.safetensors or pytorch_model.bin)."""
    config = read_config(folder / "config.json")
    if (folder / "model.safetensors").exists():
        tensors = read_safetensors(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").exists():
        tensors = read_pytorch_bin(folder / "pytorch_model.bin")
    else:
        raise CheckpointError(f"{folder} holds no model.safetensors (nor pytorch_model.bin)")
    return assemble(config, tensors)


def assemble(config: dict, tensors: dict[str, np.ndarray]) -> Checkpoint:
    """Sorts named tensors into a Checkpoint; every missing or misshapen one is named."""
    family = config["model_type"]

    def tensor(name: str) -> np.ndarray:
        if name not in tensors:
            raise CheckpointError(f"the checkpoint has no tensor {name}: is it a {family} sequence classifier?")
        return np.ascontiguousarray(tensors[name], dtype=np.float32)

    def linear(name: str) -> Linear:
        return Linear(tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    def norm(name: str) -> Norm:
        # Checkpoints converted from TensorFlow say gamma and beta.
        if f"{name}.gamma" in tensors:
            return Norm(tensor(f"{name}.gamma"), tensor(f"{name}.beta"))
        return Norm(tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    def layer(index: int) -> Layer:
        base = f"{family}.encoder.layer.{index}"
        if family == "mpnet":
            query, key, value, out = (f"{base}.attention.attn.{part}" for part in "qkvo")
            attention_norm = f"{base}.attention.LayerNorm"
        else:
            query, key, value = (f"{base}.attention.self.{part}" for part in ("query", "key", "value"))
            out, attention_norm = f"{base}.attention.output.dense", f"{base}.attention.output.LayerNorm"
        return Layer(
            linear(query),
            linear(key),
            linear(value),
            linear(out),
            norm(attention_norm),
            linear(f"{base}.intermediate.dense"),
            linear(f"{base}.output.dense"),
            norm(f"{base}.output.LayerNorm"),
        )

    positions = tensor(f"{family}.embeddings.position_embeddings.weight")
    token_types = None
    if family == "bert":
        token_types = tensor("bert.embeddings.token_type_embeddings.weight")
    elif family == "roberta":
        # roberta adds the vector of type 0 to every token: as well to every position.
        positions = positions + tensor("roberta.embeddings.token_type_embeddings.weight")[0]
    checkpoint = Checkpoint(
        config=config,
        word_embeddings=tensor(f"{family}.embeddings.word_embeddings.weight"),
        position_embeddings=positions,
        token_type_embeddings=token_types,
        embeddings_norm=norm(f"{family}.embeddings.LayerNorm"),
        relative_attention_bias=tensor("mpnet.encoder.relative_attention_bias.weight") if family == "mpnet" else None,
        layers=[layer(index) for index in range(config["num_hidden_layers"])],
        head_dense=linear("bert.pooler.dense" if family == "bert" else "classifier.dense"),
        head_out=linear("classifier" if family == "bert" else "classifier.out_proj"),
    )
    if len(checkpoint.head_out.weight) != len(config["id2label"]):
        raise CheckpointError(
            f"config.json names {len(config['id2label'])} labels but the classifier has "
            f"{len(checkpoint.head_out.weight)} outputs"
        )
    return checkpoint
