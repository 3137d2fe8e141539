// Blocks of threads on a processor; see emulator.hpp.

#include "emulator.hpp"

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

thread_local Index threadIdx, blockIdx;
Index gridDim;

struct Block {
  std::barrier<> barrier;
  std::unique_ptr<double[]> memory;
  std::atomic<int> any[2] = {0, 0};  // of __syncthreads_or, used in turn
};
static thread_local Block* own;
static thread_local unsigned turn;

// To see that a sanitizer finds it, barriers can be left out.
#if defined(WITHOUT_BARRIERS)
void __syncthreads() {}
#else
void __syncthreads() { own->barrier.arrive_and_wait(); }
#endif

int __syncthreads_or(int mine) {
  std::atomic<int>& any = own->any[turn++ % 2];
  if (mine) any = 1;
  __syncthreads();
  const int result = any;
  __syncthreads();
  if (threadIdx.x == 0) any = 0;  // before its next turn, which is after another barrier
  return result;
}

unsigned char* shared_memory() {  // of threads that belong to no block: none
  return own ? reinterpret_cast<unsigned char*>(own->memory.get()) : nullptr;
}

void launch(void (*kernel)(const void*), const void* with, Index grid, int threads,
            std::size_t shared_bytes) {
  gridDim = grid;
  for (unsigned y = 0; y < grid.y; y++)
    for (unsigned x = 0; x < grid.x; x++) {
      // Filled with NaN, since nothing is there before it is written.
      Block block{std::barrier<>(threads), std::make_unique<double[]>(shared_bytes / 8)};
      std::memset(block.memory.get(), 0xff, shared_bytes);
      std::vector<std::thread> members;
      for (int thread = 0; thread < threads; thread++)
        members.emplace_back([&, thread, x, y] {
#if defined(__x86_64__)
          _mm_setcsr(_mm_getcsr() | 0x8040);  // subnormal numbers are zero
#endif
          threadIdx = {unsigned(thread), 0};
          blockIdx = {x, y};
          own = &block;
          kernel(with);
        });
      for (std::thread& member : members) member.join();
    }
}
