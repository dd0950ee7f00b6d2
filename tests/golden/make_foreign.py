"""Checkpoints as training scripts write them: tensors among objects of all kinds.

    python make_foreign.py

Writes pth_foreign/*.pth. Every tensor is 0, 1, 2 ... so the tests need no further file.
"""

import argparse
import collections
import datetime
import functools
import inspect
import pathlib
import random

import numpy as np
import torch

OUT = pathlib.Path(__file__).parent / "pth_foreign"
STREAM = {"_use_new_zipfile_serialization": False}


class StateDict(collections.OrderedDict):
    """Such as frameworks have."""


class Config(dict):
    """A dictionary with attributes of its own."""

    def __init__(self, *items, **keys):
        super().__init__(*items, **keys)
        self.__dict__ = self


def numbers(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def foreign():
    meters = collections.defaultdict(list)
    meters["loss"] += [1.0, 0.5]
    ema = collections.defaultdict(dict)
    ema["shadow"] = StateDict({"conv.weight": numbers(2, 3)})
    parameter = torch.nn.Parameter(numbers(3))
    parameter.tag = "kept beside the tensor"
    return {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, layers=[1, 2], out=pathlib.PurePosixPath("runs/1")),
        "date": datetime.datetime(2026, 11, 29, 1, 2, 3),
        "took": datetime.timedelta(seconds=5),
        "meters": meters,
        "best": np.float64(0.625),
        "count": np.int64(7),
        "flag": np.bool_(True),
        "half": np.float16(0.5),
        "history": np.arange(40, dtype=np.float32),
        "objects": np.array([None, "x"], dtype=object),
        "classes": {"road", "car"},
        "frozen": frozenset([1, 2]),
        "large": 2**200,
        "raw": bytes(range(200)),
        "array": bytearray(b"abc"),
        "slice": slice(1, 5, 2),
        "range": range(3),
        "complex": 1 + 2j,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "spectrum": torch.ones(3, dtype=torch.complex64),
        "small": torch.ones(3).to(torch.float8_e4m3fn),
        "loss": torch.nn.CrossEntropyLoss,
        "schedule": functools.partial(max, 3),
        "random": random.getstate(),
        "numpy_random": np.random.RandomState(1).get_state(),
        "config": Config(model=Config(width=8)),
        "list": [datetime.date(2026, 11, 29), numbers(2)],
        (1, 2): "a key of two",
        None: "a key that is none",
        "state_dict": StateDict({"conv.weight": numbers(2, 3), "conv.bias": parameter}),
        "ema": ema,
    }


def main():
    OUT.mkdir(exist_ok=True)
    for name, how in {"zip": {}, "protocol5": {"pickle_protocol": 5}, "stream": STREAM}.items():
        path = OUT / f"{name}.pth"
        torch.save(foreign(), path, **how)
        # Where the machine keeps PyTorch is nobody's business, and would change the file.
        source = inspect.getsourcefile(torch.nn.CrossEntropyLoss).encode()
        path.write_bytes(path.read_bytes().replace(source, b"loss.py".rjust(len(source), b"/")))


if __name__ == "__main__":
    main()
