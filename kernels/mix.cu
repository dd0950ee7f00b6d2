// mix: strong augmentation within a batch (cutmix, classmix, cut-out).
//
//   classmix only:  mix_presence   which labels a chunk of an image holds, 256 bits
//                   mix_choose     the chosen half of an image's classes, 256 bits
//   always:         mix_apply      every output pixel copies one input pixel
//
// Bits are combined with OR, so order does not matter: exact, equal to cpu/mix.rs bit for bit.
#include "include/philox.cuh"

ARGS(MixArgs) {
  const float* x;          // [batch, height, width, 3]
  const uint8_t* label;
  const uint8_t* extra;
  const uint32_t* rng;
  float* x_out;
  uint8_t* label_out;
  uint8_t* extra_out;
  uint32_t* presence;      // classmix: [batch][chunks][8] words of bits
  uint32_t* chosen;        // classmix: [batch][8]
  uint64_t x_ld;
  uint64_t label_ld;
  uint64_t extra_ld;
  uint64_t x_out_ld;
  uint64_t label_out_ld;
  uint64_t extra_out_ld;
  uint32_t batch;
  uint32_t height;
  uint32_t width;
  uint32_t chunks;         // of MIX_CHUNK_PIXELS pixels of an image
  uint32_t kind;
  float prob;
  uint32_t ignore;
  uint32_t stream;
};

// Values of `kind`; the launcher's match gives the same numbers.
CONSTANT(MIX_NONE, 0);
CONSTANT(MIX_CUT_MIX, 1);
CONSTANT(MIX_CLASS_MIX, 2);
CONSTANT(MIX_CUT_OUT, 3);
CONSTANT(MIX_CHUNK_PIXELS, 4096);
CONSTANT(MIX_SET_WORDS, 8);    // a bit for each label
CONSTANT(MIX_FLOATS, 1024);    // that a block copies

// The coin of the whole batch.
__device__ __forceinline__ bool mixes(const MixArgs& a, const Rng& rng) {
  return a.kind != MIX_NONE && to_unit(rng.block(0).w[0]) < a.prob;
}

__device__ __forceinline__ bool has_bit(const uint32_t* words, uint32_t bit) {
  return words[bit / 32] >> (bit % 32) & 1u;
}

// Bit l of presence[image][chunk]: label l occurs there. Bytes: 1 per pixel. Grid: chunks * batch.
KERNEL(mix_presence, MixArgs, 256) {
  SHARED(uint32_t, words, [MIX_SET_WORDS]);
  if (!mixes(a, Rng(a.rng, a.stream))) return;
  if (threadIdx.x < MIX_SET_WORDS) words[threadIdx.x] = 0;
  __syncthreads();  // zeros before the first bit
  const uint32_t area = a.height * a.width;
  const uint32_t image = blockIdx.x / a.chunks, begin = blockIdx.x % a.chunks * MIX_CHUNK_PIXELS;
  const uint32_t end = min(begin + MIX_CHUNK_PIXELS, area);
  uint32_t before = 256;
  for (uint32_t p = begin + threadIdx.x; p < end; p += blockDim.x) {
    const uint32_t l = a.label[(static_cast<uint64_t>(image) * area + p) * a.label_ld];
    // Neighbours mostly agree: one atomic for a run of them.
    if (l != before) atomicOr(&words[l / 32], 1u << (l % 32));
    before = l;
  }
  __syncthreads();  // every bit is set before the words are stored
  if (threadIdx.x < MIX_SET_WORDS) {
    a.presence[blockIdx.x * MIX_SET_WORDS + threadIdx.x] = words[threadIdx.x];
  }
}

// chosen[image]: of its n classes the n/2 with the smallest keys, ties to the lower class. One
// block per image, a thread per class: its rank is the number of smaller (key, class).
KERNEL(mix_choose, MixArgs, 256) {
  SHARED(uint32_t, present, [MIX_SET_WORDS]);
  SHARED(uint32_t, keys, [256]);
  const Rng rng(a.rng, a.stream);
  if (!mixes(a, rng)) return;
  const uint32_t image = blockIdx.x, own = threadIdx.x;
  if (own < MIX_SET_WORDS) {
    uint32_t bits = 0;
    for (uint32_t chunk = 0; chunk < a.chunks; ++chunk) {
      bits |= a.presence[(static_cast<uint64_t>(image) * a.chunks + chunk) * MIX_SET_WORDS + own];
    }
    if (a.ignore / 32 == own) bits &= ~(1u << (a.ignore % 32));
    present[own] = bits;
  }
  keys[own] = rng.block((1ull + image) * 256 + own).w[0];
  __syncthreads();  // classes and keys are there before they are ranked
  uint32_t rank = 0, count = 0;
  for (uint32_t other = 0; other < 256; ++other) {
    if (!has_bit(present, other)) continue;
    ++count;
    rank += keys[other] < keys[own] || (keys[other] == keys[own] && other < own);
  }
  const uint32_t bits = __ballot_sync(~0u, has_bit(present, own) && rank < count / 2);
  if (own % 32 == 0) a.chosen[image * MIX_SET_WORDS + own / 32] = bits;
}

