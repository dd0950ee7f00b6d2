// conv, conv_dgrad: 2-D convolution and its data gradient as implicit GEMMs.
//
//   forward        y[n,oy,ox,k]  = bias[k] + sum over r,s,c of x[n, oy*stride + r*dilation - padding,
//                                  ox*stride + s*dilation - padding, c] * w[k,r,s,c]
//   data gradient  dx[n,iy,ix,c] (+)= sum over r,s,k of dy[n,oy,ox,k] * w[k,r,s,c] over the (oy,ox)
//                  that read (iy,ix) through tap (r,s): one launch per residue of (iy,ix) modulo
//                  the stride, each a dense convolution of its own (include/conv/geometry.cuh)
//
// The forward pass may end in batch norm, residual and ReLU (kernels conv_norm_*, operation
// conv_batch_norm_eval), or leave the moments of every 64 rows beside y (conv_moments_*):
// include/conv/epilogue.cuh. Kernels of their own, so that none carries the others' epilogue.
//
// Never materialised: patches of x (im2col), transposed weights, a dilated or padded dy.
//
//              columns: channels of dst                A block makes one tile, or a part of the
//            +-----------+-----------+                 reduction of one (schedule.cuh): it walks the
//   rows:    | tile 0    | tile 1    | ...             taps that do not read padding only (forward
//   dst      +-----------+-----------+                 and data gradient alike), and for each tap the
//   pixels   | tile n    | ...       |                 channels of src, 128 bytes a step, through a
//            +-----------+                             pipeline of two or three stages (mainloop.cuh).
//                                                      Neighbouring blocks share their pixels.
//
// Variants: fp32 (fmaf, exact fp32), tf32 and bf16 (mma.sync, float accumulators); tiles of
// 128x128 (128 threads, warp tiles of 64x64; fp32 256) and 64x64 (128 threads), which copy 16 bytes
// at a time and need src's channels, ld and address, and w's C and address, to be multiples of 16
// bytes; and `any`, 64x64, for everything else (the 3-channel stem, 21-channel gradients). Which of
// them a layer takes, and why: src/device/gpu/conv/plan.rs; for the VOC network kernels/conv_plan.tsv.
//
// Bytes: src + weights + dst once (src and weights again per tile from L2). FLOPs: 2*pixels(y)*K*
// R*S*C. Largest at the VOC shape: layer4's 3x3, [8,65,65,512] -> 512: 159 GFLOP, 74 MB in bf16;
// floor 0.20 ms at 790 TFLOP/s, a rate of wgmma that mma.sync does not reach.
// Measured: not measured on a GPU. Predicted from tiles and waves: 64x64 warp tiles move 1024 -> 768
// clocks of shared memory a step where mma.sync takes 806: at most 1.27 times; choosing tiles
// by table and cutting those of the last wave, together, 1.15 times over the forward passes of a VOC
// step, 1.07 over the data gradients.
// Grid: a block a tile, and `parts` for each tile after the last full wave; columns fastest. Block:
// 128 threads, fp32 of 128x128 256. Dynamic shared: 100352 or 50176 bytes in three stages, 73728 of
// 128x128 in two (tile.cuh). At most 255 registers of 128 threads: two blocks of 128x128 a
// multiprocessor, of three stages on sm_90 (228 KiB), of two on sm_80 (164 KiB).
// Order: every element is one accumulator over taps in row-major order, then channels ascending
// (within an mma as the hardware sums); of a cut tile one a part, added in ascending order. Where a
// tile is cut depends on the shapes and on which tiles they take, not on the schedule or the
// number of multiprocessors; how an mma sums, on the architecture (multiply.cuh). Bias and the previous value are added last, in float; bf16 results are rounded
// once.
// Tolerance: equal to device/cpu/conv (forward, dgrad) where sums are exact; else fp32 1e-5, tf32
// and bf16 their rounding of the operands (none where x, w are given in bf16), relative to
// sum |x||w|.
#include "include/conv/epilogue.cuh"
#include "include/conv/gather.cuh"
#include "include/conv/mainloop.cuh"
#include "include/conv/multiply.cuh"
#include "include/conv/schedule.cuh"

