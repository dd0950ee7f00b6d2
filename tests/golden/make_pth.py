"""Writes pth/*.pth, files as PyTorch writes them today and wrote them before, and
pth/expected.safetensors, what their tensors hold. `python tests/golden/make_pth.py`.

Every file is loaded again by PyTorch before its tensors are taken as the expected ones."""

import collections
import io
import pickle
import struct
import tarfile

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from fixture import HERE

OUT = HERE / "pth"
STREAM = {"_use_new_zipfile_serialization": False}


def kinds(unsigned):
    """A tensor of every type, with the values that conversions lose."""
    floats = [0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), float("nan"), 1e-40]
    tensors = {
        "f32": torch.tensor([0x7FA0_0001, -1, 0x0000_0001, 0x3F80_0000], dtype=torch.int32).view(torch.float32),
        "f64": torch.tensor([2**52 + 1, -(2**63) + 5], dtype=torch.int64).view(torch.float64),
        "f16": torch.tensor(floats, dtype=torch.float16),
        "bf16": torch.tensor(floats, dtype=torch.bfloat16),
        "i64": torch.tensor([2**63 - 1, -(2**63), 7]),
        "i32": torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32),
        "i16": torch.tensor([[-5, 6], [7, -32768]], dtype=torch.int16),
        "i8": torch.tensor([-128, 127], dtype=torch.int8),
        "u8": torch.tensor([0, 255, 3], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
    }
    if unsigned:
        tensors |= {f"u{bits}": torch.tensor([0, 2**bits - 1, 9][::1 if bits < 64 else 2],
                                             dtype=getattr(torch, f"uint{bits}")) for bits in (16, 32, 64)}
    return tensors


def strides():
    """Views of one storage and of several, in a dictionary of lists and tuples."""
    base = torch.arange(24, dtype=torch.float32)
    image = torch.arange(60, dtype=torch.float16).reshape(1, 3, 4, 5).to(memory_format=torch.channels_last)
    shared = torch.arange(6, dtype=torch.int16)
    return {
        "whole": base,
        "matrix": base.reshape(4, 6),
        "turned": base.reshape(4, 6).t(),
        "sliced": base.reshape(4, 6)[1:, 1::2],
        "spread": base[5].expand(3, 2),
        "scalar": base[23],
        "empty": base[:0].reshape(0, 7),
        "channels_last": image,
        "list": [shared[2:4], (shared, shared[::3])],
        "parameter": nn.Parameter(base[3:7]),
        "again": base,
    }


