// What a block does with one step in shared memory: product += A * B.
//
//   Exact        float, one fmaf per term in ascending order of the reduction: the fp32 path
//   TensorCores  mma.sync with float accumulators: bf16 (m16n8k16), or float rounded to tf32 by
//                cvt.rna (m16n8k8). 32 bytes of the reduction are one mma in both, so both read
//                ALONG operands with the same ldmatrix.
//
// Bits: Exact's are the same on every GPU. A tensor core does not round after every product: it aligns
// the accumulator and a block of products to the largest exponent among them, cuts what lies below
// its adder, and adds. How long the block is and how many bits the adder keeps differs between
// architectures, A100 and H100 among them, so inexact sums have the bits of the architecture
// that made them, the same in every run and under every schedule there. Exact sums are the same
// everywhere.
//
// Each has clear(), step(stage, copies) and store(product): the block's product to shared memory, by
// product_at. `copies(Part<0>{})` and `copies(Part<1>{})` issue the copies of a later step; they come
// between the products, so that neither waits for the other.
#pragma once
#include "include/conv/tile.cuh"
#include "include/ptx/matrix.cuh"

namespace conv {

template <int I> struct Part {
  static constexpr int INDEX = I;
};

template <class Tile, Layout LA, Layout LB> struct Exact {
  static_assert(sizeof(typename Tile::T) == 4, "the exact path is float");
  static constexpr uint32_t TX = 16;                  // threads along the columns
  static constexpr uint32_t TY = Tile::THREADS / TX;  // and along the rows
  static constexpr uint32_t M = Tile::ROWS / TY;
  static constexpr uint32_t N = Tile::COLUMNS / TX;
  static_assert(M % 4 == 0 && N % 4 == 0, "ACROSS operands are read four floats at a time");
  // Reduction indices read at a time: a chunk of an ALONG line, else as few as registers allow.
  static constexpr uint32_t DEPTH = LA == Layout::ACROSS && LB == Layout::ACROSS ? 2 : 4;
  float sums[M][N];

  // This thread's place along the rows: the two of a warp lie two rows apart, so that they store to
  // other banks.
  static __device__ __forceinline__ uint32_t own_row() {
    const uint32_t t = threadIdx.x / TX;
    return (t & ~3u) | (t & 1u) << 1 | (t >> 1 & 1u);
  }
  // Row or column that a thread's i-th value belongs to.
  template <Layout L> static __device__ __forceinline__ uint32_t place(uint32_t t, uint32_t threads,
                                                                       uint32_t i) {
    return L == Layout::ALONG ? t + threads * i : (t + threads * (i / 4)) * 4 + i % 4;
  }
  // DEPTH reduction indices from `first` of a thread's rows or columns.
  template <Layout L, uint32_t COUNT>
  static __device__ __forceinline__ void read(float (&to)[DEPTH][COUNT],
                                              const unsigned char* operand, uint32_t width,
                                              uint32_t t, uint32_t threads, uint32_t first) {
    if constexpr (L == Layout::ALONG) {
#pragma unroll
      for (uint32_t i = 0; i < COUNT; ++i) {
        const float4 v = *reinterpret_cast<const float4*>(
            operand + chunk_at<L, float>(width, place<L>(t, threads, i), first / 4));
        to[0][i] = v.x;
        to[1][i] = v.y;
        to[2][i] = v.z;
        to[3][i] = v.w;
      }
    } else {
#pragma unroll
      for (uint32_t k = 0; k < DEPTH; ++k) {
#pragma unroll
        for (uint32_t i = 0; i < COUNT; i += 4) {
          const float4 v = *reinterpret_cast<const float4*>(
              operand + chunk_at<L, float>(width, first + k, place<L>(t, threads, i) / 4));
          to[k][i] = v.x;
          to[k][i + 1] = v.y;
          to[k][i + 2] = v.z;
          to[k][i + 3] = v.w;
        }
      }
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (uint32_t i = 0; i < M; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < N; ++j) sums[i][j] = 0.0f;
    }
  }
  template <class Copies>
  __device__ __forceinline__ void step(const unsigned char* stage, const Copies& copies) {
    copies(Part<0>{});
    copies(Part<1>{});
    // Not unrolled: the body is DEPTH*M*N fmaf already.
#pragma unroll 1
    for (uint32_t first = 0; first < Tile::STEP; first += DEPTH) {
      float a[DEPTH][M], b[DEPTH][N];
      read<LA>(a, stage, Tile::ROWS, own_row(), TY, first);
      read<LB>(b, stage + Tile::A_BYTES, Tile::COLUMNS, threadIdx.x % TX, TX, first);
#pragma unroll
      for (uint32_t k = 0; k < DEPTH; ++k) {
#pragma unroll
        for (uint32_t i = 0; i < M; ++i) {
#pragma unroll
          for (uint32_t j = 0; j < N; ++j) sums[i][j] = fmaf(a[k][i], b[k][j], sums[i][j]);
        }
      }
    }
  }
  __device__ __forceinline__ void store(float* product) const {
#pragma unroll
    for (uint32_t i = 0; i < M; ++i) {
      const uint32_t row = place<LA>(own_row(), TY, i);
      if constexpr (LB == Layout::ALONG) {
#pragma unroll
        for (uint32_t j = 0; j < N; ++j) {
          product[product_at<Tile>(row, place<LB>(threadIdx.x % TX, TX, j))] = sums[i][j];
        }
      } else {
#pragma unroll
        for (uint32_t j = 0; j < N; j += 4) {
          float* to = product + product_at<Tile>(row, place<LB>(threadIdx.x % TX, TX, j));
          *reinterpret_cast<float4*>(to) =
              make_float4(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]);
        }
      }
    }
  }
};

