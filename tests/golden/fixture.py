"""The fixture format: cases made of tensors and calls (see README.md)."""

import json
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
DTYPES = {"float32": "f32", "uint8": "u8", "uint32": "u32"}
SEED = 0x5EED_0000_2026


def rank4(a):
    """Vectors become [1, 1, 1, n], matrices [1, 1, r, c]."""
    a = np.ascontiguousarray(a)
    return a.reshape((1,) * (4 - a.ndim) + a.shape)


def f32(a):
    """f32 array of a torch tensor or anything numpy takes."""
    if isinstance(a, torch.Tensor):
        a = a.detach().numpy()
    return np.asarray(a).astype(np.float32)


def nhwc(t):
    """NCHW (or KCRS) torch tensor to an f32 NHWC (or KRSC) array."""
    return f32(t.permute(0, 2, 3, 1))


class Case:
    """One test: tensors with initial and expected contents, and the calls between them."""

    def __init__(self, name, rtol=1e-5):
        self.name, self.rtol = name, rtol
        self.tensors, self.calls, self.data = {}, [], {}

    def put(self, name, array, wide=False):
        """A tensor with initial contents. `wide`: may be a channel slice of a wider tensor."""
        array = rank4(array)
        self.tensors[name] = self._entry(array.shape, array.dtype, wide) | {"init": True}
        self.data[f"{self.name}/{name}"] = array
        return name

    def expect(self, name, array, wide=False, rtol=None, atol=None, only=None):
        """What a tensor must hold at the end: |got − want| ≤ atol + rtol·|want|, exact for
        integers. By default atol = rtol · (root mean square of the finite values). `only` lists
        the (start, length) runs of elements that are defined."""
        array = rank4(array)
        entry = self.tensors.setdefault(name, self._entry(array.shape, array.dtype, wide))
        assert entry["shape"] == list(array.shape), (self.name, name)
        entry["expect"] = True
        if only is not None:
            entry["only"] = [[int(start), int(length)] for start, length in only]
        if array.dtype == np.float32:
            rtol = self.rtol if rtol is None else rtol
            finite = array[np.isfinite(array)].astype(np.float64)
            rms = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
            entry["rtol"], entry["atol"] = rtol, rtol * rms if atol is None else atol
        self.data[f"{self.name}/{name}="] = array
        return name

    def temp(self, name, shape, dtype=np.float32, wide=False):
        """A tensor that calls write and nothing compares."""
        shape = (1,) * (4 - len(shape)) + tuple(shape)
        self.tensors[name] = self._entry(shape, np.dtype(dtype), wide)
        return name

    def call(self, op, ins, outs, accumulate=0, **attributes):
        """One operation; names are resolved to tensors of this case."""
        self.calls.append(
            {"op": op, "ins": ins, "outs": outs, "accumulate": accumulate, **attributes}
        )

    @staticmethod
    def _entry(shape, dtype, wide):
        entry = {"dtype": DTYPES[str(np.dtype(dtype))], "shape": list(shape)}
        return entry | {"wide": True} if wide else entry

    def check(self):
        for call in self.calls:
            for name in call["ins"] + call["outs"]:
                assert name in self.tensors, (self.name, name)
        assert any(t.get("expect") for t in self.tensors.values()), self.name


def save(family, cases):
    """Writes tests/golden/<family>.safetensors."""
    tensors, table = {}, []
    names = [c.name for c in cases]
    assert len(set(names)) == len(names), names
    for case in cases:
        case.check()
        tensors |= case.data
        table.append({"name": case.name, "tensors": case.tensors, "calls": case.calls})
    path = HERE / f"{family}.safetensors"
    save_file(tensors, path, metadata={"cases": json.dumps(table)})
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size / 1024:.0f} KiB")


def values(name, shape, scale=1.0):
    """Reproducible f32-exact normal values, f64 tensor in torch's layout."""
    seed = sum(ord(ch) * 31**i for i, ch in enumerate(name)) % (2**31)
    return torch.from_numpy(
        (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
    ).double()


def integers(name, shape, high):
    """Reproducible integers in 0..high."""
    seed = sum(ord(ch) * 31**i for i, ch in enumerate(name)) % (2**31)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, shape))
