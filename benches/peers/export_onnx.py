"""The network of infer.py as an ONNX file: u8 images [B, H, W, 3] in, entropy, argmax and confidence out.

Run by infer_ort.py in a process of its own; says on stdout how many parameters the network has and
what FLOPs its convolutions take. Shapes are fixed, as they are on the other sides.
"""

from pathlib import Path

import common  # first: it says what is missing
import onnxruntime
import protocol
import torch
from network import Network, resize
from settings import MEAN, STD

parser = protocol.images(protocol.parser(__doc__))
parser.add_argument("--out", required=True, type=Path, help="the file to write")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(args.threads or torch.get_num_threads())


class Maps(torch.nn.Module):
    """Normalising, network and maps in one graph. Softmax, its entropy and its maximum come from
    one sum of exponentials: fewer passes over [B, C, H, W] than operator by operator."""

    def __init__(self):
        super().__init__()
        self.net = Network(args.classes, args.encoder)
        self.parameter_count = sum(p.numel() for p in self.net.parameters())
        del self.net.representation
        # u8 as it is: (x − mean) / std is one multiply-add.
        self.register_buffer("scale", 1 / torch.tensor(STD))
        self.register_buffer("shift", -torch.tensor(MEAN) / torch.tensor(STD))

    def forward(self, image):
        x = (image.float() * self.scale + self.shift).permute(0, 3, 1, 2)
        logits = resize(self.net(x, rep=False)[0], (args.height, args.width))
        most = logits.amax(1, keepdim=True)
        below = logits - most
        e = below.exp()
        total = e.sum(1)
        entropy = total.log() - (e * below).sum(1) / total
        return entropy, logits.argmax(1).to(torch.uint8), 1 / total


def optimize(path):
    """Puts what ONNX Runtime makes of the graph in its place, the weights in a file beside it that is
    mapped instead of copied: the session that is measured takes half the memory, and no more time."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    for key, value in [("file_name", f"{path.name}.weights"), ("min_size_in_bytes", "1024")]:
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    Path(options.optimized_model_filepath).replace(path)


maps = Maps().eval().requires_grad_(False)
image = torch.zeros(args.batch, args.height, args.width, 3, dtype=torch.uint8)
with torch.device("meta"):
    counted = common.convolution_flops(lambda: Maps().eval()(image.to("meta")))
# The exporter by tracing needs no other package, and folds batch norms into convolutions.
torch.onnx.export(
    maps,
    (image,),
    args.out,
    input_names=["image"],
    output_names=["entropy", "argmax", "confidence"],
    opset_version=17,
    dynamo=False,
)
if args.device == "cpu":
    optimize(args.out)
protocol.reply({"parameters": maps.parameter_count, "conv_flops": counted, "pytorch": torch.__version__})