namespace conv {

template <class Tile, Pass PASS, Finish FINISH, template <class, Layout, Layout> class Math,
          template <class, Pass> class Loader>
__device__ __forceinline__ void convolve(const ConvArgs& a) {
  DYNAMIC_SHARED(smem);
  const uint32_t stages = a.schedule.stages;
  PixelRow* table = reinterpret_cast<PixelRow*>(smem + Tile::rows_at(stages));
  float* product = reinterpret_cast<float*>(smem);
  const Work work = work_of(blockIdx.x, a.schedule.whole, a.schedule.parts);
  const uint32_t across = div_up(a.dst.c, Tile::COLUMNS);
  const Place place = place_tile<Tile>(a, work.tile / across, work.tile % across, table);
  // Race prevented: loaders read rows of the table that other threads write.
  __syncthreads();
  Loader<Tile, PASS> loader(a, table, place, work);
  Math<Tile, Layout::ALONG, weights_layout(PASS)> math;
  main_loop<Tile>(loader, math, smem, stages);
  if (!join<Tile>(work, a.schedule.partials, a.schedule.tickets, place.rows, product)) return;
  const uint32_t column = place.column;
  const Output out{a.dst.data, a.bias == nullptr ? nullptr : a.bias + column, a.dst_bf16 != 0,
                   a.accumulate != 0};
  const uint32_t columns = a.dst.c - column;
  const auto row_start = [&](uint32_t row) {
    return table[row].destination * a.dst.ld + column;
  };
  if constexpr (FINISH == Finish::NORM) {
    const auto pixel = [&](uint32_t row) -> uint64_t { return table[row].destination; };
    using Norm = Normalise<Tile, decltype(pixel)>;
    Norm::prepare(smem, a.finish, column, a.dst.c);
    // Race prevented: coefficients that other threads worked out.
    __syncthreads();
    const Norm norm(smem, a.finish, column, out.is_bf16, pixel);
    store_product<Tile>(product, place.rows, columns, out, row_start, norm);
  } else if constexpr (FINISH == Finish::MOMENTS) {
    const Keep<Tile> keep{product, out.is_bf16};
    store_product<Tile>(product, place.rows, columns, out, row_start, keep);
    // Race prevented: a column's moments read values that other threads kept.
    __syncthreads();
    const uint64_t tile =
        static_cast<uint64_t>(work.tile / across) * (Tile::ROWS / MOMENT_PIXELS);
    store_moments<Tile>(product, place.rows, columns,
                        a.finish.moments + tile * 2 * a.dst.c + column, a.dst.c);
  } else {
    store_product<Tile>(product, place.rows, columns, out, row_start);
  }
}

// A pass, and what the forward pass ends in.
struct Forward {
  static constexpr Pass PASS = Pass::FORWARD;
  static constexpr Finish FINISH = Finish::NONE;
};
struct Norm {
  static constexpr Pass PASS = Pass::FORWARD;
  static constexpr Finish FINISH = Finish::NORM;
};
struct Moments {
  static constexpr Pass PASS = Pass::FORWARD;
  static constexpr Finish FINISH = Finish::MOMENTS;
};
struct Dgrad {
  static constexpr Pass PASS = Pass::DATA_GRADIENT;
  static constexpr Finish FINISH = Finish::NONE;
};

template <class Tile, class Of> __device__ __forceinline__ void exact(const ConvArgs& a) {
  convolve<Tile, Of::PASS, Of::FINISH, Exact, VectorLoader>(a);
}
template <class Tile, class Of> __device__ __forceinline__ void exact_any(const ConvArgs& a) {
  convolve<Tile, Of::PASS, Of::FINISH, Exact, AnyLoader>(a);
}
template <class Tile, class Of> __device__ __forceinline__ void tensor(const ConvArgs& a) {
  convolve<Tile, Of::PASS, Of::FINISH, TensorCores, VectorLoader>(a);
}
template <class Tile, class Of> __device__ __forceinline__ void tensor_any(const ConvArgs& a) {
  convolve<Tile, Of::PASS, Of::FINISH, TensorCores, AnyLoader>(a);
}

}  // namespace conv

