// Max pooling with its gather backward, and the global average: NHWC, V channels a thread.
//
// Never materialised: windows; flat indices (a tap is one byte: row * size + column).
// Bytes: max_pool reads the map about once (windows overlap in the caches) and writes outputs and
// taps; the backward reads both and writes dx. VOC stem, 8 x 257x257x64 -> 129x129x64, f32: 135 MB
// in, 34 + 9 MB out. Measured: not measured on a GPU.
// Grid: (runs of V channels of an image, grid-stride, 1, images), about 16 blocks of 256 threads a
// multiprocessor at most; the average: one block for every few channels of an image.
// Order: every output by one thread (or one block, in a tree): results do not depend on the grid.
// Equal to src/device/cpu/pool.rs: max_pool and the backwards bit for bit in f32; the average within
// 1e-6 of the mean magnitude; bf16 outputs rounded once (max_pool: exact).
#include "include/planes.cuh"

using namespace planes;

// A pooling from `in` to `out` pixels on each axis; `items` vectors of channels to make per image.
ARGS(PoolGeometry) {
  uint32_t in_h;
  uint32_t in_w;
  uint32_t out_h;
  uint32_t out_w;
  uint32_t channels;
  uint32_t size;
  uint32_t stride;
  uint32_t padding;
  uint32_t items;
};

// y = the largest value of each window, tap = where it first was; NaN beats everything.
ARGS(MaxPoolArgs) {
  Plane x;
  Plane y;
  Plane tap;
  PoolGeometry g;
  uint32_t vector;
};

// Taps of output o that fall on the input: first..end.
struct PoolTaps {
  uint32_t first;
  uint32_t end;
};
static __device__ __forceinline__ PoolTaps pool_taps(const PoolGeometry& g, uint32_t o,
                                                     uint32_t input) {
  const uint32_t origin = o * g.stride;
  return PoolTaps{g.padding > origin ? g.padding - origin : 0,
                  min(g.size, input + g.padding - origin)};
}

template <int V>
static __device__ __forceinline__ void store_taps(uint8_t* p, const uint32_t (&t)[V]) {
  if constexpr (V == 1) {
    *p = static_cast<uint8_t>(t[0]);
  } else {
    uint32_t words[V / 4];
#pragma unroll
    for (int i = 0; i < V / 4; ++i) {
      words[i] = t[4 * i] | t[4 * i + 1] << 8 | t[4 * i + 2] << 16 | t[4 * i + 3] << 24;
    }
    if constexpr (V == 4) {
      *reinterpret_cast<uint32_t*>(p) = words[0];
    } else {
      *reinterpret_cast<uint2*>(p) = make_uint2(words[0], words[1]);
    }
  }
}
template <int V>
static __device__ __forceinline__ void load_taps(const uint8_t* p, uint32_t (&t)[V]) {
  if constexpr (V == 1) {
    t[0] = *p;
  } else {
    uint32_t words[V / 4];
    if constexpr (V == 4) {
      words[0] = *reinterpret_cast<const uint32_t*>(p);
    } else {
      const uint2 pair = *reinterpret_cast<const uint2*>(p);
      words[0] = pair.x, words[1] = pair.y;
    }
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = words[k / 4] >> 8 * (k % 4) & 0xFFu;
  }
}

