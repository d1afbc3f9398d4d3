"""The public weights of LoFTR and 3DG-STFM, from a file that the user has.

LoFTR looks at one grey channel in [0, 1]. Its outdoor_ds and indoor_ds become preset ``loftr``; indoor_ds_new, trained
after a slip in the encoding was mended, becomes ``loftr-new``. 3DG-STFM becomes ``3dg-stfm``: its student looks at RGB
by ImageNet's means and deviations, its teacher at depth / 10 m beside it. (The outdoor teacher saw depth stretched to
0..1 over a pair instead; that is up to the caller.)

Their names of the parameters are translated into ours; a first convolution on grey becomes one on RGB that computes the
same. The weights stay under the terms of those who published them and of the data they were trained on (ScanNet,
MegaDepth). LoFTR's repository is Apache-2.0, 3DG-STFM's states no licence.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stfm_ros.errors import WeightsError
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset

#: their modules -> ours
MODULES = {
    "backbone.conv1.": "backbone.stem.0.",
    "backbone.bn1.": "backbone.stem.1.",
    "backbone.layer1.": "backbone.stage2.",
    "backbone.layer2.": "backbone.stage4.",
    "backbone.layer3.": "backbone.stage8.",
    "backbone.layer3_outconv.": "backbone.lateral8.",
    "backbone.layer2_outconv.": "backbone.lateral4.",
    "backbone.layer2_outconv2.": "backbone.merge4.",
    "backbone.layer1_outconv.": "backbone.lateral2.",
    "backbone.layer1_outconv2.": "backbone.merge2.",
    "loftr_coarse.layers.": "transformer.layers.",
    "fine_preprocess.down_proj.": "fine.project.",
    "fine_preprocess.merge_feat.": "fine.merge.",
    "loftr_fine.layers.": "fine.layers.",
}
STEM = "backbone.stem.0.weight"

#: grey = LUMA . RGB (ITU-R BT.601), as OpenCV has it, which rounds the result to whole levels
LUMA = (0.299, 0.587, 0.114)

#: classes of the trainer that the checkpoints of the public training name beside their tensors
BOOKKEEPING = ("pytorch_lightning.", "lightning.")


def load_published(path: Path, *, teacher: bool = False, mended_encoding: bool | None = None) -> StfmNet:
    """The network of a public checkpoint.

    Args:
        path: ``.ckpt`` or ``.pt`` of torch, or ``.safetensors``: a state dict, or one under the key ``state_dict``;
            with or without the prefix ``matcher.`` of their training.
        teacher: of a file that holds 3DG-STFM's teacher beside its student, take the teacher.
        mended_encoding: whether the weights were trained after the slip in LoFTR's sine encoding was mended, which no
            file says. None: LoFTR's were if the file's name ends in ``_new``, as the published ones do.

    Returns:
        The network in evaluation mode; 4 channels for a teacher, else 3.

    Raises:
        WeightsError: the file is missing, cannot be read without running code that it brings, or holds another network.
    """
    state = {name.removeprefix("matcher."): tensor for name, tensor in _tensors(path).items()}
    if any(name.startswith("teacher.") for name in state):
        state = {
            name.removeprefix("teacher."): tensor
            for name, tensor in state.items()
            if name.startswith("teacher.") == teacher
        }
    if "coarse_matching.bin_score" in state:
        raise WeightsError(
            f"{path} was trained for optimal transport (it holds coarse_matching.bin_score), this network matches by "
            "dual softmax; take a checkpoint whose name ends in _ds"
        )
    state = _translated(state, path)
    stem = state[STEM]
    channels = stem.shape[1] if stem.ndim == 4 else 0
    if channels not in ((4,) if teacher else (1, 3, 4)):
        expected = "4 channels (RGB, depth)" if teacher else "1 channel (grey), 3 (RGB) or 4 (RGB, depth)"
        raise WeightsError(f"{path} has a first convolution of shape {tuple(stem.shape)}, expected {expected}")
    if channels == 1:
        state[STEM] = stem * torch.tensor(LUMA).view(1, 3, 1, 1)
        mended = path.stem.endswith("_new") if mended_encoding is None else mended_encoding
        name = "loftr-new" if mended else "loftr"
    else:
        name = "paper" if mended_encoding else "3dg-stfm"
    network = StfmNet(preset(name, in_channels=state[STEM].shape[1]))
    _check_shapes(state, network.state_dict(), path)
    network.load_state_dict(state)
    return network.eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; give a checkpoint of LoFTR or 3DG-STFM")
    loaded = _from_safetensors(path) if path.suffix == ".safetensors" else _from_torch(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not state or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}, expected a state dict (names and tensors) or one under the key "
            "'state_dict'; save the network's state_dict()"
        )
    return {str(name): tensor for name, tensor in state.items()}


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    return state


def _from_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, without running anything that the file asks for.

    Checkpoints of the public training name classes of Lightning in its bookkeeping. Empty classes stand in for these;
    anything else that is not a tensor or a plain value is refused.
    """
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is not a whole file of torch.save (1.6 or newer); fetch it again, or give a .safetensors file"
        )
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        foreign = sorted(name for name in named if not name.startswith(BOOKKEEPING))
        if not foreign:
            with torch.serialization.safe_globals([(type("StandIn", (), {}), name) for name in named]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that is not of torch.save can raise anything
        raise WeightsError(f"{path} cannot be read as weights ({error}); fetch it again") from error
    raise WeightsError(
        f"{path} is a pickle that calls {', '.join(foreign[:3])} when it is loaded; from a file of unknown origin only "
        "tensors are loaded. If you trust it, save its state dict alone where it was made: "
        "torch.save(network.state_dict(), FILE)"
    )


def _translated(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    with torch.device("meta"):  # the names alone
        wanted = StfmNet(preset("paper")).state_dict().keys()
    names = {
        ours + name.removeprefix(theirs): name
        for name in state
        for theirs, ours in MODULES.items()
        if name.startswith(theirs)
    }
    unknown = sorted(state.keys() - {name for ours, name in names.items() if ours in wanted})
    missing = sorted(wanted - names.keys())
    if unknown or missing:
        faults = [f"{len(unknown)} names are unknown ({_few(unknown)})"] if unknown else []
        faults += [f"{len(missing)} of ours are missing ({_few(missing)})"] if missing else []
        raise WeightsError(f"{path} is not LoFTR or 3DG-STFM: {', '.join(faults)}; give a checkpoint of one of these")
    return {ours: state[name] for ours, name in names.items()}


def _check_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if state[name].shape != tensor.shape
    ]
    if wrong:
        raise WeightsError(f"{path} is LoFTR of another size: {_few(wrong)}; the published size is what can be loaded")


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
