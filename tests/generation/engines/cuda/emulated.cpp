// The kernel as a library for a processor.

#include "emulator.hpp"

#include "kernel.cu"

extern "C" void launch_train(const Arguments* with, unsigned x, unsigned y) {
  launch(train, {x, y}, kThreads, kSharedBytes, *with);
}

extern "C" void launch_evaluate(const Arguments* with, unsigned x, unsigned y) {
  launch(evaluate, {x, y}, kThreads, kSharedBytes, *with);
}

extern "C" void launch_add_losses(const Arguments* with, unsigned x, unsigned y) {
  launch(add_losses, {x, y}, kThreads, kSharedBytes, *with);
}
