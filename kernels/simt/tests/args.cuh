// The one argument struct of the test kernels; tests/support/raw.rs writes it as four words.
#pragma once
#include "include/common.cuh"
#include "include/ptx/async_copy.cuh"
#include "include/ptx/matrix.cuh"

struct TestArgs {
  const void* x;
  void* y;
  uint64_t n;
  uint64_t m;
};
