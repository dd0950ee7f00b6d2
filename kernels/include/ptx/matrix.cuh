// Tensor-core matrices of a warp: ldmatrix, mma.sync and the tf32 conversion. All 32 lanes call
// together.
//
// Fragments, with g = lane/4 and t = lane%4 (PTX ISA, "Matrix Fragments"):
//
//   m16n8k16 bf16   a[0] = A[g][2t,2t+1]    a[1] = A[g+8][2t,2t+1]
//                   a[2] = A[g][2t+8,2t+9]  a[3] = A[g+8][2t+8,2t+9]   (low half first)
//                   b[0] = B[2t,2t+1][g]    b[1] = B[2t+8,2t+9][g]
//   m16n8k8 tf32    a[0] = A[g][t]  a[1] = A[g+8][t]  a[2] = A[g][t+4]  a[3] = A[g+8][t+4]
//                   b[0] = B[t][g]  b[1] = B[t+4][g]
//   both            d[0] = D[g][2t]  d[1] = D[g][2t+1]  d[2] = D[g+8][2t]  d[3] = D[g+8][2t+1]
//
// ldmatrix: lane 8i+r gives the address of row r of matrix i (8 rows of 16 bytes, each address a
// multiple of 16). Register i then holds two elements of matrix i: row g, columns 2t and 2t+1;
// with .trans row and column change places.
//
// The tile forms make rows x columns of mma at once. On a GPU they are plain loops; on the host
// they are one meeting of the warp instead of rows*columns, so use them where you can.
#pragma once
#include "include/common.cuh"

#ifdef U2PL_SIMT
#include "simt/matrix.hpp"

#define ldmatrix_x4(r, row) simt::load_matrix<4, false>(r, row, SIMT_HERE)
#define ldmatrix_x4_trans(r, row) simt::load_matrix<4, true>(r, row, SIMT_HERE)
#define mma_bf16(d, a, b) simt::mma_one<simt::Bf16Mma>(d, a, b, SIMT_HERE)
#define mma_tf32(d, a, b) simt::mma_one<simt::Tf32Mma>(d, a, b, SIMT_HERE)
#define mma_bf16_tile(d, a, b) simt::mma_tile<simt::Bf16Mma>(d, a, b, SIMT_HERE)
#define mma_tf32_tile(d, a, b) simt::mma_tile<simt::Tf32Mma>(d, a, b, SIMT_HERE)

#else

// ldmatrix: r[0..4) from this lane's row address in shared memory.
#define U2PL_LDMATRIX(name, modifier)                                                           \
  __device__ __forceinline__ void name(uint32_t (&r)[4], const void* row) {                     \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" modifier ".shared.b16 {%0,%1,%2,%3}, [%4];\n"  \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                               \
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))                    \
                 : "memory");                                                                   \
  }
U2PL_LDMATRIX(ldmatrix_x4, "")
U2PL_LDMATRIX(ldmatrix_x4_trans, ".trans")
#undef U2PL_LDMATRIX

// d += a * b, accumulated in fp32.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <int Rows, int Columns>
__device__ __forceinline__ void mma_bf16_tile(float (&d)[Rows][Columns][4],
                                              const uint32_t (&a)[Rows][4],
                                              const uint32_t (&b)[Columns][2]) {
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
#pragma unroll
    for (int j = 0; j < Columns; ++j) mma_bf16(d[i][j], a[i], b[j]);
  }
}
template <int Rows, int Columns>
__device__ __forceinline__ void mma_tf32_tile(float (&d)[Rows][Columns][4],
                                              const uint32_t (&a)[Rows][4],
                                              const uint32_t (&b)[Columns][2]) {
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
#pragma unroll
    for (int j = 0; j < Columns; ++j) mma_tf32(d[i][j], a[i], b[j]);
  }
}

#endif

// A float rounded to tf32 (8 bits of exponent, 10 of mantissa; to nearest, ties away from zero),
// as a register of mma_tf32.
__device__ __forceinline__ uint32_t to_tf32(float v) {
#ifdef U2PL_SIMT
  const uint32_t bits = __float_as_uint(v);
  if ((bits & 0x7F800000u) == 0x7F800000u) return bits;
  return (bits + 0x1000u) & 0xFFFFE000u;
#else
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(r) : "f"(v));
  return r;
#endif
}
