// The kernel as a program for a sanitizer: two epochs and an evaluation of three small models, with
// random numbers. Prints the sum of the losses.

#include "emulator.hpp"

#include "kernel.cu"

#include <cstdio>
#include <random>

int main() {
  constexpr int models = 3, images = 13, classes = kClasses;
  std::mt19937 random(0);
  std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
  std::vector<float> parameters(models * 3 * kSpan), pixels(images * kPixels);
  for (int model = 0; model < models; model++)
    for (int w = 0; w < kSpan; w++) parameters[model * 3 * kSpan + w] = uniform(random);
  for (float& pixel : pixels) pixel = uniform(random);
  std::vector<int32_t> labels(images), orders(models * images);
  for (int i = 0; i < images; i++) labels[i] = i % classes;
  for (int i = 0; i < models * images; i++) orders[i] = (i * 5) % images;
  std::vector<Rates> rates(models, Rates{0.01, 7, 1e-3f, 0.9f, 1u << 31, 2.0f});
  constexpr int batch = 5, steps = (images + batch - 1) / batch;
  std::vector<Step> pace(steps, Step{1, 0.9, 0.1, 0.03});
  std::vector<Totals> totals(models);
  std::vector<unsigned char> scratch(models * kScratchBytes + 1);
  Arguments with{parameters.data(), rates.data(),  pixels.data(), labels.data(),
                 orders.data(),     pace.data(),   totals.data(), scratch.data(),
                 images,            batch,         0,             OPTIMIZER,
                 1,                 0,             0};
  double sum = 0;
  for (int epoch = 0; epoch < 2; epoch++) {
    launch(train, {models, 1}, kThreads, kSharedBytes, with);
    with.before += steps;
  }
  for (const Totals& total : totals) sum += total.loss;
  launch(evaluate, {models, 1}, kThreads, kSharedBytes, with);
  for (const Totals& total : totals) sum += total.loss;
  std::printf("%.6f\n", sum);
  return sum > 0 ? 0 : 1;
}
