"""Weights as safetensors, with the preset and a hash that every message carries."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stfm_ros.errors import WeightsError
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """The first 12 hex digits of the SHA-256 over names and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def save_weights(network: StfmNet, path: Path, about: Mapping[str, str] | None = None) -> str:
    """Write a network's weights; a crash never leaves a half-written file.

    Args:
        about: further metadata (training data, recipe, commit), stored as JSON in the header.

    Returns:
        The weights' hash.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    digest = weights_hash(state)
    metadata = {
        "format": "stfm",
        "preset": network.config.preset,
        "in_channels": str(network.config.in_channels),
        "hash": digest,
        "about": json.dumps(dict(about or {})),
    }
    temporary = path.with_name(path.name + ".part")
    save_file(state, str(temporary), metadata)
    os.replace(temporary, path)
    return digest


def load_network(path: Path, expected_preset: str | None = None) -> tuple[StfmNet, str]:
    """Read weights into the network they belong to.

    Returns:
        The network in evaluation mode, and the weights' hash.

    Raises:
        WeightsError: the file is missing, damaged, or of another preset than expected.
    """
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}; give a .safetensors file or a shipped name")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    if metadata.get("format") != "stfm":
        raise WeightsError(f"{path} was not written by stfm_ros (no preset in its header); export it with this package")
    name = metadata["preset"]
    if expected_preset is not None and name != expected_preset:
        raise WeightsError(f"{path} holds weights of preset {name!r}, expected {expected_preset!r}; choose that preset")
    network = StfmNet(preset(name, int(metadata["in_channels"])))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not fit preset {name!r} of this version: {str(error).splitlines()[1].strip()}; "
            "train or export it again with this version"
        ) from error
    digest = weights_hash(state)
    if digest != metadata["hash"]:
        raise WeightsError(f"{path} has hash {digest}, its header says {metadata['hash']}: damaged; fetch it again")
    return network.eval(), digest
