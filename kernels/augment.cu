// augment: raw u8 images and labels to normalised random crops; only the crop's pixels are computed.
#include "include/philox.cuh"

// x [batch, height, width, 3] and label from image b, h x w pixels packed at images + b * image_ld:
// resized by a drawn factor (bilinear, half-pixel), flipped, padded, cropped, normalised.
//
//   block = 1024 crop pixels of one image: thread 0 draws the geometry (two Philox blocks), then a
//   thread takes four pixels, 256 apart; 12 byte loads and 3 float stores each
//
// Bytes: 13 written per crop pixel (27 MB for 8 crops of 513^2) and at most 4 read (bytes of a
// source pixel are shared by neighbours): 8 us at 4.3 TB/s. Measured: not measured on a GPU.
// Grid: ceil(height*width/1024) * batch. f32 without fused multiply-add throughout (nvcc runs with
// -fmad=false), so it equals cpu/augment.rs bit for bit. An image whose size does not fit its row,
// which the CPU refuses, gives padding here: the host cannot see device memory.
ARGS(AugmentArgs) {
  const uint8_t* images;  // [batch, 3 * capacity]
  const uint8_t* labels;  // [batch, capacity]
  const uint32_t* sizes;  // [batch, 2]: height, width
  const uint32_t* rng;
  float* x;
  uint8_t* label;
  uint64_t image_ld;
  uint64_t label_in_ld;
  uint64_t sizes_ld;
  uint64_t x_ld;
  uint64_t label_ld;
  uint64_t capacity;
  uint32_t height;
  uint32_t width;
  float scale_min;
  float scale_max;
  float flip;
  uint32_t random_crop;
  float mean[3];
  float std[3];
  uint32_t pad_label;
  uint32_t stream;
};

CONSTANT(AUGMENT_PIXELS, 1024);  // of a block

// One axis of an image: how its crop positions map to source positions.
struct CropAxis {
  uint32_t size;     // source
  uint32_t resized;
  int32_t shift;     // crop pixel i is pixel i + shift of the (flipped) resized image
  uint32_t flipped;
  float scale;       // source over resized size

  __device__ void draw(uint32_t source, uint32_t crop, float factor, bool random, uint32_t word) {
    size = source;
    // The bounds keep the conversion defined whatever the sizes hold.
    const float target = static_cast<float>(source) * factor;
    resized = max(static_cast<uint32_t>(fminf(fmaxf(target, 0.0f), 1e9f)), 1u);
    const uint32_t padding = crop - min(crop, resized), spare = resized - min(crop, resized);
    const uint32_t offset = random ? to_below(word, spare + 1) : spare / 2;
    shift = static_cast<int32_t>(offset) - static_cast<int32_t>(padding / 2);
    scale = static_cast<float>(size) / static_cast<float>(resized);
  }

  // Position on the resized image; false in the padding.
  __device__ __forceinline__ bool resized_at(uint32_t i, uint32_t& at) const {
    const int64_t position = static_cast<int64_t>(i) + shift;
    if (position < 0 || position >= resized) return false;
    at = static_cast<uint32_t>(position);
    if (flipped) at = resized - 1 - at;
    return true;
  }

  __device__ __forceinline__ uint32_t nearest(uint32_t at) const {
    return min(static_cast<uint32_t>(static_cast<float>(at) * scale), size - 1);
  }
};

// Taps of a resized position, pixel centres at half-integers.
struct Bilinear {
  uint32_t low, high;
  float t;
  __device__ __forceinline__ Bilinear(const CropAxis& axis, uint32_t at) {
    const float source = fmaxf((static_cast<float>(at) + 0.5f) * axis.scale - 0.5f, 0.0f);
    low = min(static_cast<uint32_t>(source), axis.size - 1);
    high = min(low + 1, axis.size - 1);
    t = fminf(fmaxf(source - static_cast<float>(low), 0.0f), 1.0f);
  }
};

struct Geometry {
  CropAxis y, x;
};

__device__ void draw(const AugmentArgs& a, uint32_t image, Geometry& g) {
  const Rng rng(a.rng, a.stream);
  const Words coins = rng.block(2ull * image), offsets = rng.block(2ull * image + 1);
  const bool shrinks = to_unit(coins.w[0]) < 0.5f;
  const float from = shrinks ? a.scale_min : 1.0f, to = shrinks ? 1.0f : a.scale_max;
  const float factor = from + (to - from) * to_unit(coins.w[1]);
  const uint32_t* size = a.sizes + image * a.sizes_ld;
  g.y.draw(size[0], a.height, factor, a.random_crop, offsets.w[0]);
  g.x.draw(size[1], a.width, factor, a.random_crop, offsets.w[1]);
  g.y.flipped = 0;
  g.x.flipped = to_unit(coins.w[2]) < a.flip;
  const uint64_t pixels = static_cast<uint64_t>(size[0]) * size[1];
  if (pixels == 0 || pixels > a.capacity) g.y.resized = g.x.resized = 0;
}

KERNEL(augment, AugmentArgs, 256) {
  SHARED(Geometry, shared, [1]);
  const uint32_t area = a.height * a.width, blocks = (area + AUGMENT_PIXELS - 1) / AUGMENT_PIXELS;
  const uint32_t image = blockIdx.x / blocks;
  if (threadIdx.x == 0) draw(a, image, shared[0]);
  __syncthreads();  // the draw is there before a pixel uses it
  const Geometry& g = shared[0];
  const uint8_t* source = a.images + image * a.image_ld;
  const uint8_t* labels = a.labels + image * a.label_in_ld;
  const uint32_t begin = blockIdx.x % blocks * AUGMENT_PIXELS;
  const uint32_t end = min(begin + AUGMENT_PIXELS, area);
  for (uint32_t p = begin + threadIdx.x; p < end; p += blockDim.x) {
    const uint64_t pixel = static_cast<uint64_t>(image) * area + p;
    float* rgb = a.x + pixel * a.x_ld;
    uint8_t* label = a.label + pixel * a.label_ld;
    uint32_t ry, rx;
    if (!g.y.resized_at(p / a.width, ry) || !g.x.resized_at(p % a.width, rx)) {
      rgb[0] = rgb[1] = rgb[2] = 0.0f;
      *label = static_cast<uint8_t>(a.pad_label);
      continue;
    }
    const Bilinear y(g.y, ry), x(g.x, rx);
    const uint8_t* top = source + static_cast<uint64_t>(y.low) * g.x.size * 3;
    const uint8_t* bottom = source + static_cast<uint64_t>(y.high) * g.x.size * 3;
    const uint32_t left = x.low * 3, right = x.high * 3;
#pragma unroll
    for (uint32_t c = 0; c < 3; ++c) {
      const auto at = [c](const uint8_t* row, uint32_t i) { return static_cast<float>(row[i + c]); };
      const float upper = (1.0f - x.t) * at(top, left) + x.t * at(top, right);
      const float lower = (1.0f - x.t) * at(bottom, left) + x.t * at(bottom, right);
      const float v = (1.0f - y.t) * upper + y.t * lower;
      rgb[c] = (v - a.mean[c]) / a.std[c];
    }
    *label = labels[static_cast<uint64_t>(g.y.nearest(ry)) * g.x.size + g.x.nearest(rx)];
  }
}
