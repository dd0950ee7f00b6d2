// Runs recorded launches (record.cpp), or planted kernels on memory of their own:
//
//   replay FILE            a recorded launch
//   replay --planted NAME  a kernel of tests/planted.cu on 5 rows of 320 floats
//
// under the PCT schedule with seeds 0 and 1, on one host thread. Built by scripts/tsan.sh with
// ThreadSanitizer, whose verdict is its exit status.
#include <cstdio>
#include <cstring>

#include "simt/record.hpp"

using namespace simt;

extern "C" {
const Kernel* simt_find_kernel(const char* name);
int simt_launch(const Launch* launch);
void* simt_alloc(uint64_t bytes);
}

static bool run(const Recording& r) {
  const Kernel* kernel = simt_find_kernel(r.kernel.c_str());
  if (kernel == nullptr) {
    fprintf(stderr, "no kernel %s\n", r.kernel.c_str());
    return false;
  }
  for (uint64_t seed = 0; seed < 2; ++seed) {
    char message[1024] = "";
    const Launch launch{kernel,
                        {r.grid[0], r.grid[1], r.grid[2]},
                        r.dynamic_shared_bytes,
                        r.args.data(),
                        seed,
                        static_cast<uint32_t>(Schedule::Pct),
                        1,
                        message,
                        sizeof message};
    if (simt_launch(&launch) != 0) {
      fprintf(stderr, "%s\n", message);
      return false;
    }
  }
  return true;
}

int main(int count, char** arguments) {
  Recording r;
  if (count == 3 && strcmp(arguments[1], "--planted") == 0) {
    const uint64_t rows = 5, columns = 320;
    auto* x = static_cast<float*>(simt_alloc(4 * 512 * rows));
    auto* y = static_cast<float*>(simt_alloc(4 * 512 * rows));
    for (uint64_t i = 0; i < 512 * rows; ++i) x[i] = static_cast<float>(i % 13);
    r = {arguments[2],
         {2, 1, 1},
         0,
         {reinterpret_cast<uint64_t>(x), reinterpret_cast<uint64_t>(y), rows, columns}};
  } else if (count != 2 || !r.read(arguments[1])) {
    fprintf(stderr, "cannot read a recorded launch\n");
    return 2;
  }
  return run(r) ? 0 : 1;
}
