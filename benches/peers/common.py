"""What the peers share: arguments, the device, and how `u2pl-engine bench` drives a side.

A side is a process that answers each line of stdin with one line of stdout, both JSON:

    (started)               {"ready": {...}}            or {"error": "...", "mend": "..."} and exit
    {"case": {...}}         {"ready": {...}}            or {"unavailable": "..."}; operations only
    {"run": k}              {"ms": t}                   t: milliseconds of each of k calls in a row
    {"check": true}         {"checked": {...}}          what both sides must agree on
    end of stdin            {"peak_mib": ..., "base_mib": ..., ...}

Engine and peer thus take turns under the same load. Everything but these lines goes to stderr.
"""

import argparse
import json
import os
import random
import sys
import time

# The protocol's stdout; whatever a library prints must not end up between its lines.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def reply(value):
    print(json.dumps(value), file=replies, flush=True)


def fail(error, mend):
    reply({"error": error, "mend": mend})
    sys.exit(2)


def status_mib(key):
    """A line of /proc/self/status: VmRSS, or VmHWM, the highest VmRSS so far."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


try:
    import torch
except ImportError as error:
    fail(f"this Python cannot import torch ({error})", "pip install torch==2.11.0 into it, or give --peer another one")
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 4):
    fail(f"PyTorch {torch.__version__} is older than the scripts know", "pip install torch==2.11.0")


def arguments(parser):
    """Parses the script's options and those of every peer, and prepares the device."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile what gains from it")
    parser.add_argument("--format", choices=["nchw", "nhwc"], default="nhwc", help="memory format")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: one per core")
    parser.add_argument("--steps", type=int, help="run this many and end, instead of reading stdin")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        fail(f"PyTorch {torch.__version__} sees no CUDA device", "install a CUDA build of it, or use --device cpu")
    torch.manual_seed(0)
    random.seed(0)
    # Shapes are fixed: cuDNN may look for its fastest algorithm.
    torch.backends.cudnn.benchmark = True
    tf32 = args.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    args.layout = torch.channels_last if args.format == "nhwc" else torch.contiguous_format
    args.base_mib = status_mib("VmRSS")
    if args.device == "cuda":
        torch.zeros(1, device="cuda")  # the context is nobody's working memory
        torch.cuda.reset_peak_memory_stats()
    return args


def parser(description):
    return argparse.ArgumentParser(description=description.splitlines()[0])


def autocast(args):
    """bf16 autocast where the precision asks for it, else nothing."""
    return torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")


def compiled(function, args):
    """`function` through torch.compile where the options ask for it."""
    return torch.compile(function) if args.compile else function


def synchronize(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def host_ms(function, count, args):
    """Milliseconds of each of `count` calls in a row, by the host's clock, to the end of the work."""
    synchronize(args)
    start = time.perf_counter()
    for _ in range(count):
        function()
    synchronize(args)
    return 1e3 * (time.perf_counter() - start) / count


def event_ms(function):
    """Milliseconds of one call, by the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def about(args):
    """What a report must name: versions and device."""
    facts = {"pytorch": torch.__version__, "threads": torch.get_num_threads(), "device": "cpu"}
    if args.device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts


def memory(args):
    """Highest resident memory and, on a GPU, the most that tensors took and that was reserved."""
    facts = {"peak_mib": status_mib("VmHWM"), "base_mib": args.base_mib}
    if args.device == "cuda":
        facts["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
        facts["device_reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
    return facts


def convolution_flops(step):
    """FLOPs of the convolutions of one call of `step`; a multiply-add counts two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    counts = counter.get_flop_counts()["Global"]
    return sum(flops for operation, flops in counts.items() if "convolution" in str(operation))


def requests():
    """The driver's lines as values, until stdin ends."""
    for line in sys.stdin:
        yield json.loads(line)


def serve(step, args, ready=None, check=None):
    """Answers for one step until stdin ends, or runs `args.steps` times and prints the times."""
    reply({"ready": about(args) | (ready or {})})
    if args.steps is not None:
        for _ in range(args.steps):
            reply({"ms": host_ms(step, 1, args)})
    else:
        for request in requests():
            if "run" in request:
                reply({"ms": host_ms(step, request["run"], args)})
            else:
                reply({"checked": check() if check else {}})
    reply(memory(args))