// A box of half the area.
struct Box {
  uint32_t y0, y1, x0, x1;
};
__device__ Box draw_box(const Rng& rng, uint32_t image, uint32_t h, uint32_t w) {
  const Words words = rng.block(1ull + image);
  const uint32_t least = min(w / 2 + 1, w);
  const uint32_t width = least + to_below(words.w[0], max(w - least, 1u));
  // Half the area over the width, rounded half to even.
  const uint64_t area = static_cast<uint64_t>(h) * w;
  const uint32_t whole = static_cast<uint32_t>(area / (2ull * width));
  const uint64_t rest = area % (2ull * width);
  const uint32_t height = whole + (rest > width || (rest == width && whole % 2 == 1));
  const uint32_t y = to_below(words.w[1], h - height + 1), x = to_below(words.w[2], w - width + 1);
  return {y, y + height, x, x + width};
}

// x', label', extra': pixel p of image b copies pixel p of b or of the next image, or is cut out.
// A thread takes a float of a pixel, so that reads and writes are adjacent; channels 0 and 1 also
// carry the labels. Bytes: 28 per pixel (29 MB at 4x513^2: 7 us at 4.3 TB/s). Measured: not
// measured on a GPU. Grid: ceil(3*height*width/1024) * batch; a block's pixels are of one image,
// whose mask it draws once.
KERNEL(mix_apply, MixArgs, 256) {
  SHARED(Box, box, [1]);
  SHARED(uint32_t, mixing, [1]);
  const uint32_t area = a.height * a.width;
  const uint32_t blocks = (3 * area + 1023) / 1024;
  const uint32_t image = blockIdx.x / blocks;
  if (threadIdx.x == 0) {
    const Rng rng(a.rng, a.stream);
    mixing[0] = mixes(a, rng);
    // Without a box all of it is written all the same: compiled code may read it ahead of the test.
    const bool boxed = a.kind == MIX_CUT_MIX || a.kind == MIX_CUT_OUT;
    box[0] = boxed ? draw_box(rng, image, a.height, a.width) : Box{};
  }
  __syncthreads();  // the draw is there before a pixel uses it
  const uint32_t begin = blockIdx.x % blocks * MIX_FLOATS, end = min(begin + MIX_FLOATS, 3 * area);
  const uint64_t first = static_cast<uint64_t>(image) * area;
  const uint64_t next = static_cast<uint64_t>((image + 1) % a.batch) * area;
  for (uint32_t e = begin + threadIdx.x; e < end; e += blockDim.x) {
    const uint32_t p = e / 3, channel = e % 3;
    bool keeps = true;
    if (mixing[0] && a.kind == MIX_CLASS_MIX) {
      keeps = has_bit(a.chosen + image * MIX_SET_WORDS, a.label[(first + p) * a.label_ld]);
    } else if (mixing[0]) {
      const uint32_t y = p / a.width, x = p % a.width;
      keeps = y < box[0].y0 || y >= box[0].y1 || x < box[0].x0 || x >= box[0].x1;
    }
    const bool cut = !keeps && a.kind == MIX_CUT_OUT;
    const uint64_t from = (keeps || cut ? first : next) + p, to = first + p;
    a.x_out[to * a.x_out_ld + channel] = cut ? 0.0f : a.x[from * a.x_ld + channel];
    const auto ignore = static_cast<uint8_t>(a.ignore);
    if (channel == 0) a.label_out[to * a.label_out_ld] = cut ? ignore : a.label[from * a.label_ld];
    if (channel == 1) a.extra_out[to * a.extra_out_ld] = cut ? ignore : a.extra[from * a.extra_ld];
  }
}
