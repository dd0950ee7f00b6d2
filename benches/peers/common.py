"""What the PyTorch peers share: the device, arithmetic, clocks and memory; the conversation with
`u2pl-engine bench` is protocol.py's.
"""

import random
import time

import protocol
from protocol import fail, status_mib

try:
    import torch
except ImportError as error:
    fail(f"this Python cannot import torch ({error})", "pip install torch==2.11.0 into it, or give --peer another one")
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 4):
    fail(f"PyTorch {torch.__version__} is older than the scripts know", "pip install torch==2.11.0")


def arguments(parser):
    """Parses the script's options and those of every peer, and prepares the device."""
    parser.add_argument("--compile", action="store_true", help="torch.compile what gains from it")
    parser.add_argument("--format", choices=["nchw", "nhwc"], default="nhwc", help="memory format")
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


def serve(step, args, ready=None, check=None):
    """Answers for one step until stdin ends, or runs `args.steps` times and prints the times."""
    protocol.serve(
        lambda count: host_ms(step, count, args), args, about(args) | (ready or {}), lambda: memory(args), check
    )
