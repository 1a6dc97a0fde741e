"""Finds the files of a checkpoint: in a folder, or on a Hugging Face hub (HF_ENDPOINT may name another one)."""

from dataclasses import dataclass
from pathlib import Path

from .checkpoint import CheckpointError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OPTIONAL = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt", "README.md")


@dataclass
class Source:
    """A folder with a checkpoint's files, and where they come from in words."""

    folder: Path
    described: str


def find(source: str, revision: str = "main") -> Source:
    """`source` as a folder if there is one of that name, else as a hub id such as owner/name."""
    folder = Path(source)
    if folder.is_dir():
        return Source(folder, f"the local checkpoint {folder.resolve().name}")
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise CheckpointError(f"{source} is not a folder (and cannot be a hub id, which looks like owner/name)")
    return _download(source, revision)


def _download(repository: str, revision: str) -> Source:
    try:
        # The HTTP client of huggingface_hub, whose connection errors it passes on as they are.
        import httpx2
        from huggingface_hub import HfApi, constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
    except ImportError as error:
        raise CheckpointError(f"downloading {repository} needs the package huggingface_hub: pip install it") from error
    endpoint = constants.ENDPOINT

    def fetch(name: str) -> Path:
        return Path(hf_hub_download(repository, name, revision=commit))

    try:
        info = HfApi().model_info(repository, revision=revision, timeout=20)
        commit = info.sha
        present = {entry.rfilename for entry in info.siblings or []}
        weights = next((name for name in WEIGHTS if name in present), None)
        if weights is None:
            raise CheckpointError(f"{repository} at {endpoint} holds neither {' nor '.join(WEIGHTS)}")
        config = fetch("config.json")
        fetch(weights)
        for name in OPTIONAL:
            if name in present:
                fetch(name)
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{endpoint} has no model {repository} (or it is private)") from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{repository} at {endpoint} lacks a file: {_first_line(error)}") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise CheckpointError(f"cannot download {repository} from {endpoint}: {_first_line(error)}") from error
    return Source(config.parent, f"the hub model {repository}, revision {commit}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
