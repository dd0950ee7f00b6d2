// Argument structs of the convolution kernels. Maps are NHWC, any ld under 2^32 bytes; weights [K, R, S, C], dense.
#pragma once
#include "include/common.cuh"

// One axis, of the forward pass or of a phase of the data gradient (geometry.cuh).
ARGS(ConvAxis) {
  uint32_t count;       // positions
  uint32_t start;       // destination pixel of position 0
  uint32_t step;        // between destination pixels
  uint32_t size;        // destination pixels of the whole map
  uint32_t source;      // source pixels
  uint32_t taps;        // taps that can hit
  uint32_t first_tap;   // in the weights
  uint32_t tap_step;    // in the weights
  int32_t scale;        // source pixels per position
  int32_t offset;       // source pixel of position 0, tap 0
  int32_t offset_step;  // source pixels per tap
  uint32_t pad;
};

// What the forward pass does to its sums besides adding the bias: conv_norm_* read the first part,
// conv_moments_* write `moments`.
ARGS(ConvFinish) {
  const float* mean;     // [dst.c], as variance, gamma and beta
  const float* variance;
  const float* gamma;
  const float* beta;
  const void* residual;  // as dst, or null
  uint64_t residual_ld;  // elements between its pixels
  float* moments;        // [tiles of 64 pixels][mean, squares][dst.c]
  float eps;
  uint32_t relu;         // after norm and residual
};

// How the tiles of a launch go to its blocks (schedule.cuh).
ARGS(ConvSchedule) {
  float* partials;    // workspace of the tiles that are cut, [cut tile, part, rows, columns]
  uint32_t* tickets;  // one a cut tile, zero before and after the launch
  uint32_t whole;     // tiles that are not cut
  uint32_t parts;     // blocks of each that is
  uint32_t stages;    // of the pipeline (mainloop.cuh): 2 or 3
  uint32_t pad;
};

// Forward and data gradient: dst[row, column] = sum over taps and channels of src * weights.
ARGS(ConvArgs) {
  Map src;              // x, or dy
  Map dst;              // y, or dx; float or bf16
  const void* weights;  // as src: float or bf16
  const float* bias;    // [dst.c], or null
  ConvAxis y;
  ConvAxis x;
  ConvSchedule schedule;
  uint32_t outer;       // K
  uint32_t inner;       // C
  uint32_t kernel_h;    // R
  uint32_t kernel_w;    // S
  uint32_t dst_bf16;    // dst holds bf16
  uint32_t accumulate;  // add to dst
  ConvFinish finish;    // all null in the data gradient
};

// Weight gradient: part `p` of the pixels' products goes to out[p, K, R, S, C].
ARGS(ConvWgradArgs) {
  Map x;
  Map dy;
  float* out;           // dw where parts == 1, else partial sums
  ConvAxis rows;        // of the forward convolution
  ConvAxis columns;
  uint32_t parts;
  uint32_t accumulate;  // add to out; only where parts == 1
  uint32_t stages;      // of the pipeline: 2 or 3
  uint32_t pad;
};

// out[i] = sum of parts[p*n + i] over p, in order; accumulate: added to what is there.
ARGS(ConvReduceArgs) {
  const float* parts;
  float* out;
  uint64_t n;
  uint32_t count;
  uint32_t accumulate;
};

// sums[b, k] = sum of dy[pixel, k] over block b's pixels.
ARGS(ConvBiasArgs) {
  Map dy;
  float* sums;
  uint32_t pixels;  // of a block
  uint32_t pad;
};
