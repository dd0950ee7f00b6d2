// The host twins of kernels/include/ptx/matrix.cuh. The last lane to arrive computes for all 32.
#pragma once
#include <cstring>

#include "simt/core.hpp"
#include "simt/types.hpp"

namespace simt {

struct LoadMatrixOperand {
  // This lane's row, read by itself, so that the read is this lane's to every checker.
  alignas(16) uint16_t row[8];
  uint32_t out[4];
};
SIMT_UNCHECKED inline uint32_t matrix_element(void* const* operands, int matrix, int row,
                                              int column) {
  return static_cast<const LoadMatrixOperand*>(operands[8 * matrix + row])->row[column];
}
template <int Count, bool Transposed>
SIMT_UNCHECKED inline void combine_load_matrix(void* const* operands, uint32_t) {
  for (int lane = 0; lane < 32; ++lane) {
    auto* o = static_cast<LoadMatrixOperand*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < Count; ++i) {
      const uint32_t low = Transposed ? matrix_element(operands, i, 2 * t, g)
                                      : matrix_element(operands, i, g, 2 * t);
      const uint32_t high = Transposed ? matrix_element(operands, i, 2 * t + 1, g)
                                       : matrix_element(operands, i, g, 2 * t + 1);
      o->out[i] = low | high << 16;
    }
  }
}
template <int Count, bool Transposed>
inline void load_matrix(uint32_t (&r)[Count], const void* row, Site site) {
  LoadMatrixOperand o;
  if ((threadIdx.x & 31u) < 8u * Count) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      fail(site, "misaligned ldmatrix: row at %p, no multiple of 16", row);
    }
    memcpy(o.row, row, sizeof o.row);
  }
  meet(Op::LoadMatrix, ~0u, &o, combine_load_matrix<Count, Transposed>, site);
  for (int i = 0; i < Count; ++i) r[i] = o.out[i];
}

// How the registers of a fragment unpack.
struct Bf16Mma {
  static constexpr int kDepth = 16;
  // Writes lane (g, t)'s part of A[16][kDepth] and of B[kDepth][8].
  template <class Row> static SIMT_UNCHECKED void spread_a(const uint32_t* a, int g, int t, Row A) {
    for (int r = 0; r < 4; ++r) {
      for (int h = 0; h < 2; ++h) A[g + 8 * (r & 1)][2 * t + h + 8 * (r >> 1)] = half_of(a[r], h);
    }
  }
  template <class Row> static SIMT_UNCHECKED void spread_b(const uint32_t* b, int g, int t, Row B) {
    for (int r = 0; r < 2; ++r) {
      for (int h = 0; h < 2; ++h) B[2 * t + h + 8 * r][g] = half_of(b[r], h);
    }
  }
  static SIMT_UNCHECKED float half_of(uint32_t word, int half) {
    return bits_as<float>(half != 0 ? word & 0xFFFF0000u : word << 16);
  }
};
struct Tf32Mma {
  static constexpr int kDepth = 8;
  template <class Row> static SIMT_UNCHECKED void spread_a(const uint32_t* a, int g, int t, Row A) {
    for (int r = 0; r < 4; ++r) A[g + 8 * (r & 1)][t + 4 * (r >> 1)] = truncated(a[r]);
  }
  template <class Row> static SIMT_UNCHECKED void spread_b(const uint32_t* b, int g, int t, Row B) {
    for (int r = 0; r < 2; ++r) B[t + 4 * r][g] = truncated(b[r]);
  }
  // The hardware ignores the low 13 bits.
  static SIMT_UNCHECKED float truncated(uint32_t word) { return bits_as<float>(word & 0xFFFFE000u); }
};

struct MmaOperand {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
SIMT_UNCHECKED inline const MmaOperand* mma_operand(void* const* operands, int lane) {
  return static_cast<const MmaOperand*>(operands[lane]);
}
// Products of bf16 and of tf32 are exact in float; the sum runs over k in order, rounded to float
// at each step. (The hardware's order and inner rounding are not specified.)
template <class Kind, int Rows, int Columns>
SIMT_UNCHECKED inline void combine_mma(void* const* operands, uint32_t) {
  constexpr int kDepth = Kind::kDepth;
  float A[16][kDepth], B[Columns][kDepth][8], D[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    for (int j = 0; j < Columns; ++j) Kind::spread_b(mma_operand(operands, lane)->b + 2 * j, lane / 4, lane % 4, B[j]);
  }
  for (int i = 0; i < Rows; ++i) {
    for (int lane = 0; lane < 32; ++lane) {
      Kind::spread_a(mma_operand(operands, lane)->a + 4 * i, lane / 4, lane % 4, A);
    }
    for (int j = 0; j < Columns; ++j) {
      const int tile = 4 * (i * Columns + j);
      for (int lane = 0; lane < 32; ++lane) {
        const float* d = mma_operand(operands, lane)->d + tile;
        memcpy(&D[lane / 4][lane % 4 * 2], d, 8);
        memcpy(&D[lane / 4 + 8][lane % 4 * 2], d + 2, 8);
      }
      mma_dense(&D[0][0], &A[0][0], &B[j][0][0], kDepth);
      for (int lane = 0; lane < 32; ++lane) {
        float* d = mma_operand(operands, lane)->d + tile;
        memcpy(d, &D[lane / 4][lane % 4 * 2], 8);
        memcpy(d + 2, &D[lane / 4 + 8][lane % 4 * 2], 8);
      }
    }
  }
}
template <class Kind>
inline void mma_one(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  MmaOperand o{d, a, b};
  meet(Op::Mma, ~0u, &o, combine_mma<Kind, 1, 1>, site);
}
template <class Kind, int Rows, int Columns>
inline void mma_tile(float (&d)[Rows][Columns][4], const uint32_t (&a)[Rows][4],
                     const uint32_t (&b)[Columns][2], Site site) {
  MmaOperand o{&d[0][0][0], &a[0][0], &b[0][0]};
  meet(Op::Mma, ~0u, &o, combine_mma<Kind, Rows, Columns>, site);
}

}  // namespace simt