template <class Tile, Layout LA, Layout LB> struct TensorCores {
  using T = typename Tile::T;
  static constexpr uint32_t WARP_ROWS = Tile::ROWS / Tile::WARPS_M;
  static constexpr uint32_t WARP_COLUMNS = Tile::COLUMNS / Tile::WARPS_N;
  static constexpr uint32_t M = WARP_ROWS / 16;
  static constexpr uint32_t N = WARP_COLUMNS / 8;
  static constexpr uint32_t MMA_DEPTH = 32 / sizeof(T);  // reduction elements of one mma
  static_assert(N % 2 == 0, "B is read for two mma at a time");
  float sums[M][N][4];

  static __device__ __forceinline__ uint32_t lane() { return threadIdx.x % 32; }
  static __device__ __forceinline__ uint32_t first_row() {
    return threadIdx.x / 32 / Tile::WARPS_N * WARP_ROWS;
  }
  static __device__ __forceinline__ uint32_t first_column() {
    return threadIdx.x / 32 % Tile::WARPS_N * WARP_COLUMNS;
  }
  // One element of an ACROSS operand of floats: ldmatrix transposes 16-bit elements only.
  static __device__ __forceinline__ uint32_t word(const unsigned char* operand, uint32_t width,
                                                  uint32_t line, uint32_t at) {
    return *reinterpret_cast<const uint32_t*>(operand +
                                              element_at<Layout::ACROSS, T>(width, line, at));
  }
  // A's 16 x MMA_DEPTH fragment at `row`, depth block `k`.
  static __device__ __forceinline__ void load_a(uint32_t (&a)[4], const unsigned char* operand,
                                                uint32_t row, uint32_t k) {
    const uint32_t l = lane();
    if constexpr (LA == Layout::ALONG) {
      const unsigned char* from =
          operand + chunk_at<LA, T>(Tile::ROWS, row + l % 16, k * 2 + l / 16);
      ldmatrix_x4(a, from);
    } else if constexpr (sizeof(T) == 2) {
      const uint32_t line = k * MMA_DEPTH + l % 8 + l / 16 * 8;
      const unsigned char* from =
          operand + chunk_at<LA, T>(Tile::ROWS, line, row / 8 + l / 8 % 2);
      ldmatrix_x4_trans(a, from);
    } else {
      const uint32_t line = k * MMA_DEPTH + l % 4, at = row + l / 4;
      a[0] = word(operand, Tile::ROWS, line, at);
      a[1] = word(operand, Tile::ROWS, line, at + 8);
      a[2] = word(operand, Tile::ROWS, line + 4, at);
      a[3] = word(operand, Tile::ROWS, line + 4, at + 8);
    }
    round(a);
  }
  // B's two MMA_DEPTH x 8 fragments at `column`.
  static __device__ __forceinline__ void load_b(uint32_t (&left)[2], uint32_t (&right)[2],
                                                const unsigned char* operand, uint32_t column,
                                                uint32_t k) {
    const uint32_t l = lane();
    uint32_t b[4];
    if constexpr (LB == Layout::ALONG) {
      const uint32_t line = column + l % 8 + l / 16 * 8;
      const unsigned char* from = operand + chunk_at<LB, T>(Tile::COLUMNS, line, k * 2 + l / 8 % 2);
      ldmatrix_x4(b, from);
    } else if constexpr (sizeof(T) == 2) {
      const uint32_t line = k * MMA_DEPTH + l % 16;
      const unsigned char* from =
          operand + chunk_at<LB, T>(Tile::COLUMNS, line, column / 8 + l / 16);
      ldmatrix_x4_trans(b, from);
    } else {
      const uint32_t line = k * MMA_DEPTH + l % 4, at = column + l / 4;
      b[0] = word(operand, Tile::COLUMNS, line, at);
      b[1] = word(operand, Tile::COLUMNS, line + 4, at);
      b[2] = word(operand, Tile::COLUMNS, line, at + 8);
      b[3] = word(operand, Tile::COLUMNS, line + 4, at + 8);
    }
    round(b);
    left[0] = b[0];
    left[1] = b[1];
    right[0] = b[2];
    right[1] = b[3];
  }
  // Floats to tf32, to nearest with ties away; the hardware would truncate.
  static __device__ __forceinline__ void round(uint32_t (&fragment)[4]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) fragment[i] = to_tf32(__uint_as_float(fragment[i]));
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (uint32_t i = 0; i < M; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < N; ++j) {
#pragma unroll
        for (uint32_t e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
      }
    }
  }
  template <class Copies>
  __device__ __forceinline__ void step(const unsigned char* stage, const Copies& copies) {
    static_assert(STEP_BYTES / 32 >= 2, "a place for each part of the copies");
#pragma unroll
    for (uint32_t k = 0; k < STEP_BYTES / 32; ++k) {
      uint32_t a[M][4], b[N][2];
#pragma unroll
      for (uint32_t i = 0; i < M; ++i) load_a(a[i], stage, first_row() + i * 16, k);
#pragma unroll
      for (uint32_t j = 0; j < N; j += 2) {
        load_b(b[j], b[j + 1], stage + Tile::A_BYTES, first_column() + j * 8, k);
      }
      if constexpr (sizeof(T) == 2) {
        mma_bf16_tile(sums, a, b);
      } else {
        mma_tf32_tile(sums, a, b);
      }
      if (k == 0) copies(Part<0>{});
      if (k == 1) copies(Part<1>{});
    }
  }
  __device__ __forceinline__ void store(float* product) const {
    const uint32_t row = first_row() + lane() / 4, column = first_column() + lane() % 4 * 2;
#pragma unroll
    for (uint32_t i = 0; i < M; ++i) {
#pragma unroll
      for (uint32_t j = 0; j < N; ++j) {
        float* at = product + product_at<Tile>(row + i * 16, column + j * 8);
        *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][0], sums[i][j][1]);
        *reinterpret_cast<float2*>(at + 8 * Tile::PITCH) =
            make_float2(sums[i][j][2], sums[i][j][3]);
      }
    }
  }
};

}  // namespace conv
