// The kernel as a library for a processor.

#include "emulator.hpp"

#include "kernel.cu"

extern "C" void launch_train(const Arguments* with, unsigned x, unsigned y) {
  launch<train>(*with, {x, y}, kThreads, kSharedBytes);
}

extern "C" void launch_evaluate(const Arguments* with, unsigned x, unsigned y) {
  launch<evaluate>(*with, {x, y}, kThreads, kSharedBytes);
}

extern "C" void launch_add_losses(const Arguments* with, unsigned x, unsigned y) {
  launch<add_losses>(*with, {x, y}, kThreads, kSharedBytes);
}
