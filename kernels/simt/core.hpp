// The runtime as kernels and headers see it. runtime.cpp and its neighbours implement it.
#pragma once
#include <cstddef>
#include <cstdint>

// Initial-exec: one instruction per access, as kernels read these everywhere.
#define SIMT_TLS __thread __attribute__((tls_model("initial-exec")))
// Code that works on behalf of other fibers is no access of the running thread.
#define SIMT_UNCHECKED __attribute__((no_sanitize("thread")))
#define SIMT_HERE (simt::Site{__FILE__, __LINE__})

namespace simt {

struct Dim3 {
  unsigned x, y, z;
};

// A place in a kernel source.
struct Site {
  const char* file;
  int line;
};

// A kernel of the table; its first four fields are read by the Rust driver.
struct Kernel {
  const char* name;
  uint32_t args_bytes;
  uint32_t threads;
  void (*entry)(const void* args);
  Site site;
  Kernel* next;
  Kernel(const char* name, uint32_t args_bytes, uint32_t threads, void (*entry)(const void*),
         Site site);
};

// Ends the launch with a report. The running fiber never resumes; the process goes on.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Site site, const char* format, ...);

// A static shared variable: its number, given at first use.
struct Slot {
  int id = -1;
};
void* static_shared(Slot& slot, size_t bytes, size_t alignment, const char* name, Site site);
unsigned char* dynamic_shared();

// What a warp does together. Lanes that meet must do the same.
enum class Op : uint8_t { SyncWarp, Shuffle, Vote, Match, Reduce, LoadMatrix, Mma };

// Waits for the lanes of `mask`. The last to arrive runs `combine` over what each lane published
// (operands[lane], valid for lanes of the mask), then all go on.
using Combine = void (*)(void* const* operands, uint32_t mask);
void meet(Op op, uint32_t mask, void* mine, Combine combine, Site site);

// Waits for every thread of the block. Returns how many had a true predicate.
uint32_t barrier(bool predicate, Site site);

// Lanes of the running warp that have not exited.
uint32_t live_lanes();

// Asynchronous copies: `to` is poisoned at once and filled from `from` at the wait.
void async_copy(void* to, const void* from, uint32_t bytes, uint32_t from_bytes, Site site);
void async_commit(Site site);
void async_wait(uint32_t newest_left, Site site);
struct AsyncWait {
  Site site;
  template <int NewestLeft> void wait() const { async_wait(NewestLeft, site); }
};

// d[16][8] += a[16][depth] * b[depth][8], rounded to float after each product and each sum.
void mma_dense(float* d, const float* a, const float* b, int depth);

// __threadfence, and the check that atomics are not spun on.
void fence();
void count_atomic(const void* address, size_t bytes);

}  // namespace simt

extern SIMT_TLS simt::Dim3 threadIdx;
extern SIMT_TLS simt::Dim3 blockIdx;
extern SIMT_TLS simt::Dim3 blockDim;
extern SIMT_TLS simt::Dim3 gridDim;
constexpr int warpSize = 32;

#define __syncthreads() ((void)simt::barrier(false, SIMT_HERE))
#define __syncthreads_count(p) (static_cast<int>(simt::barrier((p) != 0, SIMT_HERE)))
#define __syncthreads_or(p) (static_cast<int>(simt::barrier((p) != 0, SIMT_HERE) != 0))
#define __syncthreads_and(p) (static_cast<int>(simt::barrier((p) == 0, SIMT_HERE) == 0))
#define __threadfence() simt::fence()
#define __threadfence_block() simt::fence()
