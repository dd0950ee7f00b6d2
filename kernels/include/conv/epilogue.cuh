// From the product in shared memory to global memory: bias, accumulation, conversion; in the
// forward pass also batch norm by running statistics, residual and ReLU, or the moments of what is
// stored.
//
// Never materialised: the sums before the norm, and in bf16 their rounding. Bytes saved: a write and
// a read of y each time (batch_norm_eval as a call of its own), or a read (the statistics of
// batch_norm); the residual is read once either way. Bits: those of batch_norm_eval on the sums in
// float; the moments do not depend on the tile. The backward reduction of batch norm (sums of dz and
// dz*x_hat in the data gradient's epilogue) would be a third of its kind: it needs the x and y of
// the batch norm that follows in the backward pass, and a data gradient that nobody adds to.
//
// A thread takes eight adjacent columns of a row, the same eight in every row, so that bias and
// coefficients stay in registers: 16-byte accesses where the columns are all there and aligned,
// single elements at ragged edges. No access to the product in shared memory meets a bank conflict
// (tile.cuh proves it).
#pragma once
#include "include/conv/args.cuh"
#include "include/conv/tile.cuh"
#include "include/planes.cuh"

namespace conv {

// What happens to the sums after the bias.
enum class Finish { NONE, NORM, MOMENTS };

struct Output {
  void* data;
  const float* bias;  // of the tile's first column, or null
  bool is_bf16;
  bool accumulate;
};

template <class T> struct alignas(16) Eight {
  T v[8];
};

template <class T>
__device__ __forceinline__ void store_eight(T* to, const float (&v)[8], uint32_t count) {
  if (count >= 8 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    Eight<T> out;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) out.v[i] = from_float<T>(v[i]);
    *reinterpret_cast<Eight<T>*>(to) = out;
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    if (i < count) to[i] = from_float<T>(v[i]);
  }
}

template <class T>
__device__ __forceinline__ void add_eight(float (&v)[8], const T* from, uint32_t count) {
  if (count >= 8 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const Eight<T> other = *reinterpret_cast<const Eight<T>*>(from);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) v[i] += to_float(other.v[i]);
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    if (i < count) v[i] += to_float(from[i]);
  }
}
__device__ __forceinline__ void add_eight(float (&v)[8], const void* from, uint64_t at,
                                          bool is_bf16, uint32_t count) {
  if (is_bf16) {
    add_eight(v, static_cast<const bf16*>(from) + at, count);
  } else {
    add_eight(v, static_cast<const float*>(from) + at, count);
  }
}

// Eight columns of a row of the product, or of coefficients: `at` from product_at or column_at.
__device__ __forceinline__ void read_eight(float (&v)[8], const float* row, uint32_t at) {
  // The other half of a group of eight is at the other value of bit 2, on either side.
  const float4 low = *reinterpret_cast<const float4*>(row + at);
  const float4 high = *reinterpret_cast<const float4*>(row + (at ^ 4u));
  v[0] = low.x;
  v[1] = low.y;
  v[2] = low.z;
  v[3] = low.w;
  v[4] = high.x;
  v[5] = high.y;
  v[6] = high.z;
  v[7] = high.w;
}

// What store_product does to a thread's eight values before it stores them: nothing.
struct Plain {
  __device__ __forceinline__ void operator()(float (&)[8], uint32_t, uint32_t, uint32_t) const {}
};

// Puts the values where they came from, as they will be stored: for `store_moments`.
template <class Tile> struct Keep {
  float* product;
  bool is_bf16;
  __device__ __forceinline__ void operator()(float (&v)[8], uint32_t row, uint32_t column,
                                             uint32_t) const {
    if (is_bf16) {
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) v[e] = to_float(from_float<bf16>(v[e]));
    }
    const uint32_t at = product_at<Tile>(row, column);
    *reinterpret_cast<float4*>(product + at) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4*>(product + (at ^ 4u)) = make_float4(v[4], v[5], v[6], v[7]);
  }
};

