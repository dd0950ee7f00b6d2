"""PyTorch peer of the inference benchmark: u8 images in, entropy, argmax and confidence out.

Images come from the host's memory and the maps go back to it, as in the engine's predictor.
"""

import common  # first: it says what is missing
import protocol
import torch
from network import Network, fold_batch_norm, resize
from settings import MEAN, STD

parser = protocol.images(protocol.parser(__doc__))
parser.add_argument("--fold", action="store_true", help="fold batch norms into convolutions")
args = common.arguments(parser)

image = torch.randint(0, 256, (args.batch, args.height, args.width, 3), dtype=torch.uint8)
if args.device == "cuda":
    image = image.pin_memory()
mean = torch.tensor(MEAN, device=args.device)
std = torch.tensor(STD, device=args.device)
net = Network(args.classes, args.encoder).eval().requires_grad_(False)
parameters = sum(p.numel() for p in net.parameters())
# Inference has no use for it, in the engine neither.
del net.representation
if args.fold:
    net = fold_batch_norm(net)
net = net.to(args.device, memory_format=args.layout)
if args.precision == "bf16":
    net = net.to(torch.bfloat16)  # weights cast once; autocast would cast them in every call
dtype = next(net.parameters()).dtype


def maps(image):
    x = ((image.float() - mean) / std).permute(0, 3, 1, 2).to(dtype).contiguous(memory_format=args.layout)
    logits, _ = net(x, rep=False)
    p = resize(logits.float(), (args.height, args.width)).softmax(1)
    confidence, argmax = p.max(1)
    return torch.special.entr(p).sum(1), argmax.byte(), confidence


maps = common.compiled(maps, args)


@torch.inference_mode()
def step():
    return [out.cpu() for out in maps(image.to(args.device, non_blocking=True))]


def check():
    entropy, argmax, confidence = step()
    return {
        "conv_flops": None if args.compile else common.convolution_flops(step),
        "entropy_mean": entropy.mean().item(),
    }


common.serve(step, args, {"parameters": parameters, "batch": args.batch}, check)
