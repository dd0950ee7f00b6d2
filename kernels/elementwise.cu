// fill, copy, lerp, relu, relu_backward, dropout2d: one pass, each element read and written once.
//
// Maps of any ld; a thread moves 16 bytes of the widest operand at a time where addresses and
// strides allow it, single elements elsewhere. The launcher joins maps without gaps into one long
// row, so that channel counts like 21 do not matter there. Nothing is materialised but the output.
//
// Floor at the VOC shape: bytes of the operands / memory bandwidth; e.g. a 65x65x256 map of 8
// images, f32: 34.6 MB each way. Measured: not measured on a GPU.
// Grid: for runs, at most 16 blocks of 256 threads a multiprocessor, grid-stride; no shared memory.
// Order: every element on its own; results do not depend on the grid. Equal to
// src/device/cpu/elementwise.rs bit for bit in f32 (no contraction); bf16 outputs are the f32
// result rounded once.
#include "include/philox.cuh"
#include "include/planes.cuh"

using namespace planes;

// out[row, 0..len) = value.
ARGS(FillArgs) {
  Plane out;
  uint64_t rows;
  uint64_t len;
  uint32_t bits;    // the value in the map's type, repeated to 32 bits
  uint32_t vector;  // 16-byte stores
};

template <class T> __device__ void fill(const FillArgs& a) {
  const auto put = [&](uint64_t row, uint64_t i, auto width) {
    T* out = at<T>(a.out, row, i);
    if constexpr (decltype(width)::value == 1) {
      *out = static_cast<T>(a.bits);
    } else {
      *reinterpret_cast<uint4*>(out) = make_uint4(a.bits, a.bits, a.bits, a.bits);
    }
  };
  if (a.vector) {
    for_runs<Lanes<T>::value>(a.rows, a.len, put);
  } else {
    for_runs<1>(a.rows, a.len, put);
  }
}
KERNEL(fill_4, FillArgs, 256) { fill<uint32_t>(a); }
KERNEL(fill_2, FillArgs, 256) { fill<uint16_t>(a); }
KERNEL(fill_1, FillArgs, 256) { fill<uint8_t>(a); }

// y = f(x), or y += f(x) in f32, over rows of len elements.
ARGS(MapArgs) {
  Plane x;
  Plane y;
  uint64_t rows;
  uint64_t len;
  uint32_t vector;  // whole vectors where a row has them
  uint32_t pad;
};

// Bits as they are, elements of sizeof(T) bytes.
template <class T> __device__ void copy_bits(const MapArgs& a) {
  const auto move = [&](uint64_t row, uint64_t i, auto width) {
    const T* x = at<T>(a.x, row, i);
    T* y = at<T>(a.y, row, i);
    if constexpr (decltype(width)::value == 1) {
      *y = *x;
    } else {
      *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(x);
    }
  };
  if (a.vector) {
    for_runs<Lanes<T>::value>(a.rows, a.len, move);
  } else {
    for_runs<1>(a.rows, a.len, move);
  }
}
KERNEL(copy_4, MapArgs, 256) { copy_bits<uint32_t>(a); }
KERNEL(copy_2, MapArgs, 256) { copy_bits<uint16_t>(a); }
KERNEL(copy_1, MapArgs, 256) { copy_bits<uint8_t>(a); }

// Between the float types, and sums into f32: four elements are 16 bytes of f32, 8 of bf16.
template <class From, class To, bool add> __device__ void convert(const MapArgs& a) {
  const auto move = [&](uint64_t row, uint64_t i, auto width) {
    constexpr int V = decltype(width)::value;
    float v[V], old[V];
    load<V>(at<From>(a.x, row, i), v);
    To* y = at<To>(a.y, row, i);
    if (add) {
      load<V>(y, old);
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] = old[k] + v[k];
    }
    store<V>(y, v);
  };
  if (a.vector) {
    for_runs<4>(a.rows, a.len, move);
  } else {
    for_runs<1>(a.rows, a.len, move);
  }
}
KERNEL(copy_f32_bf16, MapArgs, 256) { convert<float, bf16, false>(a); }
KERNEL(copy_bf16_f32, MapArgs, 256) { convert<bf16, float, false>(a); }
KERNEL(add_f32_f32, MapArgs, 256) { convert<float, float, true>(a); }
KERNEL(add_bf16_f32, MapArgs, 256) { convert<bf16, float, true>(a); }

template <class T> __device__ void relu(const MapArgs& a) {
  const auto one = [&](uint64_t row, uint64_t i, auto width) {
    constexpr int V = decltype(width)::value;
    float v[V];
    load<V>(at<T>(a.x, row, i), v);
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = rectify(v[k]);
    store<V>(at<T>(a.y, row, i), v);
  };
  if (a.vector) {
    for_runs<Lanes<T>::value>(a.rows, a.len, one);
  } else {
    for_runs<1>(a.rows, a.len, one);
  }
}
KERNEL(relu_f32, MapArgs, 256) { relu<float>(a); }
KERNEL(relu_bf16, MapArgs, 256) { relu<bf16>(a); }