template <class T, int V> static __device__ void max_pool(const MaxPoolArgs& a) {
  const PoolGeometry& g = a.g;
  const uint32_t groups = g.channels / V;
  const uint64_t image = blockIdx.z;
  for_image(g.items, [&](uint32_t i) {
    const uint32_t pixel = i / groups, c = i % groups * V;
    const uint32_t oy = pixel / g.out_w, ox = pixel % g.out_w;
    const PoolTaps rows = pool_taps(g, oy, g.in_h), columns = pool_taps(g, ox, g.in_w);
    float best[V];
    uint32_t taps[V];
    bool first = true;
    for (uint32_t ty = rows.first; ty < rows.end; ++ty) {
      const uint64_t line = (image * g.in_h + (oy * g.stride + ty - g.padding)) * g.in_w;
      for (uint32_t tx = columns.first; tx < columns.end; ++tx) {
        float v[V];
        load<V>(at<T>(a.x, line + (ox * g.stride + tx - g.padding), c), v);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          if (first || v[k] > best[k] || v[k] != v[k]) {
            best[k] = v[k];
            taps[k] = ty * g.size + tx;
          }
        }
        first = false;
      }
    }
    const uint64_t out = image * g.out_h * g.out_w + pixel;
    store<V>(at<T>(a.y, out, c), best);
    store_taps<V>(at<uint8_t>(a.tap, out, c), taps);
  });
}
template <class T> static __device__ __forceinline__ void max_pool_any(const MaxPoolArgs& a) {
  if (a.vector) {
    max_pool<T, Lanes<T>::value>(a);
  } else {
    max_pool<T, 1>(a);
  }
}
KERNEL(max_pool_f32, MaxPoolArgs, 256) { max_pool_any<float>(a); }
KERNEL(max_pool_bf16, MaxPoolArgs, 256) { max_pool_any<bf16>(a); }

// dx = (dx when accumulating) + dy of every window whose maximum was here, windows ascending.
ARGS(MaxPoolBackwardArgs) {
  Plane dy;
  Plane tap;
  Plane dx;
  PoolGeometry g;
  uint32_t vector;
  uint32_t accumulate;
  uint32_t pad;
};

// Outputs whose window holds input i: first..end; the tap is i + padding - o * stride.
static __device__ __forceinline__ PoolTaps pool_windows(const PoolGeometry& g, uint32_t i,
                                                        uint32_t output) {
  const uint32_t place = i + g.padding;
  const uint32_t past = place + 1 > g.size ? place + 1 - g.size : 0;
  return PoolTaps{(past + g.stride - 1) / g.stride, min(output, place / g.stride + 1)};
}

template <class T, int V>
static __device__ void max_pool_backward(const MaxPoolBackwardArgs& a) {
  const PoolGeometry& g = a.g;
  const uint32_t groups = g.channels / V;
  const uint64_t image = blockIdx.z;
  for_image(g.items, [&](uint32_t i) {
    const uint32_t pixel = i / groups, c = i % groups * V;
    const uint32_t iy = pixel / g.in_w, ix = pixel % g.in_w;
    const PoolTaps rows = pool_windows(g, iy, g.out_h), columns = pool_windows(g, ix, g.out_w);
    float sum[V];
    T* dx = at<T>(a.dx, image * g.in_h * g.in_w + pixel, c);
    if (a.accumulate) {
      load<V>(dx, sum);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = 0.0f;
    }
    for (uint32_t oy = rows.first; oy < rows.end; ++oy) {
      for (uint32_t ox = columns.first; ox < columns.end; ++ox) {
        const uint64_t out = (image * g.out_h + oy) * g.out_w + ox;
        const uint32_t mine = (iy + g.padding - oy * g.stride) * g.size +
                              (ix + g.padding - ox * g.stride);
        uint32_t taps[V];
        float dy[V];
        load_taps<V>(at<uint8_t>(a.tap, out, c), taps);
        load<V>(at<T>(a.dy, out, c), dy);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += taps[k] == mine ? dy[k] : 0.0f;
      }
    }
    store<V>(dx, sum);
  });
}
template <class T>
static __device__ __forceinline__ void max_pool_backward_any(const MaxPoolBackwardArgs& a) {
  if (a.vector) {
    max_pool_backward<T, Lanes<T>::value>(a);
  } else {
    max_pool_backward<T, 1>(a);
  }
}
KERNEL(max_pool_backward_f32, MaxPoolBackwardArgs, 256) { max_pool_backward_any<float>(a); }
KERNEL(max_pool_backward_bf16, MaxPoolBackwardArgs, 256) { max_pool_backward_any<bf16>(a); }

// y[n] = mean over the pixels of image n. A block takes `lanes` vectors of channels of one image;
// its threads sum every step-th pixel, four at a time, then each other in a tree.
// Grid: (1, blocks of channels, images). Shared: 8 KiB. Floor at 8 x 65x65x2048 bf16: 138 MB.
ARGS(AveragePoolArgs) {
  Plane x;
  Plane y;
  uint64_t area;
  uint32_t channels;
  uint32_t lanes_log2;
  uint32_t vector;
  uint32_t pad;
};

