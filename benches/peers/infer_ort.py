"""ONNX Runtime peer of the inference benchmark: u8 images in, entropy, argmax and confidence out.

The network of infer.py is exported and optimised in another process (export_onnx.py): memory and
threads of this one are ONNX Runtime's alone.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import protocol

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PACKAGES = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu"}

args, _ = protocol.parser(__doc__).parse_known_args()  # the rest is the exporter's
package = PACKAGES[args.device]
try:
    import numpy
    import onnxruntime
except ImportError as error:
    protocol.unavailable(f"this Python cannot import onnxruntime ({error}): pip install {package} into it")
if PROVIDERS[args.device] not in onnxruntime.get_available_providers():
    protocol.unavailable(f"onnxruntime {onnxruntime.__version__} has no {PROVIDERS[args.device]}: pip install {package}")
if args.precision == "bf16":
    # Asked for one at opset 22, the CPU provider has "no implementation"; opset 20, the last that
    # PyTorch's tracing writes, has no type for it.
    protocol.unavailable("its CPU provider, and the ONNX that PyTorch writes, have no convolution in bf16")


def free_mib():
    """Memory of the GPU that nobody holds."""
    import torch

    return torch.cuda.mem_get_info()[0] / 2**20


def export(folder):
    """The path of the model, and what the exporter says of it."""
    path = Path(folder) / "model.onnx"
    script = Path(__file__).with_name("export_onnx.py")
    command = [sys.executable, script, *sys.argv[1:], "--out", path]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = json.loads(done.stdout) if done.stdout else {}
    if done.returncode or "error" in said:
        lines = done.stderr.strip().splitlines() or ["without a word"]
        protocol.unavailable(f"the network was not exported: {said.get('error', lines[-1])}")
    return path, said


def session(path):
    """The model, loaded and optimised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    # One block for all maps of a call takes more memory than its arena does, and no less time.
    options.enable_mem_pattern = False
    # Its threads sleep between calls; within one they wait by spinning, as is its default.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    provider = (PROVIDERS[args.device], {})
    if args.device == "cuda":
        onnxruntime.preload_dlls()
        provider[1]["use_tf32"] = int(args.precision == "tf32")
    made = onnxruntime.InferenceSession(path, options, providers=[provider])
    if made.get_providers()[0] != provider[0]:
        protocol.unavailable(f"{provider[0]} could not be loaded, see onnxruntime's requirements")
    return made


base_mib = protocol.status_mib("VmRSS")
base_free_mib = free_mib() if args.device == "cuda" else None
with tempfile.TemporaryDirectory() as folder:
    model, said = export(folder)
    try:
        net = session(model)
    except Exception as error:  # its own classes, by kind of failure
        protocol.unavailable(str(error).splitlines()[0])
image = numpy.random.default_rng(0).integers(0, 256, net.get_inputs()[0].shape, numpy.uint8)


def step():
    return net.run(None, {"image": image})


def ms(count):
    start = time.perf_counter()
    for _ in range(count):
        step()
    return 1e3 * (time.perf_counter() - start) / count


def last():
    facts = {"peak_mib": protocol.status_mib("VmHWM"), "base_mib": base_mib}
    if args.device == "cuda":
        # It tells no more than what it took from the driver.
        facts["device_mib"] = facts["device_reserved_mib"] = base_free_mib - free_mib()
    return facts


ready = {
    "onnxruntime": onnxruntime.__version__,
    "provider": net.get_providers()[0],
    "device": args.device,
    "threads": args.threads,
    "pytorch": said["pytorch"],
    "parameters": said["parameters"],
    "batch": len(image),
}
check = {"conv_flops": said["conv_flops"], "entropy_mean": None}
protocol.serve(ms, args, ready, last, lambda: check | {"entropy_mean": float(step()[0].mean())})
