// Trains one block of sparse twins of one architecture by variational dropout (Molchanov, Ashukha
// and Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017) as the paper's code
// does it (its def_net_distillation.py): each weight is normal, with a mean and with the logarithm
// of a variance, log_sigma2; network.hpp has the network, its evaluation and the arguments.
//
// Biases of linear layers have no noise: their log_sigma2 is never looked at and never changes.
//
// Measured as in dense.cpp, beside a loop of plain torch modules with the same layers, in one run on
// a machine that had other work too, so ratios alone: CNN-s 30 times the loop with AVX-512, 21 times
// with AVX2; CNN-l 8.9 and 6.1 times. A sample costs 2.8 (AVX2: 2.6) times a dense one: two products
// in place of one, and a sixth of the time for the normal numbers.

#include "network.hpp"

namespace networks {

constexpr float kThreshold = 3;  // a weight of at least this log_alpha is pruned
constexpr float bound(const Layer& layer) { return layer.kernel ? 8 : 10; }

// Calls body(w, bound of log_alpha) for every weight and bias that has noise, still(w) for others.
template <class Body, class Still>
inline void for_each_weight(Body body, Still still) {
  for (int i = 0; i < kDepth; i++) {
    const Place& at = kPlaces[i];
    for (int w = at.weights; w < at.biases; w++) body(w, bound(kLayers[i]));
    for (int w = at.biases; w < at.biases + at.out; w++)
      if (kLayers[i].kernel > 0) body(w, bound(kLayers[i]));
      else still(w);
  }
}

inline Float magnitude(Float mean) { return bits<Float>(bits<Int>(mean) & INT32_MAX) + 1e-15f; }

// log_alpha = log(variance / mean^2) within its bounds; gradients pass where it is `inside`, as
// through torch's clamp.
struct LogAlpha {
  Float value;
  Int inside;
  LogAlpha(Float mean, Float log_sigma2, float bound) {
    const Float free = log_sigma2 - 2.0f * log(magnitude(mean));
    inside = (free >= -bound) & (free <= bound);
    value = free < -bound ? all(-bound) : free;
    value = value > bound ? all(bound) : value;
  }
};

// The gradient of the divergence from the prior with respect to log_alpha, by Molchanov's
// approximation: - sum(k1 sigmoid(k2 + k3 log_alpha) - log1p(exp(-log_alpha)) / 2 - k1).
inline Float divergence_gradient(Float log_alpha, Float alpha) {
  constexpr float k1 = 0.63576f, k2 = 1.8732f, k3 = 1.48695f;
  const Float e = exp(-fma(log_alpha, all(k3), all(k2))), sigmoid = 1.0f / (1.0f + e);
  return -fma(e * sigmoid * sigmoid, all(k1 * k3), 0.5f / (1.0f + alpha));
}

}  // namespace networks

extern "C" {

struct Twins {
  Parameters means, log_sigma2;
};

// One epoch of the loss cross entropy + kl_weight * divergence; `steps` have been made before. The
// totals are those of the cross entropy. Returns as in dense.cpp.
int32_t train(Twins* twins, const Rates* rates, int32_t optimizer, int32_t dropout,
              const float* images, const int64_t* labels, const int32_t* orders, int64_t n,
              int64_t batch_size, int64_t steps, const double* factors, const double* momenta,
              Totals* totals, float kl_weight) {
  [[maybe_unused]] const FlushSubnormals flush;
  const auto memory = make_workspace<VariationalWorkspace>();
  if (!memory) return 1;
  VariationalWorkspace& work = *memory;
  *totals = Totals{};
  Parameters &means = twins->means, &log_sigma2 = twins->log_sigma2;
  for (int64_t start = 0; start < n; start += batch_size, steps++) {
    // The variance of the paper's code is exp(log_alpha) mean^2. Within the bounds of log_alpha that is
    // exp(log_sigma2), but for the 1e-15 in a logarithm, and the mean has no part in it.
    for_each_weight(
        [&](int w, float bound) {
          const Float mean = means.values[w];
          const LogAlpha log_alpha(mean, log_sigma2.values[w], bound);
          const Float factor = log_alpha.inside ? all(1.0f) : mean * mean;
          work.variances[w] =
              exp(log_alpha.inside ? log_sigma2.values[w] : log_alpha.value) * factor;
        },
        [&](int w) { work.variances[w] = all(0.0f); });
    std::fill_n(work.weight_gradients, kWeights, all(0.0f));
    std::fill_n(work.variance_gradients, kWeights, all(0.0f));
    add_batch(means.values, work, {images, labels, orders, n}, start,
              std::min(batch_size, n - start), steps, *rates, dropout, *totals);

    const auto update_all = [&](auto update) {
      for_each_weight(
          [&](int w, float bound) {
            const Float mean = means.values[w];
            const LogAlpha log_alpha(mean, log_sigma2.values[w], bound);
            const Float alpha = exp(log_alpha.value);
            const Float divergence = kl_weight * divergence_gradient(log_alpha.value, alpha);
            // d log_alpha / d mean = - 2 sign(mean) / |mean|
            Float by_mean = -2.0f / magnitude(mean);
            by_mean = mean < 0.0f ? -by_mean : by_mean;
            by_mean = mean == 0.0f ? all(0.0f) : by_mean;
            const Float by_variance = work.variance_gradients[w];
            const Float mean_gradient =
                log_alpha.inside ? divergence * by_mean : by_variance * (2.0f * alpha * mean);
            const Float log_sigma2_gradient =
                log_alpha.inside ? fma(by_variance, work.variances[w], divergence) : all(0.0f);
            update(means, w, work.weight_gradients[w] + mean_gradient);
            update(log_sigma2, w, log_sigma2_gradient);
          },
          [&](int w) { update(means, w, work.weight_gradients[w]); });
    };
    if (!optimize(*rates, optimizer, steps, {factors, momenta}, start / batch_size, update_all))
      return 2;
  }
  return 0;
}

// What the twins are evaluated with: their means, 0 where pruned.
void prune(const Twins* twins, Float* weights) {
  [[maybe_unused]] const FlushSubnormals flush;
  for_each_weight(
      [&](int w, float bound) {
        const Float mean = twins->means.values[w];
        const LogAlpha log_alpha(mean, twins->log_sigma2.values[w], bound);
        weights[w] = log_alpha.value >= kThreshold ? all(0.0f) : mean;
      },
      [&](int w) { weights[w] = twins->means.values[w]; });
}

// The normal numbers of one sample, result [unit][lane] with up to three units to spare, as
// training draws them: to be tested. Returns the number of units.
int32_t gaussian_noise(const Rates* rates, uint64_t step, uint32_t sample, Float* result) {
  Normals{make_key(*rates), step, sample}.draw_units(result, 0, (kEnd.normals + 3) / 4 * 4);
  return kEnd.normals;
}

}  // extern "C"