def checkpoint():
    """What the authors' training script saves, of a small network after two steps."""
    torch.manual_seed(0)

    def network():
        torch.manual_seed(1)
        return nn.Sequential(collections.OrderedDict(
            encoder=nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), decoder=nn.Conv2d(4, 2, 1)))

    model, teacher = network(), network()
    groups = [{"params": model.encoder.parameters(), "lr": 0.001}, {"params": model.decoder.parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()

    def wrapped(network):  # as distributed training names them, with the versions of the modules
        state = network.state_dict()
        metadata = state._metadata
        state = collections.OrderedDict((f"module.{k}", v) for k, v in state.items())
        state._metadata = metadata
        return state

    return {"epoch": 7, "model_state": wrapped(model), "optimizer_state": optimizer.state_dict(),
            "teacher_state": wrapped(teacher), "best_miou": np.float64(0.7310585786300049)}


def things():
    """Numbers, strings and containers."""
    return {"none": None, "yes": True, "no": False, "byte": 200, "short": 60_000, "negative": -3, "long": 2**62,
            "float": -0.1, "nan": float("nan"), "text": "Zürich\n", "empty": "", "list": [1, [2, []]],
            "tuple": (1, "a", ()), "single": (1,), "five": (1, 2, 3, 4, 5), "size": torch.Size([3, 4]),
            "float32": np.float32(0.5), "int64": np.int64(-9), "bool_": np.bool_(True), 11: {12: torch.ones(1)}}


def python2(pickler):
    """Makes a pickler write what Python 2 wrote: byte strings, ordered dictionaries of lists."""
    class Python2(pickler):
        dispatch = pickle._Pickler.dispatch.copy()

        def save_str(self, text):
            raw = text.encode("ascii")
            self.write(b"U" + bytes([len(raw)]) + raw)
            self.memoize(text)

        dispatch[str] = save_str

        def reducer_override(self, value):
            if isinstance(value, collections.OrderedDict):
                return collections.OrderedDict, ([[k, v] for k, v in value.items()],)
            if isinstance(value, nn.Parameter):
                return nn.Parameter, (value.data,), (True, False, collections.OrderedDict())
            return NotImplemented

    return Python2


def tar(state):
    """The archive of PyTorch before 0.1.10 (see src/weights/pth/tar.rs)."""
    storages, tensors, ids = io.BytesIO(), io.BytesIO(), {}
    views = [t.data for t in state.values()]
    roots = {}
    for view in views:
        roots.setdefault(view.untyped_storage().data_ptr(), view)
    pickle.dump(len(roots), storages, 2)
    for key, view in roots.items():
        storage = view.untyped_storage()
        kind = getattr(torch, {torch.float32: "FloatStorage", torch.int64: "LongStorage"}[view.dtype])
        pickle.dump((key, "cpu", kind), storages, 2)
        storages.write(struct.pack("<q", storage.nbytes() // view.element_size()) + bytes(storage))
    first = next(iter(roots))
    # A view of a storage, which tensors may name like a storage.
    pickle.dump([(17, first, 2, 4)], storages, 2)
    pickle.dump(len(views) + 1, tensors, 2)
    lines = [(1000 + i, v.untyped_storage().data_ptr(), v) for i, v in enumerate(views)]
    lines.append((999, 17, torch.empty(2, 2)))
    for key, storage, view in lines:
        kind = {torch.float32: torch.FloatTensor, torch.int64: torch.LongTensor}[view.dtype]
        pickle.dump((key, storage, kind), tensors, 2)
        # The upper half of the number of dimensions holds whatever was in memory.
        tensors.write(struct.pack("<iI", view.dim(), 0xDEAD_BEEF if view.dim() else 0))
        tensors.write(struct.pack(f"<{view.dim()}q", *view.shape) + struct.pack(f"<{view.dim()}q", *view.stride()))
        tensors.write(struct.pack("<q", view.storage_offset()))
        ids[id(view)] = key

    class Pickler(python2(pickle._Pickler)):
        def persistent_id(self, value):
            if isinstance(value, nn.Parameter) or not isinstance(value, torch.Tensor):
                return None
            key = by_data.get((value.data_ptr(), value.shape, value.stride()))
            return None if key is None else str(key)

    by_data = {(v.data_ptr(), v.shape, v.stride()): ids[id(v)] for v in views}
    data = io.BytesIO()
    Pickler(data, 2).dump(state)
    machine = pickle.dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {"int": 4}}, 2)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, raw in [("sys_info", machine), ("pickle", data.getvalue()),
                          ("tensors", tensors.getvalue()), ("storages", storages.getvalue())]:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def backbone():
    """Names as of an ImageNet backbone, parameters and buffers, one of them strided."""
    torch.manual_seed(2)
    state = collections.OrderedDict()
    state["conv1.weight"] = nn.Parameter(torch.randn(4, 3, 3, 3))
    state["bn1.weight"] = nn.Parameter(torch.randn(4))
    state["bn1.running_mean"] = torch.randn(4)
    state["fc.weight"] = nn.Parameter(torch.randn(5, 6).t())
    state["steps"] = torch.tensor([3, 4])
    return state


def flatten(value, path=""):
    items = []
    if isinstance(value, torch.Tensor):
        return [(path, value.detach())]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        items = enumerate(value)
    return [leaf for key, item in items for leaf in flatten(item, f"{path}.{key}" if path else str(key))]


def main():
    OUT.mkdir(exist_ok=True)
    expected = {}
    saved = {
        "kinds": (kinds(True), {}),
        "kinds_stream": (kinds(False), STREAM),
        "strides": (strides(), {}),
        "strides_stream": (strides(), STREAM),
        "checkpoint": (checkpoint(), {}),
        "checkpoint_stream": (checkpoint(), STREAM),
        "things": (things(), {}),
        "protocol4": (strides() | things(), {"pickle_protocol": 4}),
        "protocol5": (checkpoint(), {"pickle_protocol": 5}),
        "alone": (torch.arange(3.0), {}),
    }
    for name, (value, how) in saved.items():
        torch.save(value, OUT / f"{name}.pth", **how)
    torch.serialization.set_crc32_options(False)
    torch.save(strides(), OUT / "unchecked.pth")
    (OUT / "backbone_tar.pth").write_bytes(tar(backbone()))
    for path in sorted(OUT.glob("*.pth")):
        for name, tensor in flatten(torch.load(path, weights_only=False)):
            expected[f"{path.stem}:{name or 'tensor'}"] = tensor.clone(memory_format=torch.contiguous_format)
    save_file(expected, OUT / "expected.safetensors")
    print(f"{len(expected)} tensors")


if __name__ == "__main__":
    main()
