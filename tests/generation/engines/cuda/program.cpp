// The kernel as a program, with random numbers: two epochs and an evaluation of three models, for a
// sanitizer; or, with -DCOUNTED, one step of ten samples of one model, to count what it does. Prints
// the sum of the losses, or the counts for a sample.

#include "emulator.hpp"

#include "kernel.cu"

#include <cstdio>
#include <random>
#include <vector>

#if defined(COUNTED)
constexpr int models = 1, images = 10, batch = 10, epochs = 1;
#else
constexpr int models = 3, images = 13, batch = 5, epochs = 2;
#endif
constexpr int steps = (images + batch - 1) / batch;

int main() {
  std::mt19937 random(0);
  std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
  std::vector<float> parameters(models * 3 * kSpan), pixels(images * kPixels);
  for (int model = 0; model < models; model++)
    for (int w = 0; w < kSpan; w++) parameters[model * 3 * kSpan + w] = uniform(random);
  for (float& pixel : pixels) pixel = uniform(random);
  std::vector<int32_t> labels(images), orders(models * images);
  for (int i = 0; i < images; i++) labels[i] = i % kClasses;
  for (int i = 0; i < models * images; i++) orders[i] = (i * 5) % images;
  std::vector<Rates> rates(models, Rates{0.01, 7, 1e-3f, 0.9f, 1u << 31, 2.0f});
  std::vector<Step> pace(steps, Step{1, 0.9, 0.1, 0.03});
  std::vector<Totals> totals(models);
  std::vector<unsigned char> scratch(models * kScratchBytes + 1);
  std::vector<float> losses(models * images);
  constexpr int adam = 1, dropout = 1;
  Arguments with{parameters.data(), rates.data(),  pixels.data(),  labels.data(), orders.data(),
                 pace.data(),       totals.data(), scratch.data(), losses.data(), images,
                 batch,             0,             adam,           dropout,       0,
                 models,            0,             0};
  double sum = 0;
  for (int epoch = 0; epoch < epochs; epoch++) {
    launch<train>(with, {models, 1}, kThreads, kSharedBytes);
    with.before += steps;
  }
#if defined(COUNTED)
  const Counts found = counts();
  std::printf("%ld %ld %ld\n", found.multiply_adds / images, found.loads / images,
              found.stores / images);
  return 0;
#endif
  for (const Totals& total : totals) sum += total.loss;
  launch<evaluate>(with, {models, 1}, kThreads, kSharedBytes);
  launch<add_losses>(with, {1, 1}, kThreads, kSharedBytes);
  for (const Totals& total : totals) sum += total.loss;
  std::printf("%.6f\n", sum);
  return sum > 0 ? 0 : 1;
}