KERNEL(conv_forward_fp32_large, ConvArgs, 256) { conv::exact<conv::LargeExact, conv::Forward>(a); }
KERNEL(conv_forward_fp32_small, ConvArgs, 128) { conv::exact<conv::Small<float>, conv::Forward>(a); }
KERNEL(conv_forward_fp32_any, ConvArgs, 128) { conv::exact_any<conv::Small<float>, conv::Forward>(a); }
KERNEL(conv_forward_tf32_large, ConvArgs, 128) { conv::tensor<conv::Large<float>, conv::Forward>(a); }
KERNEL(conv_forward_tf32_small, ConvArgs, 128) { conv::tensor<conv::Small<float>, conv::Forward>(a); }
KERNEL(conv_forward_tf32_any, ConvArgs, 128) { conv::tensor_any<conv::Small<float>, conv::Forward>(a); }
KERNEL(conv_forward_bf16_large, ConvArgs, 128) { conv::tensor<conv::Large<bf16>, conv::Forward>(a); }
KERNEL(conv_forward_bf16_small, ConvArgs, 128) { conv::tensor<conv::Small<bf16>, conv::Forward>(a); }
KERNEL(conv_forward_bf16_any, ConvArgs, 128) { conv::tensor_any<conv::Small<bf16>, conv::Forward>(a); }

KERNEL(conv_norm_fp32_large, ConvArgs, 256) { conv::exact<conv::LargeExact, conv::Norm>(a); }
KERNEL(conv_norm_fp32_small, ConvArgs, 128) { conv::exact<conv::Small<float>, conv::Norm>(a); }
KERNEL(conv_norm_fp32_any, ConvArgs, 128) { conv::exact_any<conv::Small<float>, conv::Norm>(a); }
KERNEL(conv_norm_tf32_large, ConvArgs, 128) { conv::tensor<conv::Large<float>, conv::Norm>(a); }
KERNEL(conv_norm_tf32_small, ConvArgs, 128) { conv::tensor<conv::Small<float>, conv::Norm>(a); }
KERNEL(conv_norm_tf32_any, ConvArgs, 128) { conv::tensor_any<conv::Small<float>, conv::Norm>(a); }
KERNEL(conv_norm_bf16_large, ConvArgs, 128) { conv::tensor<conv::Large<bf16>, conv::Norm>(a); }
KERNEL(conv_norm_bf16_small, ConvArgs, 128) { conv::tensor<conv::Small<bf16>, conv::Norm>(a); }
KERNEL(conv_norm_bf16_any, ConvArgs, 128) { conv::tensor_any<conv::Small<bf16>, conv::Norm>(a); }

KERNEL(conv_moments_fp32_large, ConvArgs, 256) { conv::exact<conv::LargeExact, conv::Moments>(a); }
KERNEL(conv_moments_fp32_small, ConvArgs, 128) { conv::exact<conv::Small<float>, conv::Moments>(a); }
KERNEL(conv_moments_fp32_any, ConvArgs, 128) { conv::exact_any<conv::Small<float>, conv::Moments>(a); }
KERNEL(conv_moments_tf32_large, ConvArgs, 128) { conv::tensor<conv::Large<float>, conv::Moments>(a); }
KERNEL(conv_moments_tf32_small, ConvArgs, 128) { conv::tensor<conv::Small<float>, conv::Moments>(a); }
KERNEL(conv_moments_tf32_any, ConvArgs, 128) { conv::tensor_any<conv::Small<float>, conv::Moments>(a); }
KERNEL(conv_moments_bf16_large, ConvArgs, 128) { conv::tensor<conv::Large<bf16>, conv::Moments>(a); }
KERNEL(conv_moments_bf16_small, ConvArgs, 128) { conv::tensor<conv::Small<bf16>, conv::Moments>(a); }
KERNEL(conv_moments_bf16_any, ConvArgs, 128) { conv::tensor_any<conv::Small<bf16>, conv::Moments>(a); }

KERNEL(conv_dgrad_fp32_large, ConvArgs, 256) { conv::exact<conv::LargeExact, conv::Dgrad>(a); }
KERNEL(conv_dgrad_fp32_small, ConvArgs, 128) { conv::exact<conv::Small<float>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_fp32_any, ConvArgs, 128) { conv::exact_any<conv::Small<float>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_tf32_large, ConvArgs, 128) { conv::tensor<conv::Large<float>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_tf32_small, ConvArgs, 128) { conv::tensor<conv::Small<float>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_tf32_any, ConvArgs, 128) { conv::tensor_any<conv::Small<float>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_bf16_large, ConvArgs, 128) { conv::tensor<conv::Large<bf16>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_bf16_small, ConvArgs, 128) { conv::tensor<conv::Small<bf16>, conv::Dgrad>(a); }
KERNEL(conv_dgrad_bf16_any, ConvArgs, 128) { conv::tensor_any<conv::Small<bf16>, conv::Dgrad>(a); }
