"""Writes network.safetensors: outputs of whole networks. Weights and inputs come by formula
(README.md), so that nothing large is committed. `python tests/golden/make_network.py`."""

import copy
import json
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

import network
from fixture import HERE, nhwc

BASE = {"depth": 50, "stem": "deep", "width": 64, "output_stride": 8, "multi_grid": True,
        "decoder": "deeplabv3plus", "aspp_dilations": [12, 24, 36], "head_width": 256, "rep_width": 256,
        "dropout": 0.0, "aux": False, "classes": 21}
NARROW = {"depth": 18, "multi_grid": False, "width": 8, "head_width": 16, "rep_width": 8, "classes": 5}
CASES = {
    "resnet50": (BASE, (2, 3, 65, 65), 4000),
    "resnet101_aux": (BASE | {"depth": 101, "aux": True, "classes": 19}, (2, 3, 65, 65), 4000),
    "resnet50_7x7_os16_v3": (BASE | {"stem": "7x7", "output_stride": 16, "decoder": "deeplabv3",
                                     "width": 16, "head_width": 32, "rep_width": 24,
                                     "aspp_dilations": [6, 12]}, (2, 3, 64, 80), 2000),
    "resnet18": (BASE | NARROW, (2, 3, 33, 49), None),
    "resnet18_7x7_os32": (BASE | NARROW | {"stem": "7x7", "output_stride": 32, "aux": True},
                          (3, 3, 65, 48), 2000),
}


def thin(array, limit):
    """Every k-th element of the flat NHWC output, k odd, at most about `limit` elements."""
    k = 1 if limit is None else max(1, array.size // limit) | 1
    return array.reshape(-1)[::k].copy(), k


def outputs(model, x):
    found = {}
    with torch.no_grad():
        for mode in ("eval", "train"):
            ran = copy.deepcopy(model).train(mode == "train")
            for key, y in zip(("logits", "rep", "aux"), ran(x)):
                if y is not None:
                    found[f"{mode}_{key}"] = nhwc(y)
            if mode == "train":  # one running buffer late in the network
                found["running_var"] = ran.state_dict()["encoder.layer4.1.bn2.running_var"].float().numpy()
    return found


def main(names):
    tensors, table = {}, []
    for name in names or CASES:
        cfg, shape, limit = CASES[name]
        gain = 1.0
        with torch.no_grad():
            model = network.fill(network.Network(cfg), gain)
        x = network.image(f"{name}/input", shape)
        single = outputs(model, x)
        exact = outputs(model.double(), x.double())
        entry = {"name": name, "config": cfg, "input": list(shape), "gain": gain, "outputs": {}}
        for key, array in exact.items():
            kept, k = thin(array, limit)
            tensors[f"{name}/{key}"] = kept
            rms = float(np.sqrt(np.mean(array.astype(np.float64) ** 2)))
            peer = float(np.abs(single[key].astype(np.float64) - array).max())
            entry["outputs"][key] = {"shape": list(array.shape), "every": k, "rms": rms,
                                     "atol": max(1e-4 * rms, 3 * peer)}
            print(f"{name}/{key}: rms {rms:.3g}, PyTorch f32 is off by {peer:.2g} at most, {kept.size} kept")
        table.append(entry)
    path = HERE / "network.safetensors"
    save_file(tensors, path, metadata={"cases": json.dumps(table)})
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
