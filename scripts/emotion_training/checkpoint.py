"""Hugging Face checkpoints of sequence classifiers: finding, loading, saving, and their fp32 logits."""

import shutil
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from .encoding import batches_within, load_tokenizer, pad
from .goemotions import BadData

SUPPORTED = ("roberta", "bert", "mpnet")
HUB_FILES = ("config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json")


def locate(name):
    """A folder that holds config.json: the given folder, or a download of the given hub id."""
    folder = Path(name)
    if not folder.exists():
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise BadData(
                f"{name} is no folder here, and as a hub id it could not be downloaded ({type(error).__name__}): "
                "give a folder with config.json, model.safetensors and tokenizer.json, or a hub id such as "
                "sentence-transformers/all-MiniLM-L6-v2 on a machine that reaches the hub"
            ) from error
    if not (folder / "config.json").is_file():
        raise BadData(f"{folder} holds no config.json: expected a checkpoint with config.json, "
                      "model.safetensors and tokenizer.json")
    return folder


def load(folder, **config_changes):
    """The model in float32 on the CPU; config_changes (labels, problem_type) give it a new head if need be."""
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in SUPPORTED:
        raise BadData(f"{folder} is a {config.model_type} model, expected one of {', '.join(SUPPORTED)}")
    if not (Path(folder) / "model.safetensors").is_file():
        raise BadData(f"{folder} holds no model.safetensors")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, ignore_mismatched_sizes=True, **config_changes
    )


def save(model, tokenizer_from, out):
    """config.json, model.safetensors, tokenizer.json without truncation and padding, tokenizer_config.json."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    load_tokenizer(tokenizer_from).save(str(out / "tokenizer.json"))
    tokenizer_config = Path(tokenizer_from) / "tokenizer_config.json"
    if tokenizer_config.is_file():
        shutil.copyfile(tokenizer_config, out / "tokenizer_config.json")


def predict(model, encoded, token_budget=4096, autocast=False):
    """float32 logits [rows, labels] of encoded texts; in bfloat16 autocast on request, else in full float32."""
    logits = np.zeros((len(encoded), model.config.num_labels), dtype=np.float32)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        batches = batches_within([len(row) for row in encoded], token_budget)
        for batch in tqdm(batches, desc="scoring", unit="batch", leave=False):
            input_ids, attention_mask = pad([encoded[row] for row in batch], model.config.pad_token_id)
            output = model(input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask))
            logits[batch] = output.logits.float().numpy()
    model.train(was_training)
    return logits
