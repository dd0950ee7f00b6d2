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
// A thread takes eight adjacent columns of a row: 16-byte accesses where they are all there and
// aligned, single elements at ragged edges.
#pragma once
#include "include/conv/args.cuh"
#include "include/conv/tile.cuh"
#include "include/planes.cuh"

namespace conv {

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
__device__ __forceinline__ void store_eight(T* to, const float (&v)[8], uint32_t count,
                                            bool accumulate) {
  if (count >= 8 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    Eight<T> out;
    if (accumulate) {
      const Eight<T> old = *reinterpret_cast<const Eight<T>*>(to);
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) out.v[i] = from_float<T>(to_float(old.v[i]) + v[i]);
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) out.v[i] = from_float<T>(v[i]);
    }
    *reinterpret_cast<Eight<T>*>(to) = out;
    return;
  }
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    if (i < count) to[i] = from_float<T>(accumulate ? to_float(to[i]) + v[i] : v[i]);
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

// What store_product does to a thread's eight values before it stores them: nothing.
struct Plain {
  __device__ __forceinline__ void operator()(float (&)[8], uint32_t, uint32_t, uint32_t) const {}
};

// Puts the values where they came from, as they will be stored: for `store_moments`.
template <class Tile> struct Keep {
  float* product;  // null: no one asks
  bool is_bf16;
  __device__ __forceinline__ void operator()(float (&v)[8], uint32_t row, uint32_t column,
                                             uint32_t) const {
    if (product == nullptr) return;
    float* to = product + row * Tile::PITCH + column;
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) to[e] = is_bf16 ? to_float(from_float<bf16>(v[e])) : v[e];
  }
};

// relu?((v - mean) * scale + beta + residual?), the arithmetic of batch_norm_eval. A thread meets
// the same eight columns in every row, so their coefficients stay in registers.
template <class Tile, class Pixel> struct Normalise {
  static_assert(Tile::THREADS % (Tile::COLUMNS / 8) == 0, "a thread keeps its columns");
  const ConvFinish& of;
  uint32_t first;  // channel of the tile's first column
  bool is_bf16;
  Pixel pixel;     // of a row
  float mean[8], scale[8], beta[8];

  __device__ __forceinline__ Normalise(const ConvFinish& of, uint32_t first, uint32_t channels,
                                       bool is_bf16, Pixel pixel)
      : of(of), first(first), is_bf16(is_bf16), pixel(pixel) {
    const uint32_t column = first + threadIdx.x % (Tile::COLUMNS / 8) * 8;
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) {
      const bool there = column + e < channels;
      mean[e] = there ? of.mean[column + e] : 0.0f;
      scale[e] =
          there ? of.gamma[column + e] * (1.0f / sqrtf(of.variance[column + e] + of.eps)) : 0.0f;
      beta[e] = there ? of.beta[column + e] : 0.0f;
    }
  }
  __device__ __forceinline__ void operator()(float (&v)[8], uint32_t row, uint32_t column,
                                             uint32_t count) const {
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) v[e] = (v[e] - mean[e]) * scale[e] + beta[e];
    if (of.residual != nullptr) {
      const uint64_t at = pixel(row) * of.residual_ld + first + column;
      if (is_bf16) {
        add_eight(v, static_cast<const bf16*>(of.residual) + at, count);
      } else {
        add_eight(v, static_cast<const float*>(of.residual) + at, count);
      }
    }
    if (of.relu) {
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) v[e] = planes::rectify(v[e]);
    }
  }
};

// `row_start(r)`: elements from `data` to the tile's first column of row r, a uint64_t.
// `finish(v, r, column, count)`: what happens to eight values, bias added, before they are stored.
template <class Tile, class RowStart, class Finish = Plain>
__device__ __forceinline__ void store_product(const float* product, uint32_t rows,
                                              uint32_t columns, const Output& out,
                                              RowStart row_start, const Finish& finish = Plain{}) {
  constexpr uint32_t GROUPS = Tile::COLUMNS / 8;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < Tile::ROWS * GROUPS; i += Tile::THREADS) {
    const uint32_t row = i / GROUPS, column = i % GROUPS * 8;
    if (row >= rows || column >= columns) continue;
    const float4* from = reinterpret_cast<const float4*>(product + row * Tile::PITCH + column);
    const float4 low = from[0], high = from[1];
    float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const uint32_t count = columns - column;
    if (out.bias != nullptr) {
#pragma unroll
      for (uint32_t e = 0; e < 8; ++e) {
        if (e < count) v[e] += out.bias[column + e];
      }
    }
    finish(v, row, column, count);
    const uint64_t at = row_start(row) + column;
    if (out.is_bf16) {
      store_eight(static_cast<bf16*>(out.data) + at, v, count, out.accumulate);
    } else {
      store_eight(static_cast<float*>(out.data) + at, v, count, out.accumulate);
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
  for (uint32_t i = threadIdx.x; i < ITEMS; i += Tile::THREADS) {
    const uint32_t column = i % Tile::COLUMNS, part = i / Tile::COLUMNS;
    if (column >= columns || part * MOMENT_PIXELS >= rows) continue;
    const uint32_t n = min(MOMENT_PIXELS, rows - part * MOMENT_PIXELS);
    const float* from = product + part * MOMENT_PIXELS * Tile::PITCH + column;
    const float first = from[0];
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t p = 0; p < n; p += 4) {
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        if (p + k < n) sum[k] += from[(p + k) * Tile::PITCH] - first;
      }
    }
    const float mean = ((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<float>(n);
    float square[4] = {0.0f, 0.0f, 0.0f, 0.0f};
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