template <class T, int V>
static __device__ void average_pool(const AveragePoolArgs& a, float (&sums)[8 * 256]) {
  const Stand<V> stand(a.lanes_log2);
  const bool active = stand.c < a.channels;
  const uint64_t base = blockIdx.z * a.area;
  float sum[V];
#pragma unroll
  for (int k = 0; k < V; ++k) sum[k] = 0.0f;
  if (active) {
    const uint64_t step = stand.step;
    uint64_t p = stand.ty;
    for (; p + 3 * step < a.area; p += 4 * step) {
      float v[4][V];
#pragma unroll
      for (int i = 0; i < 4; ++i) load<V>(at<T>(a.x, base + p + i * step, stand.c), v[i]);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += (v[0][k] + v[1][k]) + (v[2][k] + v[3][k]);
    }
    for (; p < a.area; p += step) {
      float v[V];
      load<V>(at<T>(a.x, base + p, stand.c), v);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += v[k];
    }
  }
  const uint32_t t = threadIdx.x;
#pragma unroll
  for (int k = 0; k < V; ++k) sums[k * 256 + t] = sum[k];
  for (uint32_t half = stand.step / 2; half > 0; half /= 2) {
    __syncthreads();  // the upper half of ty reads what the lower half of the last pass wrote
    if (stand.ty >= half) continue;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      sums[k * 256 + t] = sum[k] += sums[k * 256 + t + half * stand.lanes];
    }
  }
  if (!active || stand.ty != 0) return;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    sum[k] = static_cast<float>(static_cast<double>(sum[k]) / static_cast<double>(a.area));
  }
  store<V>(at<T>(a.y, blockIdx.z, stand.c), sum);
}
template <class T> static __device__ __forceinline__ void average_pool_any(const AveragePoolArgs& a) {
  SHARED(float, sums, [8 * 256]);
  if (a.vector) {
    average_pool<T, Lanes<T>::value>(a, sums);
  } else {
    average_pool<T, 1>(a, sums);
  }
}
KERNEL(global_avg_pool_f32, AveragePoolArgs, 256) { average_pool_any<float>(a); }
KERNEL(global_avg_pool_bf16, AveragePoolArgs, 256) { average_pool_any<bf16>(a); }

// dx = (dx when accumulating) + dy[image] / area. A thread keeps its channels of image blockIdx.z.
// Grid: (blocks of pixels, blocks of channels, images).
ARGS(AveragePoolBackwardArgs) {
  Plane dy;
  Plane dx;
  uint64_t area;  // pixels of an image
  uint32_t channels;
  uint32_t lanes_log2;
  float share;  // 1 / area
  uint32_t vector;
  uint32_t accumulate;
  uint32_t pad;
};

template <class T, int V>
static __device__ void average_pool_backward(const AveragePoolBackwardArgs& a) {
  const Stand<V> stand(a.lanes_log2);
  if (stand.c >= a.channels) return;
  float share[V];
  load<V>(at<T>(a.dy, blockIdx.z, stand.c), share);
#pragma unroll
  for (int k = 0; k < V; ++k) share[k] *= a.share;
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * stand.step;
  for (uint64_t p = static_cast<uint64_t>(blockIdx.x) * stand.step + stand.ty; p < a.area;
       p += stride) {
    T* dx = at<T>(a.dx, blockIdx.z * a.area + p, stand.c);
    float v[V];
    if (a.accumulate) {
      load<V>(dx, v);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] += share[k];
    store<V>(dx, v);
  }
}
template <class T>
static __device__ __forceinline__ void average_pool_backward_any(const AveragePoolBackwardArgs& a) {
  if (a.vector) {
    average_pool_backward<T, Lanes<T>::value>(a);
  } else {
    average_pool_backward<T, 1>(a);
  }
}
KERNEL(global_avg_pool_backward_f32, AveragePoolBackwardArgs, 256) { average_pool_backward_any<float>(a); }
KERNEL(global_avg_pool_backward_bf16, AveragePoolBackwardArgs, 256) { average_pool_backward_any<bf16>(a); }
