// Launches: the kernel table, the limits, blocks spread over host threads.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>

#include "simt/runner.hpp"

SIMT_TLS simt::Dim3 threadIdx;
SIMT_TLS simt::Dim3 blockIdx;
SIMT_TLS simt::Dim3 blockDim;
SIMT_TLS simt::Dim3 gridDim;

namespace simt {

static Kernel* kernels = nullptr;

Kernel::Kernel(const char* name, uint32_t args_bytes, uint32_t threads,
               void (*entry)(const void*), Site site)
    : name(name), args_bytes(args_bytes), threads(threads), entry(entry), site(site) {
  next = kernels;
  kernels = this;
}

// Runners outlive launches: their stacks are mapped once.
namespace {
struct Pool {
  std::mutex lock;
  std::vector<std::unique_ptr<Runner>> idle;
  std::unique_ptr<Runner> take() {
    std::lock_guard<std::mutex> hold(lock);
    if (idle.empty()) return std::make_unique<Runner>();
    std::unique_ptr<Runner> one = std::move(idle.back());
    idle.pop_back();
    return one;
  }
  void give(std::unique_ptr<Runner> one) {
    std::lock_guard<std::mutex> hold(lock);
    idle.push_back(std::move(one));
  }
};
Pool& pool() {
  static Pool* one = new Pool;  // never destroyed: threads may outlive main
  return *one;
}

void work(Run& run) {
  std::unique_ptr<Runner> mine = pool().take();
  mine->run(run);
  pool().give(std::move(mine));
}

bool within_limits(const Launch& launch, char* text, size_t bytes) {
  const Kernel& k = *launch.kernel;
  const uint32_t* g = launch.grid;
  if (k.threads == 0 || k.threads > kMaxThreads || k.threads % 32 != 0) {
    snprintf(text, bytes, "kernel %s: %u threads, not a multiple of 32 up to %u", k.name,
             k.threads, kMaxThreads);
  } else if (g[0] == 0 || g[1] == 0 || g[2] == 0 || g[0] > 0x7FFFFFFFu || g[1] > 65535 ||
             g[2] > 65535) {
    snprintf(text, bytes, "kernel %s: grid (%u,%u,%u), beyond 2^31-1 x 65535 x 65535", k.name,
             g[0], g[1], g[2]);
  } else if (launch.dynamic_shared_bytes > kMaxShared) {
    snprintf(text, bytes, "kernel %s: %u bytes of dynamic shared memory, more than %u", k.name,
             launch.dynamic_shared_bytes, kMaxShared);
  } else {
    return true;
  }
  return false;
}
}  // namespace

const char* short_path(const char* path) {
  const char* found = path;
  for (const char* p = path; (p = strstr(p, "kernels/")) != nullptr; ++p) found = p;
  return found;
}

}  // namespace simt

using namespace simt;

extern "C" const Kernel* simt_find_kernel(const char* name) {
  for (const Kernel* k = kernels; k != nullptr; k = k->next) {
    if (strcmp(k->name, name) == 0) return k;
  }
  return nullptr;
}

// 0, or 1 with a message. The process survives either way.
extern "C" int simt_launch(const Launch* launch) {
  if (!within_limits(*launch, launch->message, launch->message_bytes)) return 1;
  install_fault_handler();
  const uint64_t blocks =
      static_cast<uint64_t>(launch->grid[0]) * launch->grid[1] * launch->grid[2];
  Run run{*launch, blocks, {}, {}, {}};
  const uint64_t helpers =
      std::min<uint64_t>(std::max(launch->host_threads, 1u), blocks) - 1;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < helpers; ++i) threads.emplace_back([&run] { work(run); });
  work(run);
  for (std::thread& t : threads) t.join();
  if (run.failed) return 1;
  char text[256];
  if (!check_canaries(text, sizeof text)) {
    snprintf(launch->message, launch->message_bytes, "kernel %s: %s", launch->kernel->name, text);
    return 1;
  }
  return 0;
}
