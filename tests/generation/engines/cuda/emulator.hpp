// Enough of CUDA to run the kernel on a processor: the threads of a block are threads, and
// __syncthreads is a barrier; one block runs after the other. emulator.cpp has the functions.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct Index {
  unsigned x, y;
};
extern thread_local Index threadIdx, blockIdx;
extern Index gridDim;

void __syncthreads();
inline void __trap() { std::abort(); }
int __syncthreads_or(int mine);  // whether any thread of the block has passed true
unsigned char* shared_memory();

// Calls kernel(with) in each thread of each block. The memory of a block has exactly so many bytes.
void launch(void (*kernel)(const void*), const void* with, Index grid, int threads,
            std::size_t shared_bytes);

template <auto kernel, class Arguments>
void launch(const Arguments& with, Index grid, int threads, std::size_t shared_bytes) {
  launch([](const void* given) { kernel(*static_cast<const Arguments*>(given)); }, &with, grid,
         threads, shared_bytes);
}

// What the threads of all blocks have done so far, where counts.cpp is linked.
struct Counts {
  long multiply_adds, loads, stores;  // loads and stores of shared memory
};
Counts counts();

#if defined(COUNTED)
float counted_fmaf(float a, float b, float c);
#define fmaf counted_fmaf
#endif