// dx = dy where y > 0, else 0; added to dx when accumulating. dx may be dy.
ARGS(ReluBackwardArgs) {
  Plane dy;
  Plane y;
  Plane dx;
  uint64_t rows;
  uint64_t len;
  uint32_t vector;
  uint32_t accumulate;
};

template <class T> __device__ void relu_backward(const ReluBackwardArgs& a) {
  const auto one = [&](uint64_t row, uint64_t i, auto width) {
    constexpr int V = decltype(width)::value;
    float g[V], y[V];
    load<V>(at<T>(a.dy, row, i), g);
    load<V>(at<T>(a.y, row, i), y);
#pragma unroll
    for (int k = 0; k < V; ++k) g[k] = masked(g[k], y[k]);
    T* dx = at<T>(a.dx, row, i);
    if (a.accumulate) {
      load<V>(dx, y);
#pragma unroll
      for (int k = 0; k < V; ++k) g[k] = y[k] + g[k];
    }
    store<V>(dx, g);
  };
  if (a.vector) {
    for_runs<Lanes<T>::value>(a.rows, a.len, one);
  } else {
    for_runs<1>(a.rows, a.len, one);
  }
}
KERNEL(relu_backward_f32, ReluBackwardArgs, 256) { relu_backward<float>(a); }
KERNEL(relu_backward_bf16, ReluBackwardArgs, 256) { relu_backward<bf16>(a); }

// dst = m*dst + (1-m)*src, all f32; a copy at m = 0 (whatever dst held), untouched at m = 1.
// `copy`, where there is one, takes the new dst in bf16.
ARGS(LerpArgs) {
  Plane src;
  Plane dst;
  Plane copy;  // data null: none
  const float* m;
  uint64_t rows;
  uint64_t len;
  uint32_t vector;
  uint32_t pad;
};

// One element of the moving average, as move_towards of cpu/elementwise.rs.
static __device__ __forceinline__ float lerp_one(float dst, float src, float m) {
  if (m == 0.0f) return src;
  return m == 1.0f ? dst : m * dst + (1.0f - m) * src;
}

KERNEL(lerp_f32, LerpArgs, 256) {
  const float m = *a.m;
  const bool copies = a.copy.data != nullptr;
  if (m == 1.0f && !copies) return;
  const auto one = [&](uint64_t row, uint64_t i, auto width) {
    constexpr int V = decltype(width)::value;
    float t[V], p[V];
    float* dst = at<float>(a.dst, row, i);
    load<V>(dst, t);
    load<V>(at<float>(a.src, row, i), p);
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = lerp_one(t[k], p[k], m);
    if (m != 1.0f) store<V>(dst, t);
    if (copies) store<V>(at<bf16>(a.copy, row, i), t);
  };
  if (a.vector) {
    for_runs<4>(a.rows, a.len, one);
  } else {
    for_runs<1>(a.rows, a.len, one);
  }
}

// y[n, pixel, c] = x * scale(n, c), or added to y: scale is 0 where the draw of (n, c) is below p,
// else 1/(1-p); a dropped channel is exactly 0 even where x is not finite. y may be x.
//
// A thread draws for its V channels once and walks over pixels of image blockIdx.z.
// Grid: (blocks of pixels, blocks of channels, images).
ARGS(DropoutArgs) {
  Plane x;
  Plane y;
  const uint32_t* rng;
  uint64_t area;  // pixels of an image
  uint32_t channels;
  uint32_t lanes_log2;  // threads along the channels
  uint32_t vector;
  uint32_t accumulate;
  float p;
  uint32_t stream;
};

template <class T, int V> __device__ void dropout(const DropoutArgs& a) {
  const Stand<V> stand(a.lanes_log2);
  if (stand.c >= a.channels) return;
  const Rng rng(a.rng, a.stream);
  const uint64_t image = blockIdx.z;
  float scale[V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float draw = to_unit(rng.block(image * a.channels + stand.c + k).w[0]);
    scale[k] = draw < a.p ? 0.0f : 1.0f / (1.0f - a.p);
  }
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * stand.step;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * stand.step + stand.ty; i < a.area;
       i += stride) {
    const uint64_t row = image * a.area + i;
    float v[V], old[V];
    load<V>(at<T>(a.x, row, stand.c), v);
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = scale[k] == 0.0f ? 0.0f : v[k] * scale[k];
    T* y = at<T>(a.y, row, stand.c);
    if (a.accumulate) {
      load<V>(y, old);
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] = old[k] + v[k];
    }
    store<V>(y, v);
  }
}
template <class T> __device__ void dropout_any(const DropoutArgs& a) {
  if (a.vector) {
    dropout<T, Lanes<T>::value>(a);
  } else {
    dropout<T, 1>(a);
  }
}
KERNEL(dropout2d_f32, DropoutArgs, 256) { dropout_any<float>(a); }
KERNEL(dropout2d_bf16, DropoutArgs, 256) { dropout_any<bf16>(a); }