// relu?((v - mean) * scale + beta + residual?), the arithmetic of batch_norm_eval. `prepare` works
// the tile's coefficients out, a column a thread; a barrier must follow.
template <class Tile, class Pixel> struct Normalise {
  static_assert(Tile::THREADS % (Tile::COLUMNS / 8) == 0, "a thread keeps its columns");
  const ConvFinish& of;
  uint32_t first;  // channel of the tile's first column
  bool is_bf16;
  Pixel pixel;     // of a row
  float mean[8], scale[8], beta[8];

  static __device__ __forceinline__ float* coefficients(unsigned char* smem) {
    return reinterpret_cast<float*>(smem + Tile::PRODUCT_BYTES);
  }
  static __device__ __forceinline__ void prepare(unsigned char* smem, const ConvFinish& of,
                                                 uint32_t first, uint32_t channels) {
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < Tile::COLUMNS; i += Tile::THREADS) {
      float* to = coefficients(smem) + column_at(i);
      const uint32_t c = first + i;
      const bool there = c < channels;
      to[0] = there ? of.mean[c] : 0.0f;
      to[Tile::COLUMNS] = there ? of.gamma[c] * (1.0f / sqrtf(of.variance[c] + of.eps)) : 0.0f;
      to[2 * Tile::COLUMNS] = there ? of.beta[c] : 0.0f;
    }
  }
  __device__ __forceinline__ Normalise(unsigned char* smem, const ConvFinish& of, uint32_t first,
                                       bool is_bf16, Pixel pixel)
      : of(of), first(first), is_bf16(is_bf16), pixel(pixel) {
    const uint32_t at = column_at(threadIdx.x % (Tile::COLUMNS / 8) * 8);
    read_eight(mean, coefficients(smem), at);
    read_eight(scale, coefficients(smem) + Tile::COLUMNS, at);
    read_eight(beta, coefficients(smem) + 2 * Tile::COLUMNS, at);
  }
  __device__ __forceinline__ void operator()(float (&v)[8], uint32_t row, uint32_t column,
                                             uint32_t count) const {
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) v[e] = (v[e] - mean[e]) * scale[e] + beta[e];
    if (of.residual != nullptr) {
      add_eight(v, of.residual, pixel(row) * of.residual_ld + first + column, is_bf16, count);
    }
    if (of.relu) {
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) v[e] = planes::rectify(v[e]);
    }
  }
};

// `row_start(r)`: elements from `data` to the tile's first column of row r, a uint64_t.
// `finish(v, r, column, count)`: what happens to eight values, bias added, before they are stored.
template <class Tile, class RowStart, class Do = Plain>
__device__ __forceinline__ void store_product(const float* product, uint32_t rows,
                                              uint32_t columns, const Output& out,
                                              RowStart row_start, const Do& finish = Plain{}) {
  constexpr uint32_t GROUPS = Tile::COLUMNS / 8;
  static_assert(Tile::THREADS % GROUPS == 0, "a thread keeps its columns");
  const uint32_t column = threadIdx.x % GROUPS * 8;
  if (column >= columns) return;
  const uint32_t count = columns - column;
  float bias[8];
  if (out.bias != nullptr) {
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) bias[e] = e < count ? out.bias[column + e] : 0.0f;
  }
  const uint32_t end = min(rows, Tile::ROWS);
#pragma unroll 1
  for (uint32_t row = threadIdx.x / GROUPS; row < end; row += Tile::THREADS / GROUPS) {
    float v[8];
    read_eight(v, product, product_at<Tile>(row, column));
    if (out.bias != nullptr) {
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) v[e] += bias[e];
    }
    finish(v, row, column, count);
    const uint64_t at = row_start(row) + column;
    if (out.accumulate) add_eight(v, out.data, at, out.is_bf16, count);
    if (out.is_bf16) {
      store_eight(static_cast<bf16*>(out.data) + at, v, count);
    } else {
      store_eight(static_cast<float*>(out.data) + at, v, count);
    }
  }
}

constexpr uint32_t MOMENT_PIXELS = 64;  // rows whose moments are taken together

// Moments of the values that `Keep` left in `product`: a thread takes a column of 64 rows. The
// order of sums is op.rs's (`ConvMoments`): four sums, pixels in turn, around the first pixel.
// `out`: the mean of the tile's first column and first 64 rows, of `channels`.
template <class Tile>
__device__ __forceinline__ void store_moments(const float* product, uint32_t rows,
                                              uint32_t columns, float* out, uint32_t channels) {
  static_assert(Tile::ROWS % MOMENT_PIXELS == 0, "a tile of moments lies in one tile of rows");
  constexpr uint32_t ITEMS = Tile::ROWS / MOMENT_PIXELS * Tile::COLUMNS;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < ITEMS; i += Tile::THREADS) {
    const uint32_t column = i % Tile::COLUMNS, part = i / Tile::COLUMNS;
    if (column >= columns || part * MOMENT_PIXELS >= rows) continue;
    const uint32_t n = min(MOMENT_PIXELS, rows - part * MOMENT_PIXELS);
    const float* from = product + product_at<Tile>(part * MOMENT_PIXELS, column);
    const float first = from[0];
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (uint32_t p = 0; p < n; p += 4) {
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        if (p + k < n) sum[k] += from[(p + k) * Tile::PITCH] - first;
      }
    }
    const float mean = ((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<float>(n);
    float square[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
    for (uint32_t p = 0; p < n; p += 4) {
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        if (p + k >= n) continue;
        const float off = (from[(p + k) * Tile::PITCH] - first) - mean;
        square[k] += off * off;
      }
    }
    float* to = out + static_cast<uint64_t>(part) * 2 * channels + column;
    to[0] = mean + first;
    to[channels] = (square[0] + square[1]) + (square[2] + square[3]);
  }
}

}  // namespace conv
