// Strided maps in vectors: what the memory-bound kernels (elementwise, norm, pool, resize,
// optimizer) share. A map is a plane of rows (its pixels) `ld` elements apart; a thread moves V
// adjacent channels at a time, V·sizeof(T) = 16 bytes where the launcher found addresses and
// strides to allow it (`vector`), else one.
#pragma once
#include "include/common.cuh"

// Pixels whose moments a convolution takes together (op.rs).
CONSTANT(MOMENT_PIXELS, 64);

// A map without its shape: row i starts at data + i*ld elements.
ARGS(Plane) {
  void* data;
  uint64_t ld;
};

// Names of its own: every unit is linked into one library under simt.
namespace planes {

// Elements of a 16-byte vector.
template <class T> struct Lanes { static constexpr int value = 16 / sizeof(T); };

// A compile-time number as an argument.
template <int N> struct Width { static constexpr int value = N; };

__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xFFFF0000u);
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(from_float<bf16>(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(from_float<bf16>(high))) << 16;
}

// V elements from `p` on, as floats. V > 1 needs p aligned to V elements.
template <int V> __device__ __forceinline__ void load(const float* p, float (&v)[V]) {
  static_assert(V == 1 || V % 4 == 0, "whole 16-byte vectors or single elements");
  if constexpr (V == 1) {
    v[0] = *p;
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      const float4 q = *reinterpret_cast<const float4*>(p + i);
      v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
    }
  }
}
template <int V> __device__ __forceinline__ void load(const bf16* p, float (&v)[V]) {
  static_assert(V == 1 || V == 4 || V == 8, "8- or 16-byte vectors or single elements");
  if constexpr (V == 1) {
    v[0] = to_float(*p);
  } else if constexpr (V == 4) {
    const uint2 q = *reinterpret_cast<const uint2*>(p);
    v[0] = low_bf16(q.x), v[1] = high_bf16(q.x), v[2] = low_bf16(q.y), v[3] = high_bf16(q.y);
  } else {
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    v[0] = low_bf16(q.x), v[1] = high_bf16(q.x), v[2] = low_bf16(q.y), v[3] = high_bf16(q.y);
    v[4] = low_bf16(q.z), v[5] = high_bf16(q.z), v[6] = low_bf16(q.w), v[7] = high_bf16(q.w);
  }
}

// Writes V floats to `p`, rounded once to its type. Alignment as for `load`.
template <int V> __device__ __forceinline__ void store(float* p, const float (&v)[V]) {
  static_assert(V == 1 || V % 4 == 0, "whole 16-byte vectors or single elements");
  if constexpr (V == 1) {
    *p = v[0];
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      *reinterpret_cast<float4*>(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
  }
}
template <int V> __device__ __forceinline__ void store(bf16* p, const float (&v)[V]) {
  static_assert(V == 1 || V == 4 || V == 8, "8- or 16-byte vectors or single elements");
  if constexpr (V == 1) {
    *p = from_float<bf16>(v[0]);
  } else if constexpr (V == 4) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  } else {
    *reinterpret_cast<uint4*>(p) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                              pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  }
}

// The address of element `c` of row `row`.
template <class T> __device__ __forceinline__ T* at(const Plane& plane, uint64_t row, uint64_t c) {
  return static_cast<T*>(plane.data) + row * plane.ld + c;
}

// max(v, 0) that lets NaN through.
__device__ __forceinline__ float rectify(float v) { return v < 0.0f ? 0.0f : v; }
// Gradient through a ReLU whose output was y.
__device__ __forceinline__ float masked(float dy, float y) { return y > 0.0f ? dy : 0.0f; }

struct Split {
  uint64_t quotient;
  uint32_t rest;
};
// i / d and i % d, by the short division where i allows it.
__device__ __forceinline__ Split split(uint64_t i, uint32_t d) {
  if (i >> 32 == 0) {
    const uint32_t n = static_cast<uint32_t>(i);
    return Split{n / d, n % d};
  }
  return Split{i / d, static_cast<uint32_t>(i % d)};
}

// Calls f(row, column, Width<V or 1>) once for every run of V elements of `rows` rows of `len`
// elements, the last ones of a row singly; grid-stride over runs, neighbours to neighbours.
template <int V, class F>
__device__ __forceinline__ void for_runs(uint64_t rows, uint64_t len, const F& f) {
  const uint64_t runs = (len + V - 1) / V;
  const uint64_t total = rows * runs;
  for (uint64_t i = grid_start(); i < total; i += grid_step()) {
    uint64_t row = 0, column = i * V;
    if (rows != 1) {
      // The launcher makes one row of maps without gaps: here len is a number of channels.
      const Split s = split(i, static_cast<uint32_t>(runs));
      row = s.quotient, column = static_cast<uint64_t>(s.rest) * V;
    }
    if (V == 1 || column + V <= len) {
      f(row, column, Width<V>{});
    } else {
      for (; column < len; ++column) f(row, column, Width<1>{});
    }
  }
}

// Calls f(i) for every i below `items`, fewer than 2^31, of image blockIdx.z; grid-stride.
template <class F> __device__ __forceinline__ void for_image(uint32_t items, const F& f) {
  const uint32_t stride = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < items; i += stride) f(i);
}

// Where a thread of a channel-fixed kernel stands: its channels and its lane among those of a
// block that share them. Channels lie along threadIdx.x, so that a warp reads adjacent memory.
template <int V> struct Stand {
  uint32_t lanes;  // threads along the channels
  uint32_t ty;     // which of the pixels of a step
  uint32_t step;   // pixels that a block covers at once
  uint32_t c;      // first channel
  __device__ __forceinline__ explicit Stand(uint32_t lanes_log2)
      : lanes(1u << lanes_log2),
        ty(threadIdx.x >> lanes_log2),
        step(blockDim.x >> lanes_log2),
        c(((blockIdx.y << lanes_log2) + (threadIdx.x & (lanes - 1))) * V) {}
};

}  // namespace planes
