// Recording and reading launches: see record.cpp.
#pragma once
#include <string>
#include <vector>

#include "simt/runner.hpp"

namespace simt {

struct Range {
  uint64_t start;
  uint64_t bytes;
};

// The live allocations, in ascending order. (memory.cpp)
std::vector<Range> live_memory();

// Writes the launch to a file where the environment asks for it.
void record(const Launch& launch);

// A recorded launch; `read` puts its memory back at the addresses it had.
struct Recording {
  std::string kernel;
  uint32_t grid[3];
  uint32_t dynamic_shared_bytes;
  std::vector<uint64_t> args;
  bool read(const char* path);
};

}  // namespace simt
