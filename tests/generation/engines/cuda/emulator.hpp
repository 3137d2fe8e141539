// Enough of CUDA to run the kernel on a processor: the threads of a block are threads, and
// __syncthreads is a barrier; one block runs after the other.

#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define __global__
#define __device__
#define __launch_bounds__(...)

struct Index {
  unsigned x, y;
};
inline thread_local Index threadIdx, blockIdx;
inline Index gridDim;

struct BlockOfThreads {
  std::barrier<> barrier;
  std::unique_ptr<double[]> memory;
};
inline thread_local BlockOfThreads* own_block;

#if defined(WITHOUT_BARRIERS)  // to see that a sanitizer misses them
inline void __syncthreads() {}
#else
inline void __syncthreads() { own_block->barrier.arrive_and_wait(); }
#endif
inline unsigned char* shared_memory() {
  return reinterpret_cast<unsigned char*>(own_block->memory.get());
}

template <class Arguments>
void launch(void (*kernel)(const Arguments), Index grid, int threads, std::size_t shared_bytes,
            const Arguments& with) {
  gridDim = grid;
  for (unsigned y = 0; y < grid.y; y++)
    for (unsigned x = 0; x < grid.x; x++) {
      // Exactly as large as asked for, and filled with NaN, as nothing is there before it is written.
      BlockOfThreads block{std::barrier<>(threads), std::make_unique<double[]>(shared_bytes / 8)};
      std::memset(block.memory.get(), 0xff, shared_bytes);
      std::vector<std::thread> members;
      for (int thread = 0; thread < threads; thread++)
        members.emplace_back([&, thread, x, y] {
#if defined(__x86_64__)
          _mm_setcsr(_mm_getcsr() | 0x8040);  // subnormal numbers are zero
#endif
          threadIdx = {unsigned(thread), 0};
          blockIdx = {x, y};
          own_block = &block;
          kernel(with);
        });
      for (std::thread& member : members) member.join();
    }
}
