// Launches written to files and read back, so that ones made by the Rust tests can run again in a
// C++ program: under ThreadSanitizer (scripts/tsan.sh), or in a debugger.
//
// U2PL_SIMT_RECORD=FOLDER records the first U2PL_SIMT_RECORD_EACH (default 2) launches of each
// kernel, with every live allocation, before they run. Launches over 64 MB are left out.
#include "simt/record.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace simt {

namespace {
constexpr uint64_t kMagic = 0x3154'4d49'5332'5530;
constexpr uint64_t kMaxBytes = 64 << 20;

struct Header {
  uint64_t magic;
  char kernel[120];
  uint32_t grid[3];
  uint32_t dynamic_shared_bytes;
  uint32_t args_bytes;
  uint32_t ranges;
};
static_assert(sizeof(Header) == 8 + 120 + 24, "no padding");

uint64_t page_floor(uint64_t at) { return at & ~4095ull; }
}  // namespace

void record(const Launch& launch) {
  static const char* const folder = getenv("U2PL_SIMT_RECORD");
  if (folder == nullptr) return;
  static std::mutex lock;
  static std::map<std::string, int> made;
  static const char* const each = getenv("U2PL_SIMT_RECORD_EACH");
  static const int most = each != nullptr ? atoi(each) : 2;
  const std::vector<Range> memory = live_memory();
  uint64_t bytes = 0;
  for (const Range& r : memory) bytes += r.bytes;
  std::lock_guard<std::mutex> hold(lock);
  if (bytes > kMaxBytes || made[launch.kernel->name] >= most) return;
  const int number = made[launch.kernel->name]++;
  char path[1024];
  snprintf(path, sizeof path, "%s/%s.%d.%d.launch", folder, launch.kernel->name, getpid(), number);
  FILE* file = fopen(path, "wb");
  if (file == nullptr) return;
  Header h{};
  h.magic = kMagic;
  snprintf(h.kernel, sizeof h.kernel, "%s", launch.kernel->name);
  memcpy(h.grid, launch.grid, sizeof h.grid);
  h.dynamic_shared_bytes = launch.dynamic_shared_bytes;
  h.args_bytes = launch.kernel->args_bytes;
  h.ranges = static_cast<uint32_t>(memory.size());
  fwrite(&h, sizeof h, 1, file);
  fwrite(launch.args, h.args_bytes, 1, file);
  for (const Range& r : memory) {
    fwrite(&r, sizeof r, 1, file);
    fwrite(reinterpret_cast<const void*>(r.start), r.bytes, 1, file);
  }
  fclose(file);
}

bool Recording::read(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) return false;
  Header h{};
  bool good = fread(&h, sizeof h, 1, file) == 1 && h.magic == kMagic;
  if (good) {
    kernel = h.kernel;
    memcpy(grid, h.grid, sizeof grid);
    dynamic_shared_bytes = h.dynamic_shared_bytes;
    args.resize((h.args_bytes + 7) / 8);
    good = fread(args.data(), h.args_bytes, 1, file) == 1;
  }
  uint64_t mapped = 0;  // the ranges ascend; two may share a page
  for (uint32_t i = 0; good && i < h.ranges; ++i) {
    Range r{};
    good = fread(&r, sizeof r, 1, file) == 1;
    if (!good || r.bytes == 0) continue;
    const uint64_t from = page_floor(r.start) > mapped ? page_floor(r.start) : mapped;
    const uint64_t to = page_floor(r.start + r.bytes + 4095);
    if (to > from) {
      good = mmap(reinterpret_cast<void*>(from), to - from, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED;
      mapped = to;
    }
    good = good && fread(reinterpret_cast<void*>(r.start), r.bytes, 1, file) == 1;
  }
  fclose(file);
  return good;
}

}  // namespace simt
